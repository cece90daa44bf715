"""One job at the application root, in the frame of the ZMI."""

from AccessControl import getSecurityManager
from collective.zcasync import joblists
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.interfaces import _
from collective.zcasync.jobdetail import brief_detail
from collective.zcasync.jobdetail import EVENTS
from collective.zcasync.jobdetail import job_detail
from collective.zcasync.monitorrows import OUTCOME_OF_STATE
from collective.zcasync.zopeapp.processlines import Moment
from collective.zcasync.zopeapp.screens import REFRESH_EVERY
from collective.zcasync.zopeapp.screens import Screen
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from zExceptions import NotFound


@dataclass(frozen=True)
class Event:
    """One line of a job's timeline."""

    label: str
    time: Moment | None
    text: str


class JobScreen(Screen):
    """One job: what is known of it, and its traceback."""

    name = "zcasync-jobs"

    @cached_property
    def may_read(self) -> bool:
        """Whether the user may read arguments, results and tracebacks: who sees the ZMI is not always a Manager."""
        return bool(getSecurityManager().getUser().has_role("Manager", self.context))

    @cached_property
    def detail(self) -> Any:
        """What the user may know of the job; NotFound if there is none."""
        if not self.installed:
            raise NotFound("this database has no queues")
        try:
            found = joblists.find(self.queues, str(self.request.form.get("id", "")))
        except JobNotFound as error:
            raise NotFound(str(error)) from None
        return (job_detail if self.may_read else brief_detail)(found, joblists.row(found))

    @property
    def label(self) -> str:
        """The page's heading."""
        return str(self.detail.row.title or self.detail.row.task)

    @property
    def refresh_every(self) -> int | None:
        """See Screen: until the job has ended."""
        return None if self.detail.row.state in OUTCOME_OF_STATE else REFRESH_EVERY

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Label and text of what is known."""
        row = self.detail.row
        facts = (
            (_("column_state", default="State"), self.translate(joblists.STATES.get(row.state, row.state))),
            (_("column_task", default="Task"), row.task),
            (_("column_queue", default="Queue"), self.queue_label(row.queue)),
            (_("column_site", default="Site"), self.site_path(row.group)),
            (_("column_user", default="User"), row.user),
            (_("time_put", default="Put"), self._time(row.put_at)),
            (_("time_started", default="Started"), self._time(row.started)),
            (_("time_ended", default="Ended"), self._time(row.ended)),
            *((name, text) for name, text in self.detail.arguments),
            (_("fact_result", default="Result"), self.detail.result),
            (_("fact_error", default="Last error"), row.error),
            *((_("fact_why", default="Why"), text) for text in (self.reason(row), *self.detail.problems)),
        )
        return [(self.translate(label), text) for label, text in facts if text]

    @property
    def site_url(self) -> str:
        """URL of the job's page in its site, if that is one that still is there."""
        path = self.site_path(self.detail.row.group)
        site = self.context.unrestrictedTraverse(path, None) if path.startswith("/") else None
        if site is None or site == self.context:
            return ""
        return f"{site.absolute_url()}/@@zcasync-job?{urlencode({'id': self.detail.row.id})}"

    @property
    def events(self) -> list[Event]:
        """The timeline, oldest first."""
        return [
            Event(self.translate(EVENTS.get(event.what, event.what)), self.moment(event.when), event.text)
            for event in self.detail.timeline
        ]

    def _time(self, when: datetime | None) -> str:
        moment = self.moment(when)
        return "" if moment is None else moment.text
