"""Helpers for tests, all in one place: run what was put, assert it, wait for a dispatcher, freeze time.

What waits is in ``testwait``, the clock in ``testtime``, the reactor that a test moves by hand in ``testreactor``, jobs
at each commit in ``testinline``, what was put in ``testputs``, mixins for unittest in ``testmixins``.
"""

from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import coroutines
from collective.zcasync import filing
from collective.zcasync import outcomes
from collective.zcasync import running
from collective.zcasync import surroundings
from collective.zcasync import waiting
from collective.zcasync.callbackruns import next_callback
from collective.zcasync.callbacks import chosen
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.persistence import connection_of
from collective.zcasync.persistence import walk
from collective.zcasync.queue import get_queues
from collective.zcasync.testinline import inline_jobs
from collective.zcasync.testinline import run_due
from collective.zcasync.testputs import assert_put
from collective.zcasync.testputs import assert_put_count
from collective.zcasync.testputs import put_jobs
from collective.zcasync.testreactor import Reactor
from collective.zcasync.testtime import now
from collective.zcasync.testtime import set_now
from collective.zcasync.testtime import setUpDatetime
from collective.zcasync.testtime import tearDownDatetime
from collective.zcasync.testtime import time_sleep
from collective.zcasync.testwait import get_poll
from collective.zcasync.testwait import poll_now
from collective.zcasync.testwait import print_logs
from collective.zcasync.testwait import tear_down_dispatcher
from collective.zcasync.testwait import TearDownDispatcherError
from collective.zcasync.testwait import wait_for_annotation
from collective.zcasync.testwait import wait_for_deactivation
from collective.zcasync.testwait import wait_for_death
from collective.zcasync.testwait import wait_for_result
from collective.zcasync.testwait import wait_for_start
from collective.zcasync.testwait import wait_until
from collective.zcasync.threadlocal import local
from contextlib import ExitStack
from twisted.internet.defer import Deferred
from typing import Any

import transaction

__all__ = (
    "assert_put",
    "assert_put_count",
    "get_poll",
    "inline_jobs",
    "JobFailed",
    "now",
    "poll_now",
    "print_logs",
    "put_jobs",
    "Reactor",
    "run_due",
    "run_jobs",
    "set_now",
    "setUpDatetime",
    "tear_down_dispatcher",
    "tearDownDatetime",
    "TearDownDispatcherError",
    "time_sleep",
    "wait_for_annotation",
    "wait_for_deactivation",
    "wait_for_death",
    "wait_for_result",
    "wait_for_start",
    "wait_until",
)


class JobFailed(AssertionError):
    """A job that run_jobs ran has failed; the message holds its traceback."""


def run_jobs(context: Any, raises: bool = True, limit: int = 10_000) -> list[Any]:
    """Run the jobs that are due in the caller's thread, without a commit; return them.

    Each runs under a savepoint of the present transaction, in its own context, callbacks included; what it changed is
    undone if it fails. With ``raises`` the first failure is raised as JobFailed, with its traceback. Works without a
    dispatcher, also where commits are forbidden (INTEGRATION layers).
    """
    queues = get_queues(connection_of(context))
    done: list[Any] = []
    waits: list[Any] = []
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
            if waiting.waiter(job) is not None:
                waiting.begin(queue, None, job)
                waits += [job] if job not in waits else []
                continue
            filing.file_away(queue, None, job)
            done.append(job)
            if raises and job.outcome == "failed":
                raise JobFailed(f"{job!r} failed:\n{job.result.getTraceback()}")
    return done + [job for job in waits if job._status_id == 3 and job not in done]


class _Inline(running.RunningJob):
    """A job under run_jobs: nothing is committed, a checkpoint is where a failure leads back to."""

    def __init__(self, job: Any) -> None:
        super().__init__(transaction.manager)
        self._know(job)
        self.commit(job)

    def commit(self, job: Any) -> None:
        """See RunningJob."""
        self.savepoint = transaction.savepoint(optimistic=True)


def _run_inline(job: Any, *results: Any) -> None:
    """One job, in the present transaction."""
    inline, around = _Inline(job), surroundings.Surroundings()
    before = local.job, local.running
    try:
        with ExitStack() as stack:
            stack.enter_context(surroundings.entered(job))
            local.job, local.running = job, inline
            setup = job.setUp()
            try:
                call, args, kwargs = job._resolved()
                given = tuple(walk(result, surroundings.unshelve) for result in results)
                outcome = outcomes.settle(call(*args, *given, **kwargs), job, around)
                if isinstance(outcome, Deferred):
                    outcome = outcomes.settle(coroutines.wait_for(outcome, around), job, around)
            finally:
                job.tearDown(setup)
    except (Exception, StopRequested) as error:
        inline.savepoint.rollback()
        stopped = isinstance(error, StopRequested) and inline.asked is not None
        outcome = Failure.from_exception(running.ending(job, str(inline.asked))[0] if stopped else error)
    finally:
        local.job, local.running = before
    inline.keep(job)
    if job._status_id == 0:
        job._begin(clock.utcnow())
    job.attempts += not job.goes_on
    outcomes.keep(job, outcome, clock.utcnow())


def _run_callbacks_inline(job: Any) -> None:
    """Those callbacks of a job that have not run, and theirs; then it is COMPLETED."""
    while (callback := next_callback(job)) is not None:
        target = chosen(callback, job.result)
        if target._status_id == 0:
            _run_inline(target, job.result)
        if target._status_id == 2:
            _run_callbacks_inline(target)
        if target._status_id < 3:
            return  # it waits for another job, and those behind it with it
    if job.status == CALLBACKS:
        job._complete(clock.utcnow())
