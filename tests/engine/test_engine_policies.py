"""Policies at work: what follows their answers, their errors, and the kinds of interruption."""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import decisions
from collective.zcasync import interruptions
from collective.zcasync import jobdetail
from collective.zcasync.agent import Agent
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.retry import ConfiguredPolicy
from collective.zcasync.retry import NeverRetry
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.retry import RetryCommonFourTimes
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import datetime
from datetime import timedelta
from typing import Any
from uuid import uuid4
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.interface import Interface

import enginejobs
import logging
import pytest
import threading
import time
import transaction

#: What a policy of these tests answers, by the name of its method; and the switch of one that has an error.
answers: dict[str, Any] = {}
broken = threading.Event()
hooked: list[str] = []


@pytest.fixture(autouse=True)
def fresh_answers() -> None:
    answers.clear()
    hooked.clear()
    broken.clear()


@pytest.fixture
def short_trouble(monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """A policy that cannot be asked is asked again soon, but not by a thread that waits for it."""
    monkeypatch.setattr(decisions, "POLICY_TROUBLE", trouble := timedelta(seconds=1.5))
    return trouble


class Answering(NeverRetry):
    """Answers what the test wants."""

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        data_cache["told"] = data_cache.get("told", 0) + 1
        return answers["jobError"]

    def commitError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        return answers["commitError"]

    def interrupted(self) -> Any:
        return answers["interrupted"]


class Forgetful:
    """A policy without methods."""

    def __init__(self, job: Any) -> None:
        self.parent = job


class Faulty(RetryCommonFourTimes):
    """A policy with an error, while ``broken`` is set."""

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        if broken.is_set():
            raise ZeroDivisionError("the policy is broken")
        return True

    def interrupted(self) -> Any:
        if broken.is_set():
            raise ZeroDivisionError("the policy is broken")
        return super().interrupted()

    def updateData(self, data_cache: dict[str, Any]) -> None:
        raise ZeroDivisionError("the counts are broken")


class OnlyOnce(Faulty):
    """As Faulty, but what was interrupted must not run again."""

    def interrupted(self) -> Any:
        super().interrupted()
        return False


def faulty_factory(job: Any) -> Any:
    if broken.is_set():
        raise ZeroDivisionError("the factory is broken")
    return RetryCommonFourTimes(job)


def fail_times(times: int) -> str:
    enginejobs.calls.append("fail")
    if len(enginejobs.calls) <= times:
        raise ValueError("not yet")
    return "done"


def conflict_after(seconds: float, at: datetime) -> None:
    """A conflict at a time that the test knows."""
    enginejobs.calls.append("conflict")
    clock.set_now(at + timedelta(seconds=seconds))
    raise ConflictError()


def failing_hook() -> str:
    def hook() -> None:
        hooked.append("hook")
        raise RuntimeError("the hook says no")

    transaction.get().addBeforeCommitHook(hook)
    return "never stored"


def willing_callback(result: Any) -> None:
    def hook() -> None:
        hooked.append("hook")
        if len(hooked) < 4:
            raise RuntimeError("the hook says no")

    transaction.get().addBeforeCommitHook(hook)


def _put(queue: Any, job: Job, **options: Any) -> Job:
    job = queue.put(job, **options)
    transaction.commit()
    return job


def _claimed(queue: Any, job: Any, active: bool = True) -> Any:
    """A dispatcher that nobody runs, whose agent holds the job."""
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = agent = Agent()
    assert queue.claim() is job
    agent.hold(job, active)
    transaction.commit()
    return da


# Deadlines


def test_before_its_deadline_a_job_is_retried_as_its_policy_says(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    job = _put(queue, Job(enginejobs.conflict_times, 99), begin_by=timedelta(hours=1))

    assert wait_for_result(job).check(ConflictError)
    assert enginejobs.calls == ["conflict"] * 5


def test_after_its_deadline_no_retry_is_attempted(queue: Any, dispatch: Any) -> None:
    clock.set_now(noon := clock.utcnow())
    job = _put(queue, Job(conflict_after, 61, noon), begin_by=timedelta(seconds=60))
    dispatch(threads=1)

    assert wait_for_result(job).check(ConflictError)
    assert enginejobs.calls == ["conflict"]


@pytest.mark.parametrize(("late", "status"), [(59, PENDING), (61, COMPLETED)])
def test_an_interruption_before_the_deadline_is_retried_and_one_after_it_is_not(
    late: int, status: Any, queue: Any
) -> None:
    clock.set_now(noon := clock.utcnow())
    job = _put(queue, Job(enginejobs.add, 1), begin_by=timedelta(seconds=60))
    da = _claimed(queue, job)
    clock.set_now(noon + timedelta(seconds=late))
    da.deactivate(died=True)

    assert job.status == status
    assert (job.outcome, job.error[:12]) == ((None, "") if late == 59 else ("failed", "AbortedError"))


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        timedelta(hours=1),
        lambda now: now + timedelta(hours=1),
        lambda now: (now + timedelta(hours=1)).replace(tzinfo=None),
    ],
    ids=["timedelta", "aware", "naive"],
)
def test_an_answer_in_the_future_lets_the_job_wait_in_its_queue_until_then(
    answer: Any, queue: Any, dispatch: Any
) -> None:
    clock.set_now(noon := clock.utcnow())
    answers["jobError"] = answer(noon) if callable(answer) else answer
    running = dispatch(threads=1)
    job = _put(queue, Job(fail_times, 1), retry_policy_factory=Answering)
    wait_until(queue, lambda: job.attempts == 1, what="the first attempt")

    assert (job.status, job.begin_after) == (PENDING, noon + timedelta(hours=1))
    assert wait_for_result(_put(queue, Job(enginejobs.add, 1))) == 1, "its thread is free"
    assert wait_until(
        queue, lambda: [found for _when, found in queue.later_jobs()] == [job], what="its place for later"
    )
    clock.set_now(noon + timedelta(hours=1, seconds=1))
    poll_now(running.dispatcher)
    assert wait_for_result(job) == "done"


@pytest.mark.parametrize(
    "answer",
    [timedelta(0), timedelta(hours=-1), lambda now: now.replace(tzinfo=None) - timedelta(hours=1)],
    ids=["zero", "negative", "past"],
)
def test_an_answer_of_zero_or_in_the_past_puts_the_job_before_all_others(
    answer: Any, queue: Any, dispatch: Any
) -> None:
    answers["jobError"] = answer(clock.utcnow()) if callable(answer) else answer
    job = _put(queue, Job(enginejobs.make, _pause_and_raise), retry_policy_factory=Answering)
    behind = [_put(queue, Job(enginejobs.note, number)) for number in range(3)]
    dispatch(threads=1, poll_interval=60)
    assert enginejobs.started["a"].wait(10)
    queue.paused = True
    transaction.commit()
    enginejobs.released["a"].set()
    wait_until(queue, lambda: job.attempts == 1 and job.status == PENDING, what="the reschedule")

    assert queue[0] is job
    assert list(queue)[1:] == behind


def _pause_and_raise() -> BaseException:
    enginejobs.started["a"].set()
    assert enginejobs.released["a"].wait(20)
    return ValueError("on purpose")


def test_an_answer_beyond_all_calendars_is_ten_years(queue: Any, dispatch: Any) -> None:
    answers["jobError"] = timedelta.max
    dispatch(threads=1)
    job = _put(queue, Job(fail_times, 1), retry_policy_factory=Answering)
    wait_until(queue, lambda: job.attempts == 1, what="the first attempt")

    assert timedelta(days=3640) < job.begin_after - clock.utcnow() <= timedelta(days=3650)


def test_true_is_a_retry_in_the_same_thread_and_false_the_end(queue: Any, dispatch: Any) -> None:
    answers["jobError"] = True
    dispatch(threads=1)
    job = _put(queue, Job(fail_times, 3), retry_policy_factory=Answering)
    assert wait_for_result(job) == "done" and job.attempts == 4
    answers["jobError"] = False
    enginejobs.calls.clear()
    job = _put(queue, Job(fail_times, 1), retry_policy_factory=Answering)
    assert wait_for_result(job).check(ValueError) and job.attempts == 1


def test_a_reschedule_outside_an_agent_is_refused_and_told(connection: Any, caplog: pytest.LogCaptureFixture) -> None:
    answers["jobError"] = timedelta(hours=1)
    connection.root()["job"] = job = Job(fail_times, 1)
    job.retry_policy_factory = Answering
    transaction.commit()

    assert job().check(ValueError)
    assert job.status == COMPLETED and enginejobs.calls == ["fail"]
    (record,) = (record for record in caplog.records if record.levelname == "CRITICAL")
    assert "cannot be rescheduled" in record.getMessage()


def test_a_callback_of_a_direct_call_that_asks_for_a_time_fails_and_the_call_ends(connection: Any) -> None:
    answers["jobError"] = timedelta(hours=1)
    connection.root()["job"] = job = Job(enginejobs.add, 1)
    callback = job.addCallback(fail_on_result, retry_policy_factory=Answering)
    transaction.commit()

    assert job() == 1
    assert job.status == callback.status == COMPLETED and callback.result.check(ValueError)


def fail_on_result(result: Any) -> None:
    raise ValueError(f"not with {result}")


# What policies count


def test_what_a_policy_counts_is_kept_over_a_reschedule_and_the_first_start_too(queue: Any, dispatch: Any) -> None:
    queue.parent.policies["mail"] = ConfiguredPolicy("mail", attempts=9, first_wait=1.2, growth=1.0, jitter=0.0)
    dispatch(threads=1)
    job = _put(queue, Job(fail_times, 2), retry_policy_factory="mail")
    wait_until(queue, lambda: job.attempts == 1, what="the first attempt")
    first = job.getRetryPolicy().data["first_active"]
    assert job.active_start is None, "it waits"

    assert wait_for_result(job, 12) == "done"
    data = dict(job.getRetryPolicy().data)
    assert data == {"error": 2, "last_error": "ValueError: not yet", "first_active": first}
    assert job.active_start > first
    starts = [event.when for event in jobdetail.timeline(job) if event.what == "started"]
    assert (starts[0], starts[-1], len(starts)) == (first, job.active_start, 3)


def test_a_change_of_a_named_policy_holds_for_jobs_that_wait_already(queue: Any, dispatch: Any) -> None:
    queue.parent.policies["mail"] = policy = ConfiguredPolicy("mail", attempts=50, first_wait=1.2, jitter=0.0)
    dispatch(threads=1)
    job = _put(queue, Job(fail_times, 99), retry_policy_factory="mail")
    wait_until(queue, lambda: job.attempts == 1, what="the first attempt")
    policy.update(attempts=2)
    transaction.commit()

    assert wait_for_result(job, 12).check(ValueError)
    assert len(enginejobs.calls) == 2


def test_a_rule_that_is_added_holds_for_jobs_that_wait_already(queue: Any, dispatch: Any) -> None:
    queue.parent.policies["mail"] = policy = ConfiguredPolicy("mail", attempts=50, first_wait=1.2, jitter=0.0)
    dispatch(threads=1)
    job = _put(queue, Job(fail_times, 99), retry_policy_factory="mail")
    wait_until(queue, lambda: job.attempts == 1, what="the first attempt")
    policy.update(rules=[{"trouble": "error", "exception": "builtins.ValueError", "attempts": 1}])
    transaction.commit()

    assert wait_for_result(job, 12).check(ValueError)
    assert len(enginejobs.calls) == 2, "the next trouble ends it"


# Trouble with the policy itself


@pytest.mark.parametrize("factory", [Faulty, faulty_factory])
def test_an_error_in_a_policy_lets_its_job_wait_and_not_its_thread(
    factory: Any, queue: Any, dispatch: Any, short_trouble: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken.set()
    dispatch(threads=1)
    job = _put(queue, Job(fail_times, 1), retry_policy_factory=factory)
    wait_until(queue, lambda: job.attempts == 1, what="the first attempt")
    assert (job.status, job.needs_attention) == (PENDING, True)
    assert "ZeroDivisionError" in caplog.text
    assert [record.levelname for record in caplog.records if "retry policy of" in record.getMessage()][0] == "CRITICAL"
    assert wait_for_result(_put(queue, Job(enginejobs.add, 1))) == 1, "its thread is free"
    broken.clear()

    assert wait_for_result(job, 12) == "done"
    assert job.needs_attention is False and len(enginejobs.calls) == 2


def test_a_named_adapter_that_is_missing_is_waited_for(
    queue: Any, dispatch: Any, short_trouble: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch(threads=1)
    job = _put(queue, Job(fail_times, 1), retry_policy_factory="to be registered")
    wait_until(queue, lambda: job.attempts == 1, what="the first attempt")
    assert (job.status, job.needs_attention) == (PENDING, True)
    assert "'to be registered'" in caplog.text and "CRITICAL" in caplog.text
    manager = getGlobalSiteManager()
    manager.registerAdapter(RetryCommonFourTimes, (Interface,), IRetryPolicy, "to be registered")
    try:
        assert wait_for_result(job, 12) == "done"
    finally:
        manager.unregisterAdapter(RetryCommonFourTimes, (Interface,), IRetryPolicy, "to be registered")


def test_counts_that_cannot_be_stored_do_not_keep_an_outcome_from_being_stored(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch(threads=1)
    job = _put(queue, Job(Counting.fail_and_count, 1), retry_policy_factory=Counting)

    assert wait_for_result(job) == "done"
    assert "could not store what it has counted" in caplog.text


class Counting(Faulty):
    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        data_cache["count"] = 1
        return True

    @staticmethod
    def fail_and_count(times: int) -> str:
        return fail_times(times)


@pytest.mark.parametrize("call", [fail_times, failing_hook])
def test_a_policy_that_lacks_a_method_is_told_and_means_no_retry(
    call: Callable[..., Any], queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch(threads=1)
    args = (9,) if call is fail_times else ()
    job = _put(queue, Job(call, *args), retry_policy_factory=Forgetful)

    assert wait_for_result(job).check(ValueError, RuntimeError)
    assert job.attempts == 1
    method = "jobError" if call is fail_times else "commitError"
    assert [r.levelname for r in caplog.records if f"has no method {method}" in r.getMessage()] == ["ERROR"]


def test_without_the_method_for_interruptions_an_interrupted_job_ends_aborted(
    queue: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = _put(queue, Job(enginejobs.add, 1), retry_policy_factory=Forgetful)
    _claimed(queue, job).deactivate()

    assert job.result.check(AbortedError)
    assert [r.levelname for r in caplog.records if "has no method interrupted" in r.getMessage()] == ["ERROR"]


@pytest.mark.parametrize(("factory", "runs"), [(Faulty, 1), (OnlyOnce, 0)])
def test_a_policy_that_cannot_be_asked_about_an_interruption_is_asked_before_the_job_runs_again(
    factory: Any, runs: int, queue: Any, dispatch: Any, short_trouble: Any
) -> None:
    job = _put(queue, Job(enginejobs.note, "ran"), retry_policy_factory=factory)
    broken.set()
    _claimed(queue, job).deactivate(died=True)
    transaction.commit()
    assert (job.status, job.needs_attention, job.interrupted_by) == (PENDING, True, interruptions.DEATH)
    dispatch(threads=1)
    since = job.begin_after
    wait_until(queue, lambda: job.begin_after > since, 12, "that it is asked again")
    assert enginejobs.calls == []
    broken.clear()

    wait_for_result(job, 12)
    assert enginejobs.calls == ["ran"] * runs
    assert job.outcome == ("succeeded" if runs else "failed")


# Kinds of interruption


class Later:
    """A policy as an add-on of zc.async has it: nobody tells it what an interruption was."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def interrupted(self) -> Any:
        self.job.policy_data["asked"] = self.job.policy_data.get("asked", 0) + 1
        return timedelta(minutes=5)


@pytest.mark.parametrize(("died", "key"), [(True, "deaths"), (False, "stops")])
@pytest.mark.parametrize("policy", [RetryCommonFourTimes, RetryCommonForever, "mail"])
def test_deaths_and_stops_are_counted_apart_and_the_job_is_first_in_line_again(
    policy: Any, died: bool, key: str, queue: Any
) -> None:
    queue.parent.policies["mail"] = ConfiguredPolicy("mail")
    job = _put(queue, Job(enginejobs.add, 1), retry_policy_factory=policy)
    da = _claimed(queue, job)
    start = job.active_start
    _put(queue, Job(enginejobs.add, 2))
    da.deactivate(died=died)

    assert queue[0] is job and job.active_start is None
    assert dict(job.getRetryPolicy().data) == {"interruptions": 1, key: 1, "first_active": start}
    assert job.deaths == (1 if died else 0) and job.interrupted_by == ""


def test_stops_never_abort_a_job_and_never_set_it_aside(queue: Any) -> None:
    job = _put(queue, Job(enginejobs.add, 1))
    for _stop in range(12):
        _claimed(queue, job).deactivate()
        transaction.commit()

    assert (job.status, job.deaths, job.policy_data["stops"]) == (PENDING, 0, 12)
    assert not list(queue.quarantined())


@pytest.mark.parametrize("died", [True, False])
def test_a_policy_that_knows_no_kinds_is_asked_in_the_same_way(died: bool, queue: Any) -> None:
    job = _put(queue, Job(enginejobs.add, 1), retry_policy_factory=Later)
    before = clock.utcnow()
    _claimed(queue, job).deactivate(died=died)

    assert job.status == PENDING and job.begin_after >= before + timedelta(minutes=5)
    assert dict(job.policy_data) == {"asked": 1}


@pytest.mark.parametrize("died", [True, False])
def test_what_must_not_run_twice_ends_aborted_by_a_stop_and_by_a_death(died: bool, queue: Any) -> None:
    job = _put(queue, Job(enginejobs.add, 1), retry_policy_factory=NeverRetry)
    callback = job.addCallback(enginejobs.note)
    transaction.commit()
    _claimed(queue, job).deactivate(died=died)
    transaction.commit()

    assert job.status == CALLBACKS and job.result.check(AbortedError)
    assert callback.status != COMPLETED, "a dispatcher runs it"


def test_a_job_that_ends_its_thread_each_time_is_given_up_after_nine(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    job = _put(queue, Job(leave))

    assert wait_for_result(job, 20).check(AbortedError)
    assert enginejobs.calls == ["left"] * 10
    assert job.policy_data["thread_ends"] == job.policy_data["interruptions"] == 10
    assert job.deaths == 0
    assert wait_for_result(_put(queue, Job(enginejobs.add, 1))) == 1, "its threads were replaced"


def leave() -> None:
    enginejobs.calls.append("left")
    raise SystemExit


def test_an_interruption_that_is_handled_by_hand_counts_once(queue: Any) -> None:
    job = _put(queue, Job(enginejobs.add, 1))
    _claimed(queue, job)
    assert job.status == ACTIVE
    job.handleInterrupt()

    assert job.status == PENDING and dict(job.policy_data)["interruptions"] == 1


# A commit that always fails


def test_a_commit_that_always_fails_is_tried_for_ever_while_the_others_go_on(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "collective.zcasync.events")
    dispatch(threads=1)
    job = _put(queue, Job(failing_hook), retry_policy_factory=Impatient)
    wait_until(queue, lambda: job.needs_attention, 12, "that it needs attention")
    assert job.status == PENDING, "it waits in its queue, and its thread is free"
    tried, began = len(hooked), time.monotonic()
    others = [queue.put(Job(enginejobs.note, number)) for number in range(50)]
    transaction.commit()
    for other in others:
        wait_for_result(other)

    assert len(hooked) - tried <= (time.monotonic() - began) / 1.1 + 1, "no more often than its waits say"
    assert enginejobs.calls == list(range(50))
    wait_until(queue, lambda: len(hooked) >= tried + 2, 20, "further tries")
    transaction.begin()
    assert job.outcome is None and job.needs_attention
    told = [record for record in caplog.records if "cannot be committed" in record.getMessage()]
    assert told and all(record.levelname == "CRITICAL" for record in told)
    assert len(told) <= 1 + len(hooked) // 2, "the first, and each second"


class Impatient(RetryCommonForever):
    """As Forever, told more often, with waits that a test can afford."""

    log_every = 2
    other_commit_initial_backoff = 1.1
    other_commit_incremental_backoff = 0


def test_a_callback_whose_commit_fails_waits_without_a_thread_and_its_job_needs_attention(
    queue: Any, dispatch: Any
) -> None:
    dispatch(threads=1)
    job = queue.put(Job(enginejobs.add, 1))
    callback = job.addCallback(willing_callback, retry_policy_factory=Impatient)
    transaction.commit()
    wait_until(queue, lambda: job.needs_attention, 12, "that it needs attention")
    assert job.status == CALLBACKS and job.result == 1
    assert wait_for_result(_put(queue, Job(enginejobs.add, 1))) == 1, "its thread is free"

    wait_until(queue, lambda: job.status == COMPLETED, 30, "the end of the callback")
    assert callback.outcome == "succeeded" and hooked == ["hook"] * 4
    assert job.needs_attention is False


# handleInterrupt, by hand


@pytest.mark.parametrize("answer", [True, timedelta(0), timedelta(minutes=5), False])
def test_handling_an_interruption_by_hand_does_what_the_policy_answers(answer: Any, queue: Any) -> None:
    answers["interrupted"] = answer
    job = queue.put(Job(enginejobs.add, 1), retry_policy_factory=Answering)
    callback = job.addCallback(enginejobs.note)
    transaction.commit()
    _put(queue, Job(enginejobs.add, 2))
    before = clock.utcnow()
    _claimed(queue, job)
    job.handleInterrupt()
    transaction.commit()

    if answer is False:
        assert job.status == callback.status == COMPLETED and job.result.check(AbortedError)
        assert [result.check(AbortedError) for result in enginejobs.calls] == [AbortedError]
    elif answer == timedelta(minutes=5):
        assert job.status == PENDING and job.begin_after >= before + answer
    else:
        assert job.status == PENDING and queue[0] is job


def test_only_a_job_that_runs_can_be_interrupted(queue: Any) -> None:
    job = _put(queue, Job(enginejobs.add, 1))
    with pytest.raises(BadStatusError, match="only an ACTIVE job can be interrupted"):
        job.handleInterrupt()
    assert queue.counts()["waiting"] == 1
