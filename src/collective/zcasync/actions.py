"""The verbs that change a job or a queue: panels, command line and REST all use these, and nothing else.

But for ``commit`` none of them commits. A job that somebody else changes at the same time makes the commit conflict;
then the caller begins again, as a request does by itself.
"""

from collections.abc import Callable
from collective.zcasync import joblists
from collective.zcasync import transactions
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jobdetail import oid_text
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")

#: Outcomes after which a job can be put again.
RETRIABLE = ("failed", "cancelled")

#: Tries of ``commit`` if others change the same things.
TRIES = 20


def cancel(job: Any) -> str:
    """End a job that has not started, or ask a running one to stop: "cancelled", "stopping" or "finished"."""
    if job.outcome is not None:
        return "finished"
    queue = joblists.queue_of(job)
    if queue is None:
        raise BadStatusError(f"Job {job.id} is in no queue, so there is nothing to cancel.")
    if queue.quarantine_key(job) is not None:
        raise BadStatusError(f"Job {job.id} is set aside: release it or discard it.")
    answer: str = queue.cancel(job)
    logger.info("Job %s (%s): %s on request", job.id, job.task, answer)
    return answer


def retry(job: Any) -> Any:
    """Put a job that failed or was cancelled once more, as a new job; let one that was set aside run again.

    Returns the job that waits now. It runs as the one who put the first, and its arguments are the same.
    """
    if is_broken(job):
        raise BadStatusError(f"The code of job {oid_text(job)} is missing: install it, or discard the job.")
    queue = joblists.queue_of(job)
    if queue is not None and queue.quarantine_key(job) is not None:
        return _release(queue, job)
    if job.outcome not in RETRIABLE:
        raise BadStatusError(f"Job {job.id} has neither failed nor been cancelled, so it cannot be retried.")
    if job.retried_as:
        raise BadStatusError(f"Job {job.id} was retried already, as job {job.retried_as}: retry that one.")
    if queue is None:
        raise BadStatusError(f"Job {job.id} is in no queue's history any more, so nothing says where to put it again.")
    new = put_again(queue, job)
    logger.info("Job %s (%s): put again as job %s on request", job.id, job.task, new.id)
    return new


def put_again(queue: Any, job: Any) -> Any:
    """Put a finished job once more into its queue: the new job. Raises what a put raises, before anything is stored."""
    new = queue.put(job.again())
    job.retried_as = new.id
    return new


def discard(job: Any) -> None:
    """Remove a job that was set aside, for good and without callbacks; also one whose class is gone."""
    queue = joblists.queue_of(job)
    key = queue.quarantine_key(job) if queue is not None else None
    if key is None:
        raise BadStatusError(f"Job {oid_text(job)} is not set aside, so it cannot be discarded: cancel it.")
    queue.leave_quarantine(key)
    if not is_broken(job):
        job.parent = None
    logger.warning("Job %s: discarded on request", oid_text(job))


def hold_group(queues: Any, group: str) -> None:
    """No job of the group (a site's path) begins any more, in any queue, until it is released; what runs goes on."""
    for queue in joblists.all_queues(queues):
        queue.hold_group(group)
    logger.info("Group %r: held on request", group)


def release_group(queues: Any, group: str) -> None:
    """Jobs of the group begin again; BadStatusError if it is held in no queue."""
    held = [queue for queue in joblists.all_queues(queues) if group in queue.held_groups]
    if not held:
        raise BadStatusError(f"The group {group!r} is not held in any queue.")
    for queue in held:
        queue.release_group(group)
    logger.info("Group %r: released on request", group)


def release(job: Any) -> Any:
    """Let a job that was set aside run again; BadStatusError if it was not, or its code is missing."""
    queue = joblists.queue_of(job)
    if queue is None or queue.quarantine_key(job) is None:
        raise BadStatusError(f"Job {oid_text(job)} is not set aside, so there is nothing to release.")
    return retry(job)


def pause_queue(queue: Any) -> None:
    """No job of the queue begins any more; what runs goes on."""
    queue.paused = True
    logger.info("Queue %r: paused on request", queue.name)


def resume_queue(queue: Any) -> None:
    """Jobs of the queue begin again."""
    queue.paused = False
    logger.info("Queue %r: resumed on request", queue.name)


def commit(connection: Any, change: Callable[[], Any]) -> Any:
    """Call ``change`` in a new transaction of the connection's manager, and commit; what it returned.

    For callers outside of requests: a conflict with somebody else begins it again. What else it raises is raised,
    after an abort.
    """
    manager = connection.transaction_manager
    for attempt in range(TRIES):
        manager.begin()
        try:
            result = change()
            manager.commit()
            return result
        except Exception as error:
            manager.abort()
            if attempt == TRIES - 1 or not transactions.is_conflict(error):
                raise


def _release(queue: Any, job: Any) -> Any:
    """Let a job that was set aside wait again, in front of all others; its process' deaths are forgotten."""
    queue.leave_quarantine(queue.quarantine_key(job))
    job.held_reason = ""
    job.deaths = 0
    queue.give_back(job, front=True)
    logger.info("Job %s (%s): released on request", job.id, job.task)
    return job
