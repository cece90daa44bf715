"""What a call has returned, and what that makes of its job: an end, or something to wait for."""

from collective.zcasync import coroutines
from collective.zcasync import events
from collective.zcasync import waiting
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import IJob
from collective.zcasync.lookup import main_of
from datetime import datetime
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure as TwistedFailure
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: How an attempt can leave a job: ended, waiting for another job, or for a Deferred.
FINISHED, WAITING, DEFERRED = "finished", "waiting", "deferred"


class Again:
    """What the code of a job returns that is to be called again as soon as ``job`` has ended."""

    def __init__(self, job: Any) -> None:
        self.job = job


def settle(result: Any, job: Any, around: Any = None) -> Any:
    """A job's result, ready to be kept: coroutines have run, and what it waits for can end and is in a queue.

    Called while errors still count as the job's own. InvalidJobError if the job would wait for itself.
    """
    result = coroutines.result_of(result, job, around)
    if isinstance(result, Deferred):
        fired, value = coroutines.fired_result(result)
        result = value if fired else result
    inner = result.job if isinstance(result, Again) else result
    if IJob.providedBy(inner):
        waiting.refuse_circle(inner, job)
        main, queue = main_of(inner), job.queue
        if queue is not None and main.parent is None and main._status_id == 0:
            queue.put(main)
    return result


def keep(job: Any, result: Any, now: datetime, outcome: str | None = None) -> str:
    """Store a settled result with the job: FINISHED, WAITING or DEFERRED."""
    again = isinstance(result, Again)
    inner = result.job if isinstance(result, Again) else result
    if isinstance(result, Deferred):
        job.deferred = True
        return DEFERRED
    if not again and not IJob.providedBy(inner):
        job._finish(result, now, outcome)
        return FINISHED
    if inner._status_id == 3 and not again:
        job._finish_as(inner, now)
        return FINISHED
    job._wait_for(inner, again)
    return WAITING


def left(job: Any) -> str | None:
    """How an attempt has left a job, as its record tells; None if the attempt has stored nothing."""
    if job._status_id >= 2:
        return FINISHED
    if job.deferred:
        return DEFERRED
    return WAITING if job.waiting_for is not None else None


def tell_end(job: Any) -> None:
    """Log how the job ended, and tell the subscribers; after the commit."""
    if job.outcome == "cancelled":
        logger.info("%r stopped, as it was asked to", job)
        events.tell(events.JobFailed(job.id, job.task, job.error))
    elif job.failed:
        result = job.result
        logger.log(job.failure_level, "%r failed with traceback:\n%s", job, result.getTraceback(1, "verbose"))
        events.tell(events.JobFailed(job.id, job.task, job.error))
    else:
        tracelog.info("%r succeeded with result: %.200r", job, job.result)
        events.tell(events.JobFinished(job.id, job.task))


def log_lost(job: Any, lost: Any, failure: Failure) -> None:
    """The outcome of the code is lost with its commit: at least the log has it."""
    if isinstance(lost, TwistedFailure):
        lost = Failure.convert(lost)
        level, told = job.failure_level, f"it had failed with {lost.summary}:\n{lost.getTraceback(1, 'verbose')}"
    else:
        level, told = logging.INFO, f"its code had succeeded with result: {lost!r:.200}"
    logger.log(level, "Commit failed for %r: %s. Prior to this, %s", job, failure.summary, told)
