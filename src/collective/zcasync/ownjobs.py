"""The jobs of one person: what waits, runs or has ended lately.

No put writes a structure by user, so they are found by looking, within bounds: at all that runs, at the newest of what
waits, and at the newest of the site's history. Nothing here writes, and nothing loads a payload.
"""

from collections.abc import Container
from collections.abc import Iterator
from collective.zcasync import joblists
from collective.zcasync.entries import newest_first
from collective.zcasync.entries import Place
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.lookup import fetched
from collective.zcasync.monitorrows import next_skip
from dataclasses import dataclass
from itertools import islice
from typing import Any

import heapq

#: Waiting jobs of each queue, and ended ones of the site, that are looked at: each is a record to load.
LOOK = 1_000

#: Ended jobs that one look tells of, at most; and those that the next claim puts into the history.
MOST_ENDED = 50

#: So many jobs before one that waits are counted.
AHEAD = 100


@dataclass(frozen=True)
class Owner:
    """Whose jobs: ``group``: the site. ``user``: as jobs name it. ``tasks``: names of those that people are to see."""

    group: str
    user: str
    tasks: Container[str]

    def owns(self, job: Any) -> bool:
        """Whether the job is this person's, and of a task that people are to see."""
        return not is_broken(job) and job.user == self.user and job.group == self.group and job.task in self.tasks


@dataclass(frozen=True)
class OwnJob:
    """One job, and the record that it was read from. ``ahead``: of one that waits, how many are before it; None: more
    than AHEAD, or it does not wait."""

    row: joblists.JobRow
    job: Any
    ahead: int | None = None


@dataclass(frozen=True)
class OwnJobs:
    """What a look has found: what has not ended, the newest first, and what has, the newest first.

    ``complete``: False if there was more than one look may load, so that some jobs may be missing. ``next``: where a
    look for older ended jobs goes on; None at the end, and where nobody is led on.
    """

    active: tuple[OwnJob, ...] = ()
    ended: tuple[OwnJob, ...] = ()
    complete: bool = True
    next: int | None = None


def own_jobs(source: Any, owner: Owner, skip: int = 0) -> OwnJobs:
    """The jobs of one person. ``source``: a ZODB connection, or the Queues themselves. ``skip``: the ``next`` of a look
    before, for older jobs that have ended and nothing else; behind LAST_SKIP nothing is looked at."""
    if next_skip(skip) is None:
        return OwnJobs()
    queues = joblists.all_queues(source)
    ended, after = _ended(queues, owner, skip)
    bounds = _Bounds()
    active = () if skip else _active(queues, owner, bounds)
    cut = after is not None and len(ended) < MOST_ENDED
    rows = tuple(OwnJob(joblists.row(job), job) for job in ended)
    return OwnJobs(active, rows, bounds.complete and not cut, None if after is None else next_skip(after))


def _active(queues: list[Any], owner: Owner, bounds: "_Bounds") -> tuple[OwnJob, ...]:
    """What has not ended, the newest first."""
    active = {job._p_oid: job for queue in queues for job in _unended(queue, owner, bounds) if owner.owns(job)}
    unended = [job for job in active.values() if job.outcome is None]
    places = _places([job for job in unended if joblists.state_of(job) == joblists.WAITING], queues)
    rows = [OwnJob(joblists.row(job), job, places.get(job._p_oid)) for job in unended]
    return tuple(sorted(rows, key=lambda one: one.row.put_at.timestamp() if one.row.put_at else 0, reverse=True))


def _ended(queues: list[Any], owner: Owner, skip: int) -> tuple[list[Any], int | None]:
    """What has ended, the newest first, and how much of the history was looked at then; None: all of it."""
    fresh = () if skip else (job for queue in queues for job in joblists.unswept(queue) if owner.owns(job))
    found = {job._p_oid: job for job in fresh}
    after = None
    for number, job in enumerate(fetched(islice(_history(queues, owner.group), skip, None))):
        if number == LOOK or len(found) >= MOST_ENDED:
            after = skip + number
            break
        if owner.owns(job):
            found[job._p_oid] = job
    return sorted(found.values(), key=lambda job: job.finished_at.timestamp(), reverse=True), after


class _Bounds:
    """Cuts what is looked at, and remembers whether anything was cut."""

    complete = True

    def of(self, jobs: Iterator[Any]) -> Iterator[Any]:
        yield from fetched(islice(jobs, LOOK))
        self.complete = self.complete and next(jobs, None) is None


def _unended(queue: Any, owner: Owner, bounds: _Bounds) -> Iterator[Any]:
    """What runs, waits or was set aside in a queue, as far as it may be this site's."""
    yield from (job for job, _uuid, _agent in queue.running())
    yield from bounds.of(job for job, _inner in queue.awaiting())
    yield from bounds.of(job for _reason, job in queue.quarantined())
    yield from bounds.of(job for _due, job in queue.later_jobs())
    yield from bounds.of(_newest_waiting(queue, owner.group))


def _newest_waiting(queue: Any, group: str) -> Iterator[Any]:
    """What was put or parked, the newest first. Backlogs and lanes are kept by group: only the own ones are opened."""

    def rows(place: Place) -> Iterator[tuple[int, Any]]:
        for key in newest_first(place.tree):
            yield -key, place.tree[key]

    places = [place for place in queue.all_places() if place.offers(group) or place.kind == "parked"]
    for _key, job in heapq.merge(*map(rows, places), key=lambda row: row[0]):
        yield job


def _history(queues: list[Any], group: str) -> Iterator[Any]:
    """The site's ended jobs of all queues, the newest first."""
    rows = [slot.history.rows(group=group) for queue in queues for slot in queue.slots.values()]
    for _key, job in heapq.merge(*rows, key=lambda row: row[0]):
        yield job


def _places(jobs: list[Any], queues: list[Any]) -> dict[bytes, int]:
    """oid -> how many jobs are offered before it, for those of ``jobs`` that are among the first of their queue."""
    places: dict[bytes, int] = {}
    for queue in queues:
        if any(job.queue is queue for job in jobs):
            first = islice(queue.waiting(), AHEAD + 1)
            places |= {job._p_oid: number for number, (_key, job) in enumerate(first)}
    return places
