"""The ways into a run outside of job threads: a direct call, an end by hand, and what callbacks are left then."""

from collections.abc import Mapping
from collective.zcasync import clock
from collective.zcasync import deferreds
from collective.zcasync import interruptions
from collective.zcasync import sweeping
from collective.zcasync import waiting
from collective.zcasync.attempts import database_of
from collective.zcasync.attempts import log_failure
from collective.zcasync.attempts import MustWait
from collective.zcasync.attempts import RETURNED
from collective.zcasync.callbackruns import run
from collective.zcasync.callbackruns import run_callbacks
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.lookup import main_of
from collective.zcasync.outcomes import DEFERRED
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.outcomes import WAITING
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.transactions import surely
from datetime import timedelta
from itertools import takewhile
from twisted.python.failure import Failure as TwistedFailure
from typing import Any

import logging
import transaction

#: How long callbacks may run outside of job threads before a dispatcher takes the process for dead, and goes on.
LEASE = timedelta(minutes=10)

logger = logging.getLogger("collective.zcasync.events")


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


def run_late(job: Any) -> None:
    """A callback on a finished job: at once if this transaction holds nothing else, otherwise as a job. On a finished
    callback of a job that goes on: with the other callbacks of that."""
    main = main_of(job)
    if main._status_id != 3:
        for one in (job, *takewhile(lambda one: one is not main, job._climb())):
            if one._status_id == 3:
                one._reopen()
            one._p_changed = True  # whoever ends it at this moment conflicts, as does who ends the job
        main._p_changed = True
        return
    job._reopen()
    connection, queue = job._p_jar, job.queue
    mine = {id(job), *(id(callback) for callback in job._callbacks)}
    alone = (
        connection is None
        or connection._savepoint_storage is None
        and all(id(other) in mine for other in connection._registered_objects)
    )
    if alone or queue is None:
        resume_callbacks(job)
    else:
        queue.give_back(job)


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
    _let_go(job, agent, manager, around)


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
        sweeping.sweep(queue, agent.slot, [(job._p_oid, WAITING)])
    elif queue is not None:
        job.resume_at = None  # nothing of it runs here any more
        queue.give_back(job, front=True)  # a claim finds it there, and lets it wait
    else:
        end = job.adapt(end_waiting)
        end.args.append(outer)
        outer.waiting_for.addCallback(end)
    manager.commit()


def _let_go(job: Any, agent: Any, manager: Any, around: Surroundings) -> None:
    """After a run outside of job threads: the agent that held the job holds it no longer; nobody else reports it."""
    slot = None if agent is None or job.is_callback else agent.slot
    if slot is None or job._p_oid not in slot.running:
        return

    def change() -> None:
        sweeping.sweep(agent.queue, slot, [(job._p_oid, FINISHED if job._status_id == 3 else RETURNED)])

    surely(change, f"the end of {job.task}", manager, around.database, around.stopping)


def _around(job: Any) -> Surroundings:
    return Surroundings(database_of(job), deferreds=deferreds.WithoutDispatcher(_after_deferred))


def _manager_of(job: Any) -> Any:
    return transaction.manager if job._p_jar is None else job._p_jar.transaction_manager
