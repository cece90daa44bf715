"""The queues: what waits in them, and the switches that pause all jobs."""

from collective.zcasync import actions
from collective.zcasync import alarms
from collective.zcasync import joblists
from collective.zcasync import queueactions
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.interfaces import _
from collective.zcasync.zopeapp.queuelines import COLUMNS
from collective.zcasync.zopeapp.queuelines import oldest_text
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zExceptions import Forbidden


@dataclass(frozen=True)
class QueueLine:
    """One queue, as the template shows it."""

    name: str
    label: str
    numbers: tuple[int, ...]
    #: The numbers in one text, for narrow screens.
    summary: str
    paused: bool
    problem: str
    may_pause: bool
    url: str
    #: For how long the oldest waiting job has waited.
    oldest: str
    #: Jobs that still run in a queue that is paused.
    draining: int
    row: joblists.QueueRow


class QueuesPage(PanelView):
    """See the module."""

    section = "zcasync-queues"
    refresh = 10
    label = _("nav_queues", default="Queues")
    description = _(
        "queues_description",
        default="Where jobs wait until a dispatcher runs them. The numbers count the jobs of all sites.",
    )

    def __call__(self) -> Any:
        if self.request.method == "POST":
            return self._act()
        return self.index()

    @property
    def columns(self) -> list[Any]:
        """Headings of the columns with counts."""
        return [label for _key, label, _state in COLUMNS]

    @cached_property
    def rows(self) -> tuple[joblists.QueueRow, ...]:
        """The queues as data."""
        return joblists.queues(self.queues) if self.installed else ()

    @cached_property
    def lines(self) -> list[QueueLine]:
        """The queues for the template."""
        return [self._line(row) for row in self.rows]

    def _line(self, row: joblists.QueueRow) -> QueueLine:
        numbers = [(label, row.counts[key]) for key, label, _state in COLUMNS]
        return QueueLine(
            name=row.name,
            label=self.queue_label(row.name),
            numbers=tuple(number for _label, number in numbers),
            summary=" · ".join(f"{self.translate(label)}: {number}" for label, number in numbers if number),
            paused=row.paused,
            problem=self._problem(row),
            may_pause=self.may_edit(row.owner),
            url=self.page_url("zcasync-queue", name=row.name),
            oldest=oldest_text(self.queues[row.name]),
            draining=row.counts["running"] if row.paused else 0,
            row=row,
        )

    @property
    def add_url(self) -> str:
        """URL of the form for a new queue; empty for those who may make none."""
        return self.page_url("zcasync-queue-add") if self.may_manage else ""

    @property
    def site_paused(self) -> bool:
        """Whether a person has paused all jobs of this site."""
        return self.installed and bool(self.queues.is_site_paused(self.own_group))

    @property
    def all_paused(self) -> bool:
        """Whether every queue is paused."""
        return bool(self.rows) and all(row.paused for row in self.rows)

    def list_url(self) -> str:
        """URL that the forms of this page are sent to."""
        return self.page_url("zcasync-queues")

    def _problem(self, row: joblists.QueueRow) -> str:
        queue = self.queues[row.name]
        if alarms.is_served(queue) or not (row.counts["waiting"] + row.counts["parked"] + row.counts["later"]):
            return ""
        alarm = alarms.of_service(queue)
        return f"{self.translate(alarm.text)} {self.translate(alarm.advice)}" if alarm is not None else ""

    def _act(self) -> Any:
        """Pause or resume the queue that was named, the site's jobs, or all queues."""
        self.check_post()
        form = self.request.form
        verb = next((name for name in ("pause_site", "resume_site", "pause_all", "resume_all") if name in form), "")
        if not self.installed:
            self.say(_("queue_gone", default="There is no queue of that name; it may have been removed."), "error")
        elif verb:
            self._switch(verb)
        else:
            self._pause_or_resume(str(form.get("queue", "")))
        return self.request.response.redirect(self.list_url())

    def _switch(self, verb: str) -> None:
        """The switch for everything of the site, or of all sites."""
        if not (self.may_manage if verb.endswith("site") else self.may_see_all):
            raise Forbidden("Only those who may manage the jobs concerned can pause and resume all of them.")
        if verb == "pause_site":
            queueactions.pause_site(self.queues, self.own_group, "/".join(self.context.getPhysicalPath()))
            self.say(_("site_paused", default="All jobs of this site are paused: running ones end, no new one begins."))
        elif verb == "resume_site":
            queueactions.resume_site(self.queues, self.own_group)
            self.say(_("site_resumed", default="The jobs of this site go on."))
        elif verb == "pause_all":
            queueactions.pause_all(self.queues)
            self.say(_("all_paused", default="All queues are paused: running jobs end, and no new one begins."))
        else:
            queueactions.pause_all(self.queues, False)
            self.say(_("all_resumed", default="All queues are at work again."))
        self.log(verb.replace("_", " "))

    def _pause_or_resume(self, name: str) -> None:
        queue = self.queues.get(name)
        if queue is None:
            self.say(_("queue_gone", default="There is no queue of that name; it may have been removed."), "error")
        elif not self.may_edit(queue.owner):
            raise Forbidden("This queue is shared by all sites; only a Manager of the Zope root can pause it.")
        elif "pause" in self.request.form:
            actions.pause_queue(queue)
            self.log(f"paused queue {name!r}")
            self.say(_("queue_paused", default="The queue is paused: running jobs end, and no new one begins."))
        elif "resume" in self.request.form:
            actions.resume_queue(queue)
            self.log(f"resumed queue {name!r}")
            self.say(_("queue_resumed", default="The queue is at work again."))
