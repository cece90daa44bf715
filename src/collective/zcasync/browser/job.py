"""The page about one job: what it is, what happened to it, and what can be done with it."""

from collective.zcasync import actions
from collective.zcasync import clock
from collective.zcasync import jobdetail
from collective.zcasync import joblists
from collective.zcasync import jobtree
from collective.zcasync.browser.calls import Calls
from collective.zcasync.browser.calls import folded
from collective.zcasync.browser.jobparts import Action
from collective.zcasync.browser.jobparts import BranchLine
from collective.zcasync.browser.jobparts import CANCEL_ANSWERS
from collective.zcasync.browser.jobparts import EventLine
from collective.zcasync.browser.jobparts import Fact
from collective.zcasync.browser.jobparts import KINDS
from collective.zcasync.browser.jobparts import LogRow
from collective.zcasync.browser.jobparts import OUTCOMES
from collective.zcasync.browser.jobs import duration
from collective.zcasync.browser.jobtexts import badge_of
from collective.zcasync.browser.jobtexts import PLAIN_BADGE
from collective.zcasync.browser.jobverbs import Verb
from collective.zcasync.browser.jobverbs import verbs_of
from collective.zcasync.browser.links import ObjectLinks
from collective.zcasync.browser.panel import Moment
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.interfaces import _
from collective.zcasync.jobdetail import EVENTS
from collective.zcasync.jobdetail import frames_of
from collective.zcasync.monitorrows import OUTCOME_OF_STATE
from collective.zcasync.ploneapp.users import id_in
from collective.zcasync.readable import span_text
from collective.zcasync.tasks import registry
from collective.zcasync.zopeapp.reasons import full_reason_text
from datetime import timedelta
from functools import cached_property
from plone import api
from typing import Any
from zExceptions import Forbidden

#: How long the page waits for a running job's answer, loading itself each second.
STACK_PATIENCE = timedelta(seconds=10)

#: Names of the buttons.
VERBS = ("cancel", "retry", "discard", "ask")


class JobPage(PanelView):
    """See the module."""

    section = "zcasync-jobs"

    def __call__(self) -> Any:
        if self.request.method == "POST":
            return self._act()
        if not self.found:
            self.request.response.setStatus(404)
        elif self.may_ask and self.waits_for_stack:
            self.request.response.setHeader("Refresh", "1")
        return self.index()

    @property
    def refresh(self) -> int:  # type: ignore[override]
        """See Panel: until the job has ended."""
        return 5 if self.found and self.row.state not in OUTCOME_OF_STATE else 0

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
            found = self.visible_job(str(self.request.form.get("id", "")))
        except JobNotFound:
            return None
        if not jobdetail.is_broken(found) and found.outcome is not None and found.parent is None:
            return None  # it was deleted
        return found

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
        return badge_of(self.row.state)

    @property
    def reason(self) -> str:
        """Why the job waits, or where it runs."""
        return full_reason_text(self.queues, self._job, self.row, self.translate)

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
            Fact(_("fact_user", default="User"), id_in(row.user), self._user_url()),
            self._object_fact(),
            self._queue_fact(),
            self._dispatcher_fact(),
            Fact(_("fact_agent", default="Agent"), row.detail if row.state == joblists.RUNNING else ""),
            Fact(_("fact_policy", default="Retry policy"), detail.policy, self._policy_url()),
            Fact(_("fact_quotas", default="Quotas"), ", ".join(detail.quotas)),
            Fact(_("fact_priority", default="Priority"), str(detail.priority) if detail.priority else ""),
            Fact(_("fact_attempts", default="Attempts"), str(row.attempts) if row.attempts else ""),
            Fact(_("fact_duration", default="Duration"), duration(row)),
            Fact(_("fact_retry_of", default="Retry of"), detail.retry_of, self.url_of_job(detail.retry_of)),
            Fact(_("fact_retried_as", default="Retried as"), detail.retried_as, self.url_of_job(detail.retried_as)),
        ]
        return [fact for fact in facts if fact.text]

    @cached_property
    def events(self) -> list[EventLine]:
        """The timeline, oldest first."""
        lines = []
        before = None
        for event in self.detail.timeline:
            text = id_in(event.text) if event.what == "put" else event.text
            after = "" if before is None else f"+ {span_text((event.when - before).total_seconds())}"
            lines.append(EventLine(EVENTS.get(event.what, event.what), self.moment(event.when), text, after))
            before = event.when
        return lines

    @property
    def calls(self) -> list[Calls]:
        """The traceback in pieces: own code open, installed code folded."""
        return folded(self.detail.frames, self.translate)

    @property
    def logs(self) -> list[list[LogRow]]:
        """What the job's code has logged, an attempt after the other; only of the last day's the time says enough."""
        return [
            [LogRow(self.moment(line.when), line.level, line.logger, line.text) for line in lines]
            for lines in self.detail.logs
        ]

    @property
    def branches(self) -> list[BranchLine]:
        """What stands above and below this job."""
        return [
            BranchLine(
                self.url_of_job(one.id),
                one.title,
                KINDS[one.kind],
                OUTCOMES.get(one.outcome or one.status, one.status),
                badge_of(joblists.FAILED) if one.error else PLAIN_BADGE,
                f"margin-inline-start: {one.depth * 1.5}rem",
                one.error if self.may_manage else "",
            )
            for one in jobtree.tree(self._job)
        ]

    @property
    def may_ask(self) -> bool:
        """Whether the job runs, and so can be asked where it is."""
        return self.may_manage and self.row.state == joblists.RUNNING and self._job.token is not None

    @property
    def waits_for_stack(self) -> bool:
        """Whether the answer is to come; not much longer than it takes, for the job may have left its thread."""
        asked, told = self._job.stack_asked, self._job.stack
        if asked is None or (told is not None and told[0] >= asked):
            return False
        return clock.utcnow() - asked < STACK_PATIENCE

    @property
    def stack_time(self) -> Moment | None:
        """When the job told last where it is."""
        return self.moment(self._job.stack[0]) if self.may_ask and self._job.stack is not None else None

    @property
    def stack(self) -> list[Calls]:
        """Where the job was then, the most recent call last."""
        calls = self._job.stack[1] if self.may_ask and self._job.stack is not None else ()
        return folded(frames_of(calls), self.translate)

    @property
    def change_url(self) -> str:
        """Where the job can be retried with other arguments; empty where its task does not allow that."""
        task = registry.get(self._job._task) if self.may_manage and not self.row.broken else None
        may = task is not None and self.detail.can_retry and not self.detail.can_discard
        if not may or not self.rights.is_offered(task):
            return ""
        return self.url_of_job(self.row.id, page="zcasync-job-retry")

    @cached_property
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

    def more_actions(self) -> list[Verb]:
        """What the page about many jobs does for this one."""
        if not self.may_manage:
            return []
        here = ("retry", "release", "cancel", "delete" if self.detail.can_discard else "")
        return [verb for verb in verbs_of(self.row.state) if verb.name not in here]

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
        verb = next((name for name in VERBS if name in form), "")
        try:
            url = getattr(self, f"_{verb}")() if verb else self.url_of_job(self.row.id)
        except BadStatusError as error:
            self.say(str(error), "error")
            url = self.url_of_job(self.row.id)
        return self.request.response.redirect(url)

    def _cancel(self) -> str:
        answer = actions.cancel(self._job, self.user_id)
        self.say(CANCEL_ANSWERS[answer], "warning" if answer == "finished" else "info")
        return self.url_of_job(self.row.id)

    def _retry(self) -> str:
        again = actions.retry(self._job, self.user_id)
        self.say(_("said_retried", default="The job was put again. This is its new run."))
        return self.url_of_job(again.id)

    def _ask(self) -> str:
        actions.ask_stack(self._job, self.user_id)
        return self.url_of_job(self.row.id) + "#zcasync-stack"

    def _discard(self) -> str:
        if not self.request.form.get("sure"):
            self.say(_("said_unsure", default="Nothing was removed: tick the box beside Discard first."), "warning")
            return self.url_of_job(self.row.id)
        actions.discard(self._job, self.user_id)
        self.say(_("said_discarded", default="The job was discarded."))
        return self.page_url("zcasync-jobs")

    def _queue_fact(self) -> Fact:
        label, queue = _("fact_queue", default="Queue"), joblists.queue_of(self._job)
        if queue is None:
            return Fact(label, "")
        return Fact(label, self.queue_label(queue.name), self.page_url("zcasync-queue", name=queue.name))

    def _policy_url(self) -> str:
        name = self.detail.policy
        if not name or name not in self.queues.policies or not self.may_manage:
            return ""
        return self.page_url("zcasync-policy", name=name)

    def _user_url(self) -> str:
        """Where the user's properties are, for those who may see them."""
        name = id_in(self.row.user)
        may = self.rights.may("Plone Site Setup: Users and Groups")
        if not may or not name or api.user.get(userid=name) is None:
            return ""
        return self.page_url("user-information", userid=name)

    def _dispatcher_fact(self) -> Fact:
        """Who runs the job or has run it: host and process, as it has registered; else its UUID."""
        uuid, told = jobdetail.place_of(self._job)
        url = f"{self.page_url('zcasync-dispatchers')}#dispatcher-{uuid}"
        return Fact(_("fact_dispatcher", default="Dispatcher"), told, url)

    def _object_fact(self) -> Fact:
        link = ObjectLinks(self.context, self.request, [self.row.path]).get(self.row.path)
        label = _("fact_object", default="Object")
        return Fact(label, str(link.label), link.url) if link is not None else Fact(label, "")
