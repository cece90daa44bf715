"""What becomes of claimed jobs that threads have done with, and of the letters that others sent them meanwhile."""

from collections.abc import Iterable
from collections.abc import Mapping
from collective.zcasync import filing
from collective.zcasync import letters
from collective.zcasync import waiting
from collective.zcasync.jobinfo import End
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from typing import Any


def sweep(queue: Any, slot: Any, reports: Iterable[tuple[bytes, str]], ends: Mapping[bytes, End] | None = None) -> None:
    """File away what the threads report as done: (oid, report). ``ends``: of those that need no look at their records,
    and have not been claimed again since."""
    trees = waiting.trees(queue)
    plain: dict[bytes, tuple[Any, End]] = {}
    for oid, report in reports:
        row = slot.running.get(oid) or slot.deferreds.get(oid)
        if row is None or oid in plain:
            continue
        end = ends.get(oid) if ends else None
        if end is not None and report == "finished" and not slot.has_mail(oid) and not waiting.key_in(oid, trees):
            plain[oid] = row[0], end
            continue
        job = row[0]
        ours = is_of(job, slot)
        owned = ours and job.token is not None
        if owned and (report in ("returned", "reassigned") or report == "finished" and job._status_id != 3):
            continue  # claimed again meanwhile, or still to be interrupted: not ours to take out
        if report == "deferred":
            if owned and waiting.waits_for_deferred(job) is not None:  # else its result is stored: that is told as well
                slot.release(oid)
                slot.deferreds = {**slot.deferreds, oid: row}
            continue
        if report == "unreadable":
            set_aside(queue, slot, job, "its record cannot be loaded")
            continue
        if report == "waiting":
            slot.hold_mail()
        slot.release(oid)
        told = letters.deliver(job, slot)
        if report == "waiting" and ours:
            waiting.begin(queue, slot, job)
            letters.stop_if_asked(queue, job, told)
        elif came_late(queue, job, told):
            continue
        elif report == "finished" and job._status_id == 3:
            filing.file_away(queue, slot, job)
        else:
            # It waits again, in an inbox. A job for a later time, and one with callbacks left, gives up its quotas.
            if job.held_back or job._status_id >= 2:
                filing.leave_quotas(queue, job)
            letters.stop_if_asked(queue, job, told)
    slot.file_ended(plain.values())
    slot.started = frozenset(oid for oid in slot.started if oid in slot.running)


def is_of(job: Any, slot: Any) -> bool:
    """Whether the slot's dispatcher still owns the job; else it waits again, or was claimed by another since."""
    return job.agent is not None and job.agent.slot is slot


def came_late(queue: Any, job: Any, told: set[str]) -> bool:
    """Whether a letter brought a callback to a job that has ended; the job then waits again, to run it."""
    if "callback" not in told or job._status_id != 3:
        return False
    filing.leave_quotas(queue, job)
    job._reopen()
    queue.give_back(job)
    return True


def put_back(queue: Any, slot: Any, job: Any) -> None:
    """Let a claimed job that no thread has begun wait again, ahead of all others."""
    slot.hold_mail()
    slot.release(job._p_oid)
    filing.leave_quotas(queue, job)
    told = letters.deliver(job, slot)
    queue.give_back(job, front=True)
    letters.stop_if_asked(queue, job, told)


def set_aside(queue: Any, slot: Any, job: Any, reason: str) -> None:
    """Quarantine for a claimed job that cannot be loaded, so that nothing says which quotas it was in."""
    slot.release(job._p_oid)
    for quota in queue.quotas.values():
        quota.discard(job)
    insert(queue.quarantine, make_key(), (reason, job))
    slot.count("quarantined", 1)
    waiting.ended(queue, slot, job, aside=True)
