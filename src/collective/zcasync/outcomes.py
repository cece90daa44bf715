"""What a call has returned, and what that makes of its job: an end, or something to wait for."""

from collective.zcasync import waiting
from collective.zcasync.interfaces import IJob
from datetime import datetime
from typing import Any

#: How an attempt can leave a job: ended, or waiting for another job.
FINISHED, WAITING = "finished", "waiting"


class Again:
    """What the code of a job returns that is to be called again as soon as ``job`` has ended."""

    def __init__(self, job: Any) -> None:
        self.job = job


def settle(result: Any, job: Any) -> Any:
    """A job's result, ready to be kept: what it waits for can end, and is in a queue.

    Called while errors still count as the job's own. InvalidJobError if the job would wait for itself.
    """
    inner = result.job if isinstance(result, Again) else result
    if IJob.providedBy(inner):
        waiting.refuse_circle(inner, job)
        main, queue = waiting.holder(inner), job.queue
        if queue is not None and main.parent is None and main._status_id == 0:
            queue.put(main)
    return result


def keep(job: Any, result: Any, now: datetime, outcome: str | None = None) -> str:
    """Store a settled result with the job: FINISHED or WAITING."""
    again = isinstance(result, Again)
    inner = result.job if isinstance(result, Again) else result
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
    return WAITING if job.waiting_for is not None else None
