"""A simulated world: a queue in a simulated storage, the dispatchers of several machines, and clients that use it.

The dispatchers are whole: their claims, heartbeats, mail, job threads and wake-ups run as in production, on the clock
and the scheduler of simkernel. ``quick`` puts those in place of the real ones.
"""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import deferreds
from collective.zcasync import events
from collective.zcasync import instanceuuid
from collective.zcasync import threadlocal
from collective.zcasync import threadpool
from collective.zcasync import transactions
from collective.zcasync.claims import Taker
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.inprocess import clear
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.job import parallel
from collective.zcasync.job import serial
from collective.zcasync.lookup import main_of
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.threadlocal import local
from collective.zcasync.threadpool import AgentThreadPool
from contextlib import contextmanager
from datetime import timedelta
from enginechecks import Checker
from enginemodel import Client
from enginemodel import START
from engineworld import follow
from engineworld import Known
from simkernel import Event
from simkernel import Kernel
from simkernel import Machine
from simkernel import SimpleQueue
from simkernel import Thread
from simkernel import threads
from simstorage import ClientDisconnected
from simstorage import Core
from simstorage import View
from simstorage import Weather
from twisted.internet.defer import Deferred
from types import SimpleNamespace
from typing import Any
from zope.interface import implementer

import gc
import itertools
import logging
import pytest
import random
import secrets
import sys
import threading
import time
import transaction
import uuid
import ZODB

#: What tells the real time.
REAL_MONOTONIC = time.monotonic

#: Seconds between pings, and of silence that mean death: shorter than in production, so that a world is short.
PING, DEATH = 1.5, 3.0

#: What a job's code may do, each as often as the others; see ``work``.
OUTCOMES = (
    *("return", "return", "return", "return", "raise", "raise", "conflict", "hot", "hot", "commit"),
    *("commit and raise", "abort", "exit", "hook", "unstorable", "checkpoint", "progress", "annotate"),
    *("inner", "deferred", "deferred failure"),
)

#: Calls of one job's code after which it only returns.
ENOUGH = 6


class Simulated(Known):
    """One world. ``seed`` says all that happens in it."""

    def __init__(self, seed: int, weather: Weather) -> None:
        super().__init__(work)
        self.kernel = kernel = Kernel(seed)
        kernel.world = self
        random.seed(seed)
        threadpool._numbers = itertools.count(1)
        events._warned.clear()
        self.random = kernel.random
        self.weather = weather
        #: Seconds by which all clocks are ahead of the kernel's.
        self.ahead = 0.0
        self.core = Core(kernel, self.storage_now)
        self.machines: list[Machine] = []
        self.commits = 0
        #: number -> simulated seconds: when its put was stored, and when its code began first.
        self.put_at: dict[int, float] = {}
        self.begun_at: dict[int, float] = {}
        #: Whether whatever is called from now on simply returns.
        self.settling = False
        #: What jobs may do.
        self.outcomes: tuple[str, ...] = OUTCOMES
        #: Seconds that a job's code takes at most.
        self.longest = 1.5
        self.db = ZODB.DB(View(self.core, weather))
        self._make_queue()
        self.observer = Client(self)
        self.checker = Checker(self)

    def _make_queue(self) -> None:
        manager = transaction.TransactionManager()
        connection = self.db.open(manager)
        queue = self.make_queue(connection.root())
        queue.set_template("worker", "main", 2, 1, self.random.choice((0, 3, 32)))
        manager.commit()
        connection.close()

    def close(self) -> None:
        for machine in self.machines:
            self.kernel.kill(machine)
        self.kernel.run(self.kernel.now)
        self.observer.connection.close()
        self.kernel.end()
        clear()

    def storage_now(self) -> Any:
        return START + timedelta(seconds=self.kernel.now + self.ahead)

    # What jobs do

    def learn(self, job: Any) -> None:
        """Its put or adding is being committed."""
        if self.learned(job):
            self.put_at[job.args[0]] = self.kernel.now

    def began(self, number: int, main: Any) -> str:
        """A job's code begins: what it is to do."""
        self.begins(number, main)
        self.begun_at.setdefault(number, self.kernel.now)
        if self.settling or self.calls[number] > ENOUGH:
            return "return"
        return self.random.choice(self.outcomes)

    # Around each commit of a machine

    def before_commit(self) -> None:
        me = self.kernel.current
        txn = transaction.manager.manager._txn
        then, me.then = me.then, []
        if txn is not None:
            then += [call for one, call in me.in_transaction if one is txn]
            me.in_transaction.clear()
        for call in then:
            call()

    def stored(self, me: Any, number: int, kind: str, oid: bytes, token: str) -> None:
        """An effect is being committed by a thread that has begun with this token."""
        if number == self.numbers.get(oid) and self.committed_token(oid) != token:
            self.faults.append(f"fence: {me.name} stored {kind} of job {number}, which belongs to another claim")

    def after_commit(self) -> None:
        self.commits += 1
        if self.kernel.current.name.endswith("/heartbeat"):
            return  # a ping changes nothing that is looked at
        try:
            self.checker.check()
        except BaseException as error:
            self.kernel.tell(f"violated: {error}")
            self.kernel.errors.append(error)

    # Machines

    def start(self, host: str, size: int, poll: float) -> Machine:
        """A dispatcher, as a process of its own."""
        machine = Machine(f"d{len(self.machines) + 1}", host, self.kernel)
        machine.view = View(self.core, self.weather, machine)
        self.machines.append(machine)

        def main() -> None:
            machine.db = open_database(machine)
            number = uuid.UUID(int=self.random.getrandbits(128))
            one: Any = Dispatcher(machine.db, Reactor(machine), poll, number, threads=size, shutdown_grace=1)
            heard = one._committed

            def committed(oids: Any, tid: Any) -> None:
                if self.random.random() >= self.weather.unheard:
                    heard(oids, tid)

            one._committed = committed
            machine.dispatcher = one
            one.activate()

        Thread(target=main, name="main", machine=machine).start()
        self.kernel.tell(f"{machine} starts on {host}")
        return machine

    def leave(self, machine: Any) -> None:
        """A clean stop."""
        machine.leaves = True

        def stop() -> None:
            machine.dispatcher.deactivate()
            self.kernel.kill(machine)

        self.kernel.tell(f"{machine} is to stop")
        Thread(target=stop, name="stop", machine=machine).start()

    def active(self) -> list[Any]:
        """The machines whose dispatchers are at work."""
        return [
            one
            for one in self.machines
            if not one.dead and not one.leaves and one.dispatcher is not None and one.dispatcher.activated
        ]


def open_database(machine: Any) -> Any:
    """As soon as the storage can be reached."""
    while True:
        try:
            return ZODB.DB(machine.view)
        except ClientDisconnected:
            machine.kernel.sleep(0.1)


class Reactor:
    """What a machine's dispatcher needs of a reactor."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def callFromThread(self, call: Any, *args: Any) -> None:
        self.machine.kernel.soon(0.0001, self.machine, call, *args)

    def callLater(self, seconds: float, call: Any, *args: Any) -> None:
        self.machine.kernel.soon(seconds, self.machine, call, *args)

    def addSystemEventTrigger(self, *args: Any) -> None:
        """Nothing shuts this reactor down."""


@implementer(IRetryPolicy)
class Scripted:
    """A policy that answers by chance."""

    def __init__(self, job: Any) -> None:
        self.parent = job

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        return Kernel.here.random.choice((False, True, timedelta(0), timedelta(seconds=2)))

    commitError = jobError

    def interrupted(self) -> Any:
        return True

    def updateData(self, data_cache: dict[str, Any]) -> None:
        """Nothing to keep."""


def accepts(job: Any) -> bool:
    """A filter of an agent that leaves some jobs to others."""
    return not job.args or not isinstance(job.args[0], int) or job.args[0] % 3 != 0


def choose_last(agent: Any) -> Any:
    """A chooser of an agent that looks at all that waits."""
    queue = agent.queue
    waiting = [job for job in queue if accepts(job)]
    return queue.claim(lambda job: job is waiting[-1]) if waiting else None


def work(number: int, *results: Any) -> Any:
    """The code of all jobs and callbacks."""
    kernel = Kernel.here
    world, me = kernel.world, kernel.current
    job = local.job
    root = job._p_jar.root()
    if me.machine.host == "client":  # a late callback, run by who has added it
        write(world, root, number, "final")
        return number
    main = main_of(job)
    outcome = world.began(number, main)
    kernel.tell(f"{'callback' if job is not main else 'job'} {number}: {outcome}")
    quick = job.groupable or world.settling
    kernel.sleep(world.random.random() * (0.002 if quick else world.random.choice((0.01, 0.05, world.longest))))
    follow(outcome, number, world, root, lambda kind: write(world, root, number, kind, main))
    if outcome == "inner":
        inner = world.new_job()
        me.in_transaction.append((transaction.get(), lambda: (world.outers.add(number), world.learn(inner))))
        return inner
    if outcome.startswith("deferred"):
        me.in_transaction.append((transaction.get(), lambda: world.outers.add(number)))
        return deferred(me.machine, world.random.random() * 3, outcome)
    return threading.Lock() if outcome == "unstorable" else number


def deferred(machine: Any, seconds: float, outcome: str) -> Deferred[Any]:
    made: Deferred[Any] = Deferred()

    def fire() -> None:
        if made.called:
            return
        if not made.callbacks:  # the commit that returns it is on its way
            machine.kernel.soon(0.2, machine, fire)
            return
        if outcome == "deferred":
            made.callback(1)
        else:
            made.errback(ValueError("said the script"))

    machine.kernel.soon(seconds, machine, fire)
    return made


def write(world: Any, root: Any, number: int, kind: str, main: Any = None) -> None:
    """An effect."""
    world.effect(root, number, kind)
    if main is not None:
        me, oid, token = world.kernel.current, main._p_oid, main.token
        me.in_transaction.append((transaction.get(), lambda: world.stored(me, number, kind, oid, token)))


# Clocks, threads and chances of the world in place of the real ones


def _utcnow() -> Any:
    """The clock of the machine on which this runs."""
    kernel = Kernel.here
    me = kernel.current
    return kernel.world.storage_now() + timedelta(seconds=0 if me is None else me.machine.skew)


def _monotonic() -> float:
    kernel = Kernel.here
    me = kernel.current
    return float(kernel.now if me is None else kernel.now + me.machine.began)


def _process_identity() -> dict[str, Any]:
    machine = Kernel.here.current.machine
    return {
        **dict.fromkeys(("host", "boot_id", "pid_namespace"), machine.host),
        "pid": machine.pid,
        "started": machine.pid,
        "version": "1",
    }


def _process_is_gone(identity: dict[str, Any]) -> bool | None:
    kernel = Kernel.here
    if kernel.current is None or identity.get("host") != kernel.current.machine.host:
        return None
    return any(one.dead for one in kernel.world.machines if one.pid == identity["pid"])


@contextmanager
def quick() -> Iterator[None]:
    """The engine lives on the simulated clock, and logs nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("collective.zcasync.") and getattr(module, "threading", None) is threading:
                patch.setattr(module, "threading", threads)
        patch.setattr(deferreds, "queue", SimpleNamespace(SimpleQueue=SimpleQueue))
        patch.setattr(threadlocal, "SimpleQueue", SimpleQueue)
        patch.setattr(time, "monotonic", _monotonic)
        patch.setattr(time, "perf_counter", _monotonic)
        patch.setattr(time, "time", lambda: _utcnow().timestamp())
        patch.setattr(time, "sleep", lambda seconds: Kernel.here.sleep(seconds))
        patch.setattr(transactions, "sleep", lambda seconds: Kernel.here.sleep(seconds))
        patch.setattr(clock, "utcnow", _utcnow)
        patch.setattr(clock, "microseconds", lambda: clock.to_microseconds(_utcnow()))
        patch.setattr(instanceuuid, "process_identity", _process_identity)
        patch.setattr(instanceuuid, "process_is_gone", _process_is_gone)
        patch.setattr(instanceuuid, "process_memory", lambda: 1000)
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4))
        patch.setattr(secrets, "token_hex", lambda size: f"{random.getrandbits(8 * size):0{2 * size}x}")
        patch.setattr(DispatcherAgents, "ping_interval", timedelta(seconds=PING))
        patch.setattr(DispatcherAgents, "ping_death_interval", timedelta(seconds=DEATH))
        give = AgentThreadPool.give

        def given(pool: Any, items: Any) -> None:
            machine = Kernel.here.current.machine
            quotas = getattr(machine, "quotas", {})
            for item in items:
                Kernel.here.world.kinds.setdefault((item.oid, item.token), (item.kind, quotas))
            give(pool, items)

        init = Surroundings.__init__

        def surround(around: Any, *args: Any, **kwargs: Any) -> None:
            init(around, *args, **kwargs)
            around.stopping = Event()

        patch.setattr(Surroundings, "__init__", surround)
        take = Taker.take

        def taken(taker: Any, *args: Any, **kwargs: Any) -> Any:
            quotas = {name: quota._p_oid for name, quota in taker.queue.quotas.items()}
            Kernel.here.current.machine.quotas = quotas
            return take(taker, *args, **kwargs)

        patch.setattr(AgentThreadPool, "give", given)
        patch.setattr(Taker, "take", taken)
        logging.disable(logging.CRITICAL)
        gc.collect()
        gc.freeze()  # what is there now stays, and need not be looked through after each few worlds
        gc.disable()
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
            gc.enable()


__all__ = ("accepts", "choose_last", "parallel", "quick", "serial", "Simulated", "work")
