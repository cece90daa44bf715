"""The dispatcher: claims jobs for this process' threads, and says that it is alive. Not persistent."""

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import transactions
from collective.zcasync.dispatchers import Observer
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.attempts import Surroundings
from collective.zcasync.heartbeat import Heartbeat
from collective.zcasync.instanceuuid import new_uuid
from collective.zcasync.membership import Membership
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.pollinfo import PollInfo
from collective.zcasync.pollinfo import Polls
from collective.zcasync.pollinfo import Rolling
from collective.zcasync.queue import get_queues
from collective.zcasync.threadpool import AgentThreadPool
from collective.zcasync.threadpool import execution_items
from collective.zcasync.wakeup import CommitWatcher
from transaction.interfaces import NoTransaction

import logging
import os
import random
import threading
import time
import transaction
import uuid as uuidlib

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

STOPPED, RUNNING, STUCK, STARTING = "STOPPED", "RUNNING", "STUCK", "STARTING"

#: Seconds between polls. Nothing waits for a poll; it is the safety net.
POLL_INTERVAL = 5

#: Finished jobs that are filed away together, and the seconds that one of them waits at most.
SWEEP_AT, SWEEP_AFTER = 32, 1.0

#: Seconds after which a second look is taken at what lay in a foreign inbox, before jitter.
SECOND_LOOK = 0.02

#: Claims of one transaction that may conflict in a row before the next wake-up has to try again.
CLAIM_TRIES = 20

#: Seconds that a job claimed ahead waits for a thread before it is given back.
STALE_AFTER = 1.0

_dispatchers: dict[uuidlib.UUID, "Dispatcher"] = {}


def get(uuid: uuidlib.UUID | None = None, default: Any = None) -> Any:
    """The dispatcher of that UUID in this process; without a UUID, the one that runs here (the first, if several)."""
    alive = {key: one for key, one in _dispatchers.items() if one.pid == os.getpid()}  # a fork inherits none
    if uuid is None:
        active = [one for one in alive.values() if one.activated]
        return (active or list(alive.values()) or [default])[0]
    return alive.get(uuid, default)


def pop(uuid: uuidlib.UUID | None = None, default: Any = None) -> Any:
    """Forget a dispatcher, and return it."""
    found = get(uuid)
    return default if found is None else _dispatchers.pop(found.UUID, default)


def clear() -> None:
    """Forget all dispatchers of this process."""
    _dispatchers.clear()


class Dispatcher:
    """Runs the jobs of a database's queues in the threads of this process.

    ``poll_interval``: seconds. ``threads``: job threads of the process at most (None: as the agents say).
    ``queues``: names of the queues to serve (None: all). ``role``: which agent templates hold. ``shutdown_grace``:
    seconds that running jobs get at a clean stop.
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
        self.activated: datetime | None = None
        self.polls = Polls(polls_size)
        self.jobs = Rolling(jobs_size)
        #: queue name -> agent name -> AgentThreadPool
        self.queues: dict[str, dict[str, AgentThreadPool]] = {}
        self.neighbours = Neighbours(threads or 64)
        self.around = Surroundings(db, self.neighbours)
        self.thread: threading.Thread | None = None
        self._reports: dict[str, deque[tuple[float, bytes, str]]] = {}
        self._homes: dict[str, list[int]] = {}
        self._seen: dict[str, set[int]] = {}
        self._skipped: dict[tuple[str, str], set[int]] = {}
        self._due: dict[str, float] = {}
        self._foreign: set[bytes] = set()
        self._look_again = 0.0
        self._abroad = threading.Event()
        self._wake = threading.Event()
        self._full = threading.Event()
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._leaving = False
        self._ended = threading.Event()
        _dispatchers[self.UUID] = self

    # Life

    def activate(self, threaded: bool = False) -> None:
        """Begin. ``threaded`` is kept for zc.async's users: polls always have a thread and connection of their own."""
        if self.activated:
            raise InvalidValueError(f"the dispatcher {self.UUID} is active already")
        self.activated = clock.utcnow()
        self._leaving = False
        self._ended.clear()
        self.around.stopping.clear()
        self.polls.clear()
        self.jobs.clear()
        self._pool_size = self.db.getPoolSize()
        self.db.setPoolSize(self._pool_size + 2 + (self.max_threads or 3))
        self.membership = Membership(self)
        self.observer = Observer()
        self.watcher = CommitWatcher(self.db, self._committed)
        self.heartbeat = Heartbeat(self)
        self._loop_thread = threading.Thread(target=self._loop, name="zcasync-claims", daemon=True)
        self._loop_thread.start()
        self.reactor.callFromThread(self._tick)
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
        end = time.monotonic() + (self.shutdown_grace if grace is None else grace)
        self._leaving = True
        self._order(self.membership.leave, 10)
        while time.monotonic() < end and not all(pool.idle() for pool in self._pools()):
            with self.neighbours.changed:
                self.neighbours.changed.wait(min(0.1, max(end - time.monotonic(), 0)))
        self.heartbeat.stop()
        self.activated = None
        self.around.stopping.set()
        self._order(self.membership.end, 30)
        self._wake.set()
        self._ended.wait(10)
        self._loop_thread.join(10)
        self.watcher.close()
        for pool in self._pools():
            pool.setSize(0)
        self.db.setPoolSize(self._pool_size)
        logger.info("dispatcher %s deactivated", self.UUID)

    def crash(self) -> None:
        """For tests: stop without a word to the database, as a killed process does."""
        self.activated = None
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

    def _pools(self) -> list[AgentThreadPool]:
        return [pool for pools in list(self.queues.values()) for pool in list(pools.values())]

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
            self._abroad.set()
        self._wake.set()

    def _tick(self) -> None:
        """In the reactor's thread: order a poll, and the next tick."""
        if self.activated:
            self.poll_soon()
            self.reactor.callLater(self.poll_interval, self._tick)

    def poll_soon(self) -> None:
        """Poll at once instead of waiting for the interval."""
        self._full.set()
        self._wake.set()

    def report(self, queue: str, oid: bytes, report: str) -> None:
        """A job thread is done with a job."""
        self._reports.setdefault(queue, deque()).append((time.monotonic(), oid, report))
        self._wake.set()

    def tell_job(self, oid: bytes, subject: tuple[str, str], value: Any) -> None:
        """Write a letter into the mailbox of a job, from the reactor's thread."""
        manager = transaction.TransactionManager(explicit=True)
        connection = self.db.open(manager)
        try:

            def call() -> None:
                manager.begin()
                job = connection.get(oid)
                agent = job.agent
                if job.token is not None and agent is not None and agent.slot is not None:
                    agent.slot.send(job, subject, value)
                elif subject[0] == "annotation":
                    job.annotations[subject[1]] = value

            transactions.try_five_times(call, f"a live annotation of {oid.hex()}", manager)
        finally:
            self._abort(manager)
            connection.close()

    # The claim thread

    def _loop(self) -> None:
        manager = self.manager = transaction.TransactionManager(explicit=True)
        connection = None
        try:
            while self.activated or self._orders:
                try:
                    if connection is None:
                        connection = self.connection = self.db.open(manager)
                    self._round()
                except Exception as error:
                    self._abort(manager)
                    if not transactions.is_disconnect(error):
                        logger.critical("dispatcher %s: a claim failed; the next one tries again", self.UUID, exc_info=True)
                        self._wake.wait(0.5)
                        continue
                    logger.critical("dispatcher %s: the database is away", self.UUID)
                    self.observer.forget()
                    connection = self._closed(connection)
                    transactions.wait_for_database(self.db, self.around.stopping)
        finally:
            self._abort(manager)
            self._closed(connection)
            self._ended.set()

    @staticmethod
    def _abort(manager: Any) -> None:
        try:
            manager.abort()
        except NoTransaction:
            tracelog.debug("nothing to abort")

    def _closed(self, connection: Any) -> None:
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
            self._abroad.clear()
        poll = PollInfo()
        for name in list(self._homes):
            poll[name] = self._claim(name, full, look)
        self._plan_look()
        if full:
            self._remember(poll)

    def _plan_look(self) -> None:
        """Look at foreign inboxes soon if something may lie there and a thread is free for it."""
        if self._look_again or not (self._abroad.is_set() or any(self._seen.values())):
            return
        if any(sum(pool.wants(0)) for pool in self._pools()):
            self._look_again = time.monotonic() + SECOND_LOOK * (0.75 + random.random() / 2)

    def _remember(self, poll: PollInfo) -> None:
        before = self.polls.first() if self.polls else None
        self.polls.add(poll)
        if before is None or dict(before) != dict(poll):
            tracelog.debug("poll %s: %r", poll.key, dict(poll))

    def _pause(self) -> float:
        """Seconds until something is due: a second look, a sweep, a job's time."""
        now = time.monotonic()
        times = [now + self.poll_interval * 2]
        if self._look_again:
            times.append(self._look_again)
        times += [reports[0][0] + SWEEP_AFTER for reports in self._reports.values() if reports]
        times += list(self._due.values())
        return max(0.0, min(times) - now)

    # One claim

    def _claim(self, name: str, full: bool, look: bool) -> dict[str, Any] | None:
        """Claim for all agents of one queue, in one transaction; what the poll remembers of it."""
        limit = 1000
        for attempt in range(CLAIM_TRIES):
            reports = self._take_reports(name, full)
            self.manager.begin()
            try:
                info, items = self._claim_once(name, reports, full, look, limit)
                if items is None:
                    self.manager.abort()
                    self._give_reports(name, reports)
                    return info
                self.manager.commit()
            except Exception as error:
                self.manager.abort()
                self._give_reports(name, reports)
                if not transactions.is_conflict(error) or transactions.is_disconnect(error):
                    raise
                tracelog.debug("a claim in queue %r conflicted: %s", name, error)
                limit = max(1, min(limit, 32) // 2)
                self.around.stopping.wait(random.random() * 0.002 * 2 ** min(attempt, 5))
                continue
            for pool, some in items:
                pool.give(some)
            return info
        logger.critical("dispatcher %s: %s claims in queue %r conflicted in a row", self.UUID, CLAIM_TRIES, name)
        return None

    def _take_reports(self, name: str, full: bool) -> list[tuple[float, bytes, str]]:
        reports = self._reports.get(name)
        return [reports.popleft() for _ in range(len(reports))] if reports else []

    def _give_reports(self, name: str, reports: list[tuple[float, bytes, str]]) -> None:
        if reports:
            self._reports[name].extendleft(reversed(reports))

    def _claim_once(
        self, name: str, reports: list[tuple[float, bytes, str]], full: bool, look: bool, limit: int
    ) -> tuple[dict[str, Any] | None, list[tuple[AgentThreadPool, list[Any]]] | None]:
        queues = get_queues(self.connection)
        queue = None if queues is None else queues.get(name)
        da = None if queue is None else queue.dispatchers.get(self.UUID)
        if da is None or da.activated is None or da.slot is None:
            self._full.set()  # registered anew, or brought back, by the poll that follows
            return None, None
        slot = da.slot
        now = time.monotonic()
        urgent = full or len(reports) >= SWEEP_AT or bool(queue.parked)
        urgent = urgent or any(now - when >= SWEEP_AFTER or what != "finished" for when, _oid, what in reports)
        if urgent and reports:
            claims.sweep(queue, slot, [(oid, what) for _when, oid, what in reports])
        taker = claims.Taker(queue, slot, self._homes[name])
        info: dict[str, Any] = {}
        given: list[tuple[AgentThreadPool, list[Any]]] = []
        if not self._leaving and self.heartbeat.may_claim():
            given = self._claim_for_agents(name, da, taker, info, limit, full)
            if look and not given:
                given = self._second_look(name, da, queue, slot, info, limit)
            elif look:
                self._abroad.set()  # the threads got jobs from home: look again when one is free
        stale = self._stale(name, queue, slot) if full else False
        if full:
            dropped = slot.history.drop_before(clock.utcnow(), queue.retention_days, queue.failed_days)
            for outcome, number in dropped.items():
                slot.count(outcome, -number)
        self._note_due(name, queue)
        if not given and not taker.changed and not (urgent and reports) and not stale:
            return info, None
        if reports and not urgent:
            claims.sweep(queue, slot, [(oid, what) for _when, oid, what in reports])
        started = [oid for pool in self.queues.get(name, {}).values() for oid in pool.pop_started()]
        if started:
            slot.started = frozenset(oid for oid in (*slot.started, *started) if oid in slot.running)
        return info, given

    def _claim_for_agents(
        self, name: str, da: Any, taker: claims.Taker, info: dict[str, Any], limit: int, full: bool
    ) -> list[tuple[AgentThreadPool, list[Any]]]:
        given = []
        pools = self.membership.pools(name, da)
        for agent in da.values():
            pool = pools[agent.name]
            free, ahead = pool.wants(agent.prefetch)
            free, ahead = min(free, limit), min(ahead, max(limit - free, 0))
            entry = {"size": agent.size, "len": len(agent), "error": None, "new jobs": [], "active jobs": []}
            info[agent.name] = entry
            entry["active jobs"] = [ids(job, self.db) for job in agent.jobs()]
            items = []
            if full and free:
                overdue = taker.overdue(free)
                self._hold(agent, overdue, True)
                items += execution_items(overdue, True)
                free -= len(overdue)
            taker.skipped = self._skipped.setdefault((name, agent.name), set()) if not full else set()
            if not agent.batches:
                items += self._choose(agent, free)
            elif free or ahead:
                taken = taker.take(free, agent.filter)
                self._hold(agent, taken, True)
                items += execution_items(taken, True)
                if ahead and len(taken) == free:
                    remembered, taker.skipped = taker.skipped, set(taker.skipped)
                    more = taker.take(ahead, agent.filter, claims.may_run_twice)
                    taker.skipped = remembered
                    self._hold(agent, more, False)
                    items += execution_items(more, False)
            if full:
                self._skipped[(name, agent.name)] = taker.skipped
            if items:
                entry["new jobs"] = [(int.from_bytes(item.oid, "big"), self.db.database_name) for item in items]
                given.append((pool, items))
        return given

    @staticmethod
    def _hold(agent: Any, taken: list[claims.Taken], active: bool) -> None:
        for job, kind in taken:
            agent.hold(job, active and kind == "run")

    def _choose(self, agent: Any, free: int) -> list[Any]:
        """For agents with a chooser, or a _choose of their own: one job after the other."""
        items: list[Any] = []
        while len(items) < free:
            job = agent.claimJob()
            if job is None:
                break
            items += execution_items([claims.Taken(job, "run")], False)
        return items

    def _second_look(
        self, name: str, da: Any, queue: Any, slot: Any, info: dict[str, Any], limit: int
    ) -> list[tuple[AgentThreadPool, list[Any]]]:
        """Of foreign inboxes take only what lay there one look ago: its home would have taken it, had it a thread."""
        foreign = [shard for shard in range(len(queue.inboxes)) if shard not in self._homes[name]]
        if not foreign:
            return []
        given = []
        if self._seen.get(name):
            taker = claims.Taker(queue, slot, foreign, only=self._seen[name])
            given = self._claim_for_agents(name, da, taker, info, limit, False)
        taker = claims.Taker(queue, slot, foreign)
        places = [place for place in queue.places(foreign, None, taker.now) if place.kind in ("inbox", "overflow")]
        self._seen[name] = {row.key for place in places for row in claims.place_rows(place)}
        return given

    def _stale(self, name: str, queue: Any, slot: Any) -> bool:
        """Give back what was claimed ahead and has waited too long: its threads have met long jobs."""
        back = []
        for pool in self.queues.get(name, {}).values():
            back += pool.take_back(STALE_AFTER)
        for item in back:
            row = slot.running.get(item.oid)
            if row is not None and row[0].token == item.token:
                slot.running = {oid: other for oid, other in slot.running.items() if oid != item.oid}
                claims.leave_quotas(queue, row[0])
                row[0]._status_id = 0 if row[0]._status_id == 1 else row[0]._status_id
                queue.give_back(row[0], front=True)
        return bool(back)

    def _note_due(self, name: str, queue: Any) -> None:
        """When the next job for later comes due."""
        self._due.pop(name, None)
        if queue.later:
            moment = clock.from_microseconds(queue.later.minKey()[0])
            seconds = (moment - clock.utcnow()).total_seconds()
            self._due[name] = time.monotonic() + max(seconds, 0.005)

    # Looking in

    def getStatusInfo(self) -> dict[str, Any]:
        """State of this dispatcher: status, poll interval, time since last poll, uptime, uuid."""
        now = clock.utcnow()
        since = uptime = None
        if not self.activated:
            status = STOPPED
        else:
            last = self.polls.first().utc_timestamp if self.polls else None
            since = now - (last or self.activated)
            late = since.total_seconds() > self.poll_interval * 2
            status = STUCK if late else RUNNING if last else STARTING
            uptime = now - self.activated if last else None
        return {
            "status": status,
            "poll interval": self.poll_interval,
            "time since last poll": since,
            "uptime": uptime,
            "uuid": self.UUID,
        }

    def getActiveJobIds(self, queue: str | None = None, agent: str | None = None) -> list[tuple[int, str]]:
        """(oid, database name) of what the job threads run at this moment."""
        return [
            (int.from_bytes(oid, "big"), self.db.database_name)
            for pool in self._pools()
            if queue in (None, pool.queue_name) and agent in (None, pool.name)
            for oid in pool.active()
        ]


def ids(job: Any, db: Any) -> tuple[int, str]:
    """How zc.async names a job: (oid, database name)."""
    return int.from_bytes(job._p_oid, "big"), db.database_name
