"""The dispatchers and workers in words: what a page shows of each, for pages of Zope and of Plone."""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import processes
from collective.zcasync.doctor import SKEW
from collective.zcasync.interfaces import _
from collective.zcasync.monitorrows import JobRow
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
    processes.ACTIVE: (_("dispatcher_active", default="At work"), "text-bg-success badge-success"),
    processes.PAUSED: (_("dispatcher_paused", default="Takes no more jobs"), "text-bg-warning badge-warning"),
    processes.LEAVING: (_("dispatcher_leaving", default="Stopping"), "text-bg-warning badge-warning"),
    processes.SILENT: (_("dispatcher_dead", default="No sign of life"), "text-bg-danger badge-danger"),
    processes.ENDED: (_("dispatcher_stopped", default="Stopped"), "text-bg-secondary badge-secondary"),
}

ROLES = {
    "embedded": _("role_embedded", default="In a Zope server"),
    "worker": _("role_worker", default="Worker"),
}


@dataclass(frozen=True)
class Doing:
    """A job that a dispatcher runs. ``url``: of its page, or empty where the reader may not see it."""

    title: str
    url: str
    since: str


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
    may_pause: bool
    paused: bool


class ProcessLines:
    """Makes the lines. ``translate``: gives a message in the reader's language. ``moment``: a time for the reader, with
    ``text`` and ``iso``; None for None. ``job_url``: of a job's page, or an empty text. ``may_pause``: whether the
    reader may, for the queues of these names."""

    def __init__(
        self,
        queues: Any,
        translate: Callable[[Any], str],
        moment: Callable[[datetime | None], Any],
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
        alive = one.state in (processes.ACTIVE, processes.PAUSED)
        return Line(
            uuid=row.uuid,
            title=": ".join(text for text in (role, place) if text) or row.uuid,
            state=self.translate(label),
            css=css,
            facts=[fact for fact in self._facts(one) if fact.text],
            doing=[self._doing(job) for job in one.jobs],
            more=one.running - len(one.jobs),
            may_pause=alive and self.may_pause(one.queues),
            paused=one.state == processes.PAUSED,
        )

    def _facts(self, one: processes.ProcessRow) -> list[Fact]:
        row = one.row
        since, ping, failed = self.moment(row.activated), self.moment(row.last_ping), self.moment(one.error_at)
        skewed = row.skew is not None and abs(row.skew) > SKEW
        gave_way = _(
            "gave_way_times",
            default="${count} times to requests that conflicted with its jobs",
            mapping={"count": row.gave_way},
        )
        return [
            self._fact(_("fact_since", default="Since"), since.text, since.iso) if since else Fact("", ""),
            self._fact(_("fact_ping", default="Last ping"), self._ago(row.last_ping), ping.iso, one.state == "silent")
            if ping
            else Fact("", ""),
            self._fact(
                _("fact_threads", default="Job threads"),
                self.translate(
                    _(
                        "threads_busy",
                        default="${running} of ${threads} busy",
                        mapping={"running": min(one.running, one.threads), "threads": one.threads},
                    )
                )
                if one.queues
                else "",
            ),
            self._fact(_("fact_queues", default="Queues"), ", ".join(map(self._queue_label, one.queues))),
            self._fact(_("fact_version", default="Version"), row.version),
            self._fact(_("fact_memory", default="Memory"), f"{row.memory / 2**20:.0f} MB" if row.memory else ""),
            self._fact(
                _("fact_clock", default="Clock"),
                "" if row.skew is None else f"{row.skew:+.1f} s" if skewed else self._right,
                bad=skewed,
            ),
            self._fact(_("fact_gave_way", default="Gave way"), self.translate(gave_way) if row.gave_way else ""),
            self._fact(_("fact_error", default="Last error"), one.error, failed.iso if failed else "", bad=True),
        ]

    def _fact(self, label: Any, text: str, iso: str = "", bad: bool = False) -> Fact:
        return Fact(self.translate(label), text, iso, bad)

    @property
    def _right(self) -> str:
        return self.translate(_("clock_right", default="right"))

    def _ago(self, when: datetime | None) -> str:
        if when is None:
            return ""
        seconds = max(0.0, (clock.utcnow() - when).total_seconds())
        return self.translate(_("time_ago", default="${span} ago", mapping={"span": span_text(seconds)}))

    def _queue_label(self, name: str) -> str:
        return name or self.translate(_("default_queue", default="Default queue"))

    def _doing(self, job: JobRow) -> Doing:
        since = "" if job.started is None else span_text((clock.utcnow() - job.started).total_seconds())
        return Doing(job.title or job.task, self.job_url(job), since)
