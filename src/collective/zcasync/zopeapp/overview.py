"""Whether all is well, in one look: what the overview shows, for pages of Zope and of Plone."""

from collections.abc import Callable
from collections.abc import Mapping
from collective.zcasync import activity
from collective.zcasync import alarms
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync.interfaces import _
from collective.zcasync.monitorrows import LAST_SKIP
from collective.zcasync.readable import span_text
from collective.zcasync.zopeapp import charts
from dataclasses import dataclass
from datetime import tzinfo
from functools import cached_property
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile
from typing import Any

#: Minutes of one point of the charts, and of one row of the table that tells the same.
POINT, ROW = 30, 60

#: What the page consists of below its heading: a macro ``overview``, which wants ``view/overview`` and ``state_url``.
body_template = ViewPageTemplateFile("templates/overview.pt")

#: The script that keeps parts of a page fresh, below any object.
REFRESH = "++resource++zcasync-refresh.js"

#: Columns of that table for which there is room on a phone.
NARROW = 4

#: The states in the order of the page.
ORDER = (
    *(joblists.RUNNING, joblists.WAITING, joblists.SCHEDULED, joblists.QUARANTINED),
    *(joblists.FAILED, joblists.FINISHED, joblists.CANCELLED),
)


@dataclass(frozen=True)
class Tile:
    """One state, and how many jobs are in it."""

    state: str
    label: str
    count: str
    #: Whether somebody should look at these.
    alarming: bool = False


@dataclass(frozen=True)
class Trouble:
    """One alarm in the reader's language."""

    text: str
    advice: str
    urgent: bool
    #: Label of the queue, where there are several.
    queue: str
    #: The state whose list shows the jobs in question, or an empty text.
    state: str
    #: Name and label of the page on which something can be done about it; empty where the reader has none.
    page: str = ""
    page_label: str = ""


@dataclass(frozen=True)
class Chart:
    """One picture: heading, address of the image, and what it shows in a sentence."""

    title: str
    image: str
    summary: str


#: The list that shows what an alarm is about.
_STATES = {
    "waiting": joblists.WAITING,
    "unserved": joblists.WAITING,
    "attention": joblists.ATTENTION,
    "overdue": joblists.RUNNING,
    "quarantined": joblists.QUARANTINED,
    "failing": joblists.FAILED,
}

#: The page on which one can do something about it.
_PAGES = {
    **dict.fromkeys(("waiting", "paused", "paused site"), "zcasync-queues"),
    **dict.fromkeys(("held", "unserved", "silent", "clock"), "zcasync-dispatchers"),
}


class Overview:
    """What the page shows. ``queues``: the Queues, or None. ``group``: the site whose jobs are counted; None: of all.

    ``translate``: gives a message in the reader's language. ``zone``: the reader's. ``pages``: name -> label of those
    that the reader has.
    """

    def __init__(
        self,
        queues: Any,
        translate: Callable[[Any], str],
        zone: tzinfo = clock.UTC,
        limits: alarms.Limits | None = None,
        group: str | None = None,
        pages: Mapping[str, Any] | None = None,
    ) -> None:
        self.queues = queues
        self.translate = translate
        self.zone = zone
        self.limits = limits or alarms.Limits()
        self.group = group
        self.pages = pages or {}

    @property
    def installed(self) -> bool:
        """Whether the database has queues."""
        return self.queues is not None

    @cached_property
    def troubles(self) -> list[Trouble]:
        """What is not well, urgent things first."""
        if not self.installed:
            return []
        return list(map(self._trouble, alarms.examine(self.queues, self.limits, self.group)))

    def _trouble(self, alarm: alarms.Alarm) -> Trouble:
        page = _PAGES.get(alarm.kind, "")
        return Trouble(
            text=self.translate(alarm.text),
            advice=self.translate(alarm.advice),
            urgent=alarm.urgent,
            queue="" if alarm.queue is None or len(self.queues) == 1 else self.queue_label(alarm.queue),
            state=_STATES.get(alarm.kind, ""),
            page=page if page in self.pages else "",
            page_label=self.translate(self.pages.get(page, "")),
        )

    def queue_label(self, name: str) -> str:
        """What a queue is called on the screen."""
        return name or self.translate(_("default_queue", default="Default queue"))

    @property
    def verdict(self) -> str:
        """The one sentence that says whether all is well."""
        urgent = sum(trouble.urgent for trouble in self.troubles)
        if urgent == 1:
            return self.translate(_("verdict_one", default="One thing needs attention."))
        if urgent:
            mapping = {"number": urgent}
            return self.translate(_("verdict_some", default="${number} things need attention.", mapping=mapping))
        return self.translate(_("verdict_well", default="All is well."))

    @property
    def well(self) -> bool:
        """Whether nothing is urgent."""
        return not any(trouble.urgent for trouble in self.troubles)

    @cached_property
    def now(self) -> str:
        """What happens at the moment, in a sentence: dispatchers at work, jobs that run and wait."""
        alive = {
            one.uuid for row in joblists.queues(self.queues) for one in row.dispatchers if one.alive and not one.held
        }
        hour = activity.last_hour(self.queues)
        mapping = {"dispatchers": len(alive), "ended": number_text(hour.ended), "failed": number_text(hour.failed)}
        return self.translate(
            _(
                "overview_now",
                default="Dispatchers at work: ${dispatchers}. Jobs that ended in the last hour: ${ended}, of which"
                " failed: ${failed}.",
                mapping=mapping,
            )
        )

    @cached_property
    def tiles(self) -> list[Tile]:
        """Each state with its count."""
        counts = joblists.counts(self.queues, group=self.group)
        return [
            Tile(
                state=state,
                label=self.translate(joblists.STATES[state]),
                count=count_text(counts[state]),
                alarming=state == joblists.QUARANTINED and counts[state].number > 0,
            )
            for state in ORDER
        ]

    @cached_property
    def charts(self) -> list[Chart]:
        """The last 24 hours in pictures."""
        spans = activity.last_day(self.queues, minutes=POINT)
        times = [f"{span.begin.astimezone(self.zone):%H:%M}" for span in spans]

        def line(message: Any, colour: str, what: str, fill: bool = False) -> charts.Line:
            return charts.Line(self.translate(message), colour, [getattr(span, what) for span in spans], fill)

        ended = [
            line(_("chart_done", default="Done"), charts.GREEN, "succeeded", fill=True),
            line(_("chart_put", default="Put"), charts.BLUE, "put"),
            line(_("chart_failed", default="Failed"), charts.RED, "failed"),
        ]
        waits = [
            line(_("chart_longest", default="Longest"), charts.GREY, "longest"),
            line(_("chart_mean", default="On average"), charts.BLUE, "latency", fill=True),
        ]
        waiting = [line(_("state_waiting", default="Waiting"), charts.GREY, "waiting", fill=True)]
        sums = {
            what: number_text(sum(getattr(span, what) for span in spans)) for what in ("put", "succeeded", "failed")
        }
        longest = max((span.longest for span in spans if span.longest is not None), default=0.0)
        most = number_text(max(span.waiting for span in spans))
        return [
            Chart(
                self.translate(_("chart_jobs", default="Jobs put, done and failed in half an hour")),
                charts.line_chart(ended, times),
                self.translate(
                    _(
                        "chart_jobs_summary",
                        default="In 24 hours: ${put} put, ${succeeded} done, ${failed} failed",
                        mapping=sums,
                    )
                ),
            ),
            Chart(
                self.translate(_("chart_latency", default="Time until a dispatcher took them")),
                charts.line_chart(waits, times, span_text, 0.1),
                self.translate(
                    _("chart_at_most", default="In 24 hours: at most ${number}", mapping={"number": span_text(longest)})
                ),
            ),
            Chart(
                self.translate(_("chart_waiting", default="Jobs that waited")),
                charts.line_chart(waiting, times),
                self.translate(_("chart_at_most", default="In 24 hours: at most ${number}", mapping={"number": most})),
            ),
        ]

    @property
    def columns(self) -> list[str]:
        """Headings of the table that tells what the charts show."""
        return [
            self.translate(heading)
            for heading in (
                _("column_hour", default="From"),
                _("chart_put", default="Put"),
                _("chart_done", default="Done"),
                _("chart_failed", default="Failed"),
                _("chart_waited", default="Waiting, at most"),
                _("chart_latency_mean", default="Wait, on average"),
                _("chart_latency_longest", default="Wait, longest"),
            )
        ]

    def width(self, column: int) -> str:
        """The class of its columns: on a phone there is room for the first ones, and the charts tell the rest."""
        return "" if column < NARROW else "d-none d-md-table-cell"

    @cached_property
    def rows(self) -> list[tuple[str, ...]]:
        """Its rows, an hour each, newest first."""
        return [
            (
                f"{span.begin.astimezone(self.zone):%H:%M}",
                *(number_text(number) for number in (span.put, span.succeeded, span.failed, span.waiting)),
                "" if span.latency is None else span_text(span.latency),
                "" if span.longest is None else span_text(span.longest),
            )
            for span in reversed(activity.last_day(self.queues, minutes=ROW))
        ]


def count_text(count: joblists.Count) -> str:
    """A count for people; with a plus where it stopped counting."""
    return number_text(count.number) + ("+" if count.more else "")


def number_in(form: Mapping[str, Any], name: str) -> int:
    """The number of a query; 0 for what is none, or is too large to be meant."""
    asked = str(form.get(name, "0"))
    return int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 10 else 0


def number_text(number: int) -> str:
    """A number for people of any language: its thousands parted by narrow spaces."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def too_far_text() -> Any:
    """What to do where a list is not followed further."""
    return _(
        "list_too_far",
        default="Lists are followed for ${number} entries. Search for a task, a user or a time to see those"
        " that lie further back.",
        mapping={"number": number_text(LAST_SKIP)},
    )
