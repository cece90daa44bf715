"""Helpers for tests that wait for what a real dispatcher does, and say what hangs when it does not come."""

from collections.abc import Callable
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import subscribers
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.persistence import connection_of
from typing import Any
from typing import TextIO
from ZODB.POSException import ReadConflictError

import logging
import sys
import threading
import time
import transaction

#: Seconds that the waiting helpers allow.
PATIENCE = 6.0

#: Seconds between two looks at the database.
GLANCE = 0.01

#: Seconds that each thread gets to end.
END = 3.0


def _wait(context: Any, seconds: float, look: Callable[[], Any], complain: Callable[[], str]) -> Any:
    """Look until there is something other than None; AssertionError after so many seconds."""
    manager = context.transaction_manager if hasattr(context, "transaction_manager") else transaction.manager
    end = time.monotonic() + seconds
    while True:
        manager.begin()
        try:
            found = look()
        except ReadConflictError:
            found = None  # the next transaction sees what changed meanwhile
        if found is not None:
            return found
        if time.monotonic() > end:
            manager.begin()
            raise AssertionError(complain())
        time.sleep(GLANCE)


def wait_until(context: Any, holds: Callable[[], Any], seconds: float = PATIENCE, what: str = "this") -> Any:
    """What ``holds`` returns as soon as that is true, in a new transaction of the context's manager at each look.

    AssertionError, naming ``what``, after ``seconds``.
    """
    return _wait(
        connection_of(context), seconds, lambda: holds() or None, lambda: f"{what} did not come about in {seconds} s"
    )


def story(job: Any) -> str:
    """What can be said of a job that does not do what a test waits for, and of the dispatcher that should run it."""
    parts = [f"{job!r} is {job.status}{_place(job)}, attempts {job.attempts}, error {job.error or 'none'}"]
    parts += [f"{kind}: {text}" for _when, kind, text in job.attempt_log[-3:]]
    running = dispatchers.get()
    if running is None or not running.activated:
        parts.append("no dispatcher is at work in this process")
    else:
        parts.append(dispatcher_story(running))
    return "; ".join(parts)


def _place(job: Any) -> str:
    """Where a job stands, for people."""
    words = []
    if job.queue is not None:
        words.append(f" in queue {job.queue.name!r}")
    if job.agent_name:
        words.append(f" of agent {job.agent_name!r}")
    if job._begin_after is not None:
        words.append(f" not before {job._begin_after:%Y-%m-%d %H:%M:%S %Z}")
    if job.held_reason:
        words.append(f" held: {job.held_reason}")
    return "".join(words)


def dispatcher_story(dispatcher: Any) -> str:
    """One line about a dispatcher of this process: what it does, and its last error."""
    info = dispatcher.getStatusInfo()
    busy = len(dispatcher.getActiveJobIds())
    return (
        f"dispatcher {dispatcher.UUID} is {info['status']}, {dispatcher.polls.count} polls, runs {busy} jobs,"
        f" last error {last_error(dispatcher) or 'none'}"
    )


def last_error(dispatcher: Any) -> str:
    """The last error of a dispatcher's claims, or of an agent's filter or chooser; "" if there was none."""
    if dispatcher.last_error is not None:
        return str(dispatcher.last_error)
    for poll in dispatcher.polls:
        for agents in poll.values():
            for agent in (agents or {}).values():
                if agent["error"] is not None:
                    return str(getattr(agent["error"], "summary", agent["error"]))
    return ""


def wait_for_result(job: Any, seconds: float = PATIENCE) -> Any:
    """The job's result as soon as it is COMPLETED; AssertionError ("job never completed") after ``seconds``."""
    _wait(
        job._p_jar,
        seconds,
        lambda: True if job._status_id == 3 else None,
        lambda: f"job never completed in {seconds} s: {story(job)}",
    )
    return job.result


def wait_for_start(job: Any, seconds: float = PATIENCE) -> Any:
    """Wait until the job has started; return when it did. AssertionError ("job never started") after ``seconds``."""
    return _wait(
        job._p_jar,
        seconds,
        lambda: job.active_start,
        lambda: f"job never started in {seconds} s: {story(job)}",
    )


def wait_for_annotation(job: Any, name: str, seconds: float = PATIENCE) -> Any:
    """The annotation's value, live or stored, as soon as there is one other than None; else AssertionError."""
    return _wait(
        job._p_jar,
        seconds,
        lambda: job.live_annotation(name),
        lambda: f"no annotation {name!r} in {seconds} s: {story(job)}",
    )


def get_poll(dispatcher: Any, count: int | None = None, seconds: float = PATIENCE) -> Any:
    """The next poll; with ``count`` the newest as soon as there were more than so many. AssertionError ("no poll!")."""
    poll = dispatcher.polls.wait_for(dispatcher.polls.count if count is None else count, seconds)
    if poll is None:
        raise AssertionError(f"no poll! in {seconds} s: {dispatcher_story(dispatcher)}")
    return poll


def poll_now(dispatcher: Any, seconds: float = PATIENCE) -> Any:
    """Order a poll, and return it: one that began after this call. AssertionError ("no poll!") if none ends in time."""
    for _ in range(2):  # the first may have been on its way already
        count = dispatcher.polls.count
        dispatcher.poll_soon()
        poll = get_poll(dispatcher, count, seconds)
    return poll


def wait_for_deactivation(dispatcher: Any, seconds: float = PATIENCE) -> None:
    """Wait until the dispatcher is not active; AssertionError after ``seconds``."""
    end = time.monotonic() + seconds
    while dispatcher.activated:
        if time.monotonic() > end:
            raise AssertionError(f"still active after {seconds} s: {dispatcher_story(dispatcher)}")
        time.sleep(GLANCE)


def wait_for_death(da: Any, seconds: float = PATIENCE) -> None:
    """Wait until a dispatcher, named by its stand-in ``queue.dispatchers[UUID]``, counts as dead by the package's
    clock, or was taken over; AssertionError after ``seconds``."""
    last = da.last_ping
    _wait(
        da._p_jar,
        seconds,
        lambda: True if da.activated is None or da.dead else None,
        lambda: (
            f"dispatcher {da.UUID} is not dead after {seconds} s: active since {da.activated}, last ping"
            f" {getattr(last, 'value', None)}, death after {da.ping_death_interval}"
        ),
    )


class TearDownDispatcherError(ZCAsyncError, RuntimeError):
    """A dispatcher did not stop: the message names the jobs and threads that hang."""


def tear_down_dispatcher(running: Any, seconds: float = END) -> None:
    """Stop a dispatcher at once: what reactor.start gave, or a Dispatcher itself.

    ``seconds``: what each thread gets to end. TearDownDispatcherError names the jobs and threads that do not. Signal
    handlers that came with the dispatcher are restored.
    """
    dispatcher = getattr(running, "dispatcher", running)
    running = dispatcher.running or running
    pools = [pool for pools in dispatcher.queues.values() for pool in pools.values()]
    threads = {thread: oid for pool in pools for thread, oid in list(pool.jobids.items())}
    names = {oid: _job_name(dispatcher.db, oid) for oid in threads.values() if oid is not None}
    if running is not dispatcher:
        running.stop(grace=0)
    else:
        if dispatcher.activated:
            dispatcher.deactivate(0)
        dispatchers.pop(dispatcher.UUID)
    subscribers.restore_signal_handlers(dispatcher)
    for thread in threads:
        thread.join(seconds)
    hanging = [_hanging(thread, oid, names) for thread, oid in threads.items() if thread.is_alive()]
    if dispatcher.thread is not None:
        dispatcher.thread.join(seconds)
        if dispatcher.thread.is_alive():
            hanging.append(f"the reactor in thread {dispatcher.thread.name}")
    if hanging:
        raise TearDownDispatcherError(f"dispatcher {dispatcher.UUID} failed to stop: {'; '.join(hanging)}")


def _hanging(thread: threading.Thread, oid: bytes | None, names: dict[bytes, str]) -> str:
    return f"thread {thread.name}" if oid is None else f"{names[oid]} in thread {thread.name}"


def _job_name(db: Any, oid: bytes) -> str:
    """A job's repr, read on a connection of its own."""
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    try:
        return repr(connection.get(oid))
    finally:
        manager.abort()
        connection.close()


def print_logs(log_file: TextIO | None = None, log_level: int = logging.CRITICAL) -> logging.Handler:
    """Print what the package logs from that level on, to a file (None: what ``sys.stdout`` is now).

    Returns the handler; ``logging.getLogger("collective.zcasync").removeHandler(handler)`` ends it.
    """
    handler = logging.StreamHandler(sys.stdout if log_file is None else log_file)
    handler.setLevel(log_level)
    handler.setFormatter(logging.Formatter("%(levelname)s [%(name)s] %(message)s"))
    logging.getLogger("collective.zcasync").addHandler(handler)
    return handler
