"""Running one waiting job in the caller's thread, for somebody who watches: as a dispatcher does, but only this job."""

from collections.abc import Callable
from collective.zcasync import actions
from collective.zcasync import clock
from collective.zcasync import execution
from collective.zcasync import instanceuuid
from collective.zcasync import joblists
from collective.zcasync import letters
from collective.zcasync import schema
from collective.zcasync import sweeping
from collective.zcasync import transactions
from collective.zcasync.agent import Agent
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.interfaces import PENDING
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jobdetail import oid_text
from collective.zcasync.surroundings import Surroundings
from typing import Any

import logging
import threading
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: The role of such a dispatcher, and the name of its agent.
ROLE = "foreground"

#: Seconds between two pings: much less than the silence after which others take over.
PING_EVERY = 10.0


def run(database: Any, id: str, debug: Callable[[Exception], None] | None = None) -> str:
    """Claim the job, run it in this thread, and file it away; what execution.perform reports of it.

    ``debug`` is called with an error of the job's code, before its transaction is aborted. The job is registered
    with a dispatcher of its own: should this process die, others put it back at once. JobNotFound, or BadStatusError
    if it does not wait.
    """
    manager = transaction.TransactionManager()
    connection = database.open(manager)
    around = Surroundings(database, debug=debug, own=True)
    try:
        key, oid, token = actions.commit(connection, lambda: _claim(connection, id))
        pinger = Pinger(database, key)
        report = execution.REASSIGNED  # also of a run that is broken off: the end of its dispatcher interrupts the job
        try:
            report = execution.perform(database, oid, "run", token, around)
        finally:
            pinger.stop()
            what = f"the end of job {id} in the foreground"
            transactions.surely(
                lambda: _leave(connection, key, oid, report), what, manager, database, threading.Event()
            )
        return report
    finally:
        manager.abort()
        connection.close()


def _claim(connection: Any, id: str) -> tuple[Any, bytes, str]:
    """Take the job out of its queue, for an agent of a dispatcher that is made for it: (UUID, oid, token)."""
    job = joblists.find(connection, id)
    if is_broken(job):
        raise BadStatusError(f"The code of job {oid_text(job)} is missing: install it, or discard the job.")
    queue = job.queue
    if queue is not None and job.status == PENDING:
        letters.collect(queue, job)  # perhaps it was asked to stop before it came back
    if job.status != PENDING or queue is None or not queue.take_out(job):
        raise BadStatusError(f"Job {id} does not wait ({joblists.state_of(job)}), so it cannot be run here.")
    schema.check(queue.parent)
    key = instanceuuid.new_uuid(None)
    queue.dispatchers.register(key)
    da = queue.dispatchers[key]
    da.process = {**instanceuuid.process_identity(), "role": ROLE}
    da.activate()
    da.ping(clock.utcnow())
    agent = da[ROLE] = Agent(size=1)
    agent.hold(job, active=True)
    return key, job._p_oid, job.token


def _leave(connection: Any, key: Any, oid: bytes, report: str) -> None:
    for queue in joblists.all_queues(connection):
        da = queue.dispatchers.get(key)
        if da is None:
            continue
        if da.slot is not None:
            sweeping.sweep(queue, da.slot, [(oid, report)])
        if da.activated is not None:
            da.deactivate()
        queue.dispatchers.unregister(key)


class Pinger:
    """Says that the dispatcher ``key`` is alive, from a thread and a connection of its own, until ``stop``."""

    def __init__(self, database: Any, key: Any) -> None:
        self.database = database
        self.key = key
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="zcasync-foreground-ping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stopped.wait(PING_EVERY):
            try:
                self.ping()
            except Exception:  # the database is away; the next one tries again
                logger.warning("The job in the foreground could not ping", exc_info=True)

    def ping(self) -> None:
        """One ping in each queue where the dispatcher is registered."""
        manager = transaction.TransactionManager()
        connection = self.database.open(manager)
        try:
            for queue in joblists.all_queues(connection):
                da = queue.dispatchers.get(self.key)
                if da is not None:
                    da.ping(clock.utcnow())
            manager.commit()
        finally:
            manager.abort()
            connection.close()
