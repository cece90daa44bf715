"""Who works for a queue: registration, pings, life and death of dispatchers."""

from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import events
from collective.zcasync import instanceuuid
from collective.zcasync import series
from collective.zcasync import takeover
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import NotHere
from collective.zcasync.interfaces import IAgent
from collective.zcasync.interfaces import IDispatcherAgents
from collective.zcasync.interfaces import IDispatchers
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import written_at
from collective.zcasync.slot import Slot
from datetime import datetime
from datetime import timedelta
from persistent import Persistent
from typing import Any
from zope.interface import implementer

import logging
import uuid as uuidlib
import zope.event

logger = logging.getLogger("collective.zcasync.events")

PING_INTERVAL = timedelta(seconds=30)
PING_DEATH_INTERVAL = timedelta(seconds=60)

#: How long the registration of a dispatcher that is dead can be seen.
KEEP_ENDED = timedelta(days=1)

#: Seconds of grace that mean: as long as it takes.
DRAINS = 1e9


class Ping(Persistent):
    """``da.last_ping``: when the dispatcher said that it is alive.

    Written by its own ping thread only; in a conflict the later ``value`` would win, since only its owner writes.
    """

    value: datetime | None = None
    #: Counts pings. Observers watch it stand still by their own monotonic clock; no wall clock decides on death.
    count = 0
    #: Of the process, at this ping: bytes of memory in use, version of the package, and by how many seconds its clock
    #: is ahead of the storage's, as its last ping but one has shown (None: not known yet).
    memory = 0
    version = ""
    skew: float | None = None
    #: How often its content jobs had to let a request go first, since its start; see rightofway.
    gave_way = 0
    #: The last error that its claims met, shortened, and when that was known first; None: there was none.
    error: tuple[datetime, str] | None = None
    #: The share of one processor that its jobs take beside the requests of its process, if that is much.
    work = 0.0

    # The record is short, as an idle dispatcher writes nothing else: one each half minute.

    def __getstate__(self) -> Any:
        when = None if self.value is None else clock.to_microseconds(self.value)
        state = when, self.count, self.memory, self.version, self.skew
        if self.work:
            return (*state, self.gave_way, self.error, self.work)
        if self.error is not None:
            return (*state, self.gave_way, self.error)
        return (*state, self.gave_way) if self.gave_way else state

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(_plain_ping(state))

    def _p_resolveConflict(self, old: Any, saved: Any, new: Any) -> Any:
        latest = max(saved, new, key=_pings)
        ping = Ping()
        ping.__dict__.update(_plain_ping(latest), count=max(_pings(saved), _pings(new)) + 1)
        return ping.__getstate__()


def _plain_ping(state: Any) -> dict[str, Any]:
    """The attributes of a ping from its record; earlier ones hold them by their names."""
    if isinstance(state, dict):
        return state
    when, count, memory, version, skew, *more = state
    value = None if when is None else clock.from_microseconds(when)
    known = {"value": value, "count": count, "memory": memory, "version": version, "skew": skew}
    return {**known, **dict(zip(("gave_way", "error", "work"), more, strict=False))}


def _pings(state: Any) -> int:
    return int(_plain_ping(state).get("count", 0))


@implementer(IDispatcherAgents)
class DispatcherAgents(Base):
    """See IDispatcherAgents. Written at activation, leaving and deactivation; write conflicts are not resolved."""

    ping_interval = PING_INTERVAL
    ping_death_interval = PING_DEATH_INTERVAL
    activated: datetime | None = None
    #: Since when it takes no more jobs and ends what runs, and the seconds that it gives to what runs, or DRAINS.
    leaving: datetime | None = None
    leaving_grace = 8.0
    slot: Slot | None = None
    #: (kind, detail) of why it may not work here; see ownership. None: it may.
    held: tuple[str, str] | None = None

    def __init__(self, uuid: uuidlib.UUID) -> None:
        self.UUID = uuid
        self.last_ping = Ping()
        #: host, boot id, pid namespace, pid, start, version, role of the process; plain data.
        self.process: dict[str, Any] = {}
        self._agents: Any = OOBTree()

    @property
    def name(self) -> str:
        return str(self.UUID)

    @property
    def queue(self) -> Any:
        return None if self.parent is None else self.parent.parent

    @property
    def stops(self) -> bool:
        """Whether its end is not the fault of what runs: somebody has told it to stop."""
        return self.leaving is not None and self.leaving_grace < DRAINS

    @property
    def dead(self) -> bool:
        """Whether it is silent, or known from here to have no process any more. For display, until it is buried."""
        return self.silent or bool(self.process) and instanceuuid.process_is_gone(self.process) is True

    @property
    def silent(self) -> bool:
        """Whether the last ping is too long ago by this clock. For display: takeovers go by pings that stand still."""
        newest = max((when for when in (self.last_ping.value, self.activated) if when is not None), default=None)
        return newest is not None and newest + self.ping_death_interval < clock.utcnow()

    # The agents, as a mapping

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise NotHere(f"no agent is named {name!r} here; there are: {', '.join(map(repr, self.keys()))}")
        return self._agents[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._agents.get(name, default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._agents

    def __iter__(self) -> Iterator[str]:
        return iter(self._agents)

    def __len__(self) -> int:
        return len(self._agents)

    def __bool__(self) -> bool:
        return True

    def keys(self) -> list[str]:
        return list(self._agents.keys())

    def values(self) -> list[Any]:
        return list(self._agents.values())

    def items(self) -> list[tuple[str, Any]]:
        return list(self._agents.items())

    def __setitem__(self, name: str, agent: Any) -> None:
        if not isinstance(name, str):
            raise InvalidTypeError(f"an agent's name must be a text, not {name!r}")
        if not IAgent.providedBy(agent):
            raise InvalidValueError(f"{agent!r} under {name!r}: an agent is wanted")
        if len(agent):
            raise InvalidValueError(f"the agent for {name!r} holds jobs already")
        self._without_jobs(name)
        agent.name = name
        agent.parent = self
        self._agents[name] = agent

    def __delitem__(self, name: str) -> None:
        agent = self[name]
        self._without_jobs(name)
        agent.parent = None
        del self._agents[name]

    def _without_jobs(self, name: str) -> None:
        agent = self._agents.get(name)
        waiting = () if self.slot is None else (held for _job, held in self.slot.deferreds.values() if held == name)
        number = 0 if agent is None else len(agent) + sum(1 for _name in waiting)
        if number:
            raise InvalidValueError(f"the agent {name!r} holds {number} jobs; wait until they have ended")
        if agent is not None and self.slot is not None:
            self.slot._p_changed = True  # so that a claim for that agent at the same time conflicts

    # Life

    def activate(self) -> None:
        if self.activated is not None:
            raise InvalidValueError(f"the dispatcher {self.UUID} is active already")
        if self.slot is None or self.slot.owner != self.name:
            self.slot = self.queue.free_slot()
            self.slot.owner = self.name
        self.activated = clock.utcnow()
        self.leaving = None
        zope.event.notify(events.DispatcherActivated(self))

    def deactivate(self, died: bool = False) -> None:
        """End: sweep what has finished, then give back or end what runs. The slot becomes free for others."""
        if self.activated is None:
            raise InvalidValueError(f"the dispatcher {self.UUID} is not active")
        self.activated = None
        slot = self.slot
        if slot is not None:
            series.close(self.queue, slot)
            takeover.empty_slot(self.queue, slot, died)
            slot.owner = None
            self.slot = None
        zope.event.notify(events.DispatcherDeactivated(self))

    def reactivate(self) -> None:
        """It was taken for dead, and lives."""
        self.activated = clock.utcnow()
        if self.slot is None:
            self.slot = self.queue.free_slot()
            self.slot.owner = self.name
        zope.event.notify(events.DispatcherReactivated(self))

    def ping(
        self,
        now: datetime,
        memory: int = 0,
        version: str = "",
        skew: float | None = None,
        gave_way: int = 0,
        error: tuple[datetime, str] | None = None,
        work: float = 0.0,
    ) -> None:
        """Say that it is alive; see Ping for the rest."""
        ping = self.last_ping
        ping.value = now
        ping.count += 1
        ping.memory, ping.version, ping.skew = memory, version, skew
        ping.gave_way, ping.error, ping.work = gave_way, error, work


@implementer(IDispatchers)
class Dispatchers(Base):
    """See IDispatchers. Conflicts are those of its BTree: two dispatchers that register at once merge or retry."""

    def __init__(self) -> None:
        self._data: Any = OOBTree()

    def register(self, uuid: uuidlib.UUID) -> None:
        if str(uuid) in self._data:
            raise InvalidValueError(f"the dispatcher {uuid} is registered already")
        da = DispatcherAgents(uuid)
        da.parent = self
        self._data[str(uuid)] = da
        zope.event.notify(events.DispatcherRegistered(da))

    def unregister(self, uuid: uuidlib.UUID) -> DispatcherAgents:
        da = self[uuid]
        if da.activated is not None:
            raise InvalidValueError(f"the dispatcher {uuid} is active; deactivate it first")
        del self._data[str(uuid)]
        da._p_changed = True  # so that one that comes back at this moment conflicts
        # It keeps its parent: the jobs that it ran climb to their queue through it.
        zope.event.notify(events.DispatcherUnregistered(da))
        return da

    def set_apart(self, uuid: uuidlib.UUID) -> None:
        """Give the registration another UUID, so that a new process may have this one: it keeps all that it holds."""
        da = self._data.pop(str(uuid))
        da.UUID = uuidlib.uuid4()
        if da.slot is not None:
            da.slot.owner = da.name
        self._data[da.name] = da

    def ping(self, uuid: uuidlib.UUID) -> None:
        """Write a ping if one is due; bring a dispatcher back that was wrongly taken for dead."""
        da = self[uuid]
        now = clock.utcnow()
        self._revive(da)
        last = da.last_ping.value
        # A last ping in the future: the clock was put back since.
        if last is None or not last <= now < last + da.ping_interval:
            da.ping(now)

    def beat(
        self,
        uuid: uuidlib.UUID,
        memory: int,
        version: str,
        skew: float | None,
        gave_way: int = 0,
        error: tuple[datetime, str] | None = None,
        work: float = 0.0,
    ) -> None:
        """Write a ping now, whatever the clock says: for the thread that pings by its monotonic clock."""
        da = self[uuid]
        self._revive(da)
        da.ping(clock.utcnow(), memory, version, skew, gave_way, error, work)

    @staticmethod
    def _revive(da: DispatcherAgents) -> None:
        if da.activated is None:
            logger.critical("The dispatcher %s was taken for dead, and pings: it is active again", da.UUID)
            da.reactivate()

    def tidy(self, own: uuidlib.UUID) -> None:
        """Remove registrations that nobody has used for KEEP_ENDED, unless they hold something."""
        oldest = clock.utcnow() - KEEP_ENDED
        for da in self.values():
            if da.activated is None and da.UUID != own and not any(len(agent) for agent in da.values()):
                newest = max(written_at(da), written_at(da.last_ping))
                if newest < oldest:
                    self.unregister(da.UUID)

    def active(self) -> list[DispatcherAgents]:
        """The active ones, in the order of their UUIDs."""
        return [da for da in self.values() if da.activated is not None]

    def serves(self) -> bool:
        """Whether one of the active ones is alive, as far as can be seen from here, and not held."""
        return any(da.activated is not None and da.held is None and not da.dead for da in self.values())

    def __getitem__(self, uuid: uuidlib.UUID) -> DispatcherAgents:
        if uuid not in self:
            raise NotHere(f"no dispatcher {uuid} is registered here; there are {len(self)}")
        return self._data[str(uuid)]

    def get(self, uuid: uuidlib.UUID, default: Any = None) -> Any:
        return self._data.get(str(uuid), default)

    def __contains__(self, uuid: object) -> bool:
        return str(uuid) in self._data

    def __iter__(self) -> Iterator[uuidlib.UUID]:
        return iter([da.UUID for da in self._data.values()])

    def keys(self) -> list[uuidlib.UUID]:
        return list(self)

    def values(self) -> list[DispatcherAgents]:
        return list(self._data.values())

    def items(self) -> list[tuple[uuidlib.UUID, DispatcherAgents]]:
        return [(da.UUID, da) for da in self._data.values()]

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return True
