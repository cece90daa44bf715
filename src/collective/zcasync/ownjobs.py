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
from dataclasses import dataclass
from itertools import islice
from typing import Any

import heapq

#: Waiting jobs of each queue, and ended ones of the site, that are looked at: each is a record to load.
LOOK = 1_000

#: Ended jobs that are told of, at most.
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
    """One job. ``ahead``: of one that waits, how many are before it; None: more than AHEAD, or it does not wait."""

    row: joblists.JobRow
    ahead: int | None = None


@dataclass(frozen=True)
class OwnJobs:
    """What a look has found: what has not ended, the newest first, and what has, the newest first.

    ``complete``: False if there was more than one look may load, so that some jobs may be missing.
    """

    active: tuple[OwnJob, ...] = ()
    ended: tuple[OwnJob, ...] = ()
    complete: bool = True


def own_jobs(source: Any, owner: Owner) -> OwnJobs:
    """The jobs of one person. ``source``: a ZODB connection, or the Queues themselves."""
    queues = joblists.all_queues(source)
    bounds = _Bounds()
    active = {job._p_oid: job for queue in queues for job in _unended(queue, owner, bounds) if owner.owns(job)}
    unended = [job for job in active.values() if job.outcome is None]
    places = _places([job for job in unended if joblists.state_of(job) == joblists.WAITING], queues)
    rows = [OwnJob(joblists.row(job), places.get(job._p_oid)) for job in unended]
    ended = {job._p_oid: job for queue in queues for job in joblists.unswept(queue) if owner.owns(job)}
    ended |= {job._p_oid: job for job in bounds.of(_history(queues, owner.group)) if owner.owns(job)}
    newest = heapq.nlargest(MOST_ENDED, ended.values(), key=lambda job: job.finished_at.timestamp())
    return OwnJobs(
        tuple(sorted(rows, key=lambda one: one.row.put_at.timestamp() if one.row.put_at else 0, reverse=True)),
        tuple(OwnJob(joblists.row(job)) for job in newest),
        bounds.complete,
    )


class _Bounds:
    """Cuts what is looked at, and remembers whether anything was cut."""

    complete = True

    def of(self, jobs: Iterator[Any]) -> Iterator[Any]:
        yield from islice(jobs, LOOK)
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
