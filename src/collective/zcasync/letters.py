"""What becomes of the letters that others sent to a claimed job, once its owner has let it go."""

from collective.zcasync import clock
from collective.zcasync.lookup import stands_alone
from typing import Any


def deliver(job: Any, slot: Any) -> set[str]:
    """Move letters from a slot's mailbox to their job and its callbacks; the kinds of what was there for the job.

    A callback that came for one of its callbacks, which has ended meanwhile, is as one for the job: it runs with those
    of the job that have not ended.
    """
    letters = slot.open_mail(job._p_oid)
    for kind, name, value in letters:
        if kind == "annotation":
            job.annotations[name] = value
        elif kind == "callback":
            value.parent = job
            job._callbacks = (*job._callbacks, value)
        elif kind == "stop" and isinstance(value, tuple):
            job.remember("stop", value[1], value[0])
        elif kind == "progress" and (job._progress is None or job._progress[0] < value[0]):
            job._progress = value  # its thread did not come to say it: it died
    told = {kind for kind, _name, _value in letters}
    for callback in job.all_callbacks() if slot.mailbox else ():
        if stands_alone(callback):
            continue  # its letters are its own
        heard = deliver(callback, slot)
        if "stop" in heard and callback._status_id < 2:
            callback._cancel(clock.utcnow())
        if "callback" in heard and callback._status_id == 3:
            callback._reopen()
            told.add("callback")
            job._p_changed = True  # whoever ends it at this moment conflicts
    return told


def collect(queue: Any, job: Any) -> None:
    """A waiting job is about to be taken: give it the letters that its last owner has not swept up yet.

    Else they would reach it while another one runs it, or when it has ended: its record is its owner's, and a callback
    that comes after the end without a word is never run. Writes that owner's slot, only if there is something to do.
    """
    for slot in queue.slots.values():
        held = job._p_oid in slot.running or job._p_oid in slot.deferreds
        if held or stands_alone(job) and has_mail(job, slot):
            slot.release(job._p_oid)
            told = deliver(job, slot)
            if "callback" in told and job._status_id == 3:
                job._reopen()
            stop_if_asked(queue, job, told)


def has_mail(job: Any, slot: Any) -> bool:
    """Whether a slot's mailbox holds a letter to a job, or to one of its callbacks."""
    if not slot.mailbox:
        return False
    own = (callback for callback in job.all_callbacks() if not stands_alone(callback))
    return slot.has_mail(job._p_oid) or any(has_mail(callback, slot) for callback in own)


def stop_if_asked(queue: Any, job: Any, told: set[str]) -> None:
    """A job that waits, again or for another job, and was asked to stop before it had ended, must not go on."""
    if "stop" in told and job._status_id < 2 and job.token is None and job.parent is queue:
        queue.cancel(job)
