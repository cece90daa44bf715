"""The list of jobs: one tab for each state, a search, what failed jobs have in common, 50 jobs a page."""

from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync.browser.batches import Window
from collective.zcasync.browser.jobfilter import Filter
from collective.zcasync.browser.jobtexts import BADGES
from collective.zcasync.browser.jobtexts import CURRENT_BADGE
from collective.zcasync.browser.jobtexts import EMPTY_TEXTS
from collective.zcasync.browser.jobtexts import PLAIN_BADGE
from collective.zcasync.browser.jobtexts import TIME_LABELS
from collective.zcasync.browser.jobverbs import Verb
from collective.zcasync.browser.jobverbs import verbs_of
from collective.zcasync.browser.links import ObjectLinks
from collective.zcasync.browser.links import task_title
from collective.zcasync.browser.panel import Link
from collective.zcasync.browser.panel import Moment
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.interfaces import _
from collective.zcasync.joblists import LISTS
from collective.zcasync.monitorrows import OUTCOME_OF_STATE
from collective.zcasync.ploneapp.users import id_in
from collective.zcasync.queues import shown_queue
from collective.zcasync.readable import span_text
from collective.zcasync.zopeapp.overview import count_text
from collective.zcasync.zopeapp.overview import number_in
from collective.zcasync.zopeapp.overview import too_far_text
from collective.zcasync.zopeapp.searchfields import NONE_MATCH
from dataclasses import dataclass
from functools import cached_property
from plone.base.batch import Batch
from typing import Any

#: Jobs on one page.
PAGE_SIZE = 50

#: Where the last page with a number begins: for each the jobs before it are looked at. The list goes on without.
LAST_START = 99 * PAGE_SIZE

#: Kinds of failures that are shown above the failed jobs.
MOST_CAUSES = 20


@dataclass(frozen=True)
class Tab(Link):
    """The tab of one state, with its count."""

    badge: str = PLAIN_BADGE


@dataclass(frozen=True)
class Cause:
    """Jobs that failed in one way."""

    url: str
    label: str
    title: str
    number: int
    first: Moment | None
    last: Moment | None


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    id: str
    url: str
    title: str
    error: str
    user: str
    time: Moment | None
    object: Link | None
    detail: str
    attempts_text: str
    duration: str
    #: Time and user in one text, for narrow screens.
    summary: str
    site: str
    needs_attention: bool
    broken: bool


class Jobs(PanelView):
    """See the module."""

    section = "zcasync-jobs"
    label = _("nav_jobs", default="Jobs")
    description = _(
        "jobs_description",
        default="What the site does in the background: jobs that wait, run, or have ended.",
    )

    @cached_property
    def state(self) -> str:
        """The state whose tab is open."""
        asked = self.request.form.get("state", "")
        if isinstance(asked, str) and asked in LISTS:
            return asked
        return self._liveliest()

    @cached_property
    def counts(self) -> dict[str, joblists.Count]:
        """How many jobs are in each state."""
        return joblists.list_counts(self.queues, self.group) if self.installed else {}

    @cached_property
    def filter(self) -> Filter:
        """What is looked for."""
        return Filter(self)

    @property
    def problems(self) -> list[str]:
        """What of the search could not be understood."""
        return self.filter.problems

    def tabs(self) -> "list[Tab]":
        """One link for each state, with its count."""
        return [
            Tab(
                url=self.list_url(state=state, **self.filter.query),
                label=label,
                current=state == self.state,
                count=count_text(self.counts[state]),
                badge=self._badge(state),
            )
            for state, label in LISTS.items()
        ]

    def _badge(self, state: str) -> str:
        if state == self.state:
            return CURRENT_BADGE
        return BADGES.get(state, PLAIN_BADGE) if self.counts[state].number else PLAIN_BADGE

    @property
    def offers_all_sites(self) -> bool:
        """Whether there are other sites, and the user may see their jobs."""
        return self.installed and self.may_see_all and (self.all_sites or len(self.queues.sites) > 1)

    def scope_url(self) -> str:
        """URL of this tab for all sites, or back to this site only."""
        query = {"state": self.state} if self.all_sites else {"state": self.state, "all_sites": 1}
        return self.page_url("zcasync-jobs", **query)

    @property
    def scope_label(self) -> str:
        """Label of the link to ``scope_url``."""
        if self.all_sites:
            return self.translate(_("scope_this_site", default="Show only the jobs of this site"))
        return self.translate(_("scope_all_sites", default="Show the jobs of all sites"))

    @property
    def caption(self) -> str:
        """What the table shows."""
        shown, state = len(self.lines), self.translate(LISTS[self.state])
        if self.filter.active or self.skip:
            mapping = {"state": state, "number": shown, "first": self.skip + 1, "last": self.page.seen}
            found = _(
                "jobs_found", default="${state}: ${number} found among the entries ${first} to ${last}", mapping=mapping
            )
            return self.translate(found)
        mapping = {"state": state, "first": self.start + 1, "last": self.start + shown}
        return self.translate(_("jobs_caption", default="${state}: jobs ${first} to ${last}", mapping=mapping))

    def list_url(self, **options: Any) -> str:
        """URL of this list with other options."""
        if self.all_sites:
            options.setdefault("all_sites", 1)
        return self.page_url("zcasync-jobs", **{name: value for name, value in options.items() if value})

    def view_url(self, **options: Any) -> str:
        """URL of this very list, in this order, with this search; or with other options."""
        oldest = {"oldest": 1} if self.oldest else {}
        return self.list_url(**{"state": self.state, **self.filter.query, **oldest, **options})

    @property
    def link_url(self) -> str:
        """URL under which others see this page."""
        return self.view_url(b_start=self.start, skip=self.skip)

    @property
    def refresh(self) -> int:  # type: ignore[override]
        """See Panel: where a list begins, and nobody looks for something in it."""
        return 10 if self.installed and not (self.filter.active or self.start or self.skip) else 0

    @property
    def refresh_from(self) -> str:  # type: ignore[override]
        """See Panel: else the tab that is shown would be another one as soon as its jobs have run."""
        return self.link_url

    @property
    def order_url(self) -> str:
        """URL of this list in the other order; empty where the structures know one only."""
        return self.view_url(oldest=0 if self.oldest else 1) if self.state in OUTCOME_OF_STATE else ""

    @property
    def next_url(self) -> str:
        """URL that goes on behind what this page has looked at; empty at the end, and where there are pages."""
        ends = not self.has_pages or self.start == LAST_START
        goes_on = self.page.next is not None and (ends or not self.page.complete)
        return self.view_url(skip=self.page.next) if goes_on else ""

    @property
    def too_far_text(self) -> str:
        """What to do then."""
        return self.translate(too_far_text())

    @property
    def again_url(self) -> str:
        """URL of the beginning of a list that goes on here; empty at the beginning."""
        return self.view_url() if self.skip else ""

    @property
    def all_url(self) -> str:
        """URL of the list without a search."""
        return self.list_url(state=self.state)

    @property
    def has_pages(self) -> bool:
        """Whether the list has pages with numbers: a search would have to go through all jobs for them."""
        return not self.filter.active and not self.skip

    @property
    def asked_cause(self) -> str:
        """The cause of failures that is looked for."""
        return self.filter.query.get("cause", "")

    def queue_options(self) -> list[tuple[str, str, bool]]:
        """Name, label and whether it is chosen, of each queue to search in; none where there is one only."""
        names = list(self.queues.keys()) if self.installed else []
        chosen = self.filter.queue
        return [(shown_queue(n), self.queue_label(n), n == chosen) for n in names] if len(names) > 1 else []

    @cached_property
    def causes(self) -> list[Cause]:
        """What the jobs of the history failed with, the latest first; where failed jobs are shown, and not searched."""
        if self.state != joblists.FAILED or not self.installed or self.filter.active or self.start or self.skip:
            return []
        found = joblists.failures(self.queues, group=self.group)[:MOST_CAUSES]
        return [
            Cause(
                url=self.view_url(cause=row.cause, task=row.task),
                label=row.cause or self.translate(_("cause_unknown", default="Unknown")),
                title=task_title(row.task),
                number=row.number,
                first=self.moment(row.first),
                last=self.moment(row.last),
            )
            for row in found
        ]

    @cached_property
    def verbs(self) -> list[Verb]:
        """What can be done with the jobs of this list, each with its button."""
        return verbs_of(self.state) if self.may_manage else []

    def carried(self) -> list[tuple[str, str]]:
        """What the form with the buttons carries on: which list this is, and where in it one is."""
        fields = {"state": self.state, "all_sites": 1 if self.all_sites else "", **self.filter.query}
        fields |= {"oldest": 1 if self.oldest else "", "skip": self.skip or "", "b_start": self.start or ""}
        return [(name, str(value)) for name, value in fields.items() if value]

    @property
    def all_label(self) -> str:
        """Label of the choice of all jobs that match, also on other pages; empty where there is none."""
        if not any(self.state in verb.all_of for verb in self.verbs):
            return ""
        if self.filter.active:
            return self.translate(_("all_found", default="All jobs that match this search, also those not shown"))
        count = count_text(self.counts[self.state])
        return self.translate(_("all_listed", default="All ${number} jobs of this list", mapping={"number": count}))

    @property
    def time_label(self) -> Any:
        """Heading of the column with the time."""
        return TIME_LABELS[self.state]

    @property
    def empty_text(self) -> Any:
        """What to say if there is no job in the open tab."""
        return NONE_MATCH if self.filter.active else EMPTY_TEXTS[self.state]

    @cached_property
    def start(self) -> int:
        """Index of the first job of the page."""
        return min(number_in(self.request.form, "b_start"), LAST_START)

    @cached_property
    def skip(self) -> int:
        """How many entries of the list were looked at before."""
        return number_in(self.request.form, "skip")

    @cached_property
    def oldest(self) -> bool:
        """Whether jobs that have ended come oldest first."""
        return self.state in OUTCOME_OF_STATE and number_in(self.request.form, "oldest") == 1

    @cached_property
    def page(self) -> joblists.Page:
        """The rows of the open tab."""
        if not self.installed:
            return joblists.Page(())
        found = self.filter
        start = self.start if self.has_pages else 0
        options = {"queue": found.queue, "search": found.search, "oldest": self.oldest}
        return joblists.jobs(
            self.queues, self.state, group=self.group, start=start, skip=self.skip, limit=PAGE_SIZE, **options
        )

    @cached_property
    def lines(self) -> list[Line]:
        """The rows as the template shows them."""
        links = ObjectLinks(self.context, self.request, [row.path for row in self.page.rows])
        return [self._line(row, links) for row in self.page.rows]

    @cached_property
    def batch(self) -> Batch:
        """Plone's batch, for the links to the other pages."""
        shown = self.start + len(self.page.rows)
        total = max(shown + int(self.page.more), self.counts[self.state].number if self.counts else 0)
        total = min(total if self.page.more else shown, LAST_START + PAGE_SIZE)
        return Batch(Window(self.start, self.lines, total), PAGE_SIZE, self.start)

    @property
    def has_times(self) -> bool:
        """Whether any line has a time: the start of a short job is stored with its end only."""
        return any(line.time for line in self.lines)

    @property
    def has_durations(self) -> bool:
        """Whether any job of the page has begun."""
        return any(line.duration for line in self.lines)

    @property
    def has_objects(self) -> bool:
        """Whether any job of the page is about an object; else the column is left out."""
        return any(line.object for line in self.lines)

    def _liveliest(self) -> str:
        """The tab to open first: what runs, then what waits, then what failed or ended."""
        order = (joblists.RUNNING, joblists.WAITING, joblists.FAILED, joblists.FINISHED, joblists.SCHEDULED)
        return next((state for state in order if self.counts and self.counts[state].number), joblists.WAITING)

    def _line(self, row: joblists.JobRow, links: ObjectLinks) -> Line:
        time = self.moment(row.time)
        told = (f"{self.translate(self.time_label)} {time.text}" if time else "", id_in(row.user))
        return Line(
            id=row.id,
            url=self.url_of_job(row.id),
            title=row.title or row.task,
            error=row.error,
            user=id_in(row.user),
            time=time,
            duration=duration(row),
            summary=" · ".join(text for text in told if text),
            object=links.get(row.path),
            detail=self.detail_text(row),
            attempts_text=self._attempts_text(row.attempts),
            site=self.site_name(row.group),
            needs_attention=row.needs_attention,
            broken=row.broken,
        )

    def _attempts_text(self, attempts: int) -> str:
        if attempts < 2:
            return ""
        return self.translate(_("attempts_number", default="${number} attempts", mapping={"number": attempts}))

    def site_name(self, group: str) -> str:
        """Path of the site of a job; empty where all jobs are of this site."""
        return str(self.queues.site_path(group)) if self.all_sites and group else ""


def duration(row: joblists.JobRow) -> str:
    """How long the call took, or has taken so far."""
    if row.started is None:
        return ""
    end = row.ended or clock.utcnow()
    return span_text(max(0.0, (end - row.started).total_seconds()))
