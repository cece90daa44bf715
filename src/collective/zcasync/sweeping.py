"""What becomes of claimed jobs that threads have done with, and of the letters that others sent them meanwhile."""

from collections.abc import Iterable
from collective.zcasync import clock
from collective.zcasync import filing
from collective.zcasync import waiting
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.failure import Failure
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from typing import Any


def sweep(queue: Any, slot: Any, reports: Iterable[tuple[bytes, str]]) -> None:
    """File away what the threads report as done: (oid, report)."""
    for oid, report in reports:
        row = slot.running.get(oid)
        if row is None:
            continue
        job = row[0]
        if report in ("returned", "reassigned") and job.token is not None and job.agent is not None:
            if job.agent.slot is slot:
                continue  # claimed again meanwhile, or still to be interrupted: not ours to take out
        if report == "unreadable":
            set_aside(queue, slot, job, "its record cannot be loaded")
            continue
        slot.release(oid)
        told = deliver(job, slot)
        if report == "waiting" and job.agent is not None and job.agent.slot is slot:
            waiting.begin(queue, slot, job)
            stop_if_asked(queue, job, told)
        elif "callback" in told and job._status_id == 3:
            filing.leave_quotas(queue, job)
            job._reopen()
            queue.give_back(job)
        elif report == "finished" and job._status_id == 3:
            filing.file_away(queue, slot, job)
        else:
            # It waits again, in an inbox. A job for a later time, and one with callbacks left, gives up its quotas.
            if job.held_back or job._status_id >= 2:
                filing.leave_quotas(queue, job)
            stop_if_asked(queue, job, told)
    slot.started = frozenset(oid for oid in slot.started if oid in slot.running)


def put_back(queue: Any, slot: Any, job: Any) -> None:
    """Let a claimed job that no thread has begun wait again, ahead of all others."""
    slot.release(job._p_oid)
    filing.leave_quotas(queue, job)
    told = deliver(job, slot)
    queue.give_back(job, front=True)
    stop_if_asked(queue, job, told)


def set_aside(queue: Any, slot: Any, job: Any, reason: str) -> None:
    """Quarantine for a claimed job that cannot be loaded, so that nothing says which quotas it was in."""
    slot.release(job._p_oid)
    for quota in queue.quotas.values():
        quota.discard(job)
    insert(queue.quarantine, make_key(), (reason, job))
    slot.count("quarantined", 1)
    waiting.ended(queue, slot, job, aside=True)


def deliver(job: Any, slot: Any) -> set[str]:
    """Move letters from a slot's mailbox to their job and its callbacks; the kinds of what was there for the job."""
    letters = slot.open_mail(job._p_oid)
    for kind, name, value in letters:
        if kind == "annotation":
            job.annotations[name] = value
        elif kind == "callback":
            value.parent = job
            job._callbacks = (*job._callbacks, value)
        elif kind == "progress" and (job._progress is None or job._progress[0] < value[0]):
            job._progress = value  # its thread did not come to say it: it died
    if slot.mailbox:
        for callback in job.all_callbacks():
            if "stop" in deliver(callback, slot) and callback._status_id < 2:
                failure = Failure.from_exception(CancelledError(CancelledError.__doc__))
                callback._finish(failure, clock.utcnow(), "cancelled")
    return {kind for kind, _name, _value in letters}


def stop_if_asked(queue: Any, job: Any, told: set[str]) -> None:
    """A job that waits, again or for another job, and was asked to stop before it had ended, must not go on."""
    if "stop" in told and job._status_id < 2 and job.token is None:
        queue.cancel(job)
