"""One queue: how it fares, its quotas and who holds them, its agents, and what can be changed."""

from collective.zcasync import actions
from collective.zcasync import activity
from collective.zcasync import callables
from collective.zcasync import joblists
from collective.zcasync import queueactions
from collective.zcasync.activity import Span
from collective.zcasync.browser.panel import Link
from collective.zcasync.browser.panel import Moment
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.browser.queuesettings import number_texts
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.interfaces import _
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.readable import loaded
from collective.zcasync.readable import span_text
from collective.zcasync.zopeapp.overview import number_text
from collective.zcasync.zopeapp.queuelines import COLUMNS
from collective.zcasync.zopeapp.queuelines import oldest_text
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any
from zExceptions import Forbidden

import inspect

#: Holders of a quota that are named.
HOLDERS = 20


@dataclass(frozen=True)
class QuotaLine:
    """One quota. ``holders``: links to the jobs that hold a place; ``others``: how many more there are."""

    name: str
    size: int
    taken: int
    holders: tuple[Link, ...]
    others: int
    editable: bool


@dataclass(frozen=True)
class TemplateLine:
    """What agents of one role begin with."""

    role: str
    name: str
    size: int
    weight: int
    prefetch: int
    editable: bool


@dataclass(frozen=True)
class AgentLine:
    """An agent at work. ``knows``: whether its dispatcher has looked in since the last change; None: none was made."""

    name: str
    place: str
    takes: str
    size: int
    running: int
    ping: Moment | None
    knows: bool | None


class QueuePage(PanelView):
    """See the module."""

    section = "zcasync-queues"
    refresh = 10

    #: The least and the most of each number that the small forms ask for.
    limits = {"quota": queueactions.QUOTA_SIZES, **queueactions.AGENT_NUMBERS}

    def __call__(self) -> Any:
        if self.request.method == "POST":
            return self._act()
        if self.queue is None:
            self.say(_("queue_gone", default="There is no queue of that name; it may have been removed."), "error")
            return self.request.response.redirect(self.page_url("zcasync-queues"))
        return self.index()

    @property
    def label(self) -> Any:
        """The page's heading."""
        return self.queue_label(self.name)

    description = _("queue_description", default="How this queue fares, and what holds for the jobs in it.")

    @cached_property
    def name(self) -> str:
        """The queue's name; that of the default queue is empty."""
        return str(self.request.form.get("name", ""))

    @cached_property
    def queue(self) -> Any:
        """The stored queue, or None."""
        return self.queues.get(self.name) if self.queues is not None else None

    @cached_property
    def row(self) -> joblists.QueueRow:
        """The queue as data."""
        return joblists.queue_row(self.queue)

    @cached_property
    def editable(self) -> bool:
        """Whether the user may change the queue."""
        return self.may_edit(self.queue.owner)

    @property
    def url(self) -> str:
        """URL of this page, and of its forms."""
        return self.page_url("zcasync-queue", name=self.name)

    @property
    def settings_url(self) -> str:
        """URL of the form for the numbers."""
        return self.page_url("zcasync-queue-settings", name=self.name)

    @property
    def numbers(self) -> list[tuple[Any, int]]:
        """Label and count of each state."""
        return [(label, self.row.counts[key]) for key, label, _state in COLUMNS]

    @property
    def draining(self) -> int:
        """How many jobs still run in a queue that is paused."""
        return self.row.counts["running"] if self.row.paused else 0

    @cached_property
    def oldest(self) -> str:
        """For how long the oldest waiting job has waited."""
        return oldest_text(self.queue)

    @cached_property
    def spans(self) -> list[tuple[Any, Span]]:
        """What has happened in the last hour and the last day."""
        return [
            (_("last_hour", default="Last hour"), activity.last_hour(self.queues, self.name)),
            (_("last_day", default="Last 24 hours"), activity.last_day(self.queues, self.name, 24 * 60)[0]),
        ]

    @property
    def happened(self) -> list[tuple[Any, list[str]]]:
        """The same, a line for each kind of number."""
        spans = [span for _label, span in self.spans]
        return [
            (_("time_put", default="Put"), [number_text(span.put) for span in spans]),
            (_("state_finished", default="Finished"), [number_text(span.succeeded) for span in spans]),
            (_("state_failed", default="Failed"), [number_text(span.failed) for span in spans]),
            (_("column_waited", default="Waited (average / longest)"), [self.latency(span) for span in spans]),
        ]

    def latency(self, span: Span) -> str:
        """How long jobs have waited, on average and at most."""
        if span.latency is None or span.longest is None:
            return "–"
        return f"{span_text(span.latency)} / {span_text(span.longest)}"

    @property
    def settings(self) -> list[tuple[Any, str]]:
        """The queue's numbers in words."""
        return number_texts(self.queue, self.translate)

    @cached_property
    def quotas(self) -> list[QuotaLine]:
        """The quotas, with who holds them."""
        return [self._quota(name, quota) for name, quota in sorted(self.queue.quotas.items())]

    @cached_property
    def templates(self) -> list[TemplateLine]:
        """What agents begin with."""
        return [
            TemplateLine(
                agent.role,
                agent.name,
                agent.size,
                agent.weight,
                agent.prefetch,
                self._may_change(f"agent:{agent.role}/{agent.name}"),
            )
            for agent in self.row.agents
        ]

    @cached_property
    def agents(self) -> list[AgentLine]:
        """The agents of the dispatchers that are at work."""
        return [
            self._agent(row, name, agent)
            for row, da in zip(self.row.dispatchers, self.queue.dispatchers.values(), strict=True)
            if row.activated is not None
            for name, agent in da.items()
        ]

    @cached_property
    def held(self) -> int:
        """Jobs in the queue that have not ended."""
        return sum(number for kind, number in self.row.counts.items() if kind in queueactions.HELD)

    def _may_change(self, key: str) -> bool:
        return self.editable or self.may_edit(self.queue.owners.get(key, ""))

    def _quota(self, name: str, quota: Any) -> QuotaLine:
        jobs = list(islice(quota, HOLDERS))
        links = [self._holder(job) for job in jobs if self._is_ours(job)]
        return QuotaLine(
            name, quota.size, len(quota), tuple(links), len(quota) - len(links), self._may_change(f"quota:{name}")
        )

    def _is_ours(self, job: Any) -> bool:
        return not is_broken(job) and self.rights.is_in_reach(job)

    def _holder(self, job: Any) -> Link:
        return Link(self.url_of_job(job.id, job.group), self.translate(job.title or job.task))

    def _agent(self, row: joblists.DispatcherRow, name: str, agent: Any) -> AgentLine:
        changed = self.queue.changed
        return AgentLine(
            name=name,
            place=" · ".join(text for text in (row.role, row.host, row.pid and f"pid {row.pid}") if text) or row.uuid,
            takes=self._takes(agent),
            size=agent.size,
            running=len(agent),
            ping=self.moment(row.last_ping),
            knows=None if changed is None else row.last_ping is not None and row.last_ping >= changed,
        )

    def _takes(self, agent: Any) -> str:
        """Which jobs an agent takes, in words: a filter or chooser is told by the first line of its docstring."""
        chosen, filtered = agent._chooser, agent._filter
        if chosen is None and filtered is None:
            return self.translate(_("takes_all", default="All jobs"))
        name = chosen or filtered
        words = (inspect.getdoc(loaded(name)) or "").partition("\n")[0] if loaded(name) is not None else ""
        mapping = {"name": f"{words} ({callables.dotted(name)})" if words else callables.dotted(name)}
        if chosen is not None:
            return self.translate(_("takes_chosen", default="What is chosen by: ${name}", mapping=mapping))
        return self.translate(_("takes_filtered", default="Jobs that pass: ${name}", mapping=mapping))

    # What the buttons do

    def _act(self) -> Any:
        self.check_post()
        if self.queue is None:
            self.say(_("queue_gone", default="There is no queue of that name; it may have been removed."), "error")
            return self.request.response.redirect(self.page_url("zcasync-queues"))
        verb = next((verb for verb in VERBS if verb in self.request.form), "")
        try:
            url = getattr(self, f"_{verb}")() if verb else self.url
        except (InUse, InvalidValueError, QuotaNotFound) as error:
            self.say(str(error), "error")
            return self.request.response.redirect(self.url)
        if verb:
            self.log(f"{verb.replace('_', ' ')} in queue {self.name!r}")
        return self.request.response.redirect(url or self.url)

    def _demand(self, allowed: bool) -> None:
        if not allowed:
            raise Forbidden("This belongs to all sites; only a Manager of the Zope root can change it.")

    def _text(self, name: str) -> str:
        return str(self.request.form.get(name, "")).strip()

    def _whole(self, name: str) -> Any:
        """A number of the form; a text that is none is left to the check, which says what is allowed."""
        text = self._text(name)
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text

    def _pause(self) -> None:
        self._demand(self.editable)
        actions.pause_queue(self.queue)
        self.say(_("queue_paused", default="The queue is paused: running jobs end, and no new one begins."))

    def _resume(self) -> None:
        self._demand(self.editable)
        actions.resume_queue(self.queue)
        self.say(_("queue_resumed", default="The queue is at work again."))

    def _quota_set(self) -> None:
        name = self._text("quota")
        known = name in self.queue.quotas
        self._demand(self._may_change(f"quota:{name}") if known else self.editable)
        queueactions.set_quota(self.queue, name, self._whole("size"), self.own_group if self.queue.owner else "")
        self.say(_("quota_saved", default="The quota ${name} was saved.", mapping={"name": name}))

    def _quota_remove(self) -> None:
        name = self._text("quota")
        self._demand(self._may_change(f"quota:{name}"))
        queueactions.remove_quota(self.queue, name)
        self.say(
            _("quota_removed", default="The quota ${name} was removed: jobs run without it.", mapping={"name": name})
        )

    def _agent_set(self) -> None:
        role, name = self._text("role"), self._text("agent")
        known = name in self.queue.templates.get(role, {})
        self._demand(self._may_change(f"agent:{role}/{name}") if known else self.editable)
        numbers = {number: self._whole(number) for number in queueactions.AGENT_NUMBERS if self._text(number)}
        queueactions.set_agent(self.queue, role, name, self.own_group if self.queue.owner else "", **numbers)
        self.say(_("agent_saved", default="The agent ${name} was saved.", mapping={"name": f"{role}/{name}"}))

    def _agent_remove(self) -> None:
        role, name = self._text("role"), self._text("agent")
        self._demand(self._may_change(f"agent:{role}/{name}"))
        queueactions.remove_agent(self.queue, role, name)
        self.say(
            _(
                "agent_removed",
                default="The agent ${name} was removed. Dispatchers that run keep theirs until they stop.",
                mapping={"name": f"{role}/{name}"},
            )
        )

    def _remove(self) -> str:
        self._demand(self.editable)
        if not self.request.form.get("sure"):
            self.say(_("queue_unsure", default="Nothing was removed: tick the box beside Remove first."), "warning")
            return self.url
        queueactions.remove_queue(self.queue)
        self.say(_("queue_removed", default="The queue ${name} was removed.", mapping={"name": self.name}))
        return self.page_url("zcasync-queues")


#: Names of the buttons.
VERBS = ("pause", "resume", "quota_set", "quota_remove", "agent_set", "agent_remove", "remove")
