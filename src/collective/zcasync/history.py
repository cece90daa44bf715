"""Finished jobs: a record in history is final by where it stands, whatever its status says."""

from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import ICompletedCollection
from collective.zcasync.interfaces import IJob
from datetime import datetime
from persistent import Persistent
from typing import Any
from zope.interface import implementer

import heapq
import random

OUTCOMES = ("succeeded", "failed", "cancelled")


#: Jobs that end in one microsecond may lie that many keys apart.
MOST_AT_ONCE = 1000

#: Jobs after which another period begins: the number of jobs in history is kept in such steps.
PERIOD = 1000

#: A day's first period is named by minus the day and the outcome; others also by minus the microseconds of their begin.
Period = tuple[int, str] | tuple[int, str, int]


class History(Persistent):
    """One dispatcher slot's finished jobs, in periods (of a day and an outcome) that are dropped whole.

    ``periods``: name of the period -> group -> minus the moment -> job. All numbers are negative, so that reading
    forwards gives the newest first, and a list by group and outcome needs no scan. Written by the claims of one
    dispatcher only: there is nothing to resolve.
    """

    def __init__(self) -> None:
        self.periods: Any = OOBTree()

    def add(self, job: Any, outcome: str, ended: datetime, full: bool = False, group: str | None = None) -> bool:
        """Enter a finished job under the time of its end. ``full``: into a new period, if none has ended later; whether
        there is one now. ``group``: the job's, so that it need not be loaded."""
        name = self._period_of(outcome, ended)
        moment = clock.to_microseconds(ended)
        fresh = full and self._newest(name) < moment
        if fresh:
            name = (-ended.toordinal(), outcome, -moment)
        period = self.periods.get(name)
        if period is None:
            period = self.periods[name] = OOBTree()
        group = job.group if group is None else group
        tree = period.get(group)
        if tree is None:
            tree = period[group] = LOBTree()
        key = -((moment << 6) | random.getrandbits(6))
        while key in tree:
            key -= 1
        tree[key] = job
        return fresh

    def _period_of(self, outcome: str, ended: datetime) -> Period:
        """The last period that begins before that moment."""
        day = -ended.toordinal()
        later = self.periods.keys((day, outcome, -clock.to_microseconds(ended)), (day, outcome, 0))
        return next(iter(later), (day, outcome))

    def _newest(self, name: Period) -> int:
        """Microseconds of the last end in a period, or a little more."""
        return max((-tree.minKey() >> 6 for tree in self.periods.get(name, {}).values() if tree), default=0)

    def holds(self, job: Any) -> bool:
        """Whether the job was entered here."""
        ended = job.finished_at
        tree = ended and self.periods.get(self._period_of(job.outcome or "failed", ended), {}).get(job.group)
        if not tree:
            return False
        last = -(clock.to_microseconds(ended) << 6)
        return any(other is job for other in tree.values(last - MOST_AT_ONCE, last))

    def names(self, outcome: str) -> list[Period]:
        """The names of an outcome's periods, newest first."""
        return sorted((name for name in self.periods.keys() if name[1] == outcome), key=begin_of)

    def drop(self, name: Period) -> int:
        """Forget a whole period; return how many jobs were in it. Loads none of them."""
        number = sum(len(tree) for tree in self.periods[name].values())
        del self.periods[name]
        return number

    def rows(self, outcome: str | None = None, group: str | None = None) -> Iterator[tuple[int, Any]]:
        """(key, job), newest first."""
        kinds = OUTCOMES if outcome is None else (outcome,)
        return heapq.merge(*(self._rows(kind, group) for kind in kinds), key=lambda row: row[0])

    def _rows(self, outcome: str, group: str | None) -> Iterator[tuple[int, Any]]:
        for name in self.names(outcome):
            period = self.periods[name]
            if group is None:
                yield from heapq.merge(*(tree.items() for tree in period.values()), key=lambda row: row[0])
            elif group in period:
                yield from period[group].items()

    def purge(self, group: str) -> dict[str, int]:
        """Forget all jobs of a group; return how many by outcome."""
        purged: dict[str, int] = {}
        for name, period in self.periods.items():
            outcome = name[1]
            if group in period:
                purged[outcome] = purged.get(outcome, 0) + len(period[group])
                del period[group]
        return purged


def begin_of(name: Period) -> tuple[int, int]:
    """What periods are sorted by, newest first: minus the day, and minus the microseconds."""
    return name[0], name[2] if len(name) == 3 else 0


def merged(histories: list[History], outcome: str | None = None, group: str | None = None) -> Iterator[Any]:
    """The jobs of several histories, newest first."""
    rows = heapq.merge(*(history.rows(outcome, group) for history in histories), key=lambda row: row[0])
    for _key, job in rows:
        yield job


@implementer(ICompletedCollection)
class Completed:
    """``agent.completed`` of zc.async: a view on the history of the agent's slot. See ICompletedCollection."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent

    def __iter__(self) -> Iterator[Any]:
        return self.iter()

    def iter(self, start: datetime | None = None, stop: datetime | None = None) -> Iterator[Any]:
        """Jobs that ended at or before ``start`` and after ``stop``, newest first."""
        for job in merged([self.agent.slot.history]):
            ended = job.finished_at
            if start is not None and ended > start:
                continue
            if stop is not None and ended <= stop:
                return
            if job.agent_name == self.agent.name:
                yield job

    def add(self, job: Any) -> None:
        """Move a finished job of the agent here; InvalidValueError for any other."""
        if not IJob.providedBy(job) or job.status != COMPLETED:
            raise InvalidValueError(f"only jobs that are COMPLETED can be added, not {job!r}")
        self.agent.jobCompleted(job)

    def first(self, start: datetime | None = None) -> Any:
        """The newest job that ended at or before ``start``; ValueError if there is none."""
        for job in self.iter(start):
            return job
        raise InvalidValueError(f"no job ended at or before {start}" if start else "no job has ended")

    def last(self, stop: datetime | None = None) -> Any:
        """The oldest job that ended after ``stop``; ValueError if there is none."""
        found = list(self.iter(None, stop))
        if not found:
            raise InvalidValueError(f"no job ended after {stop}" if stop else "no job has ended")
        return found[-1]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)
