"""Links to the content that jobs are about: only to what the reader may see."""

from collections.abc import Iterable
from collective.zcasync.browser.panel import Link
from collective.zcasync.tasks import registry
from plone import api
from typing import Any


class ObjectLinks:
    """The links of one page, found with one search."""

    def __init__(self, site: Any, request: Any, paths: Iterable[str]) -> None:
        self._request = request
        self._site_path = "/".join(site.getPhysicalPath())
        self._titles: dict[str, str] = {}
        wanted = sorted({path for path in paths if path.startswith(self._site_path + "/")})
        if wanted:
            catalog = api.portal.get_tool("portal_catalog")
            brains = catalog(path={"query": wanted, "depth": 0})
            self._titles = {brain.getPath(): brain.Title or brain.getId for brain in brains}

    def get(self, path: str) -> Link | None:
        """The link of one path; without a URL if it leads nowhere that the reader may see."""
        if not path or path == self._site_path:
            return None
        if path in self._titles:
            return Link(self._request.physicalPathToURL(path), self._titles[path])
        return Link("", path.removeprefix(self._site_path + "/"))


def task_title(name: str) -> str:
    """The title of a task that this process knows, else its name."""
    task = registry.get(name)
    return str(task.title) if task is not None else name
