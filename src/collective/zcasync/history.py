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


class History(Persistent):
    """One dispatcher slot's finished jobs, in periods (a day and an outcome) that are dropped whole.

    ``periods``: (minus the day, outcome) -> group -> minus the moment -> job. All numbers are negative, so that
    reading forwards gives the newest first, and a list by group and outcome needs no scan. Written by the claims of
    one dispatcher only: there is nothing to resolve.
    """

    def __init__(self) -> None:
        self.periods: Any = OOBTree()

    def add(self, job: Any, outcome: str, ended: datetime) -> None:
        """Enter a finished job under the time of its end."""
        period = self.periods.get((-ended.toordinal(), outcome))
        if period is None:
            period = self.periods[(-ended.toordinal(), outcome)] = OOBTree()
        tree = period.get(job.group)
        if tree is None:
            tree = period[job.group] = LOBTree()
        key = -((clock.to_microseconds(ended) << 6) | random.getrandbits(6))
        while key in tree:
            key -= 1
        tree[key] = job

    def holds(self, job: Any) -> bool:
        """Whether the job was entered here."""
        ended = job.finished_at
        tree = ended and self.periods.get((-ended.toordinal(), job.outcome or "failed"), {}).get(job.group)
        if not tree:
            return False
        last = -(clock.to_microseconds(ended) << 6)
        return any(other is job for other in tree.values(last - MOST_AT_ONCE, last))

    def drop_before(self, now: datetime, retention_days: int, failed_days: int) -> dict[str, int]:
        """Forget whole periods that are older than the retention; return how many jobs by outcome."""
        dropped: dict[str, int] = {}
        for day, outcome in list(self.periods.keys()):
            keep = failed_days if outcome == "failed" else retention_days
            if now.toordinal() + day > keep:
                period = self.periods[(day, outcome)]
                dropped[outcome] = dropped.get(outcome, 0) + sum(len(tree) for tree in period.values())
                del self.periods[(day, outcome)]
        return dropped

    def rows(self, outcome: str | None = None, group: str | None = None) -> Iterator[tuple[int, Any]]:
        """(key, job), newest first."""
        by_day: dict[int, list[Any]] = {}
        for (day, kind), period in self.periods.items():
            if outcome is None or kind == outcome:
                by_day.setdefault(day, []).append(period)
        for day in sorted(by_day):
            trees = []
            for period in by_day[day]:
                if group is None:
                    trees.extend(period.values())
                elif group in period:
                    trees.append(period[group])
            yield from heapq.merge(*(tree.items() for tree in trees), key=lambda row: row[0])

    def purge(self, group: str) -> dict[str, int]:
        """Forget all jobs of a group; return how many by outcome."""
        purged: dict[str, int] = {}
        for (_day, outcome), period in self.periods.items():
            if group in period:
                purged[outcome] = purged.get(outcome, 0) + len(period[group])
                del period[group]
        return purged


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
