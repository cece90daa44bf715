"""The list of jobs: one tab for each state, 50 jobs a page."""

from collections.abc import Iterator
from collections.abc import Sequence
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync.browser.links import ObjectLinks
from collective.zcasync.browser.panel import Link
from collective.zcasync.browser.panel import Moment
from collective.zcasync.browser.panel import number_or_more
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.browser.panel import seconds_text
from collective.zcasync.interfaces import _
from collective.zcasync.joblists import STATES
from dataclasses import dataclass
from functools import cached_property
from plone.base.batch import Batch
from typing import Any
from urllib.parse import urlencode

#: Jobs on one page.
PAGE_SIZE = 50

#: Heading of the column with the time, by state.
TIME_LABELS = {
    joblists.WAITING: _("time_put", default="Put"),
    joblists.SCHEDULED: _("time_due", default="Starts"),
    joblists.RUNNING: _("time_started", default="Started"),
    joblists.FAILED: _("time_ended", default="Ended"),
    joblists.FINISHED: _("time_ended", default="Ended"),
    joblists.CANCELLED: _("time_ended", default="Ended"),
    joblists.QUARANTINED: _("time_put", default="Put"),
}

#: What an empty tab says: why it is empty and what to do next.
EMPTY_TEXTS = {
    joblists.WAITING: _(
        "empty_waiting",
        default="No job waits. Jobs appear here when something puts them, for example an add-on or a content rule,"
        " and leave as soon as a dispatcher takes them.",
    ),
    joblists.SCHEDULED: _(
        "empty_scheduled",
        default="No job is to start later. Jobs that were put with a start time, and those that are tried again after"
        " a pause, wait here.",
    ),
    joblists.RUNNING: _(
        "empty_running",
        default="No job runs now. If jobs wait all the same, look at the queues: a dispatcher may be missing.",
    ),
    joblists.FAILED: _(
        "empty_failed",
        default="No job has failed. A job that fails is kept here with its traceback, and can be retried.",
    ),
    joblists.FINISHED: _(
        "empty_finished",
        default="No finished job is kept. Finished jobs stay for some days; look at those that wait or run.",
    ),
    joblists.CANCELLED: _(
        "empty_cancelled",
        default="No job was cancelled. To cancel one that waits, open it and press Cancel.",
    ),
    joblists.QUARANTINED: _(
        "empty_quarantined",
        default="No job is set aside. Jobs whose code is missing, or that took their process down again and again,"
        " are kept here until you decide.",
    ),
}

#: Bootstrap's colour of the badge of each state that calls for one.
BADGES = {
    joblists.FAILED: "text-bg-danger",
    joblists.QUARANTINED: "text-bg-warning",
    joblists.RUNNING: "text-bg-primary",
}

#: Class of the badge of all other states.
PLAIN_BADGE = "text-bg-secondary"

#: Class of the badge in the open tab, which is coloured itself.
CURRENT_BADGE = "text-bg-light"


@dataclass(frozen=True)
class Tab(Link):
    """The tab of one state, with its count."""

    badge: str = PLAIN_BADGE


@dataclass(frozen=True)
class Line:
    """One line of the table."""

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
        if isinstance(asked, str) and asked in STATES:
            return asked
        return self._liveliest()

    @property
    def installed(self) -> bool:
        """Whether the database has queues."""
        return self.queues is not None

    @cached_property
    def counts(self) -> dict[str, joblists.Count]:
        """How many jobs are in each state."""
        return joblists.counts(self.queues, group=self.group) if self.installed else {}

    def tabs(self) -> "list[Tab]":
        """One link for each state, with its count."""
        return [
            Tab(
                url=self.list_url(state=state),
                label=label,
                current=state == self.state,
                count=number_or_more(self.counts[state]),
                badge=self._badge(state),
            )
            for state, label in STATES.items()
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
        return self.page_url("zcasync-jobs") + "?" + urlencode(query)

    @property
    def scope_label(self) -> str:
        """Label of the link to ``scope_url``."""
        if self.all_sites:
            return self.translate(_("scope_this_site", default="Show only the jobs of this site"))
        return self.translate(_("scope_all_sites", default="Show the jobs of all sites"))

    @property
    def caption(self) -> str:
        """What the table shows."""
        shown = len(self.lines)
        mapping = {"state": self.translate(STATES[self.state]), "first": self.start + 1, "last": self.start + shown}
        return self.translate(_("jobs_caption", default="${state}: jobs ${first} to ${last}", mapping=mapping))

    def list_url(self, **options: Any) -> str:
        """URL of this list with other options."""
        if self.all_sites:
            options.setdefault("all_sites", 1)
        query = urlencode({name: value for name, value in options.items() if value})
        return self.page_url("zcasync-jobs") + (f"?{query}" if query else "")

    @property
    def time_label(self) -> Any:
        """Heading of the column with the time."""
        return TIME_LABELS[self.state]

    @property
    def empty_text(self) -> Any:
        """What to say if there is no job in the open tab."""
        return EMPTY_TEXTS[self.state]

    @cached_property
    def start(self) -> int:
        """Index of the first job of the page."""
        asked = str(self.request.form.get("b_start", "0"))
        return int(asked) if asked.isdecimal() and len(asked) < 10 else 0

    @cached_property
    def page(self) -> joblists.Page:
        """The rows of the open tab."""
        if not self.installed:
            return joblists.Page(())
        return joblists.jobs(self.queues, self.state, group=self.group, start=self.start, limit=PAGE_SIZE)

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
        return Batch(Window(self.start, self.lines, total if self.page.more else shown), PAGE_SIZE, self.start)

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
        options = {"id": row.id} | ({"all_sites": 1} if self.all_sites else {})
        time = self.moment(row.time)
        told = (f"{self.translate(self.time_label)} {time.text}" if time else "", user_name(row.user))
        return Line(
            url=f"{self.page_url('zcasync-job')}?{urlencode(options)}",
            title=row.title or row.task,
            error=row.error,
            user=user_name(row.user),
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
        if not self.all_sites or not group:
            return ""
        site = self.queues.sites.get(group)
        return str(site.path) if site is not None else group


class Window(Sequence[Line]):
    """A long sequence of which only one page is at hand: what a batch needs."""

    def __init__(self, start: int, lines: list[Line], total: int) -> None:
        self.start = start
        self.lines = lines
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self.total))]
        return self.lines[index - self.start]

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)


def duration(row: joblists.JobRow) -> str:
    """How long the call took, or has taken so far."""
    if row.started is None:
        return ""
    end = row.ended or clock.utcnow()
    return seconds_text(max(0.0, (end - row.started).total_seconds()))


def user_name(user: str) -> str:
    """The id of a user without the path of the folder that it comes from."""
    return user.rpartition(":")[2]
