"""Defects that were there once: each has a test that fails without its fix."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.clock import set_now
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_for_result
from typing import Any
from ZEO.Exceptions import ClientDisconnected
from ZODB.mvccadapter import MVCCAdapterInstance

import enginejobs
import pytest
import threading
import transaction


@pytest.fixture(autouse=True)
def fresh_jobs() -> Iterator[None]:
    enginejobs.fresh()
    yield
    set_now(None)


def _put(queue: Any, job: Job) -> Job:
    queue.put(job)
    transaction.commit()
    return job


@pytest.fixture
def lose_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], threading.Event]:
    """``lose_answers(name)``: the next commit of a thread of that name is stored, and then the server seems gone."""

    def lose(thread_name: str) -> threading.Event:
        lost, finish = threading.Event(), MVCCAdapterInstance.tpc_finish

        def finish_and_lose(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = finish(self, *args, **kwargs)
            if threading.current_thread().name.startswith(thread_name) and not lost.is_set():
                lost.set()
                raise ClientDisconnected("the answer is lost")
            return result

        monkeypatch.setattr(MVCCAdapterInstance, "tpc_finish", finish_and_lose)
        return lost

    return lose


def test_a_job_whose_commit_was_stored_but_not_confirmed_does_not_run_again(
    queue: Any, dispatch: Any, lose_answers: Any
) -> None:
    dispatch(threads=1)
    lost = lose_answers("zcasync-main")
    job = _put(queue, Job(enginejobs.count))

    assert wait_for_result(job) == 1
    assert lost.wait(6)
    assert wait_for_result(_put(queue, Job(enginejobs.note, "behind"))) == "behind"
    transaction.begin()
    assert queue._p_jar.root()["count"] == 1 and job.attempts == 1


def test_a_database_that_is_away_costs_no_attempt(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, Job(enginejobs.disconnect_times, 3))

    assert wait_for_result(job) == 4
    assert job.attempts == 1


def test_a_job_that_cannot_be_loaded_while_the_database_is_away_is_waited_for(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch(threads=1)
    load, failed = MVCCAdapterInstance.load, threading.Event()
    job = queue.put(Job(enginejobs.note, "ran"), retry_policy_factory="NeverRetry")

    def load_or_fail(self: Any, oid: bytes) -> Any:
        if oid == job._p_oid and threading.current_thread().name.startswith("zcasync-main") and not failed.is_set():
            failed.set()
            raise ClientDisconnected("no server")
        return load(self, oid)

    monkeypatch.setattr(MVCCAdapterInstance, "load", load_or_fail)
    transaction.commit()

    assert wait_for_result(job) == "ran"
    assert failed.is_set() and job.attempt_log == ()


def test_the_start_of_a_callback_that_must_not_run_twice_is_no_commit_of_its_code(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(enginejobs.note, retry_policy_factory="NeverRetry")
    wait_for_result(_put(queue, job))

    assert callback.result == 1 and callback.attempt_log == ()
