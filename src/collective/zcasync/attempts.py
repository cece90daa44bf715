"""The attempts of one job in one thread, until it has ended or waits in its queue again."""

from collections.abc import Callable
from collections.abc import Mapping
from collective.zcasync import clock
from collective.zcasync import coroutines
from collective.zcasync import decisions
from collective.zcasync import deferreds
from collective.zcasync import events
from collective.zcasync import outcomes
from collective.zcasync import retry
from collective.zcasync import running
from collective.zcasync import tracing
from collective.zcasync import transactions
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.failure import Failure
from collective.zcasync.fence import check_owner
from collective.zcasync.fence import Guard
from collective.zcasync.outcomes import DEFERRED
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.outcomes import WAITING
from collective.zcasync.persistence import walk
from collective.zcasync.surroundings import entered
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.surroundings import unshelve
from collective.zcasync.threadlocal import local
from collective.zcasync.transactions import EXPLOSIVE
from collective.zcasync.transactions import surely
from datetime import datetime
from datetime import timedelta
from functools import partial
from twisted.internet.defer import Deferred
from typing import Any

import logging
import random
import threading

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: What a thread reports of a job that it has done with, beside FINISHED, WAITING and DEFERRED.
RETURNED, REASSIGNED, UNREADABLE = "returned", "reassigned", "unreadable"

#: Seconds that a job waits which conflicts with other processes again and again: a claim gives it a lane meanwhile.
LANE_PAUSE = 0.15


class MustWait(Exception):
    """A callback has to wait: its job leaves the thread, and goes on with it then."""

    def __init__(self, until: datetime, attention: bool = False) -> None:
        super().__init__(until)
        self.until = until
        #: Whether a person should look at the job.
        self.attention = attention


class Run:
    """One job (or callback) in one thread. ``find`` gives it at the beginning of each transaction."""

    def __init__(
        self,
        find: Callable[[], Any],
        manager: Any,
        around: Surroundings,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        conflicts: int = 0,
        ahead: bool = False,
    ) -> None:
        self.find = find
        self.manager = manager
        self.around = around
        self.args = args
        self.kwargs = kwargs or {}
        self.job = job = find()
        self.token = job.token
        self.who = job.neighbours
        self.task = job.task
        self.cache: dict[str, Any] = dict(job._retry_cache)
        self.attempts = job.attempts
        #: How often its attempts have met another's, also one that it made together with others; or nobody, as the
        #: database was away.
        self.conflicts, self.aways = conflicts, 0
        #: Whether it is known that it would be run again after an interruption.
        self.ahead = ahead
        self.begun, self.stage = False, "between"
        #: When the first attempt began; those that follow in this thread do not move it.
        self.start: datetime | None = None
        #: How its last commit has left the job.
        self.ended = FINISHED
        self.lost: Any = None
        self.running = running.RunningJob(manager, around.mail)

    # The steps, in their order

    def go(self, begun: bool = False) -> str:
        """Run until the job has ended (FINISHED), waits for another (WAITING) or for a Deferred (DEFERRED), or waits in
        its queue again (RETURNED). ``begun``: whether a transaction has just begun."""
        self.job = self.find()
        self.running.enter(self.job)
        try:
            ended = self._leave() if self.running.leaves else self._attempts(begun)
        finally:
            self.running.leave()
        if ended != RETURNED:
            self.report()
        return ended

    def _attempts(self, begun: bool) -> str:
        tracelog.info("starting %r in thread %s", self.job, threading.get_ident())
        if not self.job.goes_on:
            events.tell(events.JobStarted(self.running.id, self.task))
        while True:
            with self.around.attempt(self.who, self.conflicts > 0) as waited:
                if waited or not begun:
                    self.manager.begin()
                span = tracing.begin(self.job, self.attempts + 1)
                ended = self._attempt() if span is None else self._followed(span)
            begun = False
            if ended == RETURNED and self.stage != "returned" and self.running.leaves:
                ended = self._leave()
            if ended != RETURNED or self.stage == "returned":
                return ended

    def _followed(self, span: tracing.Span) -> str:
        try:
            ended: str = span.call(self._attempt)
        except BaseException as error:
            span.end(tracing.RETRIED if isinstance(error, MustWait) else tracing.INTERRUPTED)
            raise
        span.end(tracing.RETRIED) if ended == RETURNED else tracing.end(span, self.job)
        return ended

    def _attempt(self) -> str:
        """One attempt: FINISHED, WAITING, DEFERRED or RETURNED, for another here or in the queue (stage "returned")."""
        job = self.job = self.find()
        self.begun, self.stage = True, "call"
        guard = Guard(job, self.token, partial(self.around.commits, self.who))
        self.manager.registerSynch(guard)
        try:
            check_owner(self.job, self.token)
            self._commit_start(guard)
            with entered(job):
                self._call_and_commit(guard)
        except EXPLOSIVE:
            transactions.abort(self.manager)
            raise
        except BaseException as error:
            transactions.abort(self.manager)
            if self.stage == "done":
                logger.critical(
                    "Leaving the context of %r failed after its commit; the job is done", job, exc_info=True
                )
                return self.ended
            guard.over = True
            return self._trouble(error)
        finally:
            self.manager.unregisterSynch(guard)
        self.around.learn(self.who, False)
        return self.ended

    def _commit_start(self, guard: Guard) -> None:
        """A job that must not run twice is ACTIVE in the database before its first line runs."""
        if self.job._status_id == 0:
            self._begin()
            if self.job._p_jar is not None and not (self.ahead or retry.retries_interruptions(self.job)):
                guard.finishing = True
                self.manager.commit()
                guard.finishing = False
                self.manager.begin()

    def _begin(self) -> None:
        self.start = self.start or clock.utcnow()
        self.job._begin(self.start)

    def _call_and_commit(self, guard: Guard) -> None:
        job, before, setup = self.job, (local.job, local.running), None
        local.job, local.running = job, self.running
        self.running.begin()
        try:
            setup = job.setUp()
            self.call()
            guard.finishing = True
            self.around.commit(self.manager, job)
            self.stage = "done"
        except BaseException as error:
            if self.around.debug is not None and isinstance(error, Exception):
                self.around.debug(error)
            transactions.abort(self.manager)  # inside the context: the site must be set until after the abort
            raise
        finally:
            self._tear_down(setup)
            local.job, local.running = before

    def call(self) -> None:
        """Call the job's code, and store the outcome in the transaction of the changes."""
        job = self.job
        call, args, kwargs = job._resolved()
        if self.args or self.kwargs:  # for a callback, the result: perhaps content
            args = (*args, *(walk(arg, unshelve) for arg in self.args))
            kwargs = {**kwargs, **self.kwargs}
        result = outcomes.settle(call(*args, **kwargs), job, self.around)
        self.stage, self.lost = "commit", result
        self._store(result)

    def take_up(self) -> None:
        """Begin an attempt in a transaction that the job shares with others; see ``groups``."""
        self.begun, self.stage = True, "call"
        if self.job._status_id == 0:
            self._begin()
        self.running.begin()

    def _store(self, result: Any, outcome: str | None = None) -> None:
        """The outcome, in the transaction of the changes."""
        job, now = self.job, clock.utcnow()
        job.attempts = self.attempts
        if self.stage != "between":
            job.attempts += not job.goes_on
            if job._status_id == 0:  # the job's code aborted: what began in this transaction is gone
                self.find()  # a callback is chosen once more
                self._begin()
        decisions.store_counts(job, self.cache)
        self.running.keep(job)
        self.ended = outcomes.keep(job, result, now, outcome)
        if self.running.id is not None:
            self.manager.get().note(f"job {self.running.id} {self.task}")

    def _tear_down(self, setup: Any) -> None:
        try:
            self.job.tearDown(setup)
        except Exception:
            logger.critical("tearDown of %r failed; its outcome is not affected", self.job, exc_info=True)

    def report(self) -> None:
        """After its last commit: tell how it ended, and keep the Deferred that it waits for."""
        if self.ended == WAITING:
            tracelog.info("%r waits for %r", self.job, self.job.waiting_for)
        elif self.ended == DEFERRED:
            tracelog.info("%r waits for a Deferred", self.job)
            held = self.around.deferreds
            (deferreds.WithoutDispatcher() if held is None else held).keep(self.job, self.lost)
        else:
            outcomes.tell_end(self.job)

    # When something goes wrong

    def _trouble(self, error: BaseException) -> str:
        """Ask the policy what follows, and do it."""
        kind = retry.trouble(error)
        if kind == "away":
            logger.info("The database is away; %s waits for it", self.task)
            transactions.sit_out(self._database(), self.around.stopping, self.aways)
            self.aways += 1
        if isinstance(error, StopRequested) and self.running.asked is not None:
            return self._leave()
        tracing.failed(error)
        self.manager.begin()
        self.job = self.find()
        check_owner(self.job, self.token)
        if self._has_left():
            # The commit went through, and only the answer to it was lost: what is done must not be done again.
            return self.ended
        self.forget()
        if kind == "conflict":
            if self.running.moved:  # of a thousand pieces of work many may conflict, but none for ever
                retry.forget_conflicts(self.cache)
                self.conflicts = 0
            self.conflicts += 1
            if self.around.learn(self.who, True, getattr(error, "class_name", None) or type(error).__name__):
                self.around.stopping.wait(LANE_PAUSE)
        failure = Failure.from_exception(error, capture_locals=bool(self.job.capture_locals))
        answer = decisions.answer(self.job, failure, kind, self.stage == "commit", self.cache)
        if answer is False:
            self._end_badly(failure)
            return self.ended
        self.stage = "between"
        if kind == "away":
            return RETURNED
        waits_in_queue = self.job.queue is not None and not self.job.is_callback
        if kind == "conflict" and waits_in_queue and self.around.belongs_elsewhere(self.who):
            answer = timedelta(0)  # its lane is held by another dispatcher: there nothing will conflict with it
        self.attempts += 1
        if isinstance(answer, timedelta) and decisions.needs_queue(answer):
            self._give_back(answer, kind, failure)
            return RETURNED
        transactions.abort(self.manager)
        self._pause(answer)
        return RETURNED

    def _has_left(self) -> bool:
        """Whether the stored job has an outcome already, or waits for one; then it is told as this run's end."""
        left = None if self.job._p_jar is None else outcomes.left(self.job)
        self.ended = left or self.ended
        return left is not None

    def forget(self) -> None:
        """What the attempt has returned is gone with its transaction, and so must be what would tell of it later."""
        if isinstance(self.lost, Deferred):
            coroutines.cancel(self.lost, self.around.reactor)  # the next attempt makes another one
            self.lost = None

    def _database(self) -> Any:
        return self.around.database or database_of(self.job)

    def _pause(self, answer: Any) -> None:
        """A short wait in the thread. Conflicts without a time of their own get some, with jitter, as they repeat."""
        if isinstance(answer, timedelta):
            seconds = answer.total_seconds()
        elif self.conflicts:
            seconds = random.random() * min(1.0, 0.005 * 2 ** min(self.conflicts, 8))
        else:
            return
        self.around.stopping.wait(seconds)

    def _give_back(self, delay: timedelta, kind: str, failure: Failure) -> None:
        until = clock.utcnow() + delay
        attention = bool(self.cache.get("needs_attention")) or delay is decisions.POLICY_TROUBLE

        def change() -> None:
            job = self.job
            job.remember(kind, failure.summary, clock.utcnow())
            if not job.is_callback:
                job.needs_attention = attention
                job.postpone(until)
            self._return(job, front=delay <= timedelta(0))

        self._surely(change)
        self._returned(until, attention)

    def _return(self, job: Any, front: bool) -> None:
        """In a transaction: the job waits in its queue again; a callback waits for its job to come again."""
        job.attempts = self.attempts
        decisions.store_counts(job, self.cache)
        decisions.keep_cache(job, self.cache)
        self.running.keep(job)
        if job.is_callback:
            job._rest()
        else:
            job.queue.give_back(job, front)

    def _returned(self, until: datetime, attention: bool = False) -> None:
        """After that transaction."""
        self.stage = "returned"
        if self.job.is_callback:
            raise MustWait(until, attention)

    def _leave(self) -> str:
        """It was asked to stop: end it, or give it back, as the reason for that wants."""
        delay: list[timedelta | None] = []
        cache = self.cache

        def change() -> None:
            job, why = self.job, str(self.running.asked)
            self.cache, delay[:] = dict(cache), [None]
            if why == running.SHUTDOWN and job.queue is not None:  # else somebody has taken it from its agent
                delay[:] = [decisions.after_stop(job, self.cache) if self.begun else timedelta(0)]
            if delay[0] is not None:
                self._return(job, front=not delay[0])
                return
            error, outcome = running.ending(job, why)
            self._store(Failure.from_exception(error), outcome)

        self._surely(change)
        if delay and delay[0] is not None:
            self._returned(clock.utcnow() + delay[0])
            return RETURNED
        return self.ended

    def _end_badly(self, failure: Failure) -> None:
        if self.stage == "commit":
            outcomes.log_lost(self.job, self.lost, failure)

        def change() -> None:
            self._store(failure)

        self._surely(change)

    def _surely(self, change: Callable[[], None]) -> None:
        """Commit a change of the job's own record, however long it takes; ReassignedError if it has another owner."""

        def call() -> None:
            self.job = self.find()
            check_owner(self.job, self.token)
            if not self._has_left():  # else another has ended it, or only the answer to a commit was lost
                change()

        surely(call, f"the outcome of {self.task}", self.manager, self._database(), self.around.stopping)


def database_of(job: Any) -> Any:
    """The database that holds the job, or None."""
    return None if job._p_jar is None else job._p_jar.db()


def log_failure(job: Any) -> None:
    """Log the end of a job that failed without an attempt."""
    logger.log(job.failure_level, "%r ended: %s", job, job.error)
