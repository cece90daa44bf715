"""Helpers for tests: run what was put without a dispatcher, or wait for what a real one does."""

from collections.abc import Callable
from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import surroundings
from collective.zcasync.callbacks import chosen
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.persistence import walk
from collective.zcasync.queue import get_queues
from collective.zcasync.threadlocal import local
from contextlib import ExitStack
from typing import Any

import time
import transaction

#: Seconds that the waiting helpers allow.
PATIENCE = 6.0

#: Seconds between two looks at the database.
GLANCE = 0.01


class JobFailed(AssertionError):
    """A job that run_jobs ran has failed; the message holds its traceback."""


def _connection(context: Any) -> Any:
    """The connection of a site, a queue, a job, or a connection itself."""
    jar = getattr(context, "_p_jar", None)
    return context if jar is None else jar


def put_jobs(context: Any) -> list[Any]:
    """The jobs that wait in the database of ``context`` (a site, any persistent object, a connection), in order."""
    queues = get_queues(_connection(context))
    return [] if queues is None else [job for queue in queues.values() for job in queue]


def run_jobs(context: Any, raises: bool = True, limit: int = 10_000) -> list[Any]:
    """Run the jobs that are due in the caller's thread, without a commit; return them.

    Each runs under a savepoint of the present transaction, in its own context, callbacks included; what it changed is
    undone if it fails. With ``raises`` the first failure is raised as JobFailed, with its traceback. Works without a
    dispatcher, also where commits are forbidden (INTEGRATION layers).
    """
    queues = get_queues(_connection(context))
    done: list[Any] = []
    while queues is not None and len(done) < limit:
        taken = [(queue, one) for queue in queues.values() for one in claims.Taker(queue).take(1)]
        if not taken:
            break
        for queue, (job, kind) in taken:
            if kind == "run":
                _run_inline(job)
            elif kind == "expire":
                job._finish(Failure.from_exception(TimeoutError()), clock.utcnow())
            _run_callbacks_inline(job)
            claims.file_away(queue, None, job)
            done.append(job)
            if raises and job.outcome == "failed":
                raise JobFailed(f"{job!r} failed:\n{job.result.getTraceback()}")
    return done


def _run_inline(job: Any, *results: Any) -> None:
    """One job, in the present transaction."""
    savepoint = transaction.savepoint(optimistic=True)
    before = local.job
    try:
        with ExitStack() as stack:
            stack.enter_context(surroundings.entered(job))
            local.job = job
            setup = job.setUp()
            try:
                call, args, kwargs = job._resolved()
                given = tuple(walk(result, surroundings.unshelve) for result in results)
                outcome = call(*args, *given, **kwargs)
            finally:
                job.tearDown(setup)
    except Exception as error:
        savepoint.rollback()
        outcome = Failure.from_exception(error)
    finally:
        local.job = before
    job.active_start = job.active_start or clock.utcnow()
    job.attempts += 1
    job._finish(outcome, clock.utcnow())


def _run_callbacks_inline(job: Any) -> None:
    """Those callbacks of a job that have not run, and theirs; then it is COMPLETED."""
    for callback in job._callbacks:
        target = chosen(callback, job.result)
        if target._status_id == 0:
            _run_inline(target, job.result)
            _run_callbacks_inline(target)
    if job.status == CALLBACKS:
        job._complete(clock.utcnow())


def _wait(context: Any, seconds: float, look: Callable[[], Any], complain: Callable[[], str]) -> Any:
    """Look until there is something other than None; AssertionError after so many seconds."""
    manager = context.transaction_manager if hasattr(context, "transaction_manager") else transaction.manager
    end = time.monotonic() + seconds
    while True:
        manager.begin()
        found = look()
        if found is not None:
            return found
        if time.monotonic() > end:
            raise AssertionError(complain())
        time.sleep(GLANCE)


def wait_until(context: Any, holds: Callable[[], Any], seconds: float = PATIENCE, what: str = "this") -> Any:
    """What ``holds`` returns as soon as that is true, in a new transaction of the context's manager at each look.

    AssertionError, naming ``what``, after ``seconds``.
    """
    return _wait(
        _connection(context), seconds, lambda: holds() or None, lambda: f"{what} did not come about in {seconds} s"
    )


def _story(job: Any) -> str:
    """What can be said of a job that does not do what a test waits for."""
    log = "; ".join(f"{kind}: {text}" for _when, kind, text in job.attempt_log[-3:])
    return f"{job!r} is {job.status}, attempts {job.attempts}, error {job.error or 'none'}{'; ' + log if log else ''}"


def wait_for_result(job: Any, seconds: float = PATIENCE) -> Any:
    """The job's result as soon as it is COMPLETED; AssertionError ("job never completed") after ``seconds``."""
    _wait(
        job._p_jar,
        seconds,
        lambda: True if job._status_id == 3 else None,
        lambda: f"job never completed in {seconds} s: {_story(job)}",
    )
    return job.result


def wait_for_start(job: Any, seconds: float = PATIENCE) -> Any:
    """Wait until the job has started; return when it did."""
    return _wait(
        job._p_jar,
        seconds,
        lambda: job.active_start,
        lambda: f"job never started in {seconds} s: {_story(job)}",
    )


def wait_for_annotation(job: Any, name: str, seconds: float = PATIENCE) -> Any:
    """The annotation's value, live or stored, as soon as there is one other than None."""
    return _wait(
        job._p_jar,
        seconds,
        lambda: job.live_annotation(name),
        lambda: f"no annotation {name!r} in {seconds} s: {_story(job)}",
    )


def get_poll(dispatcher: Any, count: int | None = None, seconds: float = PATIENCE) -> Any:
    """The next poll; with ``count`` the newest as soon as there were more than so many. AssertionError ("no poll!")."""
    poll = dispatcher.polls.wait_for(dispatcher.polls.count if count is None else count, seconds)
    if poll is None:
        raise AssertionError(f"no poll! {dispatcher.getStatusInfo()}")
    return poll


def poll_now(dispatcher: Any, seconds: float = PATIENCE) -> Any:
    """Order a poll, and return it: one that began after this call. AssertionError ("no poll!") if none ends in time."""
    for _ in range(2):  # the first may have been on its way already
        count = dispatcher.polls.count
        dispatcher.poll_soon()
        poll = get_poll(dispatcher, count, seconds)
    return poll


def wait_for_deactivation(dispatcher: Any, seconds: float = PATIENCE) -> None:
    """Wait until the dispatcher is not active."""
    end = time.monotonic() + seconds
    while dispatcher.activated:
        if time.monotonic() > end:
            raise AssertionError(f"dispatcher {dispatcher.UUID} is still active after {seconds} s")
        time.sleep(GLANCE)


class TearDownDispatcherError(ZCAsyncError, RuntimeError):
    """A dispatcher did not stop: the message names the jobs and threads that hang."""


def tear_down_dispatcher(running: Any) -> None:
    """Stop a dispatcher that reactor.start gave, at once; TearDownDispatcherError if threads or the reactor hang."""
    dispatcher = running.dispatcher
    busy = [pool for pools in dispatcher.queues.values() for pool in pools.values()]
    running.stop(grace=0)
    threads = [thread for pool in busy for thread in list(pool.jobids)]
    for thread in threads:
        thread.join(3)
    hanging = [thread.name for thread in threads if thread.is_alive()]
    if running.thread.is_alive():
        hanging.append("reactor")
    if hanging:
        raise TearDownDispatcherError(f"dispatcher {dispatcher.UUID} failed to stop: {', '.join(hanging)}")
