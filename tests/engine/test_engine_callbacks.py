"""Callbacks: chosen, chained, late, interrupted; each runs once."""

from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_for_result
from datetime import timedelta
from typing import Any
from uuid import uuid4
from ZODB.POSException import ConflictError

import enginejobs
import logging
import pytest
import transaction


def _put(queue: Any, job: Job) -> Job:
    queue.put(job)
    transaction.commit()
    return job


def test_the_callback_that_fits_the_result_is_called_with_it(queue: Any, dispatch: Any) -> None:
    dispatch()
    good = Job(enginejobs.add, 1)
    chosen = good.addCallbacks(success=enginejobs.note, failure=enginejobs.make)
    bad = Job(enginejobs.change_and_raise)
    other = bad.addCallbacks(success=enginejobs.make, failure=enginejobs.note)
    queue.put(good)
    queue.put(bad)
    transaction.commit()
    wait_for_result(good)
    wait_for_result(bad)

    assert chosen.job is chosen.success and chosen.result == 1 and chosen.failure.result is None
    assert other.job is other.failure and other.result.check(ValueError)


def test_callbacks_run_one_after_the_other_with_the_same_result(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 7)
    for _number in range(3):
        job.addCallback(enginejobs.note)
    wait_for_result(_put(queue, job))

    assert enginejobs.calls == [7, 7, 7]
    assert job.result == 7 and all(callback.status == COMPLETED for callback in job.callbacks)


def test_the_callback_of_a_callback_gets_its_result_also_past_an_empty_branch(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 20)
    job.addCallback(Job(enginejobs.add, 1)).addCallback(enginejobs.note)
    job.addCallbacks(failure=enginejobs.make).addCallback(enginejobs.note)
    wait_for_result(_put(queue, job))

    assert enginejobs.calls == [21, 20]


def test_a_callback_that_fails_stops_neither_the_others_nor_changes_the_job(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    bad = job.addCallback(Job(enginejobs.make, ValueError))
    job.addCallback(enginejobs.note)
    with caplog.at_level(logging.CRITICAL, "collective.zcasync"):
        assert wait_for_result(_put(queue, job)) == 1

    assert bad.failed and enginejobs.calls == [1]
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_a_chosen_callback_whose_code_aborts_runs_once(queue: Any, dispatch: Any) -> None:
    job = Job(enginejobs.note, 1)
    job.addCallbacks(enginejobs.abort_and_note, enginejobs.note).addCallback(enginejobs.note)
    _put(queue, job)
    dispatch()
    assert wait_for_result(job) == 1
    assert enginejobs.calls == [1, 1, 1]
    assert job.callbacks[0].status == COMPLETED


def test_a_callback_added_while_the_job_runs_is_called_and_the_job_runs_once(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, Job(enginejobs.wait))
    assert enginejobs.started["a"].wait(6)
    transaction.begin()
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    enginejobs.released["a"].set()

    assert wait_for_result(late) == "a"
    assert wait_for_result(job) == "a"
    assert enginejobs.calls == ["a", "a"] and job.attempts == 1


def test_a_callback_added_as_the_job_ends_conflicts_or_is_called(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, Job(enginejobs.wait))
    assert enginejobs.started["a"].wait(6)
    transaction.begin()
    job.addCallback(enginejobs.note)
    enginejobs.released["a"].set()
    other = transaction.TransactionManager()
    seen = queue._p_jar.db().open(other)
    wait_for_result(seen.get(job._p_oid))
    other.abort()
    seen.close()

    with pytest.raises(ConflictError):
        transaction.commit()
    transaction.abort()
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    assert wait_for_result(late) == "a"


def test_a_callback_on_a_finished_job_runs_at_once_when_nothing_else_changed(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, Job(enginejobs.add, 5))
    wait_for_result(job)
    late = job.addCallback(enginejobs.note)

    assert (late.status, late.result, job.status) == (COMPLETED, 5, COMPLETED)


def test_a_callback_on_a_finished_job_is_put_when_the_caller_has_changed_something(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, Job(enginejobs.add, 5))
    wait_for_result(job)
    queue._p_jar.root()["mine"] = 1
    late = job.addCallback(enginejobs.note)
    assert (late.result, job.status) == (None, CALLBACKS)
    transaction.commit()

    assert wait_for_result(late) == 5


def test_a_callback_that_misses_its_begin_by_ends_with_a_timeout(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    job.addCallback(Job(enginejobs.wait, "a"))
    late = Job(enginejobs.note)
    late.begin_by = timedelta(0)
    job.addCallback(late)
    _put(queue, job)
    enginejobs.released["a"].set()
    wait_for_result(job)

    assert late.result.check(TimeoutError)


def test_what_a_stopped_dispatcher_left_of_the_callbacks_is_resumed_once(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    job = Job(enginejobs.add, 1)
    first, second, third = (
        job.addCallback(Job(call, *args))
        for call, args in ((enginejobs.count, ("first",)), (_wait_for_a, ()), (enginejobs.note, ()))
    )
    first.args[:] = []
    _put(queue, job)
    assert enginejobs.started["a"].wait(6)
    threads = list(running.dispatcher.queues[""]["main"].jobids)
    running.stop(grace=0)
    transaction.begin()
    assert job.status == CALLBACKS and first.status == COMPLETED
    enginejobs.released["a"].set()
    for thread in threads:
        thread.join(6)
    dispatch(threads=1)
    wait_for_result(job)

    assert second.result == "a" and third.result == 1
    assert queue._p_jar.root()[1] == 1  # the first callback counted under its argument, the result
    assert enginejobs.calls.count(1) == 1


def _wait_for_a(result: Any) -> str:
    return enginejobs.wait("a")


def test_an_interrupted_callback_that_must_not_run_twice_ends_aborted_and_the_job_completes(
    queue: Any, dispatch: Any
) -> None:
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(_wait_for_a, retry_policy_factory="NeverRetry")
    running = dispatch(threads=1)
    _put(queue, job)
    assert enginejobs.started["a"].wait(6)
    threads = list(running.dispatcher.queues[""]["main"].jobids)
    running.stop(grace=0)
    dispatch(threads=1)
    wait_for_result(job)
    enginejobs.released["a"].set()
    for thread in threads:
        thread.join(6)
    transaction.begin()

    assert callback.result.check(AbortedError)
    assert enginejobs.calls == ["a"]


def test_a_waiting_job_that_is_failed_leaves_its_queue_and_its_callbacks_run(queue: Any) -> None:
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = Agent()
    job = Job(enginejobs.add)
    callback = job.addCallbacks(failure=enginejobs.note)
    _put(queue, job)
    job.fail()

    assert job.result.check(TimeoutError) and callback.result.check(TimeoutError)
    assert job.status == COMPLETED and not list(queue)
    assert Taker(queue, da.slot).take(1) == [] and list(queue.finished()) == [job]
    with pytest.raises(BadStatusError, match="can only call fail"):
        job.fail()


def test_a_callback_that_must_wait_leaves_the_thread_and_goes_on_later(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch(threads=1)
    job = Job(enginejobs.add, 3)
    job.addCallback(_disturbed, retry_policy_factory=Patient)
    after = job.addCallback(enginejobs.note)
    _put(queue, job)
    other = _put(queue, Job(enginejobs.add, 4))

    assert wait_for_result(other) == 4
    assert wait_for_result(job) == 3
    assert enginejobs.calls == ["try", "try", 3] and after.result == 3


def _disturbed(result: Any) -> None:
    enginejobs.calls.append("try")
    if len(enginejobs.calls) == 1:
        raise ValueError("not yet")


class Patient:
    """A policy that waits more than a thread may."""

    def __init__(self, job: Any) -> None:
        self.parent = job

    def jobError(self, failure: Any, data_cache: Any) -> Any:
        return timedelta(seconds=1.2)

    commitError = jobError

    def interrupted(self) -> bool:
        return True

    def updateData(self, data_cache: Any) -> None:
        """Nothing is kept."""
