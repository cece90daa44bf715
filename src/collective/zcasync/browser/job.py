"""The page about one job: what it is, what happened to it, and what can be done with it."""

from collective.zcasync import actions
from collective.zcasync import jobdetail
from collective.zcasync import joblists
from collective.zcasync.browser.jobs import duration
from collective.zcasync.browser.jobs import user_name
from collective.zcasync.browser.jobtexts import BADGES
from collective.zcasync.browser.jobtexts import PLAIN_BADGE
from collective.zcasync.browser.jobverbs import Button
from collective.zcasync.browser.jobverbs import buttons
from collective.zcasync.browser.links import ObjectLinks
from collective.zcasync.browser.panel import Moment
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.browser.panel import seconds_text
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.interfaces import _
from collective.zcasync.jobdetail import EVENTS
from collective.zcasync.jobdetail import Frame
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any
from urllib.parse import urlencode
from zExceptions import Forbidden

import os

#: What the user is told after a cancel, by its answer.
CANCEL_ANSWERS = {
    "cancelled": _("said_cancelled", default="The job was cancelled."),
    "stopping": _("said_stopping", default="The job runs already. It was asked to stop at its next checkpoint."),
    "finished": _("said_finished", default="The job had ended before it could be cancelled."),
}

#: Folders of installed packages that are only the first half of a package's name.
NAMESPACES = ("collective", "plone", "Products", "zope", "z3c", "zc")


@dataclass(frozen=True)
class Action:
    """A button."""

    name: str
    label: Any
    css: str


@dataclass(frozen=True)
class Fact:
    """One line of the description of a job."""

    label: Any
    text: str
    url: str = ""


@dataclass(frozen=True)
class EventLine:
    """One line of the timeline."""

    label: Any
    time: Moment | None
    text: str
    #: Time since the event before.
    after: str = ""


@dataclass(frozen=True)
class FrameLine:
    """One call of the traceback."""

    place: str
    source: str


@dataclass(frozen=True)
class Calls:
    """Calls that stand together: those of installed packages are folded."""

    folded: bool
    frames: tuple[FrameLine, ...]
    summary: str = ""


class JobPage(PanelView):
    """See the module."""

    section = "zcasync-jobs"

    def __call__(self) -> Any:
        if self.request.method == "POST":
            return self._act()
        if not self.found:
            self.request.response.setStatus(404)
        return self.index()

    @property
    def label(self) -> Any:
        """The page's heading: what the job does."""
        if not self.found:
            return _("job_not_found", default="Job not found")
        return self.row.title or self.row.task

    @cached_property
    def _job(self) -> Any:
        """The stored job; None if there is none, or if it belongs to a site that is not the user's."""
        if self.queues is None:
            return None
        try:
            found = joblists.find(self.queues, str(self.request.form.get("id", "")))
        except JobNotFound:
            return None
        if not jobdetail.is_broken(found) and found.outcome is not None and found.parent is None:
            return None  # it was deleted
        mine = jobdetail.group_of(found) == self.own_group
        return found if mine or self.may_see_all else None

    @property
    def found(self) -> bool:
        """Whether there is such a job for this user."""
        return self._job is not None

    missing_text = _(
        "job_missing",
        default="There is no such job in this site. Finished jobs are kept for some days only, and a job that was"
        " discarded is gone.",
    )

    @cached_property
    def row(self) -> joblists.JobRow:
        """The job as a line of the list."""
        return joblists.row(self._job)

    @cached_property
    def detail(self) -> Any:
        """All about the job, or, for those who may not read arguments and results, what is in its line."""
        if self.may_manage:
            return jobdetail.job_detail(self._job, self.row)
        return jobdetail.brief_detail(self._job, self.row)

    @property
    def state_label(self) -> Any:
        """The state's label."""
        return joblists.STATES[self.row.state]

    @property
    def badge(self) -> str:
        """Class of the state's badge."""
        return "text-bg-success" if self.row.state == joblists.FINISHED else BADGES.get(self.row.state, PLAIN_BADGE)

    @property
    def reason(self) -> str:
        """Why the job waits, or where it runs."""
        return self.detail_text(self.row)

    @property
    def error_type(self) -> str:
        """Name of the exception."""
        return self.row.error.partition(":")[0]

    @property
    def error(self) -> str:
        """Message of the exception."""
        return (self.detail.error_message or self.row.error.partition(":")[2]).strip() if self.row.error else ""

    @property
    def facts(self) -> list[Fact]:
        """What is known of the job, for people."""
        row, detail = self.row, self.detail
        facts = [
            Fact(_("fact_id", default="Id"), row.id),
            Fact(_("fact_task", default="Task"), row.task),
            Fact(_("fact_user", default="User"), user_name(row.user)),
            self._object_fact(),
            Fact(_("fact_queue", default="Queue"), self._queue_text()),
            Fact(_("fact_agent", default="Agent"), row.detail if row.state == joblists.RUNNING else ""),
            Fact(_("fact_policy", default="Retry policy"), detail.policy, self._policy_url()),
            Fact(_("fact_quotas", default="Quotas"), ", ".join(detail.quotas)),
            Fact(_("fact_priority", default="Priority"), str(detail.priority) if detail.priority else ""),
            Fact(_("fact_attempts", default="Attempts"), str(row.attempts) if row.attempts else ""),
            Fact(_("fact_duration", default="Duration"), duration(row)),
            Fact(_("fact_retry_of", default="Retry of"), detail.retry_of, self._job_url(detail.retry_of)),
            Fact(_("fact_retried_as", default="Retried as"), detail.retried_as, self._job_url(detail.retried_as)),
        ]
        return [fact for fact in facts if fact.text]

    @property
    def events(self) -> list[EventLine]:
        """The timeline, oldest first."""
        lines = []
        before = None
        for event in self.detail.timeline:
            text = user_name(event.text) if event.what == "put" else event.text
            after = "" if before is None else f"+ {seconds_text((event.when - before).total_seconds())}"
            lines.append(EventLine(EVENTS.get(event.what, event.what), self.moment(event.when), text, after))
            before = event.when
        return lines

    @property
    def calls(self) -> list[Calls]:
        """The traceback in pieces: own code open, installed code folded."""
        frames = self.detail.frames
        fold = not all(frame.framework for frame in frames)
        return [
            self._calls(framework and fold, list(group))
            for framework, group in groupby(frames, key=lambda frame: frame.framework)
        ]

    def _calls(self, folded: bool, frames: list[Frame]) -> Calls:
        lines = tuple(FrameLine(f"{frame.file}, {frame.line}: {frame.function}", frame.source) for frame in frames)
        names = sorted({_package(frame.file) for frame in frames})
        text = _(
            "folded_calls",
            default="${number} calls in ${names}",
            mapping={"number": len(frames), "names": ", ".join(names)},
        )
        return Calls(folded, lines, self.translate(text) if folded else "")

    @property
    def actions(self) -> list[Action]:
        """The buttons, for those who may press them."""
        if not self.may_manage:
            return []
        detail = self.detail
        buttons = []
        if detail.can_retry:
            retry, release = _("button_retry", default="Retry"), _("button_release", default="Release, and run again")
            buttons.append(Action("retry", release if detail.can_discard else retry, "btn-primary"))
        if detail.can_cancel and not detail.stop_requested:
            buttons.append(Action("cancel", _("button_cancel", default="Cancel job"), "btn-outline-danger"))
        if detail.can_discard:
            buttons.append(Action("discard", _("button_discard", default="Discard"), "btn-danger"))
        return buttons

    def more_actions(self) -> list[Button]:
        """What the page about many jobs does for this one."""
        if not self.may_manage:
            return []
        here = ("retry", "release", "cancel", "delete" if self.detail.can_discard else "")
        return [button for button in buttons(self.row.state) if button.name not in here]

    @property
    def may_discard(self) -> bool:
        """Whether there is a button that cannot be undone."""
        return bool(self.detail.can_discard)

    def _act(self) -> Any:
        """Do what the pressed button says, and come back to the job by a GET."""
        self.check_post()
        if not self.may_manage:
            raise Forbidden("Only those who may manage jobs can change them.")
        if not self.found:
            self.say(self.missing_text, "error")
            return self.request.response.redirect(self.page_url("zcasync-jobs"))
        form = self.request.form
        verb = next((name for name in ("cancel", "retry", "discard") if name in form), "")
        try:
            url = getattr(self, f"_{verb}")() if verb else self._job_url(self.row.id)
        except BadStatusError as error:
            self.say(str(error), "error")
            url = self._job_url(self.row.id)
        return self.request.response.redirect(url)

    def _cancel(self) -> str:
        answer = actions.cancel(self._job, self.user_id)
        self.say(CANCEL_ANSWERS[answer], "warning" if answer == "finished" else "info")
        return self._job_url(self.row.id)

    def _retry(self) -> str:
        again = actions.retry(self._job, self.user_id)
        self.say(_("said_retried", default="The job was put again. This is its new run."))
        return self._job_url(again.id)

    def _discard(self) -> str:
        if not self.request.form.get("sure"):
            self.say(_("said_unsure", default="Nothing was removed: tick the box beside Discard first."), "warning")
            return self._job_url(self.row.id)
        actions.discard(self._job, self.user_id)
        self.say(_("said_discarded", default="The job was discarded."))
        return self.page_url("zcasync-jobs")

    def _job_url(self, id: str) -> str:
        if not id:
            return ""
        options = {"id": id} | ({"all_sites": 1} if self.all_sites else {})
        return f"{self.page_url('zcasync-job')}?{urlencode(options)}"

    def _queue_text(self) -> str:
        queue = joblists.queue_of(self._job)
        return self.queue_label(queue.name) if queue is not None else ""

    def _policy_url(self) -> str:
        name = self.detail.policy
        if not name or name not in self.queues.policies or not self.may_manage:
            return ""
        return f"{self.page_url('zcasync-policy')}?{urlencode({'name': name})}"

    def _object_fact(self) -> Fact:
        link = ObjectLinks(self.context, self.request, [self.row.path]).get(self.row.path)
        label = _("fact_object", default="Object")
        return Fact(label, str(link.label), link.url) if link is not None else Fact(label, "")


def _package(file: str) -> str:
    """The installed package, or "Python", that a file belongs to."""
    parts = file.replace(os.sep, "/").split("/")
    for place in ("site-packages", "dist-packages"):
        if place in parts:
            inside = parts[parts.index(place) + 1 :]
            return (
                ".".join(inside[:2]) if len(inside) > 2 and inside[0] in NAMESPACES else inside[0].removesuffix(".py")
            )
    if "zcasync" in parts:
        return "collective.zcasync"
    return "Python"
