"""The run of a claimed job in a job thread, and what follows if the thread dies under it."""

from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import deferreds
from collective.zcasync import events
from collective.zcasync import interruptions
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.attempts import log_failure
from collective.zcasync.attempts import REASSIGNED
from collective.zcasync.attempts import RETURNED
from collective.zcasync.attempts import UNREADABLE
from collective.zcasync.callbackruns import run
from collective.zcasync.callbackruns import run_callbacks
from collective.zcasync.direct import end_waiting as end_waiting
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.failure import Failure
from collective.zcasync.fence import check_owner
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.lookup import ghost_of
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.outcomes import WAITING
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.transactions import surely
from typing import Any

import contextvars
import logging
import threading
import transaction
import ZODB.POSException

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")


def perform(
    database: Any,
    oid: bytes,
    kind: str,
    token: str,
    around: Surroundings,
    info: JobInfo | None = None,
    conflicts: int = 0,
    cls: Any = None,
    ahead: bool = False,
) -> str:
    """Run a claimed job on a connection and the default manager of this thread; return what to report of it.

    ``kind``: "run", "expire" (it missed its begin_by), "resume" (its callbacks, after a takeover) or "callbacks". What
    the job's code sets in context variables (decimal's precision, for one) ends with the job. ``info`` learns of the
    job as it goes. ``conflicts``: that it has met already, in this claim. ``cls``: its class, if that is known.
    ``ahead``: whether it is known that it would be run again after an interruption.
    """
    how = conflicts, ahead
    return contextvars.copy_context().run(_perform, database, oid, kind, token, around, info, cls, how)


def _perform(
    database: Any,
    oid: bytes,
    kind: str,
    token: str,
    around: Surroundings,
    info: JobInfo | None,
    cls: Any,
    how: tuple[int, bool],
) -> str:
    manager = transaction.manager
    connection = open_for(database, oid, around.stopping, cls)
    try:
        job = ghost_of(connection, oid, cls)
        if job.token != token:
            return REASSIGNED
        if info is not None and kind != "callbacks":
            info.begin(job)
        report = _do(job, kind, manager, around, how)
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
        close(connection, manager)


def close(connection: Any, manager: Any) -> None:
    """Close the connection, and forget what the job has left behind in the thread."""
    if all(one._needs_to_join for one in connection.connections.values()):
        # Nothing has changed since the last commit, and an abort before would only ask what others have changed.
        connection.close()
        if manager.manager._txn is not None:  # else an abort would begin one
            transactions.abort(manager)
    else:
        transactions.abort(manager)
        connection.close()


def _do(job: Any, kind: str, manager: Any, around: Surroundings, how: tuple[int, bool]) -> str:
    if kind == "callbacks":
        return run_callbacks(job, manager, around)
    if kind == "resume" or job._status_id == 2:
        return run_callbacks(job, manager, around, resumed=True)
    if kind == "expire":
        return _expire(job, manager, around)
    if job._status_id == 3:
        logger.error("%r is already completed", job)
        return FINISHED
    if job.interrupted_by:
        return _ask_again(job, manager, around)
    conflicts, ahead = how
    return run(job, manager, around, conflicts=conflicts, ahead=ahead, begun=True)


def _ask_again(job: Any, manager: Any, around: Surroundings) -> str:
    """The policy of an interrupted job could not be asked before: unless it allows it, the job must not run again."""
    token, reports = job.token, []

    def change() -> None:
        check_owner(job, token)
        if job._status_id >= 2:  # only the answer to a commit was lost
            reports.append(FINISHED)
        else:
            reports.append(interruptions.decide(job))

    surely(change, "an interruption", manager, around.database, around.stopping)
    if reports[-1] == FINISHED:
        events.tell(events.JobFailed(job.id, job.task, job.error))
        if job._status_id == 2:
            return run_callbacks(job, manager, around)
    return reports[-1]


def surely_interrupted(database: Any, oid: bytes, token: str, around: Surroundings) -> str:
    """The same as ``interrupted_here``, however often it takes until the dispatcher stops: while that lives nobody else
    sees to the job."""
    tries = aways = 0
    while True:
        try:
            return interrupted_here(database, oid, token, around)
        except Exception as error:
            tries += 1
            logger.critical("Giving job %s back failed, try %d; it is tried again", oid.hex(), tries, exc_info=True)
            if transactions.is_disconnect(error):
                transactions.wait_for_database(database, around.stopping, before=aways)
                aways += 1
            else:
                transactions.pause(transactions.backoff(tries), around.stopping)
            if around.stopping.is_set():
                raise


def interrupted_here(database: Any, oid: bytes, token: str, around: Surroundings) -> str:
    """A job's thread dies under it: do at once what a takeover would do; return what to report."""
    manager = transaction.manager
    connection = open_for(database, oid, around.stopping)
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
        transactions.abort(manager)
        connection.close()


def open_for(database: Any, oid: bytes, stopping: threading.Event, cls: Any = None) -> Any:
    """A connection, in a transaction that begins with it. ``cls``: the job's class, if that is known.

    While the database is away, wait until it gives the job's record: that is no trouble of the job.
    """
    conflicts = aways = 0
    while True:
        connection = None
        try:
            connection = _opened(database)
            transaction.begin()
            ghost_of(connection, oid, cls)._p_activate()
        except Exception as error:
            away, conflict = transactions.is_disconnect(error), transactions.is_conflict(error)
            if connection is not None and (away or conflict):
                transactions.abort(transaction.manager)
                connection.close()
            if away:
                transactions.sit_out(database, stopping, aways)
                aways += 1
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


def _opened(database: Any) -> Any:
    """A connection of the thread's manager. It does not ask what is new before its transaction begins: to open one
    costs a question to the server with some storages, and to begin costs the same."""
    manager = transaction.manager
    manager.explicit = True
    try:
        connection = database.open()
    finally:
        manager.explicit = False
    for one in connection.connections.values():
        one.explicit_transactions = False  # what the job's code does without a begin works as ever
    return connection


def _expire(job: Any, manager: Any, around: Surroundings) -> str:
    token = job.token

    def change() -> None:
        check_owner(job, token)
        if job._status_id < 2:  # else only the answer to a commit was lost
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
