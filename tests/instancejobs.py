"""What the small instances run: a job, and a view that puts it."""

from collective.zcasync import api
from Products.Five.browser import BrowserView
from typing import Any

import logging

logger = logging.getLogger("instancejobs")


def greet(name: str) -> str:
    """The job: its line in the log is what the tests wait for."""
    logger.info("hello %s from a job", name)
    return f"hello {name}"


class Put(BrowserView):
    """Puts the job in the request's transaction."""

    def __call__(self) -> Any:
        job = api.put(greet, self.request.form.get("name", "nobody"))
        return f"put {job.id}"
