"""Finished jobs: a record in history is final by where it stands, whatever its status says."""

from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import ICompletedCollection
from collective.zcasync.interfaces import IJob
from collective.zcasync.readchecks import read_current
from datetime import datetime
from persistent import Persistent
from typing import Any
from typing import NamedTuple
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


class Tally(NamedTuple):
    """How many jobs failed in one way, and the microseconds of the first and the last end. Stored as a plain tuple."""

    number: int
    first: int
    last: int

    def joined(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(self.number + other.number, min(self.first, other.first), max(self.last, other.last))


#: From when to when, both included; None: no limit.
Span = tuple[datetime | None, datetime | None]
ALWAYS: Span = (None, None)

#: What is counted together: group, task and fingerprint.
Kind = tuple[str, str, str]


def joined(found: Iterable[tuple[Kind, Tally]]) -> dict[Kind, Tally]:
    """One tally of each kind."""
    tallies: dict[Kind, Tally] = {}
    for kind, tally in found:
        tallies[kind] = tally.joined(tallies[kind]) if kind in tallies else tally
    return tallies


class History(Persistent):
    """One dispatcher slot's finished jobs, in periods (of a day and an outcome) that are dropped whole.

    ``periods``: name of the period -> group -> minus the moment -> job. All numbers are negative, so that reading
    forwards gives the newest first, and a list by group and outcome needs no scan. Written by the claims of one
    dispatcher, so there is nothing to resolve; but for jobs that a person deletes, where the trees merge or conflict.
    """

    #: Name of a period of failed jobs -> Kind -> Tally. None: nothing has failed yet.
    tallies: Any = None

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
        if outcome == "failed":
            self._count(name, (group, job.task, job.fingerprint), moment)
        return fresh

    def _count(self, name: Period, kind: Kind, moment: int) -> None:
        if self.tallies is None:
            self.tallies = OOBTree()
        if name not in self.tallies:
            self.tallies[name] = OOBTree()
        number, first, last = self.tallies[name].get(kind, (0, moment, moment))
        self.tallies[name][kind] = (number + 1, min(first, moment), max(last, moment))

    def failures(self, group: str | None = None) -> Iterator[tuple[Kind, Tally]]:
        """How often jobs failed in which way, in each period: the same kind may come more than once."""
        span = () if group is None else _of_group(group)
        for kinds in self.tallies.values() if self.tallies is not None else ():
            for kind, tally in kinds.items(*span):
                yield kind, Tally(*tally)

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
        return self._find(job) is not None

    def _find(self, job: Any) -> tuple[Period, Any, int] | None:
        """The job's period, its tree there, and its key in that."""
        ended = job.finished_at
        if ended is None:
            return None
        name = self._period_of(job.outcome or "failed", ended)
        tree = self.periods.get(name, {}).get(job.group)
        if not tree:
            return None
        last = -(clock.to_microseconds(ended) << 6)
        return next(((name, tree, key) for key, one in tree.items(last - MOST_AT_ONCE, last) if one is job), None)

    def remove(self, job: Any) -> bool:
        """Forget one job, if it was entered here; whether it was. For a person's request, beside claims: whoever drops
        the period meanwhile conflicts with it. The trees stay, even empty: a claim may enter something just now."""
        found = self._find(job)
        if found is None:
            return False
        name, tree, key = found
        read_current(self.periods)
        del tree[key]
        kinds = self.tallies.get(name) if self.tallies is not None else None
        kind = (job.group, job.task, job.fingerprint)
        if kinds is not None and kind in kinds:
            number, first, last = kinds[kind]
            if number > 1:
                kinds[kind] = (number - 1, first, last)
            else:
                del kinds[kind]
        return True

    def names(self, outcome: str) -> list[Period]:
        """The names of an outcome's periods, newest first."""
        return sorted((name for name in self.periods.keys() if name[1] == outcome), key=begin_of)

    def drop(self, name: Period) -> int:
        """Forget a whole period; return how many jobs were in it. Loads none of them."""
        number = 0
        for tree in self.periods[name].values():
            number += len(tree)
            read_current(tree)  # else a job that a person deletes just now would be counted twice
        del self.periods[name]
        if self.tallies is not None:
            self.tallies.pop(name, None)
        return number

    def rows(
        self, outcome: str | None = None, group: str | None = None, span: Span = ALWAYS, oldest: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """(key, job) of those that ended in that span; newest first, or oldest first."""
        kinds = OUTCOMES if outcome is None else (outcome,)
        rows = (self._rows(kind, group, span, oldest) for kind in kinds)
        return heapq.merge(*rows, key=lambda row: row[0], reverse=oldest)

    def _rows(self, outcome: str, group: str | None, span: Span, oldest: bool) -> Iterator[tuple[int, Any]]:
        since, until = span
        first = None if until is None else -((clock.to_microseconds(until) << 6) | 63)
        last = None if since is None else -(clock.to_microseconds(since) << 6)
        names = [name for name in self.names(outcome) if since is None or -name[0] >= since.toordinal()]
        for name in reversed(names) if oldest else names:
            period = self.periods[name]
            trees = period.values() if group is None else [period[group]] if group in period else []
            found = [tree.items(first, last) for tree in trees]
            rows = [reversed(list(items)) for items in found] if oldest else found
            yield from heapq.merge(*rows, key=lambda row: row[0], reverse=oldest)

    def purge(self, group: str) -> dict[str, int]:
        """Forget all jobs of a group; return how many by outcome."""
        purged: dict[str, int] = {}
        for name, period in self.periods.items():
            outcome = name[1]
            if group in period:
                purged[outcome] = purged.get(outcome, 0) + len(period[group])
                del period[group]
        for kinds in self.tallies.values() if self.tallies is not None else ():
            for kind in list(kinds.keys(*_of_group(group))):
                del kinds[kind]
        return purged


def _of_group(group: str) -> tuple[tuple[str], tuple[str]]:
    """Between what the kinds of one group stand."""
    return (group,), (group + "\0",)


def begin_of(name: Period) -> tuple[int, int]:
    """What periods are sorted by, newest first: minus the day, and minus the microseconds."""
    return name[0], name[2] if len(name) == 3 else 0


def merged(
    histories: list[History],
    outcome: str | None = None,
    group: str | None = None,
    span: Span = ALWAYS,
    oldest: bool = False,
) -> Iterator[Any]:
    """The jobs of several histories that ended in that span; newest first, or oldest first."""
    rows = (history.rows(outcome, group, span, oldest) for history in histories)
    for _key, job in heapq.merge(*rows, key=lambda row: row[0], reverse=oldest):
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
