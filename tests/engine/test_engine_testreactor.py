"""The reactor that a test moves by hand, alone and with a real dispatcher on it."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import testing
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import IReactor
from collective.zcasync.job import Job
from collective.zcasync.testing import Reactor
from collective.zcasync.testtime import START
from datetime import timedelta
from typing import Any

import collective.zcasync
import enginejobs
import pytest
import threading
import transaction


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    reactor.start()
    yield reactor
    reactor.stop()


@pytest.fixture
def dispatcher(db: Any, reactor: Reactor) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(db, reactor)
    dispatcher.activate()
    yield dispatcher
    reactor.stop()
    dispatchers.pop(dispatcher.UUID)


def test_the_reactor_has_the_five_methods_of_a_reactor() -> None:
    assert [name for name in IReactor if not callable(getattr(Reactor(), name))] == []
    assert len(list(IReactor)) == 5


@pytest.mark.parametrize("method", ["callLater", "callFromThread"])
def test_before_its_start_the_reactor_takes_no_calls(method: str) -> None:
    arguments = (1, print) if method == "callLater" else (print,)
    with pytest.raises(ValueError, match=rf"{method}.*start\(\)"):
        getattr(Reactor(), method)(*arguments)


def test_calls_are_made_in_the_order_of_their_times_on_the_frozen_clock(reactor: Reactor) -> None:
    made: list[Any] = []
    began = clock.utcnow()
    for seconds in (7, 3, 3, 5):
        reactor.callLater(seconds, lambda: made.append((clock.utcnow() - began).total_seconds()))
    assert reactor.time_flies(5) == 3
    assert made == [3, 3, 5]
    assert clock.utcnow() == began + timedelta(seconds=5)
    assert reactor.time_flies(1) == 0
    assert reactor.time_flies(1) == 1
    assert made == [3, 3, 5, 7]


def test_a_call_may_ask_for_further_calls_in_the_same_flight(reactor: Reactor) -> None:
    made: list[str] = []
    reactor.callLater(1, reactor.callLater, 1, made.append, "second")
    assert reactor.time_flies(2) == 2
    assert made == ["second"]


def test_one_call_that_is_due_is_made_when_time_passes(reactor: Reactor) -> None:
    made: list[str] = []
    reactor.callFromThread(made.append, "a")
    reactor.callWhenRunning(made.append, "b")
    reactor.callLater(1, made.append, "c")
    assert reactor.time_passes() is True
    assert made == ["a"]
    assert reactor.time_passes() is True
    assert reactor.time_passes() is False
    assert made == ["a", "b"]


def test_what_waits_for_the_start_is_called_after_it() -> None:
    made: list[str] = []
    reactor = Reactor()
    reactor.callWhenRunning(made.append, "running")
    reactor.start()
    assert (made, reactor.time_passes(), made) == (["running"], True, ["running"])
    reactor.stop()


def test_a_call_in_a_thread_is_made_at_once_elsewhere(reactor: Reactor) -> None:
    done = threading.Event()
    threads: list[Any] = []
    reactor.callInThread(lambda: (threads.append(threading.current_thread()), done.set()))
    assert done.wait(10)
    assert threads != [threading.current_thread()]


def test_a_cancelled_call_is_not_made(reactor: Reactor) -> None:
    made: list[str] = []
    call = reactor.callLater(1, made.append, "never")
    call.cancel()
    assert not call.active()
    assert reactor.time_flies(2) == 0
    assert made == []
    with pytest.raises(InvalidValueError, match="cancelled"):
        call.cancel()


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_time_does_not_fly_backwards(reactor: Reactor, seconds: float) -> None:
    with pytest.raises(InvalidValueError, match="seconds"):
        reactor.time_flies(seconds)
    with pytest.raises(InvalidValueError, match="seconds"):
        reactor.callLater(seconds, print)


def test_the_start_freezes_the_clock_and_the_stop_lets_it_run() -> None:
    reactor = Reactor()
    reactor.start()
    assert clock.utcnow() == START
    with pytest.raises(InvalidValueError, match="started already"):
        reactor.start()
    reactor.stop()
    reactor.stop()
    assert clock.utcnow().year > 2006
    testing.setUpDatetime()
    reactor.start()
    reactor.stop()
    assert clock.utcnow() == START  # it stays frozen for whoever froze it
    testing.tearDownDatetime()


def test_the_stop_makes_the_calls_for_the_shutdown(reactor: Reactor) -> None:
    made: list[str] = []
    reactor.addSystemEventTrigger("before", "shutdown", made.append, "shutdown")
    with pytest.raises(InvalidValueError, match="after"):
        reactor.addSystemEventTrigger("after", "shutdown", made.append, "never")
    reactor.stop()
    assert made == ["shutdown"]


def test_a_dispatcher_polls_as_time_flies(dispatcher: Dispatcher, reactor: Reactor) -> None:
    assert dispatcher.polls.count == 0
    assert reactor.time_flies(0) == 1
    assert dispatcher.polls.count == 1
    assert reactor.time_flies(20) == 4
    assert dispatcher.polls.count == 5
    times = [poll.utc_timestamp for poll in dispatcher.polls]
    assert [(times[0] - time).total_seconds() for time in times] == [0, 5, 10, 15, 20]


def test_a_job_for_later_runs_when_time_has_flown(dispatcher: Dispatcher, reactor: Reactor, queue: Any) -> None:
    reactor.time_flies(5)
    job = queue.put(Job(enginejobs.note, "late"), begin_after=clock.utcnow() + timedelta(hours=1))
    transaction.commit()
    reactor.time_flies(60)
    transaction.begin()
    assert job.status == "pending-status"
    reactor.time_flies(3600)
    transaction.begin()
    assert job.result == "late"
    assert timedelta(0) <= job.active_start - job.begin_after <= timedelta(seconds=5)


def test_a_job_that_is_due_between_two_polls_runs_at_the_end_of_the_flight(
    dispatcher: Dispatcher, reactor: Reactor, queue: Any
) -> None:
    reactor.time_flies(5)
    job = queue.put(Job(enginejobs.note, "soon"), begin_after=clock.utcnow() + timedelta(seconds=2))
    transaction.commit()
    assert reactor.time_flies(2) == 0
    transaction.begin()
    assert job.result == "soon"


def test_a_job_and_what_it_puts_are_done_when_the_wait_is_over(
    dispatcher: Dispatcher, reactor: Reactor, queue: Any
) -> None:
    job = queue.put(Job(put_another))
    transaction.commit()
    reactor.wait_for(job)
    assert job.result == "put"
    assert enginejobs.calls == ["inner"]
    assert list(queue) == []


def test_the_wait_tells_which_job_has_not_ended(
    dispatcher: Dispatcher, reactor: Reactor, queue: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    job = queue.put(Job(enginejobs.wait))
    quick = queue.put(Job(enginejobs.note, "quick"))
    transaction.commit()
    assert reactor.wait_for(job, quick, attempts=2) is False
    told = capsys.readouterr().out
    assert told.startswith("TIME OUT\n<collective.zcasync.job.Job (oid ")
    assert "enginejobs.wait()``> is active-status" in told
    assert "note" not in told
    enginejobs.released["a"].set()
    assert reactor.wait_for(job, quick) is True
    assert job.result == "a"


def test_the_dispatcher_ends_with_its_reactor(dispatcher: Dispatcher, reactor: Reactor, queue: Any) -> None:
    reactor.time_flies(5)
    transaction.begin()
    assert dispatcher.UUID in queue.dispatchers
    reactor.stop()
    transaction.begin()
    assert dispatcher.activated is None
    assert dispatcher.UUID not in queue.dispatchers


def put_another() -> str:
    collective.zcasync.local.getQueue().put(Job(enginejobs.note, "inner"))
    return "put"
