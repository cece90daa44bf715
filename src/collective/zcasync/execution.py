"""The ways into a run: a claimed job in a job thread, a direct call, and what follows an interruption."""

from collections.abc import Mapping
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import deferreds
from collective.zcasync import events
from collective.zcasync import interruptions
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.attempts import database_of
from collective.zcasync.attempts import log_failure
from collective.zcasync.attempts import MustWait
from collective.zcasync.attempts import REASSIGNED
from collective.zcasync.attempts import RETURNED
from collective.zcasync.attempts import Run
from collective.zcasync.attempts import UNREADABLE
from collective.zcasync.callbackruns import run_callbacks
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.failure import Failure
from collective.zcasync.fence import check_owner
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.lookup import main_of
from collective.zcasync.outcomes import DEFERRED
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.outcomes import WAITING
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.transactions import surely
from datetime import timedelta
from twisted.python.failure import Failure as TwistedFailure
from typing import Any

import contextvars
import logging
import threading
import transaction
import ZODB.POSException

#: How long callbacks may run outside of job threads before a dispatcher takes the process for dead, and goes on.
LEASE = timedelta(minutes=10)

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")


def run(
    job: Any,
    manager: Any,
    around: Surroundings,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Run a job and its callbacks; return what to report of it."""
    token = job.token
    ended = Run(lambda: job, manager, around, args, kwargs).go()
    # A job that ended without callbacks can have got one since, from somebody who then owns it and sees to it.
    if ended == FINISHED and job._status_id == 2 and job.token == token:
        return run_callbacks(job, manager, around)
    return ended


def perform(database: Any, oid: bytes, kind: str, token: str, around: Surroundings, info: JobInfo | None = None) -> str:
    """Run a claimed job on a connection and the default manager of this thread; return what to report of it.

    ``kind``: "run", "expire" (it missed its begin_by), or "resume" (its callbacks). What the job's code sets in context
    variables (decimal's precision, for one) ends with the job. ``info`` learns of the job as it goes.
    """
    return contextvars.copy_context().run(_perform, database, oid, kind, token, around, info)


def _perform(database: Any, oid: bytes, kind: str, token: str, around: Surroundings, info: JobInfo | None) -> str:
    manager = transaction.manager
    manager.abort()
    connection = _open(database, oid, around.stopping)
    try:
        job = connection.get(oid)
        if job.token != token:
            return REASSIGNED
        if info is not None:
            info.begin(job)
        report = _do(job, kind, manager, around)
        if report == FINISHED:
            tracelog.info("completed %r in thread %s", job, threading.get_ident())
        if info is not None:
            info.end(job)
        return report
    except ReassignedError:
        logger.error("The job %s was reassigned while this thread ran it; its work is left to the new owner", oid.hex())
        return REASSIGNED
    except ZODB.POSException.POSKeyError:
        logger.critical("The record of job %s cannot be loaded; it is set aside", oid.hex(), exc_info=True)
        return UNREADABLE
    finally:
        manager.abort()
        connection.close()


def _do(job: Any, kind: str, manager: Any, around: Surroundings) -> str:
    if kind == "resume" or job._status_id == 2:
        return run_callbacks(job, manager, around, resumed=True)
    if kind == "expire":
        return _expire(job, manager, around)
    if job._status_id == 3:
        logger.error("%r is already completed", job)
        return FINISHED
    if job.interrupted_by:
        return _ask_again(job, manager, around)
    return run(job, manager, around)


def _ask_again(job: Any, manager: Any, around: Surroundings) -> str:
    """The policy of an interrupted job could not be asked before: unless it allows it, the job must not run again."""
    token, reports = job.token, []

    def change() -> None:
        check_owner(job, token)
        reports.append(interruptions.decide(job))

    surely(change, "an interruption", manager, around.database, around.stopping)
    if reports[-1] == FINISHED:
        events.tell(events.JobFailed(job.id, job.task, job.error))
        if job._status_id == 2:
            return run_callbacks(job, manager, around)
    return reports[-1]


def interrupted_here(database: Any, oid: bytes, token: str, around: Surroundings) -> str:
    """A job's thread dies under it: do at once what a takeover would do; return what to report."""
    manager = transaction.manager
    manager.abort()
    connection = _open(database, oid, around.stopping)
    reports: list[str] = []
    by = interruptions.STOP if around.stopping.is_set() else interruptions.THREAD
    try:
        job = connection.get(oid)

        def change() -> None:
            check_owner(job, token)
            if waiting.waiter(job) is not None:
                reports.append(WAITING)  # its code has run, and must not run again
                return
            waits = waiting.waits_for_deferred(job)
            if waits is not None:
                deferreds.abort(waits)
                if job._status_id == 3:
                    reports.append(FINISHED)
                    return
            if job._status_id == 0:
                job._begin(clock.utcnow())
            if job._status_id == 1:
                interruptions.interrupt(job, by)
            elif job._status_id == 2:
                interruptions.note(job, by)
            if job._status_id == 2:
                job.queue.give_back(job, front=True)
            reports.append(FINISHED if job._status_id == 3 else RETURNED)

        surely(change, "an interruption", manager, database, around.stopping)
        return reports[-1]
    except ReassignedError:
        return REASSIGNED
    finally:
        manager.abort()
        connection.close()


def _open(database: Any, oid: bytes, stopping: threading.Event) -> Any:
    """A connection; while the database is away, wait until it gives the job's record: that is no trouble of the job."""
    conflicts = 0
    while True:
        connection = None
        try:
            connection = database.open()
            connection.get(oid)._p_activate()
        except Exception as error:
            away, conflict = transactions.is_disconnect(error), transactions.is_conflict(error)
            if connection is not None and (away or conflict):
                transaction.abort()
                connection.close()
            if away and not transactions.wait_for_database(database, stopping):
                raise SystemExit("stopped while the database was away") from error
            if conflict:
                conflicts += 1
                if conflicts % 5 == 1:
                    logger.warning("Loading job %s conflicted %d times; it is tried on", oid.hex(), conflicts)
                stopping.wait(min(0.2, 0.005 * conflicts))
            if away or conflict:
                continue
            if connection is None:
                raise
        return connection


def _expire(job: Any, manager: Any, around: Surroundings) -> str:
    token = job.token

    def change() -> None:
        check_owner(job, token)
        job._finish(Failure.from_exception(TimeoutError()), clock.utcnow())

    surely(change, f"the end of {job.task}", manager, around.database, around.stopping)
    log_failure(job)
    events.tell(events.JobFailed(job.id, job.task, job.error))
    return run_callbacks(job, manager, around) if job._status_id == 2 else FINISHED


def expire_waiting(job: Any, queue: Any) -> None:
    """What Queue.claim hands out for a job that missed its begin_by: it ends in the transaction of this call.

    The next claim has its callbacks run, and files it away.
    """
    job._finish(Failure.from_exception(TimeoutError()), clock.utcnow())
    log_failure(job)
    queue.give_back(job)


def expired(job: Any) -> Any:
    """The job that this one, handed out by Queue.claim, is to end; None if it is no such wrapper."""
    if job.callable_name != callables.describe(expire_waiting)[0]:
        return None
    return job.args[0]


def call_directly(job: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """``job(...)``: in the caller's thread. Commits the caller's transaction first, as the job's start."""
    manager = _manager_of(job)
    if job.put_at is None and job.parent is None:
        job.seal(None if job._p_jar is None else job._p_jar.db().database_name)
    job._begin(clock.utcnow())
    if job._p_jar is not None:
        manager.commit()
    around, agent = _around(job), job.agent
    try:
        ended = run(job, manager, around, args, kwargs)
    except MustWait:  # a callback that was called by hand: its job goes on with it
        return job
    if ended == WAITING:
        _wait_outside(job, manager)
    elif ended != DEFERRED:
        _let_go(job, agent, manager, around)
    return job if ended == RETURNED else job.result


def _around(job: Any) -> Surroundings:
    return Surroundings(database_of(job), deferreds=deferreds.WithoutDispatcher(_after_deferred))


def _after_deferred(database: Any, oid: bytes) -> None:
    """The Deferred of a job that was called directly has fired: go on with its callbacks here."""
    manager = transaction.TransactionManager()
    connection = database.open(manager)
    try:
        job = connection.get(oid)
        if job._status_id == 2 and not _waits(job):
            _run_callbacks_here(job, manager, resumed=True)
        elif waiting.waiter(job) is not None:
            _wait_outside(job, manager)
    finally:
        manager.abort()
        connection.close()


def _wait_outside(job: Any, manager: Any) -> None:
    """A job that was not run by a job thread has to wait for another one."""
    outer, agent, queue = waiting.waiter(job), job.agent, job.queue
    if agent is not None and agent.slot is not None:
        agent.slot.release(job._p_oid)
        waiting.begin(queue, agent.slot, job)
    elif queue is not None:
        queue.give_back(job, front=True)  # a claim finds it there, and lets it wait
    else:
        end = job.adapt(end_waiting)
        end.args.append(outer)
        outer.waiting_for.addCallback(end)
    manager.commit()


def end_waiting(outer: Any, result: Any) -> None:
    """A callback: the job that it belongs to has ended, and with it one that is in no queue and waits for it."""
    if outer._status_id != 1 or outer.waiting_for is None:
        return
    outer._finish_as(outer.waiting_for, clock.utcnow())
    outer.waiting_for = None
    main = main_of(outer)
    if main._status_id == 2:
        manager = _manager_of(main)
        manager.commit()
        _run_callbacks_here(main, manager, resumed=main is not outer)


def _let_go(job: Any, agent: Any, manager: Any, around: Surroundings) -> None:
    """After a run outside of job threads: the agent that held the job holds it no longer; nobody else reports it."""
    slot = None if agent is None or job.is_callback else agent.slot
    if slot is None or job._p_oid not in slot.running:
        return

    def change() -> None:
        if job._status_id == 3:
            agent.jobCompleted(job)
        else:
            slot.release(job._p_oid)

    surely(change, f"the end of {job.task}", manager, around.database, around.stopping)


def _manager_of(job: Any) -> Any:
    return transaction.manager if job._p_jar is None else job._p_jar.transaction_manager


def fail(job: Any, error: BaseException | None) -> None:
    """End a job that has not started, commit, and run its callbacks here."""
    status = job.status
    manager = _manager_of(job)
    if status == CALLBACKS:
        resume_callbacks(job)
        return
    if status not in (NEW, PENDING, ASSIGNED):
        raise BadStatusError(f"one can only call fail on a job that has not started, this one is {status}")
    failure = _failure_of(error)
    if _waits(job):
        job.queue.end(job, failure, resume_at=clock.utcnow() + LEASE if job.callbacks else None)
    else:
        job._finish(failure, clock.utcnow())
    manager.commit()
    log_failure(job)
    _run_callbacks_here(job, manager)


def _failure_of(error: Any) -> Failure:
    if error is None:
        return Failure.from_exception(TimeoutError())
    if isinstance(error, BaseException) and not isinstance(error, TwistedFailure):
        return Failure.from_exception(error)
    if isinstance(error, TwistedFailure):
        return Failure.convert(error)
    raise InvalidValueError(f"a job fails with an exception or a Failure, not with {error!r}")


def _waits(job: Any) -> bool:
    """Whether the job itself stands in a queue; a callback of a job that does is PENDING as well."""
    return IQueue.providedBy(job.parent)


def _run_callbacks_here(job: Any, manager: Any, resumed: bool = False) -> None:
    """Run a job's callbacks in the caller's thread, and let it be filed away.

    A job of a queue waits there meanwhile, for LEASE: if this process dies, a dispatcher goes on with what is left.
    """
    around, agent = _around(job), job.agent
    try:
        ended = run_callbacks(job, manager, around, resumed) if job._status_id == 2 else FINISHED
    except ReassignedError:
        logger.error("The callbacks of %r took longer than %s here; a dispatcher has gone on with them", job, LEASE)
        return
    except MustWait:  # a callback that was ended by hand: its job goes on with what is chained to it
        return
    if ended == WAITING:
        _wait_outside(job, manager)
    if ended in (WAITING, DEFERRED):
        return
    if ended == FINISHED and _waits(job) and job.resume_at is not None:
        surely(lambda: job.queue.give_back(job), f"the end of {job.task}", manager, around.database, around.stopping)
    _let_go(job, agent, manager, around)


def resume_callbacks(job: Any) -> None:
    """Run what is left of a job's callbacks in the caller's thread."""
    if job.status != CALLBACKS:
        raise BadStatusError(f"one can only resume the callbacks of a job in CALLBACKS, this one is {job.status}")
    manager = _manager_of(job)
    if _waits(job) or job.late and job.queue is not None:
        job.resume_at = clock.utcnow() + LEASE
        job.queue.give_back(job)
    manager.commit()
    _run_callbacks_here(job, manager, resumed=True)


def handle_interrupt(job: Any) -> None:
    """What becomes of a job whose dispatcher is gone. If it waits again, the caller commits."""
    status = job.status
    if status == CALLBACKS:
        resume_callbacks(job)
    elif status != ACTIVE:
        raise BadStatusError(f"only an ACTIVE job can be interrupted, this one is {status}")
    elif interruptions.interrupt(job, interruptions.UNKNOWN) == FINISHED:
        log_failure(job)
        manager = _manager_of(job)
        manager.commit()
        _run_callbacks_here(job, manager)
