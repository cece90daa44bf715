"""The dispatcher: claims jobs for this process' threads, and says that it is alive. Not persistent."""

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import clock
from collective.zcasync import mail
from collective.zcasync import transactions
from collective.zcasync.claiming import Claimer
from collective.zcasync.deferreds import Deferreds
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.heartbeat import Heartbeat
from collective.zcasync.instanceuuid import new_uuid
from collective.zcasync.introspection import Introspection
from collective.zcasync.introspection import RUNNING
from collective.zcasync.introspection import STARTING
from collective.zcasync.introspection import STOPPED
from collective.zcasync.introspection import STUCK
from collective.zcasync.mail import Mail
from collective.zcasync.membership import Membership
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.observer import Observer
from collective.zcasync.pollinfo import PollInfo
from collective.zcasync.pollinfo import Polls
from collective.zcasync.pollinfo import Rolling
from collective.zcasync.running import RunningJob
from collective.zcasync.shares import Shares
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.threadpool import AgentThreadPool
from collective.zcasync.wakeup import CommitWatcher
from datetime import datetime
from transaction.interfaces import NoTransaction
from typing import Any

import logging
import os
import random
import threading
import time
import transaction
import uuid as uuidlib

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: Seconds between polls. Nothing waits for a poll; it is the safety net.
POLL_INTERVAL = 5

#: Seconds after which a second look is taken at what lay in a foreign inbox, before jitter.
SECOND_LOOK = 0.02

#: Seconds that idle job threads get to end.
THREADS_END = 3.0

__all__ = ("Dispatcher", "RUNNING", "STARTING", "STOPPED", "STUCK", "clear", "get", "getId", "pop")

_dispatchers: dict[uuidlib.UUID, "Dispatcher"] = {}


def get(uuid: uuidlib.UUID | None = None, default: Any = None) -> Any:
    """The dispatcher of that UUID in this process; without a UUID, the one that runs here (the first, if several)."""
    alive = {key: one for key, one in _dispatchers.items() if one.pid == os.getpid()}  # a fork inherits none
    if uuid is None:
        active = [one for one in alive.values() if one.activated]
        return (active or list(alive.values()) or [default])[0]
    return alive.get(uuid, default)


def serving(db: Any) -> Any:
    """The active dispatcher of this process that works on a database, or None."""
    alive = [one for one in list(_dispatchers.values()) if one.pid == os.getpid()]
    return next((one for one in alive if one.activated and one.db is db), None)


def pop(uuid: uuidlib.UUID | None = None, default: Any = None) -> Any:
    """Forget a dispatcher, and return it."""
    found = get(uuid)
    return default if found is None else _dispatchers.pop(found.UUID, default)


def clear() -> None:
    """Forget all dispatchers of this process."""
    _dispatchers.clear()


def getId(obj: Any) -> tuple[int, str]:
    """(oid as a number, name of the database) of a stored object: how dispatchers name jobs."""
    return int.from_bytes(obj._p_oid, "big"), obj._p_jar.db().database_name


class Dispatcher(Introspection):
    """Runs the jobs of a database's queues in the threads of this process.

    ``poll_interval``: seconds. ``threads``: job threads of the process at most (None: as the agents say).
    ``queues``: names of the queues to serve (None: all). ``role``: which agent templates hold. ``shutdown_grace``:
    seconds that running jobs get at a clean stop. ``replaceable``: whether somebody starts this process anew when it
    ends; then it takes no more jobs once a job hangs (see ``hung``).
    """

    def __init__(
        self,
        db: Any,
        reactor: Any = None,
        poll_interval: float = POLL_INTERVAL,
        uuid: uuidlib.UUID | None = None,
        jobs_size: int = 200,
        polls_size: int = 400,
        role: str = "worker",
        threads: int | None = None,
        queues: Iterable[str] | None = None,
        shutdown_grace: float = 8,
        uuid_file: str | None = None,
        replaceable: bool = False,
    ) -> None:
        self.db = db
        if reactor is None:
            from twisted.internet import reactor  # importing it installs it: only if asked for
        self.reactor = reactor
        self.poll_interval = poll_interval
        self.pid = os.getpid()
        self.UUID = uuid or new_uuid(uuid_file)
        if get(self.UUID) is not None:
            raise InvalidValueError(f"a dispatcher with the UUID {self.UUID} is in this process already")
        self.role = role
        self.max_threads = threads
        self.served = None if queues is None else frozenset(queues)
        self.shutdown_grace = shutdown_grace
        self.replaceable = replaceable
        #: The job that has hung, as text; then it is time to stop, and to replace the process.
        self.hung: str | None = None
        self.activated: datetime | None = None
        self.polls = Polls(polls_size)
        self.jobs = Rolling(jobs_size)
        #: queue name -> agent name -> AgentThreadPool
        self.queues: dict[str, dict[str, AgentThreadPool]] = {}
        self.neighbours = Neighbours(threads or 64, threads)
        self.shares = Shares(threads, self.neighbours)
        self.around = Surroundings(db, self.neighbours)
        self.thread: threading.Thread | None = None
        #: The RunningDispatcher that this is a part of.
        self.running: Any = None
        #: How often the claim thread has looked at its queues, and the last error that it met there.
        self.rounds = 0
        self.last_error: str | None = None
        self.claimer = Claimer(self)
        self._foreign: set[bytes] = set()
        #: oids of the siblings' registrations: what changes there is looked at in a poll.
        self._kin: set[bytes] = set()
        self.leaving_grace = shutdown_grace
        self._look_again = 0.0
        self._wake = threading.Event()
        self._full = threading.Event()
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._leaving = False
        self._triggered = False
        #: Whether the claim thread may end. Not when ``activated`` is cleared: the last order comes after that.
        self._over = False
        self._ended = threading.Event()
        _dispatchers[self.UUID] = self

    # Life

    def activate(self, threaded: bool = False) -> None:
        """Begin. ``threaded`` is kept for zc.async's users: polls always have a thread and connection of their own."""
        if self.activated:
            raise InvalidValueError(f"the dispatcher {self.UUID} is active already")
        self.activated = clock.utcnow()
        self._leaving = self._over = False
        self.hung = None
        self._ended.clear()
        self.around.stopping.clear()
        self.polls.clear()
        self.jobs.clear()
        self.mail = self.around.mail = Mail(self)
        self.around.reactor, self.around.deferreds = self.reactor, Deferreds(self)
        self.membership = Membership(self)
        self.membership.reserve(0)
        self.observer = Observer(time.monotonic())
        self.watcher = CommitWatcher(self.db, self._committed)
        self.heartbeat = Heartbeat(self)
        self._loop_thread = threading.Thread(target=self._loop, name="zcasync-claims", daemon=True)
        self._loop_thread.start()
        self.reactor.callFromThread(self._tick, self.activated)
        if not self._triggered:
            self._triggered = True
            self.reactor.addSystemEventTrigger("before", "shutdown", self._shutdown)
        logger.info("dispatcher %s activated, role %s", self.UUID, self.role)

    def _shutdown(self) -> None:
        if self.activated:
            self.deactivate(0)

    def deactivate(self, grace: float | None = None) -> None:
        """End cleanly: take no more jobs, give back what has not begun, wait ``grace`` seconds for what runs (None:
        ``shutdown_grace``), interrupt the rest, and leave. Not from a job thread."""
        if not self.activated:
            raise InvalidValueError(f"the dispatcher {self.UUID} is not active")
        self.leaving_grace = self.shutdown_grace if grace is None else grace
        end = time.monotonic() + self.leaving_grace
        self._leaving = True
        self.mail.ask_all()
        self._order(self.membership.leave, 10)
        while time.monotonic() < end and (self.around.deferreds or not all(pool.idle() for pool in self._pools())):
            with self.neighbours.changed:
                self.neighbours.changed.wait(min(0.1, max(end - time.monotonic(), 0)))
        self.around.deferreds.close()
        self.mail.stop()
        self.heartbeat.stop()
        self.activated = None
        self.around.stopping.set()
        self._order(self.membership.end, 30)
        self._over = True
        self._wake.set()
        self._ended.wait(10)
        self._loop_thread.join(10)
        self.watcher.close()
        for pool in self._pools():
            pool.close(THREADS_END)
        self.membership.reserve(None)
        logger.info("dispatcher %s deactivated", self.UUID)

    def crash(self) -> None:
        """For tests: stop without a word to the database, as a killed process does."""
        self.activated = None
        self._over = True
        self.around.deferreds.close(store=False)
        self.mail.stop(flush=False)
        self.heartbeat.stop()
        self.around.stopping.set()
        for pool in self._pools():
            pool.take_back()
        self._wake.set()
        self._loop_thread.join(10)
        self.watcher.close()
        for pool in self._pools():
            pool.setSize(0)
        _dispatchers.pop(self.UUID, None)

    def _order(self, what: Callable[[], None], seconds: float) -> None:
        """Have the claim thread do something, and wait for it."""
        done = threading.Event()
        self._orders.append((what, done))
        self._wake.set()
        if not done.wait(seconds):
            logger.critical("dispatcher %s: %s took longer than %s s", self.UUID, what.__name__, seconds)

    # Waking

    def _committed(self, oids: set[bytes] | None) -> None:
        """A watched record changed. Called with locks of the storage held: only sets events."""
        if oids is None or not oids.isdisjoint(self._foreign):
            self.claimer.abroad.set()
        if oids is None or not oids.isdisjoint(self._kin):
            self._full.set()
        if oids is None or not oids.isdisjoint(self.mail.boxes):
            self.mail.read_soon()
            if oids is not None and oids <= self.mail.boxes:
                return  # a letter is nothing to claim
        self._wake.set()

    def _tick(self, since: datetime) -> None:
        """In the reactor's thread: order a poll, and the next tick, as long as this activation lasts."""
        if self.activated is since:
            self.poll_soon()
            self.reactor.callLater(self.poll_interval, self._tick, since)

    def poll_soon(self) -> None:
        """Poll at once instead of waiting for the interval."""
        self._full.set()
        self._wake.set()

    def report(self, queue: str, oid: bytes, report: str) -> None:
        """A job thread is done with a job."""
        self.claimer.report(queue, oid, report)
        self._wake.set()

    def tell_job(self, oid: bytes, subject: tuple[str, str], value: Any) -> None:
        """Write a letter to a job; it returns at once. See Mail."""
        self.mail.post(oid, *subject, value)

    def hangs(self, running: RunningJob) -> None:
        """A job is overdue for so long that its thread is lost. Called from the mail's thread."""
        logger.critical(
            "Job %s hangs: it is overdue by more than %g s, and its thread is lost%s",
            *(running.who, mail.HUNG_AFTER),
            "; this process takes no more jobs, and ends" if self.replaceable else "",
        )
        if self.replaceable:
            self._leaving = True
            self.hung = running.who

    # The claim thread

    def _loop(self) -> None:
        manager = self.manager = transaction.TransactionManager(explicit=True)
        connection = None
        try:
            while not self._over:
                try:
                    if connection is None:
                        connection = self.connection = self.db.open(manager)
                    self._round()
                    self.rounds += 1
                except Exception as error:
                    self.last_error = f"{type(error).__name__}: {error}"
                    self._abort(manager)
                    if not transactions.is_disconnect(error):
                        logger.critical("dispatcher %s: a poll failed; the next tries again", self.UUID, exc_info=True)
                        self._wake.wait(0.5)
                        continue
                    logger.critical("dispatcher %s: the database is away", self.UUID)
                    failed = {name: self.claimer.failed(name, error) for name in self.claimer.homes}
                    self.polls.extend(PollInfo(failed), self.jobs.size)  # the last poll remembers why
                    self.observer.forget()
                    self._close(connection)
                    connection = None
                    if not transactions.wait_for_database(self.db, self.around.stopping):
                        self._ended.wait(0.5)  # it stops, and the last order needs the database
        finally:
            self._abort(manager)
            self._close(connection)
            self._ended.set()

    @staticmethod
    def _abort(manager: Any) -> None:
        try:
            manager.abort()
        except NoTransaction:
            tracelog.debug("nothing to abort")

    def _close(self, connection: Any) -> None:
        if connection is not None:
            try:
                connection.close()
            except Exception:
                logger.debug("A connection could not be closed", exc_info=True)

    def _round(self) -> None:
        self._wake.wait(self._pause())
        self._wake.clear()
        while self._orders:
            what, done = self._orders.popleft()
            try:
                what()
            finally:
                done.set()
        if not self.activated:
            return
        self.watcher.wait_readable()
        full = self._full.is_set()
        self._full.clear()
        if full:
            self.membership.renew()
        look = full or bool(self._look_again) and time.monotonic() >= self._look_again
        if look:
            self._look_again = 0.0
            self.claimer.abroad.clear()
        poll = PollInfo()
        newest = poll if full or not self.polls else self.polls.first()
        failed = False
        for name in self.shares.queues_in_turn(self.claimer.homes):
            try:
                poll[name] = self.claimer.claim(name, full, look, newest.key)
            except Exception as error:
                self._abort(self.manager)
                if transactions.is_disconnect(error):
                    self.polls.extend(poll, self.jobs.size)  # this poll ends here
                    raise
                poll[name] = self.claimer.failed(name, error)
                failed, self.last_error = True, f"{type(error).__name__}: {error}"
                logger.critical(
                    "dispatcher %s: a claim in queue %r failed; the next one tries again",
                    *(self.UUID, name),
                    exc_info=True,
                )
        for name in self.membership.refused:
            poll[name] = None
        self._plan_look()
        if full:
            self.polls.add(poll)
        else:
            self.polls.extend(poll, self.jobs.size)
        if failed:
            self._ended.wait(0.5)

    def _plan_look(self) -> None:
        """Look at foreign inboxes soon if something may lie there and a thread is free for it."""
        if self._look_again or not self.claimer.looks_abroad():
            return
        if self.shares.room(self._pools()) != 0 and any(sum(pool.wants(0)) for pool in self._pools()):
            self._look_again = time.monotonic() + SECOND_LOOK * (0.75 + random.random() / 2)

    def _pause(self) -> float:
        """Seconds until something is due: a second look, a sweep, a job's time."""
        now = time.monotonic()
        times = [now + self.poll_interval * 2]
        if self._look_again:
            times.append(self._look_again)
        times += self.claimer.due()
        return max(0.0, min(times) - now)
