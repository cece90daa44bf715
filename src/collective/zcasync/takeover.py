"""What a dispatcher leaves behind when it stops or dies, and what becomes of it."""

from collective.zcasync import deferreds
from collective.zcasync import events
from collective.zcasync import filing
from collective.zcasync import interruptions
from collective.zcasync import letters
from collective.zcasync import sweeping
from collective.zcasync import waiting
from collective.zcasync.attempts import RETURNED
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.lookup import loads
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.slot import Slot
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")

#: Deaths of processes under a job after which it is set aside.
DEADLY = 3


def empty_slot(queue: Any, slot: Slot, died: bool) -> None:
    """What a dispatcher leaves: file away what has finished, give back what had not begun, interrupt the rest."""
    slot.hold_mail()
    held = {**slot.running, **slot.deferreds}.items()
    ended = [(oid, "finished") for oid, (job, _a) in held if _status(job) == 3 and sweeping.is_of(job, slot)]
    sweeping.sweep(queue, slot, ended)
    for oid, (job, _agent) in [*slot.running.items(), *slot.deferreds.items()]:
        if _status(job) is None:
            sweeping.set_aside(queue, slot, job, "its class or record cannot be loaded")
            continue
        if sweeping.is_of(job, slot) and _may_begin_anew(job, oid, slot):
            sweeping.put_back(queue, slot, job)
            continue
        slot.release(oid)
        told = letters.deliver(job, slot)
        killed = died or "hung" in told  # the process leaves because of that job
        by = interruptions.DEATH if killed else interruptions.STOP
        if not sweeping.is_of(job, slot):  # it waits again already, in an inbox, or has even ended elsewhere since
            sweeping.came_late(queue, job, told)
            letters.stop_if_asked(queue, job, told)
            continue
        if waiting.waiter(job) is not None:
            waiting.begin(queue, slot, job)  # its code has run, and must not run again
            letters.stop_if_asked(queue, job, told)
            continue
        waits_for_deferred = waiting.waits_for_deferred(job)
        if waits_for_deferred is not None:
            deferreds.abort(waits_for_deferred)
        if job._status_id == 0:
            job._become(ACTIVE)
        waits = False
        if job._status_id == 1:
            waits = interruptions.interrupt(job, by) == RETURNED
        elif job._status_id == 2:  # its callbacks were running: each is asked about when they are resumed
            waits = True
            interruptions.note(job, by)
            queue.give_back(job, front=True)
        if job._status_id != 0 or job.held_back:  # else it comes again first, and keeps its places in quotas
            filing.leave_quotas(queue, job)
        if job._status_id == 3:
            job.token = None  # whoever was wrongly taken for dead must not commit any more for a job that has ended
            filing.file_away(queue, slot, job)
        elif not waits:
            queue.give_back(job, front=True)
        elif "stop" in told and job._status_id == 0:
            letters.stop_if_asked(queue, job, told)
        elif killed and job.deaths >= DEADLY:
            _set_aside_killer(queue, job, slot)
    slot.started = frozenset()


def _may_begin_anew(job: Any, oid: bytes, slot: Slot) -> bool:
    """Whether no code of the job has begun, or only such that can be begun anew at any time."""
    if job.goes_on:
        return bool(job._status_id == 1) and waiting.waiter(job) is None
    return bool(job._status_id == 0) and oid not in slot.started


def _set_aside_killer(queue: Any, job: Any, slot: Slot) -> None:
    queue.take_out(job, slot)
    filing.leave_quotas(queue, job)
    job.held_reason = f"its process died {job.deaths} times under it"
    insert(queue.quarantine, make_key(), (job.held_reason, job))
    slot.count("quarantined", 1)
    waiting.ended(queue, slot, job, aside=True)
    logger.critical("Job %s was set aside: %s", job.id, job.held_reason)
    events.tell(events.JobHeld(job.id, job.task, job.held_reason))


def _status(job: Any) -> int | None:
    """The stored status, or None if the job cannot be loaded."""
    return int(job._status_id) if loads(job) else None
