"""Pages at the application root, in the frame of the ZMI: the jobs of all sites, with Plone or without it."""

from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync.alarms import is_served
from collective.zcasync.interfaces import _
from collective.zcasync.jobsearch import LONGEST
from collective.zcasync.jobsearch import Search
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.queue import get_queues
from collective.zcasync.zopeapp import heldpages
from collective.zcasync.zopeapp import overview
from collective.zcasync.zopeapp import processlines
from collective.zcasync.zopeapp import queuelines
from collective.zcasync.zopeapp.connection import of_content
from collective.zcasync.zopeapp.database import with_queues_beside
from collective.zcasync.zopeapp.processlines import Moment
from collective.zcasync.zopeapp.reasons import reason_text
from collective.zcasync.zopeapp.searchfields import FIELDS
from collective.zcasync.zopeapp.searchfields import NONE_MATCH
from collective.zcasync.zopeapp.searchfields import typed
from collective.zcasync.zopeapp.tab import TAB
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from Products.Five.browser import BrowserView
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile
from typing import Any
from urllib.parse import urlencode
from zope.i18n import translate

#: View name and label of each page, in the order of the navigation.
PAGES = (
    ("zcasync-overview", _("nav_overview", default="Overview")),
    ("zcasync-jobs", _("nav_jobs", default="Jobs")),
    ("zcasync-queues", _("nav_queues", default="Queues")),
    ("zcasync-dispatchers", _("nav_dispatchers", default="Dispatchers")),
)

#: Jobs on one page.
PAGE_SIZE = 50

#: Causes of failures that are shown.
MOST_CAUSES = 10

#: Seconds after which a page asks for itself again.
REFRESH_EVERY = 10


@dataclass(frozen=True)
class Link:
    """A link, and whether it leads to what is shown."""

    url: str
    label: str
    current: bool = False


@dataclass(frozen=True)
class JobLine:
    """One job of a list."""

    url: str
    title: str
    site: str
    user: str
    queue: str
    time: Moment | None
    note: str
    #: The same in one text, for narrow screens.
    summary: str


@dataclass(frozen=True)
class Field:
    """A field of the search."""

    name: str
    label: str
    help: str
    value: str


@dataclass(frozen=True)
class CauseLine:
    """What jobs failed with. ``url``: of the list of these."""

    url: str
    label: str
    task: str
    number: int
    last: Moment | None


@dataclass(frozen=True)
class QueueLine:
    """One queue. ``note``: what is not well with it."""

    label: str
    numbers: tuple[int, ...]
    paused: bool
    oldest: str
    note: str
    #: The numbers in one text, for narrow screens.
    summary: str


class Screen(BrowserView):
    """The base of all pages. They show; nothing here changes anything."""

    name = ""
    tab = TAB["label"]
    frame = ViewPageTemplateFile("templates/zmi.pt")

    @cached_property
    def connection(self) -> Any:
        """The connection to the database that holds the queues of the root, or None."""
        return of_content(self.context)

    @cached_property
    def databases(self) -> list[str]:
        """Names of the databases that may be shown: the root's, then those of mount points that have queues."""
        if self.connection is None:
            return []
        own = self.connection.db()
        return [own.database_name, *sorted(one.database_name for one in with_queues_beside(own))]

    @cached_property
    def database(self) -> str:
        """Name of the database that is shown, if it is not the first; else an empty text."""
        asked = str(self.request.form.get("database", ""))
        return asked if asked in self.databases[1:] else ""

    @cached_property
    def queues(self) -> Any:
        """The queues of the database that is shown, or None where nothing is installed."""
        if self.connection is None:
            return None
        return get_queues(self.connection.get_connection(self.database) if self.database else self.connection)

    @property
    def installed(self) -> bool:
        """Whether there are queues."""
        return self.queues is not None

    @property
    def label(self) -> str:
        """The page's heading."""
        return self.translate(dict(PAGES)[self.name])

    @property
    def pages(self) -> list[Link]:
        """Links to all pages."""
        return [Link(self.page_url(name), self.translate(label), name == self.name) for name, label in PAGES]

    @property
    def choices(self) -> list[Link]:
        """Links to the page for each database; none if there is only one."""
        names = self.databases if len(self.databases) > 1 else []
        return [
            Link(self.page_url(self.name, database=name), name, name == (self.database or self.databases[0]))
            for name in names
        ]

    def page_url(self, name: str, **options: Any) -> str:
        """URL of one of the pages, for the database that is shown."""
        options = {"database": self.database, **options}
        query = urlencode({key: value for key, value in options.items() if value})
        return f"{self.context.absolute_url()}/@@{name}" + (f"?{query}" if query else "")

    @property
    def refresh_every(self) -> int | None:
        """Seconds after which the page's content is asked for again; None: it stays as it is."""
        return REFRESH_EVERY

    @property
    def script_url(self) -> str:
        """URL of the script that keeps a page fresh."""
        return f"{self.context.absolute_url()}/{overview.REFRESH}"

    def translate(self, message: Any) -> str:
        """The message in the reader's language."""
        return str(translate(message, context=self.request))

    def moment(self, when: datetime | None) -> Moment | None:
        """A time as the reader's language writes it, in UTC: nothing is known of where the reader is."""
        if when is None:
            return None
        when = when.astimezone(clock.UTC)
        return Moment(f"{self._formatter.format(when)} UTC", when.isoformat(timespec="milliseconds"))

    @cached_property
    def _formatter(self) -> Any:
        return self.request.locale.dates.getFormatter("dateTime", "medium")

    def job_url(self, row: JobRow) -> str:
        """URL of a job's page."""
        return self.page_url("zcasync-job", id=row.id)

    def reason(self, row: JobRow) -> str:
        """Why a job does not run, or which agent runs it."""
        return reason_text(self.queues, row, self.translate) or (row.detail if row.state == joblists.RUNNING else "")

    def queue_label(self, name: str) -> str:
        """What a queue is called on the page."""
        return name or self.translate(_("default_queue", default="Default queue"))

    def site_path(self, group: str) -> str:
        """Path of the site with the jobs of that group; the group itself if it is unknown."""
        return str(self.queues.site_path(group))


class OverviewScreen(Screen):
    """Whether all is well."""

    name = "zcasync-overview"
    body = overview.body_template

    @cached_property
    def overview(self) -> overview.Overview:
        """What the template shows."""
        return overview.Overview(self.queues, self.translate, pages=dict(PAGES))

    def state_url(self, state: str) -> str:
        """URL of the list of jobs in that state."""
        return self.page_url("zcasync-jobs", state=state)


class QueuesScreen(Screen):
    """Where jobs wait."""

    name = "zcasync-queues"

    @property
    def columns(self) -> list[str]:
        """Headings of the columns with counts."""
        return [self.translate(label) for _key, label, _state in queuelines.COLUMNS]

    @property
    def lines(self) -> list[QueueLine]:
        """The queues for the template."""
        return [self._line(row) for row in joblists.queues(self.queues)]

    def _line(self, row: joblists.QueueRow) -> QueueLine:
        queue = self.queues[row.name]
        numbers = tuple(row.counts[key] for key, _label, _state in queuelines.COLUMNS)
        oldest = queuelines.oldest_text(queue)
        told = [f"{label} {number}" for label, number in zip(self.columns, numbers, strict=True) if number]
        waits = [f"{self.translate(_('column_oldest', default='Oldest waits'))} {oldest}"] if oldest else []
        unserved = "" if is_served(queue) else _("detail_no_dispatcher", default="No dispatcher takes its jobs")
        return QueueLine(
            label=self.queue_label(row.name),
            numbers=numbers,
            paused=row.paused,
            oldest=oldest,
            note=self.translate(unserved),
            summary=" · ".join([*told, *waits]),
        )


class DispatchersScreen(Screen):
    """Who runs jobs."""

    name = "zcasync-dispatchers"
    body = processlines.body_template

    @property
    def held(self) -> str:
        """Why no jobs run here until a person decides; empty if they may."""
        found = heldpages.notice(self.queues, self.translate)
        return "" if found is None else found.text

    @cached_property
    def lines(self) -> list[processlines.Line]:
        """What the template shows of each."""
        if self.queues is None:
            return []
        make = processlines.ProcessLines(self.queues, self.translate, self.moment, self.job_url, lambda names: False)
        return make.lines()


class JobsScreen(Screen):
    """The jobs of all sites in one state."""

    name = "zcasync-jobs"

    @cached_property
    def state(self) -> str:
        """The state that is asked for."""
        asked = self.request.form.get("state")
        return asked if asked in joblists.LISTS else joblists.RUNNING

    @cached_property
    def query(self) -> dict[str, str]:
        """What is looked for, as addresses that lead to it have it."""
        found = {name: typed(self.request.form, name)[:LONGEST] for name in (*FIELDS, "cause")}
        return {name: text for name, text in found.items() if text}

    @property
    def fields(self) -> list[Field]:
        """The fields of the search."""
        return [
            Field(name, self.translate(label), self.translate(help), self.query.get(name, ""))
            for name, (label, help) in FIELDS.items()
        ]

    @property
    def none_match(self) -> str:
        """What to say if the search finds nothing."""
        return self.translate(NONE_MATCH)

    @property
    def causes(self) -> list[CauseLine]:
        """What jobs failed with, the latest first; where failed jobs are shown, and not searched."""
        if self.state != joblists.FAILED or self.query or self.skip:
            return []
        return [
            CauseLine(
                self.page_url(self.name, state=self.state, cause=row.cause, task=row.task),
                row.cause or self.translate(_("cause_unknown", default="Unknown")),
                row.task,
                row.number,
                self.moment(row.last),
            )
            for row in joblists.failures(self.queues)[:MOST_CAUSES]
        ]

    @property
    def tabs(self) -> list[Link]:
        """A link to each state, with its count."""
        counts = joblists.list_counts(self.queues)
        return [
            Link(
                self.page_url(self.name, state=state, **self.query),
                f"{self.translate(label)} ({overview.count_text(counts[state])})",
                state == self.state,
            )
            for state, label in joblists.LISTS.items()
        ]

    @cached_property
    def skip(self) -> int:
        """How many entries of the list were looked at before."""
        return overview.number_in(self.request.form, "skip")

    @property
    def refresh_every(self) -> int | None:
        """See Screen: where the list begins, and nobody looks for something in it."""
        return None if self.skip or self.query else REFRESH_EVERY

    @cached_property
    def page(self) -> joblists.Page:
        """The rows that are shown."""
        return joblists.jobs(self.queues, self.state, search=Search(**self.query), skip=self.skip, limit=PAGE_SIZE)

    @property
    def too_far_text(self) -> str:
        """What to do where the list is not followed further."""
        return self.translate(overview.too_far_text())

    @property
    def lines(self) -> list[JobLine]:
        """The rows for the template."""
        return list(map(self._line, self.page.rows))

    def _line(self, row: JobRow) -> JobLine:
        site, queue, time = self.site_path(row.group), self.queue_label(row.queue), self.moment(row.time)
        return JobLine(
            url=self.job_url(row),
            title=row.title or row.task,
            site=site,
            user=row.user,
            queue=queue,
            time=time,
            note=row.error or self.reason(row),
            summary=" · ".join(text for text in (time and time.text, site, row.user, queue) if text),
        )

    @property
    def steps(self) -> list[Link]:
        """Links to the first jobs, and to those behind."""
        links = []
        if self.skip:
            label = self.translate(_("back_to_beginning", default="Back to the beginning"))
            links.append(Link(self.page_url(self.name, state=self.state, **self.query), label))
        if self.page.next is not None:
            label = self.translate(_("page_behind", default="Next jobs"))
            url = self.page_url(self.name, state=self.state, **self.query, skip=self.page.next)
            links.append(Link(url, label))
        return links
