"""Whole processes that start a dispatcher by code: what signals do to them, and a reactor in the main thread."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import subscribers
from collective.zcasync.events import DatabaseOpened
from collective.zcasync.queue import get_queue
from pathlib import Path
from serverprocess import ServerProcess
from typing import Any
from ZODB.FileStorage import FileStorage

import os
import pytest
import signal
import sys
import threading
import ZODB

TESTS = Path(__file__).parent.parent

BEGIN = """\
from collective.zcasync import configure
from collective.zcasync.events import DatabaseOpened
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.testing import get_poll
from ZODB.FileStorage import FileStorage

import enginejobs
import logging
import signal
import sys
import threading
import transaction
import ZODB

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
db = ZODB.DB(FileStorage("Data.fs"))

def put():
    connection = db.open()
    job = get_queue(connection).put(Job(enginejobs.say, "hello from a job"))
    transaction.commit()
    return job
"""

THREADED = (
    BEGIN
    + """
running = configure.start(db, poll_interval=0.2)
get_poll(running.dispatcher, 0, 30)
put()
enginejobs.say("ready")
threading.Event().wait(60)
"""
)

CHAINED = (
    BEGIN
    + """
done = threading.Event()

def mine(number, frame):
    enginejobs.say(f"my own handler, dispatcher active: {running.dispatcher.activated is not None}")
    done.set()

signal.signal(signal.SIGINT, mine)
running = configure.start(db, poll_interval=0.2)
get_poll(running.dispatcher, 0, 30)
enginejobs.say("ready")
while not done.wait(0.2):
    pass
enginejobs.say("the program goes on")
"""
)

TWISTED = (
    BEGIN
    + """
from twisted.internet import reactor

def look():
    transaction.begin()
    reactor.callLater(0.05, look) if job.outcome is None else enginejobs.say("the job has ended")

dispatcher = configure.start(db, poll_interval=0.2, twisted=True)
job = put()
reactor.callLater(0, lambda: enginejobs.say(f"the reactor runs in {threading.current_thread().name}"))
reactor.callLater(0, look)
reactor.run()
enginejobs.say(f"the reactor has ended, dispatcher active: {dispatcher.activated is not None}")
db.close()
"""
)

BY_EVENT = (
    BEGIN
    + """
from zope.configuration.xmlconfig import file
import collective.zcasync
import zope.event

file("basic_dispatcher_policy.zcml", package=collective.zcasync)
zope.event.notify(DatabaseOpened(db))
put()
enginejobs.say("ready")
threading.Event().wait(60)
"""
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], ServerProcess]]:
    """Start a program in a folder of its own."""
    processes: list[ServerProcess] = []

    def begin(program: str) -> ServerProcess:
        (tmp_path / "program.py").write_text(program)
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        processes.append(ServerProcess([sys.executable, "program.py"], tmp_path, {"PYTHONPATH": path}))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()


def left_behind(folder: Path) -> tuple[int, int]:
    """How many dispatchers are still registered in the database of a program, and how many jobs wait."""
    db = ZODB.DB(FileStorage(str(folder / "Data.fs")))
    try:
        with db.transaction() as connection:
            queue = get_queue(connection)
            return len(queue.dispatchers), len(queue)
    finally:
        db.close()


@pytest.mark.parametrize("program", [THREADED, BY_EVENT], ids=["configure.start", "basic_dispatcher_policy.zcml"])
def test_a_process_that_is_terminated_stops_its_dispatcher_and_exits(
    start: Callable[[str], ServerProcess], program: str, tmp_path: Path
) -> None:
    process = start(program)
    process.wait_for("ready")
    process.wait_for("hello from a job")
    assert process.stop(signal.SIGTERM) == 0
    assert "Got SIGTERM: the dispatcher stops, then this process" in process.output
    assert "deactivated" in process.output
    assert left_behind(tmp_path) == (0, 0)


def test_a_process_that_is_interrupted_stops_its_dispatcher_and_gets_its_keyboard_interrupt(
    start: Callable[[str], ServerProcess], tmp_path: Path
) -> None:
    process = start(THREADED)
    process.wait_for("ready")
    process.wait_for("hello from a job")
    assert process.stop(signal.SIGINT) in (130, -signal.SIGINT)
    assert "KeyboardInterrupt" in process.output
    assert left_behind(tmp_path) == (0, 0)


def test_the_handler_that_was_there_before_is_called_after_the_stop(
    start: Callable[[str], ServerProcess], tmp_path: Path
) -> None:
    process = start(CHAINED)
    process.wait_for("ready")
    assert process.stop(signal.SIGINT) == 0
    process.wait_for("my own handler, dispatcher active: False")
    process.wait_for("the program goes on")
    assert left_behind(tmp_path) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_twisted_reactor_in_the_main_thread_runs_jobs_until_it_ends(
    start: Callable[[str], ServerProcess], number: signal.Signals, tmp_path: Path
) -> None:
    process = start(TWISTED)
    process.wait_for("the reactor runs in MainThread")
    process.wait_for("hello from a job")
    process.wait_for("the job has ended")  # one that still runs waits again
    process.stop(number)
    process.wait_for("the reactor has ended, dispatcher active: False")
    assert left_behind(tmp_path) == (0, 0)


# In this process


@pytest.fixture
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


def mine(number: int, frame: Any) -> None:
    """A handler of somebody else."""


def test_the_handlers_are_listed_and_those_that_are_still_ours_are_restored(db: Any, handlers: None) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    running = subscribers.ThreadedDispatcherInstaller()(DatabaseOpened(db))
    listed = subscribers.signal_handlers[id(running.dispatcher)]
    assert {number: previous for number, (previous, _installed) in listed.items()} == before
    assert {number: signal.getsignal(number) for number in listed} == {
        number: installed for number, (_previous, installed) in listed.items()
    }
    signal.signal(signal.SIGTERM, mine)
    subscribers.restore_signal_handlers(running.dispatcher)
    assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is mine
    assert id(running.dispatcher) not in subscribers.signal_handlers
    subscribers.restore_signal_handlers(running.dispatcher)  # forgotten: nothing to do
    running.stop()


def test_a_dispatcher_that_starts_in_another_thread_leaves_the_handlers_alone(db: Any, handlers: None) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    started: list[Any] = []
    installer = subscribers.ThreadedDispatcherInstaller()
    thread = threading.Thread(target=lambda: started.append(installer(DatabaseOpened(db))))
    thread.start()
    thread.join(30)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert id(started[0].dispatcher) not in subscribers.signal_handlers
    started[0].stop()
