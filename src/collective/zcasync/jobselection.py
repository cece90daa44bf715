"""Which jobs zc.async's monitor means: states and filters, and the order in which the database gives the jobs."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import dispatcher
from collective.zcasync import joblists
from collective.zcasync import lookup
from collective.zcasync import transactions
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.plaindata import connection_of
from collective.zcasync.plaindata import interval
from collective.zcasync.queue import get_queues
from collective.zcasync.utils import sortedmerge
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import heapq

#: States of jobs that stand in a queue or an agent, and those of finished ones.
HELD = ("pending", "assigned", "active", "callbacks")
ENDED = ("completed", "succeeded", "failed")
STATES = (*HELD, *ENDED)

_OUTCOMES: dict[str, tuple[str, ...]] = {
    "completed": ("succeeded", "failed", "cancelled"),
    "succeeded": ("succeeded",),
    "failed": ("failed", "cancelled"),
}

#: Filter by time -> how the time is read, and the states whose jobs cannot have it yet.
TIMES: dict[str, tuple[Callable[[Any], datetime | None], tuple[str, ...]]] = {
    "requested_start": (lambda job: requested_start(job), ()),
    "start": (lambda job: job.active_start, ("pending",)),
    "end": (lambda job: job.active_end, ("pending", "assigned", "active")),
    "callbacks_completed": (lambda job: job.initial_callbacks_end, HELD),
}

FILTERS = ("callable", "queue", "agent", "uuid", *TIMES)

#: Of a job that has not started: after all that have.
_LATEST = datetime.max.replace(tzinfo=clock.UTC)


class UnknownFilter(ZCAsyncError, TypeError):
    """No filter has that name: the message names it and those that there are."""


class Selection:
    """The jobs in some states that pass some filters; iterates over them lazily.

    ``context``: leads to a connection, see plaindata.connection_of. ``states``: of STATES, at least one, and of
    ENDED at most one; InvalidValueError (a ValueError) otherwise. ``filters``: by name, see FILTERS; UnknownFilter (a
    TypeError) for other names, InvalidValueError for wrong values.

    Pending jobs come first, in the order in which each queue offers them, the queues merged by requested start; then
    those in agents, by their start; then finished ones, newest first.
    """

    def __init__(self, context: Any, states: tuple[str, ...], filters: dict[str, Any]) -> None:
        self.connection = connection_of(context)
        unknown = [name for name in filters if name not in FILTERS]
        if unknown:
            raise UnknownFilter(f"there is no filter {unknown[0]!r}; there are {', '.join(FILTERS)}")
        wrong = [state for state in states if state not in STATES]
        if wrong:
            raise InvalidValueError(f"{wrong[0]!r} is not a state; the states are {', '.join(STATES)}")
        ended = [state for state in states if state in ENDED]
        if not states or len(ended) > 1:
            raise InvalidValueError(f"give at least one state of {', '.join(STATES)}, and one of {', '.join(ENDED)}")
        self.times = {name: _window(name, filters[name]) for name in TIMES if filters.get(name) is not None}
        impossible = {state for name in self.times for state in TIMES[name][1]}
        self.states = frozenset(states) - impossible
        self.ended = ended[0] if ended else None
        self.callable = _glob("callable", filters)
        self.queue = _glob("queue", filters)
        self.agent = _glob("agent", filters)
        self.uuid = _this(filters.get("uuid"))

    def __iter__(self) -> Iterator[Any]:
        queues = [queue for name, queue in self._queues() if self.queue is None or fnmatchcase(name, self.queue)]
        found: list[Any] = []
        if "pending" in self.states:
            found.append(sortedmerge(map(self._pending, queues), key=lambda job: requested_start(job) or _LATEST))
        if self.states.intersection(HELD[1:]):
            held = [job for queue in queues for job in self._held(queue)]
            found.append(sorted(held, key=lambda job: job.active_start or _LATEST))
        if self.ended is not None:
            found.append(self._ended(queues))
        return (job for job in chain(*found) if self._passes(job))

    def _queues(self) -> Any:
        queues = get_queues(self.connection)
        return () if queues is None else queues.items()

    def _pending(self, queue: Any) -> Iterator[Any]:
        by_agent = self._agents(queue) if self.agent is not None or self.uuid is not None else None
        return (job for job in queue if by_agent is None or any(accepted(job, accepts) for accepts in by_agent))

    def _agents(self, queue: Any) -> list[Callable[[Any], Any]]:
        """The filters of the agents that are meant; InvalidValueError for one with a chooser."""
        found = []
        for da in queue.dispatchers.active():
            for agent in da.values():
                if not self._is_meant(da.name, agent.name):
                    continue
                if not agent.batches:
                    raise InvalidValueError(
                        f"agent {agent.name!r} of dispatcher {da.name} has a chooser, and nobody can tell which jobs it"
                        " would choose: ask for other agents, or without pending"
                    )
                found.append(filter_of(agent) or (lambda job: True))
        return found

    def _is_meant(self, uuid: str, agent: str) -> bool:
        return (self.uuid is None or fnmatchcase(uuid, self.uuid)) and (
            self.agent is None or fnmatchcase(agent, self.agent)
        )

    def _held(self, queue: Any) -> Iterator[Any]:
        """What is in agents, what waits for a job or a Deferred, and what waits to go on with its callbacks."""
        for slot in queue.slots.values():
            for oid, (job, agent) in [*slot.running.items(), *slot.deferreds.items()]:
                if not lookup.loads(job) or job._status_id == 3 or not self._is_meant(slot.owner or "", agent):
                    continue
                state = "active" if job.status == ASSIGNED and oid in slot.started else state_of(job)
                if state in self.states:
                    yield job
        if self.agent is None and self.uuid is None:
            elsewhere: list[Iterator[Any]] = [(job for job, _inner in queue.awaiting())]
            if "callbacks" in self.states:
                elsewhere += [(job for _key, job in queue.waiting()), (job for _due, job in queue.later_jobs())]
            yield from (job for job in chain(*elsewhere) if not is_broken(job) and self._goes_on(job))

    def _goes_on(self, job: Any) -> bool:
        return job._status_id in (1, 2) and state_of(job) in self.states

    def _ended(self, queues: list[Any]) -> Iterator[Any]:
        """Finished jobs, newest first. A job is filed after all that happened to it, so ``since`` ends the search."""
        assert self.ended is not None
        outcomes = _OUTCOMES[self.ended]
        since = max((window[0] for window in self.times.values() if window[0] is not None), default=None)
        unswept = {job._p_oid: job for queue in queues for job in joblists.unswept(queue) if job.outcome in outcomes}
        yield from sorted(unswept.values(), key=lambda job: job.finished_at, reverse=True)
        histories = [slot.history for queue in queues for slot in queue.slots.values()]
        rows = (history.rows(outcome) for history in histories for outcome in outcomes)
        for key, job in heapq.merge(*rows, key=lambda row: row[0]):
            if since is not None and clock.from_microseconds(-key >> 6) < since:
                return
            if job._p_oid not in unswept and not is_broken(job):  # its old entry may still lie in an inbox
                yield job

    def _passes(self, job: Any) -> bool:
        if self.callable is not None and not _is_called(job, self.callable):
            return False
        if job._status_id == 3 and not self._is_meant(dispatcher_of(job), job.agent_name):
            return False
        for name, (since, before) in self.times.items():
            when = TIMES[name][0](job)
            if when is None or since is not None and when < since or before is not None and when >= before:
                return False
        return True


def filter_of(agent: Any) -> Callable[[Any], Any] | None:
    """The agent's filter, None if it takes all; one whose code is gone takes nothing."""
    if agent._filter is not None and not callables.known(agent._filter):
        return lambda job: False
    found: Callable[[Any], Any] | None = agent.filter
    return found


def accepted(job: Any, accepts: Callable[[Any], Any]) -> bool:
    """Whether the filter of an agent takes the job; as for a claim, one on which it fails is not taken."""
    try:
        return bool(accepts(job))
    except Exception as error:
        if transactions.is_disconnect(error) or transactions.is_conflict(error):
            raise
        return False


def requested_start(job: Any) -> datetime | None:
    """When the job was to start: its begin_after, else the moment of its put."""
    found: datetime | None = job.begin_after or job.put_at
    return found


def state_of(job: Any) -> str:
    """The job's status as a lower-case word: new, pending, assigned, active, callbacks, completed."""
    word = str(job.status).removesuffix("-status")
    return "callbacks" if word == "callback" else word


def dispatcher_of(job: Any) -> str:
    """The UUID of the dispatcher that holds the job or has run it, or an empty text."""
    agent = job.agent
    return "" if agent is None or agent.parent is None else agent.parent.name


def _is_called(job: Any, pattern: str) -> bool:
    """Whether the glob is that of the job's callable: of its dotted name if it has a dot, else of its own; or of the
    task's name."""
    name = callables.dotted(job._callable)
    own = name if "." in pattern else name.rpartition(".")[2]
    return fnmatchcase(own, pattern) or bool(job._task) and fnmatchcase(job._task, pattern)


def _glob(name: str, filters: dict[str, Any]) -> str | None:
    value = filters.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidValueError(f"{name} must be a text, which may be a pattern with * and ?, not {value!r}")
    return value


def _this(uuid: Any) -> str | None:
    """The UUID that is meant, as text or pattern; "THIS" is the dispatcher of this process."""
    if uuid == "THIS":
        here = dispatcher.get()
        if here is None:
            raise InvalidValueError("uuid: no dispatcher is in this process, so THIS means none")
        uuid = here.UUID
    return None if uuid is None else str(uuid)


def _window(name: str, text: Any) -> tuple[datetime | None, datetime | None]:
    """(since, before) of "sinceX", "beforeX", or both with a comma; X is an interval before now."""
    found: dict[str, datetime] = {}
    now = clock.utcnow()
    for part in text.split(",") if isinstance(text, str) else ():
        word = next((word for word in ("since", "before") if part.strip().startswith(word)), None)
        if word is None or word in found:
            break
        found[word] = now - interval(part.strip().removeprefix(word))
    else:
        if found:
            return found.get("since"), found.get("before")
    raise InvalidValueError(
        f"{name}: {text!r} is not understood; write sinceX, beforeX or both with a comma, where X is [nD][nH][nM][nS]"
    )
