"""Dispatchers: ``@background-dispatchers`` and ``@background-dispatchers/UUID``."""

from collective.zcasync import joblists
from collective.zcasync.monitorrows import DispatcherRow
from collective.zcasync.restapi import data
from collective.zcasync.restapi.service import JobsService
from typing import Any
from zExceptions import NotFound


class DispatchersGet(JobsService):
    """One dispatcher, or all that are registered."""

    name = "@background-dispatchers"
    most = 1

    def reply(self) -> Any:
        """See Service."""
        found: dict[str, dict[str, DispatcherRow]] = {}
        for queue in joblists.queues(self.queues):
            for row in queue.dispatchers:
                found.setdefault(row.uuid, {})[queue.name] = row
        if not self.path:
            items = [data.dispatcher_line(rows, self.url(uuid)) for uuid, rows in sorted(found.items())]
            return {"@id": self.url(), "items": items, "items_total": len(items)}
        (uuid,) = self.path
        if uuid not in found:
            raise NotFound(f"There is no dispatcher {uuid!r}; there are: {', '.join(sorted(found)) or 'none'}.")
        return data.dispatcher_line(found[uuid], self.url(uuid))
