"""Defects that were there once: each has a test that fails without its fix."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import sweeping
from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_for_annotation
from collective.zcasync.testing import wait_for_result
from typing import Any
from uuid import uuid4
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


def _agent(queue: Any) -> Agent:
    """An agent of a dispatcher without threads, for claims by hand."""
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = agent = Agent()
    transaction.commit()
    return agent


def _claimed(queue: Any, agent: Agent, job: Job, active: bool = True) -> Job:
    _put(queue, job)
    assert [one.job for one in Taker(queue, agent.slot).take(1)] == [job]
    agent.hold(job, active)
    transaction.commit()
    return job


@pytest.mark.parametrize("active", [True, False])
def test_a_late_callback_of_a_job_that_is_put_back_is_called_when_it_ends(
    queue: Any, dispatch: Any, active: bool
) -> None:
    agent = _agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.add, 5), active)
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    sweeping.put_back(queue, agent.slot, job)
    transaction.commit()

    assert job.active_start is None and len(agent.slot.mailbox) == 0
    dispatch()
    assert wait_for_result(job) == 5 and late.result == 5


def test_a_late_callback_is_not_lost_when_the_job_waits_again_and_its_dispatcher_dies(
    queue: Any, dispatch: Any
) -> None:
    agent = _agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.add, 5))
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    queue.give_back(job)  # as a job thread does; the claim that would sweep it never comes
    transaction.commit()
    agent.parent.deactivate(died=True)
    transaction.commit()
    dispatch()

    assert wait_for_result(job) == 5 and late.result == 5


@pytest.mark.parametrize("end", ["returned", "died", "put back"])
def test_a_job_that_was_asked_to_stop_does_not_begin_again(end: str, queue: Any, dispatch: Any) -> None:
    agent = _agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.note, "never"))
    assert queue.cancel(job) == "stopping"
    transaction.commit()
    if end == "returned":
        queue.give_back(job)
        transaction.commit()
        sweeping.sweep(queue, agent.slot, [(job._p_oid, "returned")])
    elif end == "put back":
        sweeping.put_back(queue, agent.slot, job)
    else:
        agent.parent.deactivate(died=True)
    transaction.commit()
    dispatch()

    assert wait_for_result(job).check(CancelledError)
    assert job.outcome == "cancelled" and enginejobs.calls == [] and len(agent.slot.mailbox if agent.slot else ()) == 0


def test_a_job_that_cannot_be_loaded_any_more_gives_its_quota_back(queue: Any) -> None:
    queue.quotas.create("one")
    agent, job = _agent(queue), Job(enginejobs.add, 1)
    job.quota_names = ("one",)
    _claimed(queue, agent, job)
    assert queue.quotas["one"].filled
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "unreadable")])

    assert len(queue.quotas["one"]) == 0 and queue.counts()["quarantined"] == 1


def test_a_job_that_is_removed_after_it_was_put_back_gives_its_quota_back(queue: Any) -> None:
    queue.quotas.create("one")
    agent, job = _agent(queue), Job(enginejobs.add, 1)
    job.quota_names = ("one",)
    _claimed(queue, agent, job)
    queue.give_back(job, front=True)
    transaction.commit()
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "returned")])
    assert job in queue.quotas["one"]
    queue.remove(job)

    assert len(queue.quotas["one"]) == 0


def test_a_callback_that_tells_live_annotations_runs_once_and_keeps_them(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(_annotate_and_wait)
    _put(queue, job)

    assert wait_for_annotation(callback, "step") == "half"
    enginejobs.released["a"].set()
    wait_for_result(job)
    assert enginejobs.calls == ["a"] and callback.attempts == 1
    wait_for_result(_put(queue, Job(enginejobs.add, 2)))
    assert wait_for_annotation(callback, "step") == "half"


def _annotate_and_wait(result: Any) -> str:
    return enginejobs.annotate_and_wait()
