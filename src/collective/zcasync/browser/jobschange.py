"""What the buttons of the list of jobs do: with the jobs that were ticked at once, with all that match in a job."""

from collective.zcasync import joblists
from collective.zcasync.browser.jobs import Jobs
from collective.zcasync.browser.jobverbs import do
from collective.zcasync.browser.jobverbs import HARMLESS
from collective.zcasync.browser.jobverbs import states_of
from collective.zcasync.browser.jobverbs import Verb
from collective.zcasync.browser.jobverbs import VERBS
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.interfaces import _
from collective.zcasync.manyjobs import change_jobs
from collective.zcasync.persistence import PRIORITIES
from collective.zcasync.zopeapp.overview import count_text
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zExceptions import Forbidden
from zope.i18nmessageid import Message

#: Jobs that are changed in the request itself; more are a job.
MOST_AT_ONCE = 200

#: Errors that are shown one by one.
MOST_ERRORS = 3


#: Jobs that are named when somebody is asked, at most.
MOST_SHOWN = 5


@dataclass(frozen=True)
class Ticked:
    """A job that is named. ``error``: what it failed with, or an empty text."""

    url: str
    title: str
    error: str


class JobsChange(Jobs):
    """See the module. First it asks, where that is right; then it does what it was asked, and goes back to the list."""

    description = ""

    def __call__(self) -> Any:
        if self.request.method != "POST":
            return self.request.response.redirect(self.back_url)
        self.check_post()
        if not self.may_manage:
            raise Forbidden("Only those who may manage jobs can change them.")
        problem = self._problem()
        if problem:
            self.say(problem, "warning")
            return self.request.response.redirect(self.back_url)
        if self.asks:
            return self.index()
        try:
            return self.request.response.redirect(self._put() if self.everything else self._change())
        except ValueError:
            said = _("value_not_understood", default="This cannot be understood: ${text}", mapping={"text": self.typed})
            self.say(said, "error")
            return self.index()

    @property
    def label(self) -> Any:
        """The page's heading: what is to be done."""
        return self.verb.label if self.verb is not None else super().label

    @cached_property
    def verb(self) -> Verb | None:
        """What is to be done."""
        verb = VERBS.get(self.filter.text("verb"))
        return verb if verb is not None and self.state in verb.lists else None

    @cached_property
    def ids(self) -> list[str]:
        """The jobs that were ticked."""
        found = self.request.form.get("ids", [])
        found = found if isinstance(found, list | tuple) else [found]
        return list(dict.fromkeys(id for id in found if isinstance(id, str)))

    @cached_property
    def everything(self) -> bool:
        """Whether all jobs that match are meant, ticked or not."""
        return bool(self.filter.text("everything"))

    @cached_property
    def typed(self) -> str:
        """The value that was typed, or what stands in its field first."""
        return self.filter.text("value")[:40]

    @property
    def asks(self) -> bool:
        """Whether the person is asked once more, or for a value."""
        assert self.verb is not None
        return not self.filter.text("sure") and (self.everything or self.verb.name not in HARMLESS)

    @property
    def question(self) -> str:
        """What the person is asked."""
        assert self.verb is not None
        return self.translate(
            _(self.verb.question, default=self.verb.question.default, mapping={"jobs": self.jobs_text})
        )

    @property
    def jobs_text(self) -> str:
        """Which jobs are meant, in words."""
        if not self.everything:
            number = len(self.ids)
            one = _("this_job", default="this job")
            return self.translate(one if number == 1 else _("these_jobs", default="${n} jobs", mapping={"n": number}))
        if self.filter.active:
            return self.translate(_("those_found", default="all jobs that match the search"))
        number = count_text(self.counts[self.state])
        return self.translate(_("all_these_jobs", default="all ${n} jobs of this list", mapping={"n": number}))

    @cached_property
    def ticked(self) -> list[Ticked]:
        """The first of the jobs that were ticked, so that one sees which are meant."""
        found = [] if self.everything else self.ids[:MOST_SHOWN]
        return [line for line in map(self._ticked, found) if line is not None]

    @property
    def not_shown(self) -> int:
        """How many more there are."""
        return 0 if self.everything else max(0, len(self.ids) - MOST_SHOWN)

    def _ticked(self, id: str) -> Ticked | None:
        try:
            row = joblists.row(self.visible_job(id))
        except JobNotFound:
            return None
        return Ticked(self.url_of_job(row.id), self.translate(row.title or row.task), row.error)

    @property
    def back_url(self) -> str:
        """Where the person came from."""
        if self.filter.text("job") and self.ids:
            return self.url_of_job(self.ids[0])
        return self.link_url

    def hidden(self) -> list[tuple[str, str]]:
        """What the form of the question carries on."""
        assert self.verb is not None
        asked = [(name, self.filter.text(name)) for name in ("everything", "job") if self.filter.text(name)]
        ids = [] if self.everything else [("ids:list", id) for id in self.ids]
        return [*self.carried(), ("verb", self.verb.name), *asked, ("sure", "1"), *ids]

    def _problem(self) -> Any:
        """Why nothing can be done, or None."""
        if self.verb is None or not self.installed:
            return _("no_such_verb", default="That cannot be done with these jobs.")
        if self.everything and self.state not in self.verb.all_of:
            return _("not_with_all", default="That cannot be done with all jobs of this list at once: tick some.")
        if self.everything and self.problems:
            return _("search_unclear", default="The search was not understood, so nothing was changed.")
        if not self.everything and not self.ids:
            return _("none_ticked", default="Tick the jobs that you mean first.")
        if not self.everything and len(self.ids) > MOST_AT_ONCE:
            return _(
                "too_many_ticked",
                default="These are more than ${number} jobs: search for them, and choose all that match.",
                mapping={"number": MOST_AT_ONCE},
            )
        return None

    def _value(self) -> Any:
        """What was given: a time in the reader's zone, or a priority; ValueError for anything else."""
        assert self.verb is not None
        if self.verb.wants == "time":
            return self.local_time(self.typed)
        if self.verb.wants == "priority":
            if int(self.typed) not in PRIORITIES:
                raise ValueError(self.typed)
            return int(self.typed)
        return None

    def _change(self) -> str:
        """Change the jobs that were ticked; the address to go to."""
        assert self.verb is not None
        value, done, errors, gone, last = self._value(), 0, [], 0, None
        for id in self.ids:
            try:
                last = do(self.verb.name, self.visible_job(id), self.user_id, value)
                done += 1
            except JobNotFound:
                gone += 1
            except ZCAsyncError as error:
                errors.append(str(error))
        if done:
            self.say(Message(self.verb.done, mapping={"number": done}))
        if gone:
            said = _("said_gone", default="Jobs that are not there any more: ${number}.", mapping={"number": gone})
            self.say(said, "warning")
        for error in errors[:MOST_ERRORS]:
            self.say(error, "warning")
        if errors[MOST_ERRORS:]:
            more = {"number": len(errors) - MOST_ERRORS}
            said = _("said_more_errors", default="And ${number} more that could not be changed.", mapping=more)
            self.say(said, "warning")
        if done and self.filter.text("job"):
            if self.verb.name == "delete":
                return self.list_url(state=self.state)
            if self.verb.name == "retry":
                return self.url_of_job(last.id)
        return self.back_url

    def _put(self) -> str:
        """Put a job that changes all that match; the address of its page."""
        assert self.verb is not None
        states, fields = states_of(self.state)
        count = self.counts[self.state]
        job = change_jobs.put(
            self.verb.name,
            states,
            search=self.filter.search.given | fields,
            value=self._value(),
            total=None if self.filter.active or count.more else count.number,
            queue=self.filter.queue,
            group=self.group,
            by=self.user_id,
        )
        self.log(f"put job {job.id}: {self.verb.name} all jobs that match in the list {self.state!r}")
        self.say(
            _("said_many_put", default="A job does that now, one job after the other. This page shows how far it is.")
        )
        return self.url_of_job(job.id)
