"""Jobs under which processes died twice run alone, in a worker if there is one; after a third death they are held."""

from collective.zcasync import actions
from collective.zcasync import solitude
from collective.zcasync.agent import Agent
from collective.zcasync.agent import chooseFirst
from collective.zcasync.claims import Taker
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.retry import NeverRetry
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from typing import Any
from uuid import uuid4

import enginejobs
import pytest
import transaction


def _put(queue: Any, job: Job, deaths: int = 0, **options: Any) -> Job:
    job = queue.put(job, **options)
    job.deaths = deaths
    transaction.commit()
    return job


def _die(queue: Any, job: Any, status: int = 1) -> None:
    """A dispatcher claims the job, and its process dies."""
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = agent = Agent()
    (taken,) = Taker(queue, da.slot).take(1)
    assert taken.job is job
    agent.hold(job, True)
    if status == 2:
        job._finish(1, job.active_start)
    transaction.commit()
    da.deactivate(died=True)
    transaction.commit()


def test_after_two_deaths_a_job_waits_until_nothing_else_runs_and_then_runs_alone(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=3)
    other = _put(queue, Job(enginejobs.wait, "a"))
    assert enginejobs.started["a"].wait(10)
    suspect = _put(queue, Job(enginejobs.wait, "b"), deaths=2)
    poll_now(running.dispatcher)
    behind = [_put(queue, Job(enginejobs.note, number)) for number in range(5)]
    poll_now(running.dispatcher)
    transaction.begin()
    assert not enginejobs.started["b"].is_set() and suspect.status == PENDING
    assert enginejobs.calls == ["a"], "what is behind waits too, else its threads would never all be free"

    enginejobs.released["a"].set()
    assert wait_for_result(other) == "a"
    assert enginejobs.started["b"].wait(10)
    poll_now(running.dispatcher)
    assert running.dispatcher.getActiveJobIds() == [(int(suspect.id, 16), running.dispatcher.db.database_name)]
    assert enginejobs.calls == ["a", "b"]
    enginejobs.released["b"].set()
    assert wait_for_result(suspect) == "b"
    assert [wait_for_result(job) for job in behind] == list(range(5))


def test_jobs_that_run_for_hours_do_not_keep_all_others_waiting(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solitude, "DRAIN", 0.3)
    running = dispatch(threads=2)
    _put(queue, Job(enginejobs.wait, "a"))
    assert enginejobs.started["a"].wait(10)
    suspect = _put(queue, Job(enginejobs.wait, "b"), deaths=2)
    behind = _put(queue, Job(enginejobs.add, 1))

    wait_until(queue, lambda: poll_now(running.dispatcher) and behind.status == COMPLETED, 10, "the job behind")
    assert suspect.status == PENDING and not enginejobs.started["b"].is_set()


def test_nothing_begins_beside_such_a_job_that_a_chooser_has_taken(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=3)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID]["main"].chooser = chooseFirst
    transaction.commit()
    poll_now(running.dispatcher)
    suspect = _put(queue, Job(enginejobs.wait, "b"), deaths=2)
    assert enginejobs.started["b"].wait(10)
    behind = [_put(queue, Job(enginejobs.note, number)) for number in range(5)]
    poll_now(running.dispatcher)
    poll_now(running.dispatcher)
    transaction.begin()
    assert enginejobs.calls == ["b"] and {job.status for job in behind} == {PENDING}

    enginejobs.released["b"].set()
    assert wait_for_result(suspect) == "b"
    assert [wait_for_result(job) for job in behind] == list(range(5))


def test_in_an_embedded_dispatcher_it_does_not_run_while_there_is_a_worker(queue: Any, dispatch: Any) -> None:
    queue.dispatchers.register(name := uuid4())
    worker = queue.dispatchers[name]
    worker.activate()
    worker.process = {"role": "worker"}
    transaction.commit()
    embedded = dispatch(threads=1, role="embedded")
    suspect = _put(queue, Job(enginejobs.add, 1), deaths=2)
    assert wait_for_result(_put(queue, Job(enginejobs.add, 2))) == 2
    poll_now(embedded.dispatcher)
    transaction.begin()
    assert suspect.status == PENDING
    for manager in transaction.manager.attempts(10):
        with manager:
            worker.deactivate()
    poll_now(embedded.dispatcher)

    assert wait_for_result(suspect) == 1


def test_callbacks_under_which_processes_died_run_alone_too(queue: Any, dispatch: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    callback = job.addCallback(enginejobs.note)
    transaction.commit()
    _die(queue, job, status=2)
    job.deaths = 2
    queue.take_out(job)
    transaction.commit()
    running = dispatch(threads=3)
    other = _put(queue, Job(enginejobs.wait, "a"))
    assert enginejobs.started["a"].wait(10)
    transaction.begin()
    queue.give_back(job)
    transaction.commit()
    for _poll in range(2):
        poll_now(running.dispatcher)
    transaction.begin()
    assert (job.status, callback.status) == (CALLBACKS, PENDING) and enginejobs.calls == ["a"]
    enginejobs.released["a"].set()

    assert wait_for_result(other) == "a"
    assert wait_for_result(job) == 1 and enginejobs.calls == ["a", 1]


@pytest.mark.parametrize("policy", [None, RetryCommonForever])
def test_a_third_death_sets_it_aside_under_policies_that_retry(policy: Any, queue: Any) -> None:
    job = _put(queue, Job(enginejobs.add, 1), retry_policy_factory=policy)
    for _death in range(3):
        _die(queue, job)

    assert [(reason, found) for reason, found in queue.quarantined()] == [("its process died 3 times under it", job)]
    assert job.outcome is None and len(queue) == 0 and queue.counts()["quarantined"] == 1
    assert job.getRetryPolicy().data["deaths"] == 3


def test_the_first_death_ends_what_must_not_run_twice(queue: Any) -> None:
    job = _put(queue, Job(enginejobs.add, 1), retry_policy_factory=NeverRetry)
    _die(queue, job)
    assert job.status == COMPLETED and job.result.check(AbortedError)
    assert not list(queue.quarantined())


def test_callbacks_under_which_processes_die_set_their_job_aside_with_its_result(queue: Any, dispatch: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    job.addCallback(enginejobs.note)
    transaction.commit()
    _die(queue, job, status=2)
    for _death in range(2):
        queue.dispatchers.register(name := uuid4())
        da = queue.dispatchers[name]
        da.activate()
        da["main"] = agent = Agent()
        (taken,) = Taker(queue, da.slot).take(1)
        assert taken == (job, "resume")
        agent.hold(job, False)
        transaction.commit()
        da.deactivate(died=True)
        transaction.commit()

    assert [found for _reason, found in queue.quarantined()] == [job]
    assert (job.status, job.result) == (CALLBACKS, 1)
    actions.retry(job)
    transaction.commit()
    dispatch()
    assert wait_for_result(job) == 1
    assert enginejobs.calls == [1]


def test_a_job_that_was_set_aside_can_be_released_and_discarded(queue: Any, dispatch: Any) -> None:
    jobs = []
    for number in range(2):
        jobs.append(_put(queue, Job(enginejobs.note, number)))
        for _death in range(3):
            _die(queue, jobs[number])
    assert queue.counts()["quarantined"] == 2
    dispatch()
    actions.retry(jobs[0])
    actions.discard(jobs[1])
    transaction.commit()

    assert wait_for_result(jobs[0]) == 0
    assert (jobs[0].deaths, jobs[0].held_reason) == (0, "")
    assert enginejobs.calls == [0] and queue.counts()["quarantined"] == 0 and len(queue) == 0
