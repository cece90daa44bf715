"""Dispatchers: ``@background-dispatchers`` and ``@background-dispatchers/UUID``, and what to do if they are held."""

from collective.zcasync import ownership
from collective.zcasync import processes
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import NotHere
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.ploneapp.users import id_in
from collective.zcasync.restapi import data
from collective.zcasync.restapi.service import check_choice
from collective.zcasync.restapi.service import JobsService
from collective.zcasync.zopeapp.heldpages import WAYS_OUT
from collective.zcasync.zopeapp.reasons import held_reason
from typing import Any
from zExceptions import BadRequest


class Dispatchers(JobsService):
    """The base of the services about dispatchers."""

    name = "@background-dispatchers"
    most = 1

    def may_pause(self, row: processes.ProcessRow) -> bool:
        """Whether the user may change all queues that the dispatcher serves."""
        return self.rights.may_edit_all(self.queues[name].owner for name in row.queues)

    def told(self, row: processes.ProcessRow) -> dict[str, Any]:
        """One dispatcher as JSON; of its jobs only those that the user may know of."""
        told = data.dispatcher_line(row, self.url(row.row.uuid), self.may_pause(row))
        told |= {"jobs": self.lines(row.jobs), "failed": self.lines(row.failed)}
        return {**told, "reason": held_reason(self.queues, self.translated) if row.row.held else ""}

    def lines(self, rows: tuple[JobRow, ...]) -> list[dict[str, Any]]:
        """Those of the jobs that the user may know of."""
        mine = [job for job in rows if self.rights.rules_all or job.group == self.rights.group]
        return [
            data.job_line(job, self.translated, self.url(job.id, service="@background-jobs"), job.queue) for job in mine
        ]

    def named(self) -> processes.ProcessRow:
        """The dispatcher that the path names."""
        if not self.path:
            raise BadRequest(f"Say which dispatcher is meant: {self.url('UUID')}.")
        (uuid,) = self.path
        rows = {row.row.uuid: row for row in processes.processes(self.queues)}
        if uuid not in rows:
            raise NotHere(f"There is no dispatcher {uuid!r}; there are: {', '.join(sorted(rows)) or 'none'}.")
        return rows[uuid]


class DispatchersGet(Dispatchers):
    """One dispatcher, or all that are registered."""

    def reply(self) -> Any:
        """See Service."""
        if self.path:
            return self.told(self.named())
        return self.listed(map(self.told, processes.processes(self.queues)))


class DispatchersPatch(Dispatchers):
    """Let a dispatcher take no more jobs, or take some again."""

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        row = self.named()
        self.demand(self.may_pause(row), "stop this dispatcher: it serves other sites too")
        self.refuse_others("paused")
        paused = self.take("paused", bool, required=True)
        (processes.pause if paused else processes.resume)(self.queues, row.row.uuid)
        return self.told(self.named())


class DispatchersPost(Dispatchers):
    """Release or discard what waits in a database that is held."""

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        self.demand(self.rights.rules_all, "decide about a database that is held")
        self.refuse_others()
        way = self.path[0] if self.path else ""
        check_choice("action", way, WAYS_OUT)
        if ownership.held(self.queues) is None:
            raise BadStatusError("Nothing is held here, so nothing is to be released or discarded.")
        return {"jobs": WAYS_OUT[way](self.queues, id_in(self.rights.user or ""))}
