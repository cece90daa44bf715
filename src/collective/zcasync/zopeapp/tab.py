"""The tab in the ZMI of the application root that leads to the pages there."""

from OFS.Application import Application
from typing import Any

#: As the ZMI describes its tabs. Who may not see the page gets no tab.
TAB = {"label": "Background jobs", "action": "@@zcasync-overview"}


def add_tab(event: Any = None) -> None:
    """Add it to those of the root, once."""
    if TAB not in Application.manage_options:
        Application.manage_options = (*Application.manage_options, TAB)
