"""Callbacks that were running when their dispatcher ended: each one's policy says what becomes of it."""

from collective.zcasync import callbackruns
from collective.zcasync import decisions
from collective.zcasync.clock import utcnow
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.retry import NeverRetry
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from collective.zcasync.threadlocal import local
from datetime import timedelta
from typing import Any

import enginejobs
import logging
import pytest
import threading
import transaction

broken = threading.Event()


@pytest.fixture(autouse=True)
def unbroken(monkeypatch: pytest.MonkeyPatch) -> None:
    broken.clear()
    monkeypatch.setattr(decisions, "POLICY_TROUBLE", timedelta(seconds=1.5))


class Again(RetryCommonForever):
    """Nobody can know what it will answer: so the start of its callbacks is committed before they run."""

    def interrupted(self) -> Any:
        return super().interrupted()


class InAWhile(NeverRetry):
    """Interrupted, it goes on later."""

    def interrupted(self) -> Any:
        return timedelta(seconds=1.2)


class Unsteady(NeverRetry):
    """It has an error while ``broken`` is set; then it says no."""

    def interrupted(self) -> Any:
        if broken.is_set():
            raise ZeroDivisionError("the policy is broken")
        return False


def wait_with(result: Any) -> str:
    """The first time the callback waits; later it is quick."""
    enginejobs.calls.append(result)
    if len(enginejobs.calls) == 1:
        enginejobs.started["a"].set()
        assert enginejobs.released["a"].wait(30)
    return "done"


def _interrupted(queue: Any, dispatch: Any, policy: Any) -> tuple[Job, Any]:
    """A job whose callback runs as its dispatcher stops."""
    job = queue.put(Job(enginejobs.add, 3))
    callback = job.addCallback(wait_with, retry_policy_factory=policy)
    transaction.commit()
    running = dispatch(threads=1)
    assert enginejobs.started["a"].wait(10)
    running.stop(grace=0)
    transaction.begin()
    assert job.status == CALLBACKS and job.result == 3
    return job, callback


def test_an_interrupted_callback_runs_again_and_knows_that_it_was_a_stop(queue: Any, dispatch: Any) -> None:
    job, callback = _interrupted(queue, dispatch, Again)
    dispatch(threads=1)

    assert wait_for_result(job, 12) == 3
    assert callback.result == "done" and enginejobs.calls == [3, 3]
    data = dict(callback.policy_data)
    assert (data["interruptions"], data["stops"], job.deaths) == (1, 1, 0)


def test_an_interrupted_callback_that_must_not_run_twice_ends_aborted_at_a_stop_too(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job, callback = _interrupted(queue, dispatch, NeverRetry)
    caplog.set_level(logging.DEBUG, "collective.zcasync")
    dispatch(threads=1)

    assert wait_for_result(job, 12) == 3
    assert callback.result.check(AbortedError) and enginejobs.calls == [3]
    assert "aborting interrupted callback" in caplog.text


def test_what_is_chained_to_an_interrupted_callback_that_ends_aborted_runs_without_trouble(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job, callback = _interrupted(queue, dispatch, NeverRetry)
    behind = callback.addCallback(enginejobs.note)
    transaction.commit()
    dispatch(threads=1)

    assert wait_for_result(job, 12) == 3
    assert behind.status == COMPLETED and behind.result.check(AbortedError)
    assert [record for record in caplog.records if record.exc_info] == []


def test_an_interrupted_callback_whose_policy_wants_a_later_time_waits_without_a_thread(
    queue: Any, dispatch: Any
) -> None:
    job, callback = _interrupted(queue, dispatch, InAWhile)
    dispatch(threads=1)
    wait_until(queue, lambda: job.resume_at, 12, "that it waits")
    other = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    assert wait_for_result(other) == 1
    assert wait_for_result(job, 12) == 3
    assert callback.result == "done" and enginejobs.calls == [3, 3]
    assert callback.active_start > job.active_end + timedelta(seconds=1)


def test_an_interrupted_callback_whose_policy_cannot_be_asked_is_not_run_until_it_can(
    queue: Any, dispatch: Any
) -> None:
    job, callback = _interrupted(queue, dispatch, Unsteady)
    broken.set()
    dispatch(threads=1)
    wait_until(queue, lambda: job.resume_at and job.needs_attention, 12, "that it waits")
    first = job.resume_at
    wait_until(queue, lambda: job.resume_at and job.resume_at > first, 12, "that it is asked again")
    assert enginejobs.calls == [3]
    broken.clear()

    wait_until(queue, lambda: job.status == COMPLETED, 12, "the end of the callbacks")
    assert callback.result.check(AbortedError) and enginejobs.calls == [3]
    assert not job.needs_attention


def test_a_death_is_counted_with_the_job_and_its_callback(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DispatcherAgents, "ping_interval", timedelta(seconds=0.2))
    monkeypatch.setattr(DispatcherAgents, "ping_death_interval", timedelta(seconds=1))
    job = queue.put(Job(enginejobs.add, 3))
    callback = job.addCallback(wait_with, retry_policy_factory=Again)
    transaction.commit()
    running = dispatch(threads=1)
    assert enginejobs.started["a"].wait(10)
    running.crash()
    dispatch(threads=1)

    wait_until(queue, lambda: job.status == COMPLETED, 20, "the end of the callbacks")
    assert job.deaths == 1 and dict(callback.policy_data)["deaths"] == 1
    assert callback.result == "done" and enginejobs.calls == [3, 3]


@pytest.mark.parametrize(
    ("inner", "own", "calls"), [(False, False, []), (True, False, []), (False, True, ["the old owner's"])]
)
def test_a_callback_whose_old_owner_ends_it_just_before_it_is_taken_over_does_not_run_again(
    inner: bool, own: bool, calls: list[Any], queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(enginejobs.add, 3)
    callback = job.addCallback(enginejobs.note)
    if own:
        callback.addCallback(enginejobs.note)
    waits_for = Job(enginejobs.add, 4)
    for one in (job, waits_for):
        queue._p_jar.add(one)
    job._begin(utcnow())
    job._finish(3, utcnow())
    transaction.commit()
    before = callbackruns.surely

    def surely(call: Any, what: str, *rest: Any) -> None:
        if what.startswith("the resumption") and not callback._status_id:
            with queue._p_jar.db().transaction() as other:
                theirs = other.get(callback._p_oid)
                theirs._begin(utcnow())
                if inner:
                    theirs._wait_for(other.get(waits_for._p_oid), False)
                else:
                    theirs._finish("the old owner's", utcnow())
        before(call, what, *rest)

    monkeypatch.setattr(callbackruns, "surely", surely)
    ended = callbackruns.run_callbacks(job, transaction.manager, Surroundings(queue._p_jar.db()), resumed=True)

    assert enginejobs.calls == calls
    assert ended == ("waiting" if inner else "finished")
    assert callback.result is waits_for if inner else callback.result == "the old owner's"


@pytest.mark.parametrize("nested", [False, True])
def test_a_former_owner_that_wakes_up_takes_up_no_callback_of_a_job_that_was_claimed_anew(
    nested: bool, queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(enginejobs.add, 3)
    outer = callback = job.addCallback(enginejobs.note)
    if nested:
        callback = outer.addCallback(enginejobs.note)
    queue._p_jar.add(job)
    for one in (job, outer) if nested else (job,):
        one._begin(utcnow())
        one._finish(3, utcnow())
    job.token = "former"
    transaction.commit()
    before = callbackruns.surely

    def surely(call: Any, what: str, *rest: Any) -> None:
        with queue._p_jar.db().transaction() as other:
            other.get(job._p_oid).token = "new"
        before(call, what, *rest)

    monkeypatch.setattr(callbackruns, "surely", surely)
    with pytest.raises(ReassignedError):
        callbackruns.run_callbacks(job, transaction.manager, Surroundings(queue._p_jar.db()), resumed=True)
    transaction.begin()

    assert callback.token is None and callback.result is None and enginejobs.calls == []


def be_taken_up_by_hand(value: Any) -> Any:
    """The first time somebody else, who does not hold the job, makes the callback its own meanwhile."""
    enginejobs.calls.append(value)
    if len(enginejobs.calls) == 1:
        me = local.getJob()
        with me._p_jar.db().transaction() as other:
            other.get(me._p_oid).token = "by hand"
    return value


def test_a_job_that_loses_but_a_callback_waits_again_and_goes_on_with_it(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = queue.put(Job(enginejobs.add, 3))
    callback = job.addCallback(be_taken_up_by_hand)
    transaction.commit()

    assert wait_for_result(callback) == 3 and enginejobs.calls == [3, 3]
    wait_until(queue, lambda: list(queue.finished()) == [job], what="the job's filing")
    assert queue.counts()["running"] == 0
