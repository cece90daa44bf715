"""Politeness: jobs begin while the process serves no request."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import politeness as module
from collective.zcasync.job import Job
from collective.zcasync.politeness import Politeness
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.testing import wait_for_result
from typing import Any

import enginejobs
import logging
import pytest
import threading
import transaction


class Watched(Politeness):
    """Says when a job begins to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def wait(self) -> None:
        self.waiting.set()
        super().wait()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs wait for longer than any test takes."""
    monkeypatch.setattr(module, "PATIENCE", 60.0)


@pytest.fixture
def requests() -> Iterator[Watched]:
    yield Watched()


def test_a_job_does_not_begin_while_a_request_is_served_and_begins_at_its_end(
    queue: Any, dispatch: Callable[..., Any], requests: Watched, patient: None
) -> None:
    request = requests.begin()
    dispatch(politeness=requests)
    job = queue.put(Job(enginejobs.note, "job"))
    transaction.commit()
    assert requests.waiting.wait(10)
    assert (enginejobs.calls, requests.serving) == ([], 1)
    enginejobs.calls.append("request")
    requests.end()
    assert wait_for_result(job, 10) == "job"
    assert enginejobs.calls == ["request", "job"]
    del request


def test_a_job_begins_during_a_request_that_takes_long(
    queue: Any, dispatch: Callable[..., Any], requests: Watched
) -> None:
    request = requests.begin()
    dispatch(politeness=requests)
    job = queue.put(Job(enginejobs.note, "job"))
    transaction.commit()
    assert wait_for_result(job, 10) == "job"
    assert requests.serving == 1
    del request


def test_a_job_waits_for_all_requests(
    queue: Any, dispatch: Callable[..., Any], requests: Watched, patient: None
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def serve() -> None:
        request = requests.begin()
        begun.set()
        assert go_on.wait(10)
        enginejobs.calls.append("the other request")
        requests.end()
        ended.set()
        del request

    own = requests.begin()
    thread = threading.Thread(target=serve)
    thread.start()
    assert begun.wait(10)
    dispatch(politeness=requests)
    job = queue.put(Job(enginejobs.note, "job"))
    transaction.commit()
    assert requests.waiting.wait(10)
    requests.end()
    assert requests.serving == 1
    go_on.set()
    assert wait_for_result(job, 10) == "job"
    assert ended.wait(10)
    thread.join(10)
    assert enginejobs.calls == ["the other request", "job"]
    del own


def test_a_request_whose_end_nobody_tells_of_counts_no_more_once_it_is_let_go() -> None:
    requests = Politeness()
    request = requests.begin()
    assert requests.serving == 1
    del request
    assert requests.serving == 0
    requests.end()
    assert requests.serving == 0


def test_a_thread_that_begins_anew_serves_one_request() -> None:
    requests = Politeness()
    lost = requests.begin()
    request = requests.begin()
    del lost
    assert requests.serving == 1
    requests.end()
    assert requests.serving == 0
    del request


def test_without_politeness_jobs_do_not_wait(queue: Any, dispatch: Callable[..., Any], requests: Watched) -> None:
    request = requests.begin()
    dispatch()
    job = queue.put(Job(enginejobs.note, "job"))
    transaction.commit()
    assert wait_for_result(job, 10) == "job"
    assert not requests.waiting.is_set()
    del request


def work(requests: Politeness, monkeypatch: pytest.MonkeyPatch, seconds: float, within: float) -> None:
    """A job that works so long, within so much time."""
    now, worked = module.time.monotonic(), module.time.thread_time()
    with monkeypatch.context() as patched:
        patched.setattr(module.time, "thread_time", lambda: worked)
        with requests.turn():
            patched.setattr(module.time, "thread_time", lambda: worked + seconds)
            patched.setattr(module.time, "monotonic", lambda: now + within)


@pytest.mark.parametrize(
    ("requests", "seconds", "said"), [(1, 100, 1), (0, 100, 0), (1, 10, 0)], ids=["much", "nobody asks", "little"]
)
def test_much_work_beside_requests_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, requests: int, seconds: float, said: int
) -> None:
    polite = Politeness()
    for _number in range(requests):
        polite.begin()
    with caplog.at_level(logging.WARNING):
        work(polite, monkeypatch, seconds, within=300)
    assert round(polite.much, 2) == (0.33 if said else 0)
    assert caplog.text.count("zcasync worker") == said
    assert not said or "33 % of a processor" in caplog.text


def test_much_work_is_said_once_an_hour(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    polite = Politeness()
    times = []
    with caplog.at_level(logging.WARNING):
        for within in (300, 600, 3600, 3900, 4200):
            polite.begin()
            work(polite, monkeypatch, 1000, within)
            times.append(caplog.text.count("zcasync worker"))
    assert times == [1, 1, 1, 2, 2]


def test_a_shared_transaction_takes_up_no_more_jobs_once_a_request_has_come() -> None:
    requests = Politeness()
    around = Surroundings(politeness=requests)
    assert around.goes_on
    request = requests.begin()
    assert not around.goes_on
    requests.end()
    assert around.goes_on and Surroundings().goes_on
    del request
