"""The dispatcher: claims jobs for this process' threads, and says that it is alive. Not persistent."""

from collections.abc import Iterable
from collective.zcasync import clock
from collective.zcasync import freshoids
from collective.zcasync import mail
from collective.zcasync.claiming import Claimer
from collective.zcasync.claimthread import ClaimThread
from collective.zcasync.claimthread import HURRY
from collective.zcasync.deferreds import Deferreds
from collective.zcasync.dispatchers import DRAINS
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.heartbeat import Heartbeat
from collective.zcasync.inprocess import _dispatchers as _dispatchers
from collective.zcasync.inprocess import clear as clear
from collective.zcasync.inprocess import get as get
from collective.zcasync.inprocess import pop as pop
from collective.zcasync.inprocess import serving as serving
from collective.zcasync.instanceuuid import new_uuid
from collective.zcasync.introspection import RUNNING
from collective.zcasync.introspection import STARTING
from collective.zcasync.introspection import STOPPED
from collective.zcasync.introspection import STUCK
from collective.zcasync.jobinfo import End
from collective.zcasync.mail import Mail
from collective.zcasync.membership import Membership
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.observer import Observer
from collective.zcasync.ownership import STALE_AFTER
from collective.zcasync.ownership import text_of
from collective.zcasync.pollinfo import PollInfo
from collective.zcasync.pollinfo import Polls
from collective.zcasync.pollinfo import Rolling
from collective.zcasync.rightofway import RightOfWay
from collective.zcasync.running import RunningJob
from collective.zcasync.shares import Shares
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.threadpool import AgentThreadPool
from collective.zcasync.wakeup import CommitWatcher
from datetime import datetime
from typing import Any

import logging
import os
import threading
import time
import uuid as uuidlib

logger = logging.getLogger("collective.zcasync.events")

#: Seconds between polls. Nothing waits for a poll; it is the safety net.
POLL_INTERVAL = 5

#: Seconds that idle job threads get to end.
THREADS_END = 3.0

__all__ = ("Dispatcher", "PollInfo", "RUNNING", "STARTING", "STOPPED", "STUCK", "clear", "get", "getId", "pop")


def getId(obj: Any) -> tuple[int, str]:
    """(oid as a number, name of the database) of a stored object: how dispatchers name jobs."""
    return int.from_bytes(obj._p_oid, "big"), obj._p_jar.db().database_name


class Dispatcher(ClaimThread):
    """Runs the jobs of a database's queues in the threads of this process.

    ``poll_interval``: seconds. ``threads``: job threads of the process at most (None: as the agents say).
    ``queues``: names of the queues to serve (None: all). ``role``: which agent templates hold. ``shutdown_grace``:
    seconds that running jobs get at a clean stop. ``replaceable``: whether somebody starts this process anew when it
    ends; then it takes no more jobs once a job hangs (see ``hung``). ``deployment``: name of who runs it; "": it goes
    by the storage's address. ``stale_after``: seconds without a sign of any dispatcher after which a database is taken
    for a copy. ``seen_file``: see SeenFile.
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
        deployment: str = "",
        stale_after: float = STALE_AFTER,
        seen_file: str | None = None,
    ) -> None:
        super().__init__()
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
        self.deployment = deployment
        self.stale_after = stale_after
        self.seen_file = seen_file
        #: The job that has hung, as text; then it is time to stop, and to replace the process.
        self.hung: str | None = None
        self.activated: datetime | None = None
        self.polls = Polls(polls_size)
        self.jobs = Rolling(jobs_size)
        #: queue name -> agent name -> AgentThreadPool
        self.queues: dict[str, dict[str, AgentThreadPool]] = {}
        self.neighbours = Neighbours(threads or 64, threads)
        self.shares = Shares(threads, self.neighbours)
        self.around = Surroundings(db, self.neighbours, own=True)
        self.way = RightOfWay(self.neighbours)
        self.around.bundle = self.way.bundle
        self.thread: threading.Thread | None = None
        #: When the reactor has told the time last, by the monotonic clock.
        self.ticked = time.monotonic()
        #: The RunningDispatcher that this is a part of.
        self.running: Any = None
        self.claimer = Claimer(self)
        #: oids of the siblings' registrations, and of what holds queues, quotas, agents and templates: what changes
        #: there is looked at in a poll.
        self._kin: set[bytes] = set()
        self.leaving_grace = shutdown_grace
        self._leaving = self._hurried = False
        #: Whether it has left because the process has done its share: what runs may take as long as it likes.
        self.draining = False
        #: Until when a stop that has begun waits for what runs, by the monotonic clock.
        self._end: float | None = None
        self._triggered = False
        #: How many runs of jobs have ended in its threads, and how many of these jobs have failed for good.
        self.ran = self.failed = 0
        self._counting = threading.Lock()
        _dispatchers[self.UUID] = self

    @property
    def held(self) -> str | None:
        """Why it may not take jobs until a person decides, in words; None: it may."""
        reason = self.membership.ownership.held if self.activated else None
        return None if reason is None else text_of(reason)

    # Life

    def activate(self, threaded: bool = False) -> None:
        """Begin. ``threaded`` is kept for zc.async's users: polls always have a thread and connection of their own."""
        if self.activated:
            raise InvalidValueError(f"the dispatcher {self.UUID} is active already")
        self.activated = clock.utcnow()
        freshoids.see_to(self.db)
        self._leaving = self._hurried = self.draining = False
        self.ticked = time.monotonic()
        self.hung = None
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
        self._start_claiming()
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
        if self._end is None:
            self.begin_to_leave(grace)
        end, self._end = self._end or 0.0, None
        while time.monotonic() < end and not self._hurried and not self.idle:
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
        patience = HURRY if self._hurried else 10
        self._ended.wait(patience)
        self._join_claiming(patience)
        self.watcher.close()
        for pool in self._pools():
            pool.close(THREADS_END)
        self.membership.reserve(None)
        logger.info("dispatcher %s deactivated", self.UUID)

    def begin_to_leave(self, grace: float | None = None) -> None:
        """The first part of ``deactivate``, which waits for nothing: for whoever stops several together."""
        grace = self.shutdown_grace if grace is None else grace
        self._end = time.monotonic() + grace
        self.mail.ask_all()
        self._leave(grace)

    def drain(self) -> None:
        """Take no more jobs, and let what runs take as long as it likes, until ``deactivate`` ends that."""
        self.draining = True
        self._leave(DRAINS)

    def _leave(self, grace: float) -> None:
        self.draining = self.draining and grace == DRAINS
        self.leaving_grace = grace
        self._leaving = True
        self._order(self.membership.leave, 10)

    def hurry(self) -> None:
        """Let a stop that goes on wait for nothing more: what runs is interrupted now. Safe in a signal handler."""
        self._hurried = True

    @property
    def idle(self) -> bool:
        """Whether nothing runs here, nor waits for a thread or for a Deferred."""
        return not self.around.deferreds and all(pool.idle() for pool in self._pools())

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
        self._join_claiming(10)
        self.watcher.close()
        for pool in self._pools():
            pool.setSize(0)
        _dispatchers.pop(self.UUID, None)

    @property
    def leaving(self) -> bool:
        """Whether it takes no more jobs, because it stops."""
        return self._leaving

    # Waking

    def _committed(self, oids: set[bytes] | None, tid: bytes | None) -> None:
        """A watched record changed. Called with locks of the storage held: only notes it, and sets events."""
        self.way.heard(oids)
        if oids is None or not oids.isdisjoint(self._kin):
            self._full.set()
        if oids is None or not oids.isdisjoint(self.mail.boxes):
            self.mail.read_soon()
            if oids is not None and oids <= self.mail.boxes:
                return  # a letter is nothing to claim
        self.news.tell(oids, tid)
        self._wake.set()

    def _tick(self, since: datetime) -> None:
        """In the reactor's thread: order a poll, and the next tick, as long as this activation lasts."""
        if self.activated is since:
            self.ticked = time.monotonic()
            self.poll_soon()
            self.reactor.callLater(self.poll_interval, self._tick, since)

    def count(self, failed: bool) -> None:
        """A run has ended in a job thread. ``failed``: so has its job, and it failed."""
        with self._counting:
            self.ran += 1
            self.failed += failed

    def report(self, queue: str, oid: bytes, report: str, frees: bool = True, end: End | None = None) -> None:
        """A job thread is done with a job. ``frees``: whether it may have kept others from running, by a quota.
        ``end``: of one at whose record the sweep need not look."""
        if self.claimer.report(queue, oid, report, frees, end):
            self._wake.set()

    def claim_soon(self) -> None:
        """A job thread is free, or will be: look for jobs."""
        self._wake.set()

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
