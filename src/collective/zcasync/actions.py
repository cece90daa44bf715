"""The verbs that change a job or a queue: panels, command line and REST all use these, and nothing else.

``by``: who asks for it, for the log and for the job's timeline. But for ``commit`` none of them commits. A job that
somebody else changes at the same time makes the commit conflict; then the caller begins again, as a request does by
itself.
"""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import deferreds
from collective.zcasync import interruptions
from collective.zcasync import joblists
from collective.zcasync import schema
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.attempts import RETURNED
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.interfaces import IJob
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jobdetail import oid_text
from collective.zcasync.lookup import main_of
from collective.zcasync.persistence import is_put_back
from collective.zcasync.persistence import lowest_like
from collective.zcasync.persistence import make_key
from collective.zcasync.persistence import PRIORITY_STEP
from datetime import datetime
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")

#: Outcomes after which a job can be put again.
RETRIABLE = ("failed", "cancelled")

#: Tries of ``commit`` if others change the same things.
TRIES = 20


def cancel(job: Any, by: str = "") -> str:
    """End a job that has not started, or ask a running one to stop: "cancelled", "stopping" or "finished"."""
    if job.outcome is not None:
        return "finished"
    queue = _queue_of(job)
    if queue is None:
        raise BadStatusError(f"Job {job.id} is in no queue, so there is nothing to cancel.")
    if queue.quarantine_key(job) is not None:
        raise BadStatusError(f"Job {job.id} is set aside: release it or discard it.")
    waits = job.token is None  # else its record is its owner's, and its mail tells who asked
    answer: str = queue.cancel(job, by=by)
    if waits:
        job.remember("by_cancel", by, clock.utcnow())
    _tell(job, answer, by)
    return answer


def ask_stack(job: Any, by: str = "") -> None:
    """Ask a running job where it is: ``job.stack`` tells it within two seconds. BadStatusError if it does not run."""
    main = None if is_broken(job) else main_of(job)
    if main is None or main.token is None or main.agent is None or main.agent.slot is None or job.outcome is not None:
        raise BadStatusError(f"Job {oid_text(job)} does not run, so there is no stack to be shown.")
    main.agent.slot.send(job, ("ask", "stack"), clock.utcnow())
    _tell(job, "asked for its stack", by)


def run_now(job: Any, by: str = "") -> None:
    """Let a waiting job begin before all others, also one that waits for its time; BadStatusError for any other."""
    _moved(job, "by_run", by, clock.utcnow(), front=True)


def reschedule(job: Any, when: datetime, by: str = "") -> None:
    """Let a waiting job begin not before ``when`` (aware); BadStatusError for any other."""
    _moved(job, "by_schedule", by, clock.aware(when, "begin_after"))


def change_priority(job: Any, priority: int, by: str = "") -> None:
    """Give a waiting job another priority (-16..15); it keeps what it has waited. BadStatusError for any other job."""
    queue = _where_it_waits(job)
    before, key = job.priority, job.key
    job.set_priority(priority)
    steps = 0 if is_put_back(key) else before - priority
    queue.move(job, max(key + (steps * PRIORITY_STEP << 6), lowest_like(key)))
    _noted(job, "by_priority", by)


def delete(job: Any, by: str = "") -> None:
    """Forget a job that has ended, or was set aside, for good; BadStatusError for any other."""
    queue = None if is_broken(job) or job.outcome is None else _queue_of(job)
    if queue is None or queue.quarantine_key(job) is not None:
        discard(job, by)
        return
    if job._status_id == 2:
        raise BadStatusError(f"Job {job.id} has callbacks that have not ended yet, so it cannot be deleted.")
    if not queue.delete(job):
        raise BadStatusError(f"Job {job.id} has ended a moment ago, and is not in the history yet: try again.")
    job.parent = None
    _tell(job, "deleted", by)


def retry(job: Any, by: str = "") -> Any:
    """Put a job that failed or was cancelled once more, as a new job; let one that was set aside run again.

    Returns the job that waits now. It runs as the one who put the first, and its arguments are the same.
    """
    _check_code(job)
    queue = _queue_of(job)
    if queue is not None and queue.quarantine_key(job) is not None:
        return _release(queue, job, by)
    _check_retriable(job)
    if queue is None:
        raise BadStatusError(f"Job {job.id} is in no queue's history any more, so nothing says where to put it again.")
    new = put_again(queue, job, by)
    _tell(job, f"put again as job {new.id}", by)
    return new


def retry_changed(job: Any, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], by: str = "") -> Any:
    """Put a job that failed or was cancelled once more with other arguments: a new job, of the one who asks.

    ``task``: the job's. BadStatusError if it cannot be retried; what a put raises.
    """
    _check_retriable(job)
    new = task.put(*args, **kwargs)
    new.retry_of, job.retried_as = job.id, new.id
    for one in (job, new):
        one.remember("by_change", by, clock.utcnow())
    _tell(job, f"put again with other arguments as job {new.id}", by)
    return new


def _check_code(job: Any) -> None:
    if is_broken(job):
        raise BadStatusError(f"The code of job {oid_text(job)} is missing: install it, or discard the job.")


def _check_retriable(job: Any) -> None:
    if job.outcome not in RETRIABLE:
        raise BadStatusError(f"Job {job.id} has neither failed nor been cancelled, so it cannot be retried.")
    if job.retried_as:
        raise BadStatusError(f"Job {job.id} was retried already, as job {job.retried_as}: retry that one.")


def put_again(queue: Any, job: Any, by: str = "") -> Any:
    """Put a finished job once more into its queue: the new job. Raises what a put raises, before anything is stored."""
    again = job.again()
    if job.is_callback and IJob.providedBy(job.parent):
        again.args.append(job.parent.result)  # with it the callback was called
    new = queue.put(again)
    job.retried_as = new.id
    for one in (job, new) if by else ():
        one.remember("by_retry", by, clock.utcnow())
    return new


def discard(job: Any, by: str = "") -> None:
    """Remove a job that was set aside, for good and without callbacks; also one whose class is gone."""
    queue = _queue_of(job)
    key = queue.quarantine_key(job) if queue is not None else None
    if key is None:
        raise BadStatusError(f"Job {oid_text(job)} is not set aside, so it cannot be discarded: cancel it.")
    queue.leave_quarantine(key)
    if not is_broken(job):
        job.parent = None
    logger.warning("Job %s: discarded on request%s", oid_text(job), _of(by))


def hold_group(queues: Any, group: str) -> None:
    """No job of the group (a site's path) begins any more, in any queue, until it is released; what runs goes on."""
    for queue in joblists.all_queues(queues):
        check_writable(queue).hold_group(group)
    logger.info("Group %r: held on request", group)


def release_group(queues: Any, group: str) -> None:
    """Jobs of the group begin again; BadStatusError if it is held in no queue."""
    held = [queue for queue in joblists.all_queues(queues) if group in queue.held_groups]
    if not held:
        raise BadStatusError(f"The group {group!r} is not held in any queue.")
    for queue in held:
        check_writable(queue).release_group(group)
    logger.info("Group %r: released on request", group)


def release(job: Any, by: str = "") -> Any:
    """Let a job that was set aside run again; BadStatusError if it was not, or its code is missing."""
    queue = _queue_of(job)
    if queue is None or queue.quarantine_key(job) is None:
        raise BadStatusError(f"Job {oid_text(job)} is not set aside, so there is nothing to release.")
    _check_code(job)
    return _release(queue, job, by)


def pause_queue(queue: Any) -> None:
    """No job of the queue begins any more; what runs goes on."""
    check_writable(queue).paused = True
    logger.info("Queue %r: paused on request", queue.name)


def resume_queue(queue: Any) -> None:
    """Jobs of the queue begin again."""
    check_writable(queue).paused = False
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


def check_writable(queue: Any) -> Any:
    """The queue; BadStatusError, naming the version that is needed, if only newer code may change what is in it."""
    if queue.parent is not None and not schema.understood(queue.parent):
        raise BadStatusError(f"Nothing can be changed here: {schema.too_new(queue.parent)}.")
    return queue


def _queue_of(job: Any) -> Any:
    """The queue to which a job belongs, to be changed; None if there is none."""
    queue = joblists.queue_of(job)
    return None if queue is None else check_writable(queue)


def _where_it_waits(job: Any) -> Any:
    """The queue in which the job waits; BadStatusError if it does not."""
    _check_code(job)
    if joblists.state_of(job) not in (joblists.WAITING, joblists.SCHEDULED):
        raise BadStatusError(f"Job {job.id} does not wait any more, so it cannot be moved.")
    if job.queue is None or job._status_id != 0:
        raise BadStatusError(f"Job {job.id} has run already, and only goes on with what follows it.")
    return check_writable(job.queue)


def _moved(job: Any, what: str, by: str, when: datetime, front: bool = False) -> None:
    """The job waits until ``when``, and its deadline counts from then."""
    queue = _where_it_waits(job)
    queue.move(job, make_key(when, job.priority, put_back=front), when)
    _noted(job, what, by)


def _noted(job: Any, what: str, by: str) -> None:
    job.remember(what, by, clock.utcnow())
    _tell(job, what.removeprefix("by_"), by)


def _tell(job: Any, what: str, by: str) -> None:
    logger.info("Job %s (%s): %s on request%s", job.id, job.task, what, _of(by))


def _of(by: str) -> str:
    return f" of {by}" if by else ""


def _release(queue: Any, job: Any, by: str) -> Any:
    """Let a job that was set aside wait again, in front of all others; its process' deaths are forgotten."""
    queue.leave_quarantine(queue.quarantine_key(job))
    job.held_reason = ""
    job.deaths = 0
    job.remember("by_release", by, clock.utcnow())
    _let_go_on(queue, job)
    _tell(job, "released", by)
    return job


def _let_go_on(queue: Any, job: Any) -> None:
    """A job waits again that was set aside, perhaps while it ran, since whoever found it then could not load it: what
    has run, or what its policy does not want to run twice, must not run again."""
    deferred = waiting.waits_for_deferred(job)
    if deferred is not None:
        deferreds.abort(deferred)
    if waiting.waiter(job) is not None:
        waiting.begin(queue, None, job)
        return
    if job._status_id == 1:
        job._leave_thread(queue)
        if interruptions.interrupt(job, interruptions.UNKNOWN) == RETURNED:
            return
    queue.give_back(job, front=True)
