"""signals and zopeapp.lifetime: what a stop signal does to the process that gets it."""

from collections.abc import Iterator
from collective.zcasync.signals import StopSignals
from collective.zcasync.zopeapp.lifetime import Lifetime
from types import SimpleNamespace
from typing import Any

import atexit
import os
import pytest
import signal
import threading
import Zope2

#: Seconds that a thread may take.
PATIENCE = 10


class Recorder:
    """Stands for the dispatcher's end: says that it began, and ends when it may."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def drain(self) -> None:
        self.stop(None)

    def stop(self, grace: float | None) -> None:
        self.calls.append(grace)
        self.began.set()
        assert self.may_end.wait(PATIENCE)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def signals(recorder: Recorder) -> Iterator[StopSignals]:
    made = StopSignals(recorder.drain, hurry=lambda: recorder.calls.append("hurry"))
    assert made.install()
    yield made
    recorder.may_end.set()
    made.uninstall()


def wait_to_be_interrupted() -> None:
    threading.Event().wait(PATIENCE)
    pytest.fail("no signal came")


def handlers() -> list[Any]:
    return [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize(("number", "exception"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_drains_and_then_interrupts_the_main_thread(
    signals: StopSignals, recorder: Recorder, number: int, exception: type[BaseException]
) -> None:
    with pytest.raises(exception):
        signal.raise_signal(number)
        wait_to_be_interrupted()
    assert recorder.calls == [None]


def test_the_main_thread_goes_on_serving_during_the_drain(signals: StopSignals, recorder: Recorder) -> None:
    recorder.may_end.clear()
    signal.raise_signal(signal.SIGTERM)
    assert recorder.began.wait(PATIENCE)  # an interrupted wait would have raised here
    with pytest.raises(SystemExit):
        recorder.may_end.set()
        wait_to_be_interrupted()


def test_a_second_signal_does_not_wait_for_the_drain(signals: StopSignals, recorder: Recorder) -> None:
    recorder.may_end.clear()
    signal.raise_signal(signal.SIGTERM)
    assert recorder.began.wait(PATIENCE)
    with pytest.raises(SystemExit) as stopped:
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 0
    assert recorder.calls == [None, "hurry"]


def test_a_third_signal_does_not_disturb_the_end(signals: StopSignals, recorder: Recorder) -> None:
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
        wait_to_be_interrupted()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)


def test_a_drain_that_fails_is_logged_and_the_process_ends(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("no database")

    signals = StopSignals(fail)
    signals.install()
    try:
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
            wait_to_be_interrupted()
    finally:
        signals.uninstall()
    assert "did not stop cleanly" in caplog.text
    assert "no database" in caplog.text


def test_handlers_of_a_server_are_left_alone(recorder: Recorder) -> None:
    def own(number: int, frame: Any) -> None:
        return None

    before = signal.signal(signal.SIGTERM, own)
    try:
        signals = StopSignals(recorder.drain)
        signals.install()
        assert signal.getsignal(signal.SIGTERM) is own
        signals.uninstall()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_than_the_main_one_installs_nothing(recorder: Recorder) -> None:
    before = handlers()
    answers: list[bool] = []
    signals = StopSignals(recorder.drain)
    thread = threading.Thread(target=lambda: answers.append(signals.install()))
    thread.start()
    thread.join(PATIENCE)
    assert answers == [False]
    assert handlers() == before
    signals.uninstall()


def test_handlers_and_threads_are_as_before_when_uninstalled(recorder: Recorder) -> None:
    before, threads = handlers(), set(threading.enumerate())
    signals = StopSignals(recorder.drain)
    signals.install()
    assert handlers() != before
    signals.uninstall()
    assert handlers() == before
    assert set(threading.enumerate()) == threads


def test_a_signal_to_a_forked_child_has_its_old_meaning(signals: StopSignals, recorder: Recorder) -> None:
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(99)  # the default would have ended it
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert recorder.calls == []


def test_a_forked_child_takes_over_from_the_inherited_handlers(signals: StopSignals) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0 if StopSignals(lambda: None).install() else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def lifetime(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lifetime]:
    monkeypatch.setattr(Zope2, "opened", [SimpleNamespace(close=lambda: recorder.calls.append("database closed"))])
    made = Lifetime(recorder, 8.0)
    made.install()
    yield made
    made.end()


def test_the_dispatcher_stops_before_the_databases_close(lifetime: Lifetime, recorder: Recorder) -> None:
    for each in Zope2.opened:  # as runwsgi does at its end
        each.close()
    assert recorder.calls == [8.0, "database closed"]


def test_a_dispatcher_that_does_not_stop_cleanly_does_not_keep_the_databases_open(
    lifetime: Lifetime, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(Recorder, "stop")
    for each in Zope2.opened:
        each.close()
    assert recorder.calls == ["database closed"]
    assert "did not stop cleanly" in caplog.text


def test_whoever_stops_second_waits_for_the_first(lifetime: Lifetime, recorder: Recorder) -> None:
    recorder.may_end.clear()
    first = threading.Thread(target=lifetime.close)
    first.start()
    assert recorder.began.wait(PATIENCE)
    second = threading.Thread(target=lifetime.close)
    second.start()
    assert not lifetime.done
    recorder.may_end.set()
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert lifetime.done
    assert recorder.calls == [8.0]


def test_an_ended_lifetime_is_known_to_nobody(lifetime: Lifetime, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[Any] = []
    monkeypatch.setattr(atexit, "unregister", forgotten.append)
    lifetime.end()
    assert lifetime not in Zope2.opened
    assert forgotten == [lifetime.close]
    assert not lifetime.alive


def test_a_forked_child_stops_nothing(lifetime: Lifetime, recorder: Recorder) -> None:
    child = os.fork()
    if child == 0:
        lifetime.close()
        os._exit(0 if recorder.calls == [] and not lifetime.alive else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert lifetime.alive
