"""What belongs to a job: its callbacks, the job that it waits for, and the parts of a serial or parallel one."""

from collections.abc import Iterator
from collective.zcasync.interfaces import IJob
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.lookup import main_of
from collective.zcasync.sequences import run_parallel
from collective.zcasync.sequences import run_serial
from collective.zcasync.waiting import key_of
from dataclasses import dataclass
from itertools import islice
from typing import Any

#: Jobs of one tree that are shown.
MOST = 100

_SEQUENCES = {f"{call.__module__}:{call.__qualname__}" for call in (run_serial, run_parallel)}


@dataclass(frozen=True)
class Branch:
    """One job of the tree, below the one before it with a smaller ``depth``."""

    id: str
    title: str
    #: "callback", "awaited" or "part"; "main", "sequence" and "waiter": the job stands below this one.
    kind: str
    depth: int
    #: Its status as zc.async names it, and its error.
    status: str
    outcome: str
    error: str = ""


def tree(job: Any) -> tuple[Branch, ...]:
    """What stands above and below a job, down to MOST jobs. Loads no payload but that of serial and parallel jobs."""
    if is_broken(job):
        return ()
    return (*_above(job), *islice(_below(job, 1, {id(job)}), MOST))


def _above(job: Any) -> Iterator[Branch]:
    main = main_of(job)
    if main is not job:
        yield _branch(main, "main", 0)
    if job.sequence is not None:
        yield _branch(job.sequence, "sequence", 0)
    queue = job.queue
    for one in queue.parent.values() if queue is not None and queue.parent is not None else ():
        for outer in one.waiting_for.get(key_of(job), ()):
            if outer is not job.sequence and not is_broken(outer):
                yield _branch(outer, "waiter", 0)


def _below(job: Any, depth: int, seen: set[int]) -> Iterator[Branch]:
    for kind, other in _next(job):
        if id(other) in seen or is_broken(other):
            continue
        seen.add(id(other))
        yield _branch(other, kind, depth)
        yield from _below(other, depth + 1, seen)


def _next(job: Any) -> Iterator[tuple[str, Any]]:
    parts = [one for one in job.args if IJob.providedBy(one)] if job.callable_name in _SEQUENCES else []
    yield from (("part", one) for one in parts)
    if job.waiting_for is not None and job.waiting_for not in parts:
        yield "awaited", job.waiting_for
    yield from (("callback", one) for one in job.all_callbacks())


def _branch(job: Any, kind: str, depth: int) -> Branch:
    begun = job._status_id > 0 or not job.is_callback  # a callback stands in no queue by itself
    status = str(job.status).removesuffix("-status") if begun else "new"
    return Branch(job.id or "", job.title or job.task, kind, depth, status, job.outcome or "", job.error or "")
