"""The filter ``egg:collective.zcasync#dispatcher``: a pipeline that has it starts the dispatcher."""

from collective.zcasync.zopeapp.starting import start_by_filter
from typing import Any


def make_filter(app: Any, global_conf: Any, **local_conf: str) -> Any:
    """Start the dispatcher, and return the application as it is: requests do not pass through anything of ours.

    The application is built before its filters, so the databases are open here.
    """
    start_by_filter()
    return app
