"""Jobs without a dispatcher, for tests: each commit that puts some runs them, in the thread that commits."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import execution
from collective.zcasync import filing
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.events import JobPut
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.outcomes import WAITING
from collective.zcasync.queue import get_queues
from collective.zcasync.surroundings import Surroundings
from contextlib import AbstractContextManager
from contextlib import contextmanager
from contextlib import nullcontext
from typing import Any
from ZODB.Connection import Connection

import threading
import transaction
import uuid
import zope.event

#: Jobs that one commit may lead to; more is taken for a loop.
LIMIT = 10_000


class _Inside(threading.local):
    """Whether this thread runs jobs already: what they put is run by the same loop."""

    running = False


_inside = _Inside()


@contextmanager
def inline_jobs(db: Any, world: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[None]:
    """As long as the block lasts, each commit that puts jobs into that database runs what is due before it returns.

    A job runs as in a job thread: on a connection of its own, in its own context, with commits, retries and callbacks,
    but in the thread of the caller, whose connections then see what it did. What a job raises ends in its result, as
    always. Jobs for later wait until something is put when they are due. ``world``: entered around the jobs of a
    commit, to put aside what surrounds the caller.
    """

    def put(event: Any) -> None:
        if isinstance(event, JobPut) and not _inside.running:
            run_due(db, world)

    zope.event.subscribers.append(put)
    try:
        yield
    finally:
        zope.event.subscribers.remove(put)


def run_due(db: Any, world: Callable[[], AbstractContextManager[Any]] = nullcontext) -> int:
    """Run what is due in all queues of a database, with commits; how many runs that were.

    The caller's own transaction is left alone: the thread has another manager meanwhile.
    """
    threads, count = transaction.manager, 0
    caller, threads.manager = threads.manager, transaction.TransactionManager()
    _inside.running = True
    try:
        claimed = _claim(db)
        with world() if claimed is not None else nullcontext():
            while claimed is not None:
                count += 1
                if count > LIMIT:
                    raise AssertionError(f"more than {LIMIT} jobs in a row: do they put one another?")
                oid, kind, token = claimed
                ended = execution.perform(db, oid, kind, token, Surroundings(db, own=True))
                if ended in (FINISHED, WAITING):
                    _file_away(db, oid)
                claimed = _claim(db)
    finally:
        _inside.running = False
        threads.manager = caller
        _catch_up(caller)
    return count


def _claim(db: Any) -> tuple[bytes, str, str] | None:
    """Take the next job that is due: (oid, kind, token); None if there is none."""

    def claim(connection: Any) -> tuple[bytes, str, str] | None:
        queues = get_queues(connection)
        for queue in [] if queues is None else queues.values():
            for job, kind in claims.Taker(queue).take(1):
                job.parent, job.token = queue, uuid.uuid4().hex
                if kind == "run" and job._status_id == 0:
                    job._begin(clock.utcnow())
                return job._p_oid, kind, job.token
        return None

    return _commit(db, claim)


def _file_away(db: Any, oid: bytes) -> None:
    def file(connection: Any) -> None:
        job = connection.get(oid)
        if waiting.waiter(job) is not None:
            waiting.begin(job.queue, None, job)
        elif job._status_id == 3 and job.queue is not None:
            filing.file_away(job.queue, None, job)

    _commit(db, file)


def _commit(db: Any, work: Callable[[Any], Any]) -> Any:
    """Do something on a connection of its own, and commit it; other dispatchers may be at work."""
    manager = transaction.TransactionManager(explicit=True)
    connection = db.open(manager)

    def call() -> Any:
        manager.begin()
        return work(connection)

    try:
        return transactions.never_fail(call, "a step of inline jobs", manager)
    finally:
        connection.close()


def _catch_up(manager: Any) -> None:
    """Let the caller's connections see what the jobs have committed, without a ``begin`` in the test."""
    manager._synchs.map(lambda synch: synch.newTransaction(None) if isinstance(synch, Connection) else None)
