"""What becomes of a job whose run was cut off: its policy is asked, and knows by what."""

from collective.zcasync import clock
from collective.zcasync import decisions
from collective.zcasync.attempts import FINISHED
from collective.zcasync.attempts import RETURNED
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.failure import Failure
from datetime import timedelta
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: What cuts a run off: the end of its dispatcher, of its thread, of its process, or nobody knows what. A stop is no
#: fault of the job's, the others may be; see configuredpolicy.count_interruption.
STOP, THREAD, DEATH, UNKNOWN = "stop", "thread", "death", "unknown"

_TOLD = {STOP: "its dispatcher stopped", THREAD: "its thread ended", DEATH: "its process died", UNKNOWN: "interrupted"}


def note(job: Any, by: str) -> None:
    """Remember that the run of a job, or that of its callbacks, was cut off; the policy is still to be asked."""
    job.interrupted_by = by
    if by == DEATH:
        job.deaths += 1


def interrupt(job: Any, by: str) -> str:
    """Ask the policy of an ACTIVE job that was interrupted: RETURNED to its queue, or FINISHED with AbortedError.

    ``by``: one of STOP, THREAD, DEATH, UNKNOWN. Changes the job in the present transaction; the caller commits, and
    sees to callbacks.
    """
    note(job, by)
    job.remember("interruption", _TOLD[by], clock.utcnow())
    return decide(job)


def decide(job: Any) -> str:
    """Do what the policy of an interrupted job answers; see ``interrupt``.

    A policy that cannot be asked is asked again when the job's turn comes once more: until then nobody knows whether
    it may be run twice. What a job with ``goes_on`` does can be begun anew at any time.
    """
    now = clock.utcnow()
    if job.goes_on:
        job.interrupted_by = ""
        job.queue.give_back(job, front=True)
        return RETURNED
    answer = decisions.after_interruption(job)
    deadline = job.deadline()
    if deadline is not None and now > deadline:
        answer = False
    if answer is not False and job.queue is None:
        logger.critical("%r is in no queue and cannot be rescheduled: no retry", job)
        answer = False
    if answer is False:
        job.interrupted_by = ""
        logger.log(job.failure_level, "%r was interrupted, and is not run again", job)
        job._finish(Failure.from_exception(AbortedError(AbortedError.__doc__)), now)
        return FINISHED
    if answer is None:
        job.needs_attention = True
        job.postpone(now + decisions.POLICY_TROUBLE)
        job.queue.give_back(job)
        return RETURNED
    job.interrupted_by = ""
    tracelog.info("%r was interrupted and waits again", job)
    if isinstance(answer, timedelta) and answer > timedelta(0):
        job.postpone(now + answer)
        job.queue.give_back(job)
    else:
        job.queue.give_back(job, front=True)
    return RETURNED
