"""The dispatchers and workers in words: what a page shows of each, for pages of Zope and of Plone."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import processes
from collective.zcasync.doctor import SKEW
from collective.zcasync.interfaces import _
from collective.zcasync.monitorrows import ACTIVE
from collective.zcasync.monitorrows import ENDED
from collective.zcasync.monitorrows import HELD
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.monitorrows import LEAVING
from collective.zcasync.monitorrows import PAUSED
from collective.zcasync.monitorrows import SILENT
from collective.zcasync.readable import span_text
from dataclasses import dataclass
from datetime import datetime
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile
from typing import Any

#: What the page consists of below its heading: a macro ``dispatchers``, which wants ``view/lines``, ``view/list_url``
#: and ``view/authenticator``.
body_template = ViewPageTemplateFile("templates/dispatchers.pt")

#: Label and style of each state; the styles are of Bootstrap 5 and 4.
STATES = {
    ACTIVE: (_("dispatcher_active", default="At work"), "text-bg-success badge-success"),
    PAUSED: (_("dispatcher_paused", default="Takes no more jobs"), "text-bg-warning badge-warning"),
    HELD: (_("dispatcher_held", default="Held"), "text-bg-danger badge-danger"),
    LEAVING: (_("dispatcher_leaving", default="Stopping"), "text-bg-warning badge-warning"),
    SILENT: (_("dispatcher_dead", default="No sign of life"), "text-bg-danger badge-danger"),
    ENDED: (_("dispatcher_stopped", default="Stopped"), "text-bg-secondary badge-secondary"),
}

ROLES = {
    "embedded": _("role_embedded", default="In a Zope server"),
    "worker": _("role_worker", default="Worker"),
}


@dataclass(frozen=True)
class Moment:
    """A time for people, and exactly."""

    text: str
    iso: str


@dataclass(frozen=True)
class Doing:
    """A job that a dispatcher runs, or that failed there. ``url``: of its page, or empty where the reader may not see
    it. ``since``: for how long it runs, or how long ago it failed. ``error``: with what."""

    title: str
    url: str
    since: str
    error: str = ""


@dataclass(frozen=True)
class Fact:
    """One thing to know: a label and a text. ``iso``: the exact time, of a text that is one. ``bad``: look at it."""

    label: str
    text: str
    iso: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Line:
    """One dispatcher."""

    uuid: str
    title: str
    state: str
    css: str
    facts: list[Fact]
    doing: list[Doing]
    #: How many more jobs it runs.
    more: int
    failed: list[Doing]
    may_pause: bool
    paused: bool


class ProcessLines:
    """Makes the lines. ``translate``: gives a message in the reader's language. ``moment``: a time for the reader; None
    for None. ``job_url``: of a job's page, or an empty text. ``may_pause``: whether the reader may, for the queues of
    these names."""

    def __init__(
        self,
        queues: Any,
        translate: Callable[[Any], str],
        moment: Callable[[datetime | None], Moment | None],
        job_url: Callable[[JobRow], str],
        may_pause: Callable[[tuple[str, ...]], bool],
    ) -> None:
        self.queues = queues
        self.translate = translate
        self.moment = moment
        self.job_url = job_url
        self.may_pause = may_pause

    def lines(self) -> list[Line]:
        """All dispatchers, those at work first."""
        return [self._line(one) for one in processes.processes(self.queues)]

    def _line(self, one: processes.ProcessRow) -> Line:
        label, css = STATES[one.state]
        row = one.row
        role = self.translate(ROLES[row.role]) if row.role in ROLES else row.role
        place = " · ".join(text for text in (row.host, f"pid {row.pid}" if row.pid else "") if text)
        alive = one.state in (ACTIVE, PAUSED)
        return Line(
            uuid=row.uuid,
            title=": ".join(text for text in (role, place) if text) or row.uuid,
            state=self.translate(label),
            css=css,
            facts=list(self._facts(one)),
            doing=[self._doing(job) for job in one.jobs],
            more=one.running - len(one.jobs),
            failed=[self._failed(job) for job in one.failed],
            may_pause=alive and self.may_pause(one.queues),
            paused=one.state == PAUSED,
        )

    def _facts(self, one: processes.ProcessRow) -> Iterator[Fact]:
        """What is known of it."""
        row = one.row
        since, ping, failed = self.moment(row.activated), self.moment(row.last_ping), self.moment(one.error_at)
        if since is not None:
            yield self._fact(_("fact_since", default="Since"), since.text, since.iso)
        if ping is not None:
            text = self._ago(row.last_ping)
            yield self._fact(_("fact_ping", default="Last ping"), text, ping.iso, bad=one.state == SILENT)
        if one.queues:
            busy = _(
                "threads_busy",
                default="${running} of ${threads} busy",
                mapping={"running": min(one.running, one.threads), "threads": one.threads},
            )
            yield self._fact(_("fact_threads", default="Job threads"), self.translate(busy))
            yield self._fact(_("fact_queues", default="Queues"), ", ".join(map(self._queue_label, one.queues)))
        if row.version:
            yield self._fact(_("fact_version", default="Version"), row.version)
        if row.memory:
            yield self._fact(_("fact_memory", default="Memory"), f"{row.memory / 2**20:.0f} MB")
        if row.skew is not None:
            skewed = abs(row.skew) > SKEW
            text = f"{row.skew:+.1f} s" if skewed else self.translate(_("clock_right", default="right"))
            yield self._fact(_("fact_clock", default="Clock"), text, bad=skewed)
        if row.gave_way:
            gave_way = _(
                "gave_way_times",
                default="${count} times to requests that conflicted with its jobs",
                mapping={"count": row.gave_way},
            )
            yield self._fact(_("fact_gave_way", default="Gave way"), self.translate(gave_way))
        if row.work:
            advice = _(
                "work_beside_requests",
                default="they take ${percent} % of a processor, and pages wait for that: run a worker instead",
                mapping={"percent": round(100 * row.work)},
            )
            yield self._fact(_("fact_work", default="Jobs beside requests"), self.translate(advice), bad=True)
        if one.error:
            yield self._fact(
                _("fact_error", default="Last error"), one.error, "" if failed is None else failed.iso, bad=True
            )

    def _fact(self, label: Any, text: str, iso: str = "", bad: bool = False) -> Fact:
        return Fact(self.translate(label), text, iso, bad)

    def _ago(self, when: datetime) -> str:
        span = span_text(max(0.0, (clock.utcnow() - when).total_seconds()))
        return self.translate(_("time_ago", default="${span} ago", mapping={"span": span}))

    def _queue_label(self, name: str) -> str:
        return name or self.translate(_("default_queue", default="Default queue"))

    def _doing(self, job: JobRow) -> Doing:
        since = "" if job.started is None else span_text((clock.utcnow() - job.started).total_seconds())
        return Doing(job.title or job.task, self.job_url(job), since)

    def _failed(self, job: JobRow) -> Doing:
        url = self.job_url(job)
        ago = "" if job.ended is None else self._ago(job.ended)
        return Doing(job.title or job.task, url, ago, job.error if url else "")
