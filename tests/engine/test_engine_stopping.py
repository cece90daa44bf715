"""How running jobs are asked to stop: cancelled, by a clean stop of their dispatcher, beyond their timeout."""

from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync import events
from collective.zcasync import interruptions
from collective.zcasync import local
from collective.zcasync import mail
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.execution import interrupted_here
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from ZODB.POSException import ConflictError

import enginejobs
import pytest
import threading
import transaction
import zope.event

#: Seconds that a test waits at most for what others do.
LONG = 20


def put(queue: Any, call: Any, *args: Any, timeout: float | None = None, policy: str | None = None) -> Any:
    job = Job(call, *args)
    if timeout is not None:
        job.timeout = timeout
    queue.put(job, retry_policy_factory=policy)
    transaction.commit()
    return job


# Requests to stop


def work_until_stopped(name: str = "a") -> str:
    """Tell progress without end; a test stops it, or lets it go."""
    enginejobs.calls.append(name)
    enginejobs.root()["uncommitted"] = True
    enginejobs.started[name].set()
    number = 0
    while not enginejobs.released[name].wait(0.01):
        api.progress(number := number + 1)
    return "released"


def checkpoint_until_stopped(name: str = "a") -> int:
    """The same with checkpoints; the result is how far it came, in all its attempts.

    Between two of them there is time for whoever writes it a letter: each checkpoint conflicts with those.
    """
    enginejobs.calls.append(api.cursor(0))
    number = api.cursor(0)
    while not enginejobs.released[name].wait(0.2):
        number += 1
        enginejobs.root()["number"] = number
        api.checkpoint(number)
        enginejobs.started[name].set()
    return number


def swallow(name: str = "a") -> str:
    enginejobs.started[name].set()
    while True:
        try:
            api.progress(1)
        except StopRequested:
            break
    for _again in range(3):
        with pytest.raises(StopRequested):
            api.progress(2)
    return "went on"


def wait_and_conflict() -> str:
    """Conflicts once, after the test let it go; never looks whether it should stop."""
    enginejobs.wait("a")
    if len(enginejobs.calls) == 1:
        raise ConflictError
    return "second attempt"


def wait_with_finally() -> str:
    try:
        return work_until_stopped()
    finally:
        enginejobs.calls.append("cleaned up")


def test_a_running_job_that_is_cancelled_ends_cancelled_without_its_changes(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(wait_with_finally)
    callback = job.addCallback(enginejobs.note)
    queue.put(job)
    transaction.commit()
    assert enginejobs.started["a"].wait(LONG)
    transaction.begin()
    assert ask(job) == "stopping"

    assert wait_for_result(job, LONG).check(CancelledError)
    assert (job.outcome, job.attempts) == ("cancelled", 1)
    assert "uncommitted" not in queue._p_jar.root()
    assert callback.status == COMPLETED and enginejobs.calls[1] == "cleaned up"
    assert enginejobs.calls[2].check(CancelledError)


def ask(job: Any) -> str:
    answer = job.queue.cancel(job)
    transaction.commit()
    return answer


def test_a_request_from_another_process_is_heard(queue: Any, dispatch: Any, clients: Any) -> None:
    dispatch()
    job = put(queue, work_until_stopped)
    assert enginejobs.started["a"].wait(LONG)
    other = clients()
    with other.transaction() as connection:
        found = wait_until(connection, lambda: get_queue(connection) is not None and connection.get(job._p_oid), LONG)
        assert get_queue(connection).cancel(found) == "stopping"

    assert wait_for_result(job, LONG).check(CancelledError)


def test_a_checkpoint_hears_a_request_and_keeps_what_it_commits(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, checkpoint_until_stopped)
    assert enginejobs.started["a"].wait(LONG)
    ask_busy_job(job)

    assert wait_for_result(job, LONG).check(CancelledError)
    assert queue._p_jar.root()["number"] > 0 and job._cursor is None


def ask_busy_job(job: Any) -> None:
    """Ask a job to stop that commits all the time: the teller conflicts with it, and tries again."""
    for _attempt in range(1000):
        transaction.begin()
        try:
            assert ask(job) == "stopping"
            return
        except ConflictError:
            transaction.abort()
    raise AssertionError("1000 conflicts")


def test_a_job_that_swallows_the_request_goes_on(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, swallow)
    assert enginejobs.started["a"].wait(LONG)
    transaction.begin()
    ask(job)

    assert wait_for_result(job, LONG) == "went on"
    assert job.outcome == "succeeded"


def test_a_cancelled_job_makes_no_second_attempt(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    job = put(queue, wait_and_conflict)
    assert enginejobs.started["a"].wait(LONG)
    transaction.begin()
    ask(job)
    wait_until(queue, lambda: job._p_oid in running.dispatcher.mail._stops, LONG, "the request")
    enginejobs.released["a"].set()

    assert wait_for_result(job, LONG).check(CancelledError)
    assert enginejobs.calls == ["a"] and (job.outcome, job.attempts) == ("cancelled", 1)


def test_a_job_that_was_claimed_and_is_cancelled_does_not_begin(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    pool = running.dispatcher.queues[""]["main"]
    first = put(queue, enginejobs.wait, "a")
    assert enginejobs.started["a"].wait(LONG)
    pool.mean = 0.001  # so that the next one is claimed ahead
    second = put(queue, enginejobs.note, "began")
    wait_until(queue, lambda: second.token, LONG, "the claim")
    ask(second)
    wait_until(queue, lambda: second._p_oid in running.dispatcher.mail._stops, LONG, "the request")
    enginejobs.released["a"].set()

    assert wait_for_result(second, LONG).check(CancelledError)
    assert wait_for_result(first) == "a" and enginejobs.calls == ["a"]
    assert (second.outcome, second.attempts) == ("cancelled", 0)


def test_stop_requested_without_a_request_is_an_error_like_others(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, enginejobs.make, StopRequested)

    assert wait_for_result(job).check(StopRequested)
    assert job.outcome == "failed"


@pytest.mark.parametrize("running", [False, True])
def test_a_callback_can_be_cancelled_before_and_while_it_runs(running: bool, queue: Any, dispatch: Any) -> None:
    one = dispatch().dispatcher
    job = Job(enginejobs.wait, "b")
    callback = job.addCallback(Job(work_until_stopped_by))
    late = callback.addCallback(enginejobs.note)
    queue.put(job)
    transaction.commit()
    assert enginejobs.started["b"].wait(LONG)
    transaction.begin()
    if not running:
        assert ask(callback) == "stopping"
        wait_until(queue, lambda: callback._p_oid in one.mail._stops, LONG, "the request")
    enginejobs.released["b"].set()
    if running:
        assert enginejobs.started["a"].wait(LONG)
        transaction.begin()
        assert ask(callback) == "stopping"

    assert wait_for_result(job, LONG) == "b"
    assert callback.result.check(CancelledError) and callback.outcome == "cancelled"
    assert ("a" in enginejobs.calls) is running and late.status == COMPLETED


def work_until_stopped_by(result: Any) -> str:
    return work_until_stopped("a")


def test_a_callback_of_a_waiting_job_is_cancelled_at_once(queue: Any, dispatch: Any) -> None:
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(enginejobs.note)
    queue.put(job)
    transaction.commit()
    assert ask(callback) == "cancelled"
    assert queue.counts()["waiting"] == 1
    dispatch()

    assert wait_for_result(job) == 1
    assert callback.result.check(CancelledError) and enginejobs.calls == []


# The clean stop


def test_at_a_clean_stop_a_job_stops_at_its_checkpoint_and_goes_on_later_uncounted(queue: Any, dispatch: Any) -> None:
    first = dispatch(threads=1)
    job = put(queue, checkpoint_until_stopped)
    assert enginejobs.started["a"].wait(LONG)
    first.stop(grace=LONG)
    transaction.begin()
    came_to = queue._p_jar.root()["number"]
    assert (job.status, job.attempts, dict(job.policy_data)) == (PENDING, 0, {})
    assert cursor_of(job) == came_to and enginejobs.calls == [0]
    assert queue.counts()["running"] == 0
    enginejobs.released["a"].set()
    dispatch()

    assert wait_for_result(job) == came_to and enginejobs.calls == [0, came_to]
    assert job.attempts == 1


def test_what_runs_in_a_process_that_has_done_its_share_is_not_asked_to_stop_and_nothing_else_begins(
    queue: Any, dispatch: Any
) -> None:
    running = dispatch(threads=2)
    job = put(queue, checkpoint_until_stopped)
    assert enginejobs.started["a"].wait(LONG)
    running.drain()
    transaction.begin()
    (da,) = queue.dispatchers.active()
    assert da.leaving is not None and not da.stops, "a process that dies now may have died of that job"
    behind = put(queue, enginejobs.note, "behind")
    came_to = queue._p_jar.root()["number"]
    wait_until(queue, lambda: queue._p_jar.root()["number"] > came_to + 3, LONG, "it goes on")
    assert not running.idle
    enginejobs.released["a"].set()

    assert wait_for_result(job) > came_to and job.attempts == 1
    wait_until(queue, lambda: running.idle, LONG, "all has ended")
    running.stop()
    transaction.begin()
    assert behind.status == PENDING and enginejobs.calls == [0]


def test_a_stop_that_is_told_to_hurry_waits_no_longer_for_a_job_which_goes_on_later_uncounted(
    queue: Any, dispatch: Any
) -> None:
    job, running = put(queue, wait_for_go), dispatch()
    assert enginejobs.started["a"].wait(10)
    stop = threading.Thread(target=running.stop, args=(3600,))
    stop.start()
    wait_until(queue, lambda: running.dispatcher.leaving, 10, "it leaves")
    running.hurry()
    stop.join(30)
    assert not stop.is_alive()
    transaction.begin()
    assert (job.status, job.attempts) == (PENDING, 0)


def wait_for_go() -> str:
    """A job that never looks whether it should stop."""
    enginejobs.started["a"].set()
    enginejobs.released["a"].wait(60)
    return "released"


def cursor_of(job: Any) -> Any:
    """What the job would be told."""
    before, local.job = local.job, job
    try:
        return api.cursor()
    finally:
        local.job = before


@pytest.mark.parametrize("call", [work_until_stopped, checkpoint_until_stopped])
def test_at_a_clean_stop_a_job_that_must_not_run_twice_ends_aborted(call: Any, queue: Any, dispatch: Any) -> None:
    first = dispatch(threads=1)
    job = put(queue, call, policy="NeverRetry")
    assert enginejobs.started["a"].wait(LONG)
    first.stop(grace=LONG)
    transaction.begin()

    assert job.status == COMPLETED and job.result.check(AbortedError) and not job.result.check(CancelledError)
    assert job.outcome == "failed"


def test_at_a_clean_stop_a_callback_goes_on_later_from_its_checkpoint(queue: Any, dispatch: Any) -> None:
    first = dispatch(threads=1)
    job = Job(enginejobs.add, 0)
    callback = job.addCallback(Job(checkpoint_callback))
    queue.put(job)
    transaction.commit()
    assert enginejobs.started["a"].wait(LONG)
    first.stop(grace=LONG)
    transaction.begin()
    came_to = queue._p_jar.root()["number"]
    assert callback.status == PENDING and dict(callback.policy_data) == {}
    enginejobs.released["a"].set()
    dispatch()

    assert wait_for_result(job) == 0
    assert callback.result == came_to and enginejobs.calls == [0, came_to]


def checkpoint_callback(result: Any) -> int:
    return checkpoint_until_stopped("a")


def test_a_cancelled_job_ends_cancelled_also_at_a_clean_stop(queue: Any, dispatch: Any) -> None:
    first = dispatch(threads=1)
    job = put(queue, enginejobs.wait)
    assert enginejobs.started["a"].wait(LONG)
    transaction.begin()
    ask(job)
    first.stop(grace=0)
    enginejobs.released["a"].set()
    dispatch()

    assert wait_for_result(job).check(CancelledError)


def test_a_job_that_somebody_takes_from_its_agent_ends_aborted_at_a_clean_stop(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    job = put(queue, work_until_stopped)
    assert enginejobs.started["a"].wait(LONG)
    transaction.begin()
    job.agent.remove(job)
    transaction.commit()
    running.stop(grace=LONG)
    transaction.begin()

    assert job.status == COMPLETED and job.result.check(AbortedError)


def test_a_thread_that_ends_after_its_job_has_ended_leaves_no_note_on_it(connection: Any) -> None:
    job = Job(enginejobs.add, 1)
    connection.add(job)
    job._begin(utcnow())
    job._finish(1, utcnow())
    job.token = "claim"
    transaction.commit()
    database = connection.db()

    assert interrupted_here(database, job._p_oid, "claim", Surroundings(database)) == "finished"
    transaction.begin()
    assert (job.status, job.result, job.interrupted_by) == (COMPLETED, 1, "")


def test_an_interrupted_job_that_is_in_no_queue_ends_aborted(connection: Any) -> None:
    job = Job(enginejobs.add, 1)
    connection.add(job)
    job._begin(utcnow())
    transaction.commit()
    job.handleInterrupt()

    assert job.status == COMPLETED and job.result.check(AbortedError)


# Timeouts


def test_a_job_beyond_its_timeout_is_asked_to_stop_and_ends_with_a_timeout_error(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch()
    job = put(queue, work_until_stopped, timeout=0.1)

    result = wait_for_result(job, LONG)
    assert result.check(TimeoutError) and "its timeout of 0.1 s" in result.getErrorMessage()
    assert (job.outcome, job.overdue) == ("failed", False)


def test_a_job_that_never_looks_is_shown_as_overdue_until_it_ends(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch()
    job = put(queue, enginejobs.wait, timeout=0.1)
    wait_until(queue, lambda: job.overdue, LONG, "overdue")
    enginejobs.released["a"].set()

    assert wait_for_result(job) == "a" and job.outcome == "succeeded"
    wait_until(queue, lambda: not queue.counts()["running"], LONG, "the sweep")
    assert not job.overdue
    lines = [record for record in caplog.records if "is overdue" in record.message]
    assert len(lines) == 1 and lines[0].levelname == "WARNING" and f"{job.id} (enginejobs.wait)" in lines[0].message


def stop_and_conflict() -> str:
    """Beyond its time in the first attempt, which ends with a conflict; the second one has its own time."""
    enginejobs.calls.append("attempt")
    if len(enginejobs.calls) > 1:
        api.progress(1)
        return "in time"
    while True:
        try:
            api.progress(0)
        except StopRequested:
            raise ConflictError from None


def test_each_attempt_has_its_own_time(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, stop_and_conflict, timeout=0.2)

    assert wait_for_result(job, LONG) == "in time" and not job.overdue


@api.task(name="running.timed", timeout=5)
def timed() -> float:
    return local.getJob().timeout


def test_the_timeout_of_a_task_is_stored_with_its_jobs(queue: Any, dispatch: Any) -> None:
    job = put(queue, timed)
    assert job.timeout == job.again().timeout == 5
    assert Job(enginejobs.add).timeout is None
    dispatch()
    assert wait_for_result(job) == 5
    assert timed.timeout == 5


@pytest.mark.parametrize("timeout", [0, -1, "60", True, float("inf"), float("nan"), timedelta(seconds=5)])
def test_a_wrong_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidValueError, match="timeout of task 'running.wrong' must be a number of seconds above 0"):
        api.task(enginejobs.add, name="running.wrong", timeout=timeout)


def test_run_jobs_ends_a_job_beyond_its_timeout(queue: Any) -> None:
    job = Job(work_until_stopped)
    job.timeout = 0.05
    queue.put(job)
    run_jobs(queue, raises=False)

    assert job.result.check(TimeoutError) and "uncommitted" not in queue._p_jar.root()


# A job that hangs


def test_a_process_that_is_replaced_takes_no_more_jobs_once_one_hangs(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "HUNG_AFTER", 0.1)
    running = dispatch(threads=2, replaceable=True)
    job = put(queue, enginejobs.wait, timeout=0.1)
    assert enginejobs.started["a"].wait(LONG)
    wait_until(queue, lambda: running.dispatcher.hung, LONG, "hung")
    waiting = put(queue, enginejobs.add, 1)
    assert job.id in running.dispatcher.hung
    running.stop(grace=0)
    transaction.begin()

    assert job.status == PENDING and job.deaths == 1
    assert waiting.status == PENDING
    enginejobs.released["a"].set()
    dispatch()
    assert wait_for_result(job) == "a" and wait_for_result(waiting) == 1


def test_a_server_that_nobody_replaces_goes_on_when_a_job_hangs(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mail, "HUNG_AFTER", 0.1)
    running = dispatch(threads=2)
    job = put(queue, enginejobs.wait, timeout=0.1)
    assert enginejobs.started["a"].wait(LONG)
    wait_until(queue, lambda: f"Job {job.id} (enginejobs.wait) hangs" in caplog.text, LONG, "the log")

    assert wait_for_result(put(queue, enginejobs.add, 1)) == 1
    assert running.dispatcher.hung is None
    enginejobs.released["a"].set()
    assert wait_for_result(job) == "a"


def test_a_job_that_hangs_three_times_is_set_aside(queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "HUNG_AFTER", 0.1)
    job = put(queue, enginejobs.wait, timeout=0.1)
    for deaths in (1, 2, 3):
        running = dispatch(threads=1, replaceable=True)
        wait_until(queue, lambda: running.dispatcher.hung, LONG, "hung")  # noqa: B023
        running.stop(grace=0)
        transaction.begin()
        assert job.deaths == deaths
    enginejobs.released["a"].set()

    assert [reason for reason, _job in queue.quarantined()] == ["its process died 3 times under it"]


def ask_oneself(why: str) -> None:
    """As if the request had come from elsewhere."""
    local.running.ask(why)
    api.progress(1)


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """The events of jobs, as they come: kind, id, task, and what else they tell."""
    heard: list[Any] = []

    def hear(event: Any) -> None:
        if isinstance(event, events.JobEvent):
            rest = (event.error[:12],) if isinstance(event, events.JobFailed) else ()
            heard.append((type(event).__name__, event.id, event.task, *rest))

    zope.event.subscribers.append(hear)
    yield heard
    zope.event.subscribers.remove(hear)


def test_a_job_that_a_stop_sends_back_is_told_of_as_started_and_not_as_ended(queue: Any, told: list[Any]) -> None:
    agent, job = enginejobs.make_agent(queue), put(queue, ask_oneself, "shutdown")
    assert enginejobs.perform(agent) == "returned"

    assert job.status == PENDING and job.attempts == 0
    assert told[1:] == [("JobStarted", job.id, job.task)]


@pytest.mark.parametrize(
    ("call", "args", "error"),
    [(ask_oneself, ("cancel",), "CancelledErr"), (enginejobs.change_and_raise, (), "ValueError: ")],
)
def test_the_events_of_a_failed_and_of_a_cancelled_job_name_it(
    call: Any, args: Any, error: str, queue: Any, told: list[Any]
) -> None:
    agent, job = enginejobs.make_agent(queue), put(queue, call, *args)
    assert enginejobs.perform(agent) == "finished"

    assert told[1:] == [("JobStarted", job.id, job.task), ("JobFailed", job.id, job.task, error)]
    assert job.id is not None and job.task


@pytest.mark.parametrize("answer", [False, True])
def test_an_interrupted_job_whose_policy_could_not_be_asked_runs_or_ends_as_it_says_when_its_turn_comes(
    answer: bool, queue: Any, told: list[Any]
) -> None:
    agent = enginejobs.make_agent(queue)
    policy = "RetryCommonFourTimes" if answer else "NeverRetry"
    job = queue.put(Job(enginejobs.note, "ran"), retry_policy_factory=policy)
    callback = job.addCallback(enginejobs.note)
    job.interrupted_by = interruptions.THREAD
    transaction.commit()
    told.clear()
    report = enginejobs.perform(agent)

    if answer:
        assert (report, job.status, job.interrupted_by, enginejobs.calls, told) == ("returned", PENDING, "", [], [])
        assert enginejobs.perform(agent) == "finished" and enginejobs.calls == ["ran", "ran"]
    else:
        assert report == "finished" and job.result.check(AbortedError)
        assert callback.status == COMPLETED and callback.result.check(AbortedError)
        assert told[0] == ("JobFailed", job.id, job.task, "AbortedError")
