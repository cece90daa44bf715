"""A queue whose dispatchers, job threads and clients are moved one transaction at a time, by whoever tests it.

Nothing here runs by itself. Each actor (a job thread, a dispatcher's claim, a burial) stops before each of its
transactions and each of its commits, and in the midst of its job's code; whoever drives the world lets one of them go
on to its next stop, while all others stand still. So each interleaving can be had, and had again.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import execution
from collective.zcasync import membership
from collective.zcasync import places
from collective.zcasync import transactions
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.dispatcher import pop
from collective.zcasync.heartbeat import Heartbeat
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.interfaces import KEY
from collective.zcasync.mail import Mail
from collective.zcasync.observer import Observer
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.threadlocal import local
from collective.zcasync.threadpool import AgentThreadPool
from contextlib import contextmanager
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from engineworld import follow
from engineworld import Known
from pathlib import Path
from transaction import TransactionManager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from zope.interface import implementer

import itertools
import logging
import pytest
import shutil
import sys
import tempfile
import threading
import time
import transaction
import uuid
import ZODB

START = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

#: Seconds that an actor may take to its next stop: far more than it needs.
PATIENCE = 60

#: Stops after which an actor is taken to go round in circles.
MOST_STOPS = 400

#: What a job's code may do; see Actor.call.
OUTCOMES = (
    *("return", "raise", "conflict", "hot", "commit", "commit and raise", "abort", "exit", "hook", "unstorable"),
    *("checkpoint", "progress", "annotate", "inner"),
)

_here = threading.local()

#: Each dispatcher of this process has a UUID of its own, and later ones come later.
_numbers = itertools.count(1)

#: Monotonic time when a world begins: later than all of the one before.
_epochs = itertools.count(0, 1_000_000_000)


class Killed(SystemExit):
    """The process of this thread is gone: nothing of it goes on."""


class Violated(AssertionError):
    """An invariant does not hold. ``name``: which."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Stepping(TransactionManager):
    """A manager whose actor stops before each transaction and each commit."""

    #: Called when a transaction has begun.
    seen: Callable[[], None] | None = None

    def begin(self) -> Any:
        stop_here("begin")
        begun = super().begin()
        if self.seen is not None:
            self.seen()
        return begun

    def commit(self) -> None:
        stop_here("commit")
        actor = getattr(_here, "actor", None)
        owner = None if actor is None else actor.owner()
        super().commit()
        if actor is not None:
            actor.committed(owner)


def stop_here(where: str) -> None:
    """A stop, if an actor's thread is here."""
    actor = getattr(_here, "actor", None)
    if actor is not None:
        actor.stop(where)


def work(number: int, *results: Any) -> Any:
    """The code of all jobs and callbacks here. A client that runs a late callback itself has no stops in it."""
    actor = getattr(_here, "actor", None)
    if actor is not None:
        return actor.call(number)
    _here.world.serial += 1
    local.job._p_jar.root()["effects"][_here.world.serial] = (number, "final")
    return number


@implementer(IRetryPolicy)
class Scripted:
    """A policy that answers what the driver of the actor says."""

    def __init__(self, job: Any) -> None:
        self.parent = job

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        return _here.actor.answer

    commitError = jobError

    def interrupted(self) -> Any:
        return True

    def updateData(self, data_cache: dict[str, Any]) -> None:
        """Nothing to keep."""


class NoWait(threading.Event):
    """An event that nobody waits for."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


class Pool(AgentThreadPool):
    """The claimed jobs of one agent; its threads are actors that the driver makes."""

    def _start(self) -> None:
        self.threads.append(object())  # type: ignore[arg-type]


class Pulse(Heartbeat):
    """A heartbeat without its thread: nobody is taken for dead unless whoever drives the world says so."""

    def _loop(self) -> None:
        """Nothing happens by itself."""

    def may_claim(self) -> bool:
        return True


class Post(Mail):
    """The mail of one dispatcher, without its thread: whoever drives the world lets it look."""

    def _loop(self) -> None:
        """Nothing happens by itself."""


class Actor:
    """A thread that goes from stop to stop."""

    def __init__(self, world: "World", name: str, what: Callable[[], None]) -> None:
        self.world = world
        self.name = name
        self.what = what
        self.where = "start"
        self.outcome, self.answer, self.then = "return", False, "return"
        self.error: BaseException | None = None
        self.killed = self.ended = False
        self.dispatcher: Any = None
        self.item: Any = None
        self.wrote: list[tuple[int, str]] = []
        self.made: list[tuple[int, Any]] = []
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        world.actors.append(self)

    def __repr__(self) -> str:
        return f"<{self.name} at {self.where}>"

    # For the driver

    def advance(
        self, stops: int = MOST_STOPS, outcome: str = "return", answer: Any = False, then: str = "return"
    ) -> None:
        """Let it go on for so many stops, or to its end. ``then``: the outcome of the code that is called second."""
        self.outcome, self.answer, self.then = outcome, answer, then
        for _ in range(stops):
            if self.ended:
                break
            self._go.release()
            if not self._stopped.acquire(timeout=PATIENCE):
                raise AssertionError(f"{self} hangs")
            if self.where == "call" and stops < MOST_STOPS:
                break
        if self.error is not None:
            raise self.error
        if not self.ended and stops == MOST_STOPS:
            raise Violated("reachable", f"{self} goes round in circles")

    def kill(self) -> None:
        """Its process dies where it stands."""
        self.killed = True
        self.advance()

    # In its thread

    def _run(self) -> None:
        self._go.acquire()
        _here.actor = self
        transaction.manager.manager = Stepping()
        try:
            if not self.killed:
                self.what()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            _here.actor = None
            transaction.abort()
            self.ended, self.where = True, "end"
            self.world.actors.remove(self)
            self._stopped.release()

    def stop(self, where: str) -> None:
        if not self.killed:
            self.where = where
            self._stopped.release()
            self._go.acquire()
        if self.killed:
            raise Killed

    def owner(self) -> str | None:
        """The token of its job, as committed now."""
        return None if self.item is None else self.world.committed_token(self.item.oid)

    def committed(self, owner: str | None) -> None:
        """A commit went through, whose job then belonged to the claim ``owner``."""
        wrote, self.wrote = self.wrote, []
        made, self.made = self.made, []
        for outer, inner in made:
            self.world.outers.add(outer)
            self.world.learn(inner)()
        main = self.item is not None and self.world.numbers.get(self.item.oid)
        if any(number == main for number, _kind in wrote) and owner != self.item.token:
            self.world.faults.append(f"fence: {self} stored {wrote} for a job that belongs to another claim")

    def call(self, number: int) -> Any:
        """The midst of a job's code: what it does is said by the driver when it lets the actor go on."""
        self.world.begins(number, self.item)
        self.wrote, self.made = [], []
        self.stop("call")
        root = local.job._p_jar.root()
        outcome, self.outcome, self.then = self.outcome, self.then, "return"
        follow(outcome, number, self.world, root, lambda kind: self.write(root, number, kind))
        if outcome == "inner":
            self.made.append((number, self.world.new_job()))
            return self.made[-1][1]
        return threading.Lock() if outcome == "unstorable" else number

    def write(self, root: Any, number: int, kind: str) -> None:
        """An effect."""
        self.world.effect(root, number, kind)
        self.wrote.append((number, kind))


class Client:
    """Somebody with a connection: a request that puts, cancels, adds callbacks."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.manager = TransactionManager()
        self.connection = world.db.open(self.manager)
        #: Whether a transaction is open: what it sees stays as it was at its beginning.
        self.open = False
        #: What holds if the present transaction is committed: called then.
        self.then: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Be in a transaction."""
        if not self.open:
            self.manager.begin()
            self.open = True

    @property
    def queue(self) -> Any:
        return self.connection.root()[KEY][""]

    def job(self, number: int) -> Any:
        return self.connection.get(self.world.oids[number])

    def commit(self) -> bool:
        """Whether it went through; a conflict is nothing wrong."""
        then, self.then, self.open = self.then, [], False
        try:
            self.manager.commit()
        except ConflictError:
            self.manager.abort()
            return False
        for call in then:
            call()
        return True

    def abort(self) -> None:
        self.then, self.open = [], False
        self.manager.abort()


class World(Known):
    """A database with one queue, and all who work on it."""

    #: See _epochs.
    epoch = 0

    def __init__(self, db: Any) -> None:
        super().__init__(work)
        clock.set_now(START)
        World.epoch = next(_epochs)
        _here.world = self
        places._thread.__dict__.clear()
        self.db = db
        self.actors: list[Actor] = []
        self.dispatchers: list[Any] = []
        self.born = 0
        manager = TransactionManager()
        connection = db.open(manager)
        self.make_queue(connection.root())
        manager.commit()
        connection.close()
        self.observer = Client(self)
        self.clients = [Client(self), Client(self)]

    def close(self) -> None:
        for actor in list(self.actors):
            actor.kill()
        for one in self.dispatchers:
            self._forget(one)
        for client in (self.observer, *self.clients):
            client.abort()
            client.connection.close()
        clock.set_now(None)

    def learn(self, job: Any) -> Callable[[], Any]:
        """What to do when the job's put or adding is committed."""
        return lambda: self.learned(job)

    # Dispatchers

    def start(self, size: int, prefetch: int) -> Any:
        """A dispatcher that is registered in the queue."""
        self.born += 1
        reactor = SimpleNamespace(callFromThread=lambda call, *args: call(*args))
        one: Any = Dispatcher(self.db, reactor, uuid=uuid.UUID(int=next(_numbers)))
        one.around = Surroundings(self.db, stopping=NoWait(), own=True)
        one.manager = Stepping(explicit=True)
        one.connection = self.db.open(one.manager)
        one.activated = clock.utcnow()
        one.membership = membership.Membership(one)
        one.heartbeat = Pulse(one)
        one.observer = Observer(time.monotonic())
        one.mail = one.around.mail = Post(one)
        one.watcher = Mock()
        one.size, one.prefetch, one.crashed, one.busy = size, prefetch, False, None
        one.number = self.born
        self.dispatchers.append(one)
        one.manager.seen = lambda: self._note_quotas(one)
        one.membership.renew()

        def resize() -> None:
            one.manager.begin()
            agent = one.connection.root()[KEY][""].dispatchers[one.UUID]["main"]
            agent.size, agent.prefetch = size, prefetch

        transactions.never_fail(resize, "the agent's size", one.manager)
        return one

    @staticmethod
    def _note_quotas(one: Any) -> None:
        quotas = one.connection.root()[KEY][""].quotas
        one.quotas = {name: quota._p_oid for name, quota in quotas.items()}

    def claim(self, one: Any, full: bool, look: bool) -> Actor:
        """One claim of a dispatcher, which begins anew when it conflicts."""

        def call() -> None:
            one._full.clear()
            if full:
                one.membership.renew()
            one.claimer.claim("", full, look, 1)
            for pool in one.queues.get("", {}).values():
                pool.mean = 0.001  # short jobs: so some are claimed ahead
                for item in pool.waiting:
                    if (item.oid, item.token) not in self.kinds and item.kind == "run":
                        self._check_lane(one, item)
                    self.kinds.setdefault((item.oid, item.token), (item.kind, one.quotas))
            if one._full.is_set():
                one.membership.renew()

        return self._busy(one, f"claim of {one.number}", call)

    def take(self, one: Any) -> Any:
        """The thread that begins the one job that waits."""
        for _time in range(4):  # what lies in the inboxes of others is taken at the second look
            self.claim(one, True, True).advance()
            if self.startable():
                return self.begin(*self.startable()[0])
        raise AssertionError("no job can begin")

    def _check_lane(self, one: Any, item: Any) -> None:
        """Whoever has taken a job of a lane holds that lane."""
        queue = self.look()
        job = self.observer.connection.get(item.oid)
        lane = queue.lanes.get((job.group, job.lane)) if job.lane else None
        if job.token == item.token and job.lane and (lane is None or lane.holder != str(one.UUID)):
            self.faults.append(f"lanes: {one.number} took job {self.numbers[item.oid]} of a lane that it does not hold")

    def bury(self, one: Any, dead: Any) -> Actor:
        """A dispatcher takes over from one that it holds for dead."""

        def call() -> None:
            def change() -> None:
                one.manager.begin()
                dispatchers = one.connection.root()[KEY][""].dispatchers
                da = dispatchers.get(dead.UUID)
                if da is not None and da.activated is not None:
                    da.deactivate(died=True)
                    dispatchers.unregister(dead.UUID)

            transactions.never_fail(change, "a burial", one.manager)

        return self._busy(one, f"burial of {dead.number} by {one.number}", call)

    def leave(self, one: Any) -> Actor:
        """A clean stop, which interrupts what runs."""

        def call() -> None:
            one._leaving = True
            one.membership.leave()
            one.mail.ask_all()
            one.around.stopping.set()
            one.membership.end()
            one.activated = None
            self._forget(one)

        return self._busy(one, f"end of {one.number}", call)

    def _busy(self, one: Any, name: str, call: Callable[[], None]) -> Actor:
        def whole() -> None:
            try:
                call()
            finally:
                one.busy = None

        one.busy = Actor(self, name, whole)
        actor: Actor = one.busy
        actor.dispatcher = one
        return actor

    def crash(self, one: Any) -> None:
        """The process of a dispatcher is gone."""
        for actor in [actor for actor in self.actors if actor.dispatcher is one]:
            actor.kill()
        one.crashed, one.activated = True, None
        self._forget(one)

    def _forget(self, one: Any) -> None:
        if one.connection is not None:
            one.mail._close()
            Dispatcher._abort(one.manager)
            one.connection.close()
            one.connection = None
        pop(one.UUID)

    def startable(self) -> list[tuple[Any, Any, Any]]:
        """(dispatcher, pool, item) of the claimed jobs for which a thread is free."""
        return [
            (one, pool, item)
            for one in self.dispatchers
            for pool in one.queues.get("", {}).values()
            for item in pool.waiting
            if sum(1 for oid in pool.jobids.values() if oid) < pool.size and not one.crashed
        ]

    def begin(self, one: Any, pool: Any, item: Any) -> Actor:
        """A job thread takes a claimed job."""
        pool.waiting.remove(item)
        if not item.active:
            pool._started.add(item.oid)

        def call() -> None:
            local.dispatcher, local.name = one, pool.name
            try:
                report = execution.perform(self.db, item.oid, item.kind, item.token, one.around, item.info)
            except Killed:
                raise
            except BaseException:
                report = pool._interrupted(item)
            pool.jobids.pop(actor)
            one.claimer.report("", item.oid, report, end=item.info.end_of_job)

        actor = Actor(self, f"thread of {one.number} with {self.numbers.get(item.oid)}", call)
        actor.dispatcher, actor.item = one, item
        pool.jobids[actor] = item.oid
        pool._began[actor] = time.monotonic()
        return actor


def _monotonic() -> float:
    """Seconds by the world's own clock: on a busy machine too, a world can be had again by its seed."""
    return World.epoch + (clock.utcnow() - START).total_seconds()


@contextmanager
def quick() -> Iterator[None]:
    """Nobody waits, nothing is flushed to the disk, and what is logged on purpose does not fill the log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["ZODB.FileStorage.FileStorage"], "fsync", None)
        patch.setattr(transactions, "sleep", lambda seconds: None)
        patch.setattr(membership, "AgentThreadPool", Pool)
        patch.setattr(time, "monotonic", _monotonic)
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


class Storage:
    """A FileStorage that many worlds use one after the other; begun anew before it grows large."""

    def __init__(self, worlds: int = 200) -> None:
        self.worlds = self.left = worlds
        self.db: Any = None
        self.folder = ""

    def world(self) -> World:
        if self.left <= 0 or self.db is None:
            self.close()
            self.folder = tempfile.mkdtemp(prefix="zcasync-model-")
            self.db = ZODB.DB(FileStorage(str(Path(self.folder) / "Data.fs")), pool_size=100)
            self.left = self.worlds
        self.left -= 1
        return World(self.db)

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            shutil.rmtree(self.folder)
            self.db = None


@contextmanager
def a_world() -> Iterator[World]:
    """A single one, for a test that says itself who does what when."""
    storage = Storage()
    with quick():
        world = storage.world()
        yield world
        world.close()
        storage.close()


def in_seconds(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
