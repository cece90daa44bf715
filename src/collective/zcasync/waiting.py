"""Jobs that wait for another job: who waits for whom, and what becomes of them when that one has ended.

A job that returns a job says so on its own record (``waiting_for``) when its changes are committed. The claim that
sweeps it enters it in its queue's tree of waiting jobs, under the oid of the inner job; from then on it belongs to the
queue. Whatever files the inner job away, or sets it aside, passes its end on, in the same transaction: the outer job's
record is written, and it goes through an inbox, where a claim finds it and files it away or has its callbacks run.

Nobody may be missed. The inner job's record is written by its owner only, so who begins to wait declares a read check
on it: if it ended meanwhile, that claim conflicts, and sees the end when it is tried again. What this cannot see (a
job that was taken out of its queue, or set aside, at that very moment, or that has a database of its own) is found by
the next poll.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import events
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import IJob
from collective.zcasync.lookup import loads
from collective.zcasync.lookup import main_of
from collective.zcasync.lookup import stands_alone
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: Inner jobs at which one poll looks: the safety net must not grow with the number of jobs that wait.
LOOK_AT_MOST = 200


def key_of(job: Any) -> int:
    """The key of an inner job in the trees of waiting jobs: its oid, as a signed number."""
    return int.from_bytes(job._p_oid, "big", signed=True)


def waiter(job: Any) -> Any:
    """What in this job waits for another job: itself, or the callback that runs; None if nothing does."""
    return _active_part(job, lambda part: part.waiting_for is not None)


def waits_for_deferred(job: Any) -> Any:
    """What in this job waits for a Deferred: itself, or the callback that runs; None if nothing does."""
    return _active_part(job, lambda part: part.deferred)


def _active_part(job: Any, fits: Callable[[Any], bool]) -> Any:
    """The job itself, or one of its callbacks at any depth, that is ACTIVE and fits; else None."""
    if job._status_id == 1:
        return job if fits(job) else None
    if job._status_id == 2:
        for callback in job.all_callbacks():
            runs = callback._status_id in (1, 2) and not stands_alone(callback)
            found = _active_part(callback, fits) if runs else None
            if found is not None:
                return found
    return None


def has_left(job: Any) -> bool:
    """Whether the job's code has run, and must not run again, though the job has not ended."""
    return waiter(job) is not None or waits_for_deferred(job) is not None


def circular(inner: Any, outer: Any) -> bool:
    """Whether the inner job cannot end before the outer one has."""
    held = [outer]
    while held[-1].is_callback and IJob.providedBy(held[-1].parent):
        held.append(held[-1].parent)
    seen: set[int] = set()
    todo = [inner]
    while todo:
        job = todo.pop()
        if any(job is one for one in held):
            return True
        if id(job) in seen or not loads(job) or job._status_id == 3:
            continue
        seen.add(id(job))
        waits = waiter(job)
        if waits is not None:
            todo += [waits, waits.waiting_for] if waits is not job else [waits.waiting_for]
        if job.is_callback and IJob.providedBy(job.parent):
            todo.append(job.parent)
    return False


def refuse_circle(inner: Any, outer: Any) -> None:
    """InvalidJobError if a job waits for itself, directly or through others."""
    if circular(inner, outer):
        raise InvalidJobError(
            f"{outer.task} waits for {inner.task} (job {inner.id}), which cannot end before {outer.task} itself has"
            " ended: return a job that does not wait for this one"
        )


def end_of(inner: Any) -> Any:
    """None if the inner job may still end; True if it has; a Failure if it never will."""
    if not loads(inner):
        return _aborted(f"the job {int.from_bytes(inner._p_oid, 'big'):x}, for which it waited, cannot be loaded")
    if inner._status_id == 3:
        return True
    main = main_of(inner)
    if main is not inner and main._status_id == 3:
        return _aborted(f"the callback {inner.id} ({inner.task}), for which it waited, was never chosen")
    queue = main.queue
    if queue is None:
        if main._status_id == 0 and main.put_at is not None:
            return _aborted(f"the job {main.id} ({main.task}), for which it waited, was taken out of its queue")
        return None
    if queue.parent is None:
        return _aborted(f"the queue of the job {main.id} ({main.task}), for which it waited, was removed")
    if queue.quarantine and queue.quarantine_key(main) is not None:
        return _set_aside(main)
    return None


def _aborted(text: str) -> Failure:
    return Failure.from_exception(AbortedError(text))


def _set_aside(main: Any) -> Failure:
    name = f"{int.from_bytes(main._p_oid, 'big'):x}"
    return _aborted(f"the job {name}, for which it waited, was set aside: release or discard it")


# In claims: these write the trees


def begin(queue: Any, slot: Any, job: Any) -> None:
    """A job has left its thread to wait for another: from now on the queue holds it. For claims."""
    outer = waiter(job)
    job._leave_thread(queue)
    if outer is None:
        queue.give_back(job, front=True)  # what it waited for has ended since
        return
    inner = outer.waiting_for
    end = end_of(inner)
    if end is None and circular(inner, outer):
        try:
            refuse_circle(inner, outer)
        except InvalidJobError as error:
            end = Failure.from_exception(error)
    if end is not None or outer.goes_on and outer.extended:
        pass_on(outer, end if isinstance(end, Failure) else None)
        return
    inner._p_jar.readCurrent(inner)
    crosses = outer.goes_on or main_of(inner).queue is not queue  # a ``serial`` or ``parallel`` one has jobs anywhere
    if crosses and queue.parent is not None and not queue.parent.crossed:
        queue.parent.crossed = True
    others = queue.waiting_for.get(key_of(inner), ())
    if not any(other is outer for other in others):
        queue.waiting_for[key_of(inner)] = (*others, outer)
        _count(queue, slot, 1)
    _hand_on_quotas(queue, outer, inner)


def _hand_on_quotas(queue: Any, outer: Any, inner: Any) -> None:
    """A quota of which an outer job holds a place must not keep its inner job from running."""
    wanted = set(main_of(inner).quota_names) if loads(inner) else set()
    todo, seen = [main_of(outer)], set()
    while wanted and todo:
        job = todo.pop()
        seen.add(id(job))
        for quota in (queue.quotas.get(name) for name in wanted.intersection(job.quota_names)):
            if quota is not None:
                quota.discard(job)
        todo += [one for one in map(main_of, queue.waiting_for.get(key_of(job), ())) if id(one) not in seen]


def is_patient(queue: Any) -> bool:
    """Whether nobody waits for the end of a job."""
    return not trees(queue)


def awaited(queue: Any, slot: Any, oids: Iterable[bytes]) -> bool:
    """Whether anybody waits for one of these jobs, which have ended: then they are filed away at once."""
    known = trees(queue)
    if not known:
        return False
    for oid in oids:
        row = slot.running.get(oid) or slot.deferreds.get(oid)
        jobs = _family(row[0]) if row is not None else ()
        if any(key_of(job) in tree for job in jobs for tree in known) or row is not None and _extended(row[0]):
            return True
    return False


def trees(queue: Any) -> list[Any]:
    """The trees of all queues in which anybody waits."""
    return [other.waiting_for for other in _queues(queue) if other.waiting_for]


def key_in(oid: bytes, some: Iterable[Any]) -> bool:
    """Whether one of these trees says that somebody waits for the job of that oid."""
    key = int.from_bytes(oid, "big", signed=True)
    return any(key in tree for tree in some)


def ended(queue: Any, slot: Any, job: Any, aside: bool = False) -> None:
    """A job has ended for good, or was set ``aside``: tell those who wait for it. For claims."""
    waits = [other for other in _queues(queue) if other.waiting_for]
    for one in _family(job) if waits else ():
        for other in waits:
            for outer in _take_out(other, slot if other is queue else None, one):
                pass_on(outer, _set_aside(job) if aside else None if one._status_id == 3 else end_of(one))
    if waits and _extended(job):
        main = job.sequence
        forget(main.queue, slot if main.queue is queue else None, main)
        pass_on(main, None)


def forget(queue: Any, slot: Any, job: Any) -> None:
    """Take out the entry of a job that ended while it waited. For claims."""
    inner = job.waiting_for
    if inner is None:
        return
    others = queue.waiting_for.get(key_of(inner), ())
    left = tuple(other for other in others if other is not job)
    if len(left) < len(others):
        _keep(queue, key_of(inner), left)
        _count(queue, slot, len(left) - len(others))
    job.waiting_for = None


def look(queue: Any, slot: Any, after: int | None) -> tuple[int | None, bool]:
    """The safety net of a poll: see to those who wait for what has ended without telling them.

    Looks at LOOK_AT_MOST inner jobs behind ``after``; returns where the next poll goes on, and whether it has changed
    anything.
    """
    changed = False
    keys = list(zip(range(LOOK_AT_MOST), queue.waiting_for.keys(None if after is None else after + 1), strict=False))
    for _number, key in keys:
        for outer in queue.waiting_for[key]:
            inner = outer.waiting_for
            stale = inner is None or key_of(inner) != key or outer._status_id != 1
            end = None if stale else end_of(inner)
            if not stale and end is None:
                continue
            changed = True
            left = tuple(other for other in queue.waiting_for.get(key, ()) if other is not outer)
            _keep(queue, key, left)
            _count(queue, slot, -1)
            if not stale:
                pass_on(outer, None if end is True else end)
    return (keys[-1][1] if len(keys) == LOOK_AT_MOST else None), changed


def _take_out(queue: Any, slot: Any, inner: Any) -> tuple[Any, ...]:
    """Take out who waits for this job, and return them."""
    key = key_of(inner)
    others = queue.waiting_for.get(key, ())
    left = tuple(other for other in others if other.waiting_for is not None and other.waiting_for is not inner)
    if len(left) < len(others):
        _keep(queue, key, left)
        _count(queue, slot, len(left) - len(others))
    return tuple(other for other in others if other.waiting_for is inner and other._status_id == 1)


def _keep(queue: Any, key: int, outers: tuple[Any, ...]) -> None:
    if outers:
        queue.waiting_for[key] = outers
    elif key in queue.waiting_for:
        del queue.waiting_for[key]


def _count(queue: Any, slot: Any, change: int) -> None:
    if slot is not None:
        slot.count("awaiting", change)
    else:
        queue.adjust("awaiting", change)


# Passing an end on: this writes the outer job's record and an inbox, and may be done by anybody


def ended_elsewhere(queue: Any, job: Any) -> None:
    """A caller has taken a job out of its queue: end those who wait for it. The claims' trees are not written."""
    for other in _queues(queue):
        for outer in other.waiting_for.get(key_of(job), ()) if other.waiting_for else ():
            if outer.waiting_for is job and outer._status_id == 1:
                name = f"the job {job.id} ({job.task}), for which it waited, was taken out of its queue"
                pass_on(outer, _aborted(name), leave_entry=True)


def pass_on(outer: Any, failure: Failure | None, leave_entry: bool = False) -> None:
    """What the outer job waited for has ended: it ends in the same way, or with ``failure``; or its code goes on."""
    inner = outer.waiting_for
    main = main_of(outer)
    queue = main.queue
    if outer.goes_on:
        outer.waiting_for = None
    else:
        now = clock.utcnow()
        if failure is not None:
            outer._finish(failure, now)
        else:
            outer._finish_as(inner, now)
        if not leave_entry:
            outer.waiting_for = None
        _tell_at_commit(queue, outer)
    queue.give_back(main, front=True)


def _tell_at_commit(queue: Any, job: Any) -> None:
    if queue._p_jar is not None:
        hook = (job.id, job.task, job.error, job.failure_level)
        queue._p_jar.transaction_manager.get().addAfterCommitHook(_tell, hook)


def _tell(committed: bool, id: str, task: str, error: str, level: int) -> None:
    if not committed:
        return
    if error:
        logger.log(level, "Job %s (%s) ended with the job for which it waited: %s", id, task, error)
        events.tell(events.JobFailed(id, task, error))
    else:
        tracelog.info("Job %s (%s) ended with the job for which it waited", id, task)
        events.tell(events.JobFinished(id, task))


def _queues(queue: Any) -> list[Any]:
    """Where jobs may wait for one of this queue: there, and where that has ever been so, in any other."""
    return [queue] if queue.parent is None or not queue.parent.crossed else list(queue.parent.values())


def _family(job: Any) -> Iterator[Any]:
    """The job, and its callbacks, which have ended with it."""
    yield job
    if loads(job):
        for callback in job.all_callbacks():
            if callback._p_oid is not None:
                yield from _family(callback)


def _extended(job: Any) -> bool:
    """Whether the job belongs to a ``serial`` or ``parallel`` job that waits, and that got more jobs meanwhile."""
    main = job.sequence if loads(job) else None
    return main is not None and main.extended and main.goes_on and main.token is None and main.waiting_for is not None
