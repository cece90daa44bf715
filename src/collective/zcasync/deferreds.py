"""Deferreds that jobs have returned: no thread waits for them, and what they fire with is stored as the jobs' results.

The job's changes were committed when it returned the Deferred. It stays ACTIVE, and listed under its dispatcher, until
the result is stored, in a connection and a transaction of its own, and only if the job still belongs to this
dispatcher: a Deferred that fires after a takeover leaves everything alone.
"""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import coroutines
from collective.zcasync import outcomes
from collective.zcasync import transactions
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import IJob
from collective.zcasync.lookup import main_of
from collective.zcasync.persistence import walk
from collective.zcasync.running import CANCEL
from collective.zcasync.running import RunningJob
from collective.zcasync.surroundings import entered
from persistent import Persistent
from twisted.python.failure import Failure as TwistedFailure
from typing import Any

import logging
import queue
import threading
import transaction
import twisted.internet.defer

logger = logging.getLogger("collective.zcasync.events")

#: Deferreds of one dispatcher that hold no thread. A job that returns one more keeps its thread until one has fired.
MOST = 100

#: Seconds that what has fired gets to be stored, when the dispatcher stops.
LAST = 3.0


class Kept(RunningJob):
    """A job whose code has run, and whose Deferred has not fired. Others can ask it to stop."""

    def __init__(self, job: Any, deferred: Any, reactor: Any, mail: Any) -> None:
        super().__init__(None, mail)
        self._know(job)
        self.timeout = None
        main = main_of(job)
        self.deferred = deferred
        self.reactor = reactor
        self.queue = "" if main.queue is None else main.queue.name
        self.main, self.main_token = main._p_oid, main.token
        self.job, self.job_token = job._p_oid, job.token

    def ask(self, why: str) -> None:
        """See RunningJob. A stop of the dispatcher is no reason to give up before its grace is over."""
        super().ask(why)
        if why == CANCEL:
            coroutines.cancel(self.deferred, self.reactor)


class Deferreds:
    """The Deferreds that the jobs of one dispatcher wait for. All methods may be called from any thread."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self._changed = threading.Condition()
        self._kept: set[Kept] = set()
        self._fired: queue.SimpleQueue[tuple[Kept, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, job: Any, deferred: Any) -> None:
        """A job has returned this Deferred, and that is committed. If there are MOST others, wait for one of them."""
        kept = Kept(job, deferred, self.dispatcher.reactor, self.dispatcher.around.mail)
        with self._changed:
            self._kept.add(kept)
            if self._thread is None:
                self._thread = threading.Thread(target=self._store_fired, name="zcasync-deferreds", daemon=True)
                self._thread.start()
        kept.mail.enter(kept)
        self.dispatcher.reactor.callFromThread(deferred.addBoth, self._fire, kept)
        with self._changed:
            while len(self._kept) > MOST and kept in self._kept and not self._closed:
                self._changed.wait(0.5)

    def _fire(self, value: Any, kept: Kept) -> None:
        self._fired.put((kept, value))

    def close(self, store: bool = True) -> None:
        """End: store what has fired, and forget the rest."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._fired.put(None)
        if self._thread is not None and store:
            self._thread.join(LAST)
        for kept in list(self._kept):
            coroutines.cancel(kept.deferred, kept.reactor)

    def _store_fired(self) -> None:
        while (item := self._fired.get()) is not None:
            kept, value = item
            report = None
            try:
                report = store(self.dispatcher.db, kept, value, self.dispatcher.around.stopping)
            except SystemExit:
                return
            except ReassignedError:
                logger.warning("The Deferred of job %s fired, and the job has ended or has a new owner", kept.job.hex())
                report = outcomes.FINISHED  # perhaps it has ended here, and only the answer to that commit was lost
            finally:
                kept.mail.leave(kept)
                with self._changed:
                    self._kept.discard(kept)
                    self._changed.notify_all()
            if report is not None:
                self.dispatcher.report(kept.queue, kept.main, report)


def store(database: Any, kept: Kept, value: Any, stopping: threading.Event) -> str:
    """Store what a Deferred has fired with as the result of its job; return what to report of that.

    ReassignedError if the job waits for it no longer.
    """
    manager = transaction.TransactionManager()
    connection = database.open(manager)
    reports: list[str] = []

    def change() -> None:
        main, job = connection.get(kept.main), connection.get(kept.job)
        if main.token != kept.main_token or job.token != kept.job_token or job._status_id != 1 or not job.deferred:
            raise ReassignedError(f"the job {job.id} does not wait for this Deferred any more")
        reports.append(end(job, value, connection, kept.asked))
        if reports[-1] == outcomes.FINISHED and main._status_id == 2 and main.queue is not None:
            main.resume_at = None  # if its callbacks ran outside of job threads, they are left to others now
            main.queue.give_back(main, front=True)
            reports.append("returned")

    try:
        transactions.surely(change, "the result of a Deferred", manager, database, stopping)
        job = connection.get(kept.job)
        if job._status_id >= 2:
            outcomes.tell_end(job)
        return reports[-1]
    finally:
        manager.abort()
        connection.close()


def end(job: Any, value: Any, connection: Any, asked: str | None) -> str:
    """In a transaction: what the Deferred fired with is the job's result, or what it waits for next."""
    outcome = None
    if isinstance(value, TwistedFailure):
        if asked == CANCEL and value.check(twisted.internet.defer.CancelledError):
            value, outcome = Failure.from_exception(CancelledError("it was cancelled while it waited")), "cancelled"
    else:
        value = _settled(job, value, connection)
    job.deferred = False
    return outcomes.keep(job, value, clock.utcnow(), outcome)


def _settled(job: Any, value: Any, connection: Any) -> Any:
    """The value, as seen from this connection. A job that it is gets put, in the context of the one that waits."""

    def local(item: Any) -> Any:
        if isinstance(item, Persistent) and item._p_oid is not None and item._p_jar is not connection:
            return connection.get(item._p_oid)
        return item

    value = walk(value, local)
    if not IJob.providedBy(value):
        return value
    if value._p_jar is None:  # it was perhaps put by a try before this one, which was aborted
        value.parent = value.put_at = value.key = None
    try:
        with entered(job):
            return outcomes.settle(value, job)
    except Exception as error:
        if transactions.is_conflict(error) or transactions.is_disconnect(error):
            raise
        return Failure.from_exception(error)


def abort(job: Any) -> None:
    """The dispatcher of a job that waits for a Deferred is gone; for takeovers. What it had changed is committed.

    The job ends with an AbortedError; unless its task says ``rerun``: then it is as if its code still ran.
    """
    job.deferred = False
    if not job.rerun:
        told = "its dispatcher ended while it waited for a Deferred; what its code had changed is committed"
        job._finish(Failure.from_exception(AbortedError(told)), clock.utcnow())


class WithoutDispatcher:
    """Deferreds of jobs that were called directly. ``finish(database, oid)`` is called when a result is stored."""

    def __init__(self, finish: Callable[[Any, bytes], None] | None = None) -> None:
        self.finish = finish

    def keep(self, job: Any, deferred: Any) -> None:
        """See Deferreds."""
        if job._p_jar is None:
            deferred.addBoth(lambda value: end(job, value, None, None))
            return
        database, kept = job._p_jar.db(), Kept(job, deferred, None, None)

        def fire(value: Any) -> None:
            store(database, kept, value, threading.Event())
            if self.finish is not None:
                self.finish(database, kept.main)

        deferred.addBoth(fire)
