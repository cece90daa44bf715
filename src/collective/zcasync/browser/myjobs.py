"""My jobs: what a person has started, how far it is, what has come of it; for everybody who is logged in."""

from collective.zcasync import actions
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync.alarms import is_served
from collective.zcasync.browser.jobs import duration
from collective.zcasync.browser.jobtexts import badge_of
from collective.zcasync.browser.myresults import download
from collective.zcasync.browser.myresults import Outcome
from collective.zcasync.browser.myresults import outcome_of
from collective.zcasync.browser.note import SCRIPT
from collective.zcasync.browser.panel import Moment
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.browser.panel import Step
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.interfaces import _
from collective.zcasync.ownjobs import AHEAD
from collective.zcasync.ownjobs import LOOK
from collective.zcasync.ownjobs import Owner
from collective.zcasync.ownjobs import OwnJob
from collective.zcasync.ownjobs import OwnJobs
from collective.zcasync.ploneapp import desk
from collective.zcasync.ploneapp import ownmail
from collective.zcasync.tasks import registry
from collective.zcasync.zopeapp.overview import number_in
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from plone import api
from typing import Any

import json

#: What has ended longer ago is no news.
NEWS_FOR = timedelta(days=1)

#: What a person is told after a cancel, by its answer.
CANCEL_ANSWERS = {
    "cancelled": _("said_cancelled", default="The job was cancelled."),
    "stopping": _("said_own_stopping", default="The job runs already. It was asked to stop, and ends soon."),
    "finished": _("said_finished", default="The job had ended before it could be cancelled."),
}


@dataclass(frozen=True)
class OwnLine:
    """One job, as the template shows it."""

    id: str
    title: str
    state: str
    badge: str
    time: Moment | None
    duration: str = ""
    place: str = ""
    step: Step | None = None
    stopping: bool = False
    error: str = ""
    outcome: Outcome | None = None


class OwnJobsView(PanelView):
    """What all views on the own jobs have in common."""

    #: How much of the history was looked at before, by one who looks for older jobs.
    skip = 0

    @cached_property
    def user(self) -> str:
        """The person, as jobs name it; an empty text for one whose jobs nobody could tell from others'."""
        return self.rights.user or ""

    @cached_property
    def owner(self) -> Owner:
        """Whose jobs, and of which tasks."""
        return desk.owner(self.own_group, self.user)

    @cached_property
    def found(self) -> OwnJobs:
        """The own jobs; ended ones without those that were dismissed."""
        if self.queues is None or not self.user:
            return OwnJobs()
        return desk.jobs_on(self.context, self.queues, self.owner, self.skip)

    def own_job(self, id: Any) -> Any:
        """The stored job of that id if it is the person's own, else None."""
        if self.queues is None or not self.user or not isinstance(id, str):
            return None
        try:
            job = joblists.find(self.queues, id)
        except JobNotFound:
            return None
        return job if self.owner.owns(job) else None


class MyJobs(OwnJobsView):
    """The page. See the module."""

    section = "zcasync-my-jobs"
    script = SCRIPT
    label = _("my_jobs", default="My jobs")
    description = _(
        "my_jobs_description",
        default="What you have started in this site and what goes on without you: how far it is, and what has come of"
        " it.",
    )

    def __call__(self) -> Any:
        if self.request.method == "POST":
            return self._act()
        self.request.response.setHeader("Cache-Control", "no-store")
        return self.index()

    @property
    def url(self) -> str:
        """URL of this page, and of its forms."""
        return self.page_url("zcasync-my-jobs")

    @cached_property
    def skip(self) -> int:  # type: ignore[override]
        """See OwnJobsView."""
        return number_in(self.request.form, "skip")

    @property
    def older_url(self) -> str:
        """URL of the page with older jobs; empty at the end."""
        return self.page_url("zcasync-my-jobs", skip=self.found.next) if self.found.next is not None else ""

    @property
    def tasks_url(self) -> str:
        """URL of the page for starting tasks; empty if there is none that the person may start."""
        may = any(map(self.rights.is_offered, registry.values()))
        return self.page_url("zcasync-tasks") if may else ""

    @property
    def refresh(self) -> int:  # type: ignore[override]
        """See Panel: until nothing goes on any more."""
        return 3 if self.active else 0

    @property
    def offers_mail(self) -> bool:
        """Whether the person can be told by mail."""
        return bool(self.user and api.user.get_current().getProperty("email", "") and ownmail.offered(self.context))

    @property
    def wants_mail(self) -> bool:
        """Whether the person has asked for it."""
        return bool(desk.look_at(self.context, self.user).mail)

    @cached_property
    def active(self) -> list[OwnLine]:
        """What has not ended."""
        return [self._active_line(one) for one in self.found.active]

    @cached_property
    def ended(self) -> list[OwnLine]:
        """What has ended and was not dismissed."""
        return [self._ended_line(one) for one in self.found.ended]

    @property
    def seen(self) -> str:
        """The ids of what has ended, for the note in the toolbar: it tells of nothing that was seen here."""
        return " ".join(line.id for line in self.ended)

    def _active_line(self, one: OwnJob) -> OwnLine:
        row = one.row
        return OwnLine(
            id=row.id,
            title=self.translate(row.title or row.task),
            state=self.translate(joblists.STATES[row.state]),
            badge=badge_of(row.state),
            time=self.moment(row.due if row.state == joblists.SCHEDULED else row.started or row.put_at),
            duration=duration(row) if row.state == joblists.RUNNING else "",
            place=self._place(one),
            step=self.step(row),
            stopping=bool(one.job.stop_requested),
        )

    def _ended_line(self, one: OwnJob) -> OwnLine:
        row = one.row
        return OwnLine(
            id=row.id,
            title=self.translate(row.title or row.task),
            state=self.translate(joblists.STATES[row.state]),
            badge=badge_of(row.state),
            time=self.moment(row.ended),
            duration=duration(row),
            error=row.error if row.state == joblists.FAILED else "",
            outcome=outcome_of(one.job, self) if row.state == joblists.FINISHED else None,
        )

    def _place(self, one: OwnJob) -> str:
        if one.row.state == joblists.QUARANTINED:
            text = _("own_aside", default="It was set aside: ask those who run the site to look at it.")
        elif one.row.state != joblists.WAITING:
            return ""
        elif one.row.detail:
            return self.detail_text(one.row)
        elif one.job.queue.name in self._unserved:
            text = _(
                "own_unserved",
                default="It waits until somebody takes jobs again: ask those who run the site if that lasts.",
            )
        elif one.ahead is None:
            text = _("own_far", default="More than ${number} jobs are before it.", mapping={"number": AHEAD})
        elif one.ahead == 0:
            text = _("own_next", default="It is next.")
        else:
            text = _("own_ahead", default="Jobs before it: ${number}", mapping={"number": one.ahead})
        return self.translate(text)

    @cached_property
    def _unserved(self) -> set[str]:
        """Names of the queues of which no dispatcher takes jobs."""
        return {queue.name for queue in self.queues.values() if not is_served(queue)}

    def _act(self) -> Any:
        """Do what the pressed button says, and come back by a GET."""
        self.check_post()
        form = self.request.form
        if "cancel" in form:
            self._cancel(form["cancel"])
        elif "dismiss" in form:
            self._dismiss([str(form["dismiss"])])
        elif "dismiss_all" in form:
            self._dismiss(str(form.get("shown", "")).split())
        elif "mail" in form and self.user:
            self._set_mail(form["mail"] == "1")
        return self.request.response.redirect(self.url)

    def _cancel(self, id: Any) -> None:
        job = self.own_job(id)
        if job is None:
            self.say(_("own_missing", default="That job is not among yours any more."), "error")
            return
        try:
            answer = actions.cancel(job, self.user_id)
        except BadStatusError:
            self.say(_("own_aside", default="It was set aside: ask those who run the site to look at it."), "error")
            return
        self.say(CANCEL_ANSWERS[answer], "warning" if answer == "finished" else "info")

    def _set_mail(self, wanted: bool) -> None:
        desk.take(self.context, self.user).mail = wanted
        self.log(f"wants {'a' if wanted else 'no'} mail when an own job has ended")
        if wanted:
            self.say(_("mail_on", default="You get a mail when a job that you start from now on has ended."))
        else:
            self.say(_("mail_off", default="Jobs that you start from now on send you no mail."))

    def _dismiss(self, ids: list[str]) -> None:
        """Show these no more: of what was asked for, only what is this person's and has ended."""
        jobs = map(self.own_job, dict.fromkeys(ids[:LOOK]))
        known = [job.id for job in jobs if job is not None and job.outcome is not None]
        if known:
            desk.take(self.context, self.user).dismiss(known)
            self.log(f"dismissed own jobs: {', '.join(known)}")


class News(OwnJobsView):
    """What the note in the toolbar asks for: JSON with what has ended lately, and whether more is to come."""

    def __call__(self) -> str:
        newest = clock.utcnow() - NEWS_FOR
        ended = [one.row.id for one in self.found.ended if one.row.ended is not None and one.row.ended > newest]
        response = self.request.response
        response.setHeader("Content-Type", "application/json")
        response.setHeader("Cache-Control", "no-store")
        return json.dumps({"ended": ended, "active": len(self.found.active)})


class Result(OwnJobsView):
    """The file that an own job has returned."""

    def __call__(self) -> Any:
        return download(self.own_job(self.request.form.get("id")), self.request.response)
