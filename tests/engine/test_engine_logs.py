"""What is logged, where and how loud: events for people, the trace for those who look closely. One story a line."""

from collections.abc import Callable
from collective.zcasync import execution
from collective.zcasync import transactions
from collective.zcasync.attempts import Run
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.retry import NeverRetry
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.subscribers import AgentInstaller
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from ZODB.POSException import ConflictError

import enginejobs
import logging
import pytest
import threading
import transaction
import uuid
import ZODB

EVENTS, TRACE = "collective.zcasync.events", "collective.zcasync.trace"
DEBUG, INFO, WARNING, ERROR, CRITICAL = (
    *(logging.DEBUG, logging.INFO, logging.WARNING),
    *(logging.ERROR, logging.CRITICAL),
)


class Set:
    """What a story has at hand: a queue, its database, and dispatchers."""

    def __init__(self, queue: Any, db: Any, dispatch: Callable[..., Any]) -> None:
        self.queue, self.db, self.dispatch = queue, db, dispatch

    def put(self, *call: Any, **options: Any) -> Any:
        job = Job(*call)
        for name, value in options.items():
            setattr(job, name, value)
        self.queue.put(job)
        transaction.commit()
        return job

    def run(self, *call: Any, **options: Any) -> Any:
        """A job that a dispatcher runs to its end."""
        self.dispatch()
        job = self.put(*call, **options)
        wait_for_result(job, 20)
        return job


@pytest.fixture
def scene(queue: Any, db: Any, dispatch: Any, caplog: pytest.LogCaptureFixture) -> Set:
    caplog.set_level(DEBUG, logger="collective.zcasync")
    return Set(queue, db, dispatch)


class NoMethods:
    """A retry policy that lacks all that one needs."""

    def __init__(self, job: Any) -> None:
        self.job = job


class Later:
    """A retry policy that always asks to be rescheduled."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def jobError(self, failure: Any, cache: Any) -> Any:
        return timedelta(hours=1)

    commitError = jobError

    def interrupted(self) -> bool:
        return True

    def updateData(self, cache: Any) -> None:
        return None


def fail(*args: Any) -> None:
    raise ValueError("on purpose")


def always_conflicts() -> None:
    raise ConflictError


def said(record: logging.LogRecord) -> str:
    """The line as it was logged: the job in it may belong to a connection that is closed since."""
    return str(vars(record).get("message", ""))


def start_and_stop(scene: Set) -> None:
    scene.dispatch().stop(grace=0)


def make_queues(scene: Set) -> None:
    db = ZODB.DB(None)
    connection = db.open()
    install(connection, ("", "mail"))
    transaction.abort()
    connection.close()
    db.close()


def agents_are_installed(scene: Set) -> None:
    scene.queue.dispatchers.register(key := uuid.uuid4())
    da = scene.queue.dispatchers[key]
    installer = AgentInstaller("extra")
    for _ in range(2):
        da.activate()
        installer(type("Activated", (), {"object": da})())
        da.deactivate()


def database_goes_away(scene: Set) -> None:
    scene.run(enginejobs.disconnect_times, 1)


def commit_fails_after_success(scene: Set) -> None:
    scene.run(enginejobs.failing_hook)


def conflicts_in_never_fail(scene: Set) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) <= 5:
            raise ConflictError

    transactions.never_fail(call, "the fifth conflict", transaction.TransactionManager())


def errors_in_never_fail(scene: Set) -> None:
    stop = threading.Event()
    stop.set()
    calls: list[int] = []
    old, transactions.sleep = transactions.sleep, calls.append  # type: ignore[assignment]
    try:
        transactions.never_fail(lambda: calls or fail(), "an odd error", transaction.TransactionManager())
    finally:
        transactions.sleep = old


def conflicts_in_try_five_times(scene: Set) -> None:
    transactions.try_five_times(always_conflicts, "five conflicts", transaction.TransactionManager())


def errors_in_try_five_times(scene: Set) -> None:
    transactions.try_five_times(fail, "another error", transaction.TransactionManager())


def job_fails(scene: Set) -> None:
    scene.run(fail)


def job_fails_quietly(scene: Set) -> None:
    scene.run(fail, failure_log_level=INFO)


def job_is_completed_already(scene: Set) -> None:
    job = scene.run(enginejobs.add, 1)
    execution.perform(scene.db, job._p_oid, "run", job.token, Surroundings(scene.db))


def job_is_reassigned(scene: Set) -> None:
    scene.dispatch()
    job = scene.put(enginejobs.wait, "a")
    assert enginejobs.started["a"].wait(20)
    wait_until(scene.queue, lambda: job.token, 20)
    job.token = "another claim"
    transaction.commit()
    enginejobs.released["a"].set()


def same_uuid_twice(scene: Set) -> None:
    key = uuid.uuid4()
    scene.queue.dispatchers.register(key)
    da = scene.queue.dispatchers[key]
    da.activate()
    da.process = {"host": "elsewhere", "boot": "another", "pid": 1}
    da.ping(utcnow())
    transaction.commit()
    scene.dispatch(uuid=key)


def policy_without_methods(scene: Set) -> None:
    scene.run(fail, retry_policy_factory=NoMethods)


def callback_comes_too_late(scene: Set) -> None:
    callback = Job(enginejobs.note)
    callback.begin_by = timedelta(0)
    job = Job(enginejobs.add, 1)
    job.addCallback(callback)
    scene.dispatch()
    scene.queue.put(job)
    transaction.commit()
    wait_for_result(job, 20)


def callback_fails(scene: Set) -> None:
    job = Job(enginejobs.add, 1)
    job.addCallback(fail)
    scene.dispatch()
    scene.queue.put(job)
    transaction.commit()
    wait_for_result(job, 20)


def thread_dies(scene: Set) -> None:
    scene.dispatch()
    before = execution.run
    died: list[Any] = []

    def run_badly(*args: Any, **kwargs: Any) -> Any:
        if not died:
            died.append(args)
            raise RuntimeError("the engine has an error")
        return before(*args, **kwargs)

    execution.run = run_badly
    try:
        wait_for_result(scene.put(enginejobs.add, 1), 20)
    finally:
        execution.run = before


def wrongly_taken_for_dead(scene: Set) -> None:
    scene.queue.dispatchers.register(key := uuid.uuid4())
    scene.queue.dispatchers.ping(key)


def cannot_be_rescheduled(scene: Set) -> None:
    job = Job(fail)
    job.retry_policy_factory = Later
    scene.queue._p_jar.add(job)
    job()


def commit_always_fails(scene: Set) -> None:
    scene.dispatch()
    job = scene.put(enginejobs.failing_hook, retry_policy_factory=RetryCommonForever)
    wait_until(scene.queue, lambda: job.attempts >= 1, 20)


def poll_changes(scene: Set) -> None:
    running = scene.dispatch()
    install(scene.queue._p_jar, ("", "mail"))
    transaction.commit()
    poll_now(running.dispatcher)


def callback_runs(scene: Set) -> None:
    job = Job(enginejobs.add, 1)
    job.addCallback(enginejobs.note)
    scene.dispatch()
    scene.queue.put(job)
    transaction.commit()
    wait_for_result(job, 20)


def job_runs(scene: Set) -> None:
    scene.run(enginejobs.add, 1)


def job_is_interrupted(scene: Set) -> None:
    running = scene.dispatch()
    scene.put(enginejobs.wait, "a")
    assert enginejobs.started["a"].wait(20)
    running.stop(grace=0)
    enginejobs.released["a"].set()


def conflicts_are_retried(scene: Set) -> None:
    scene.run(enginejobs.conflict_times, 2)


def conflicts_end(scene: Set) -> None:
    scene.run(enginejobs.conflict_times, 99)


STORIES: list[tuple[Callable[[Set], None], str, int, str]] = [
    (start_and_stop, EVENTS, INFO, " activated, role worker"),
    (start_and_stop, EVENTS, INFO, " deactivated"),
    (make_queues, EVENTS, INFO, "queues added to the database"),
    (make_queues, EVENTS, INFO, "queue 'mail' added"),
    (agents_are_installed, EVENTS, INFO, "agent 'extra' added"),
    (agents_are_installed, EVENTS, INFO, "agent 'extra' is already in"),
    (database_goes_away, EVENTS, INFO, "enginejobs.disconnect_times waits for it"),
    (commit_fails_after_success, EVENTS, INFO, "its code had succeeded with result: 'never stored'"),
    (conflicts_in_never_fail, EVENTS, WARNING, "the fifth conflict: 5 transaction errors"),
    (job_fails, EVENTS, ERROR, "builtins.ValueError: on purpose"),
    (job_fails_quietly, EVENTS, INFO, "builtins.ValueError: on purpose"),
    (job_is_completed_already, EVENTS, ERROR, "already completed"),
    (job_is_reassigned, EVENTS, ERROR, "was reassigned"),
    (same_uuid_twice, EVENTS, ERROR, "another process?"),
    (policy_without_methods, EVENTS, ERROR, "has no method jobError"),
    (callback_comes_too_late, EVENTS, ERROR, "is late: it ends with a TimeoutError"),
    (callback_fails, EVENTS, CRITICAL, "builtins.ValueError: on purpose"),
    (conflicts_in_try_five_times, EVENTS, CRITICAL, "five conflicts: 5 transaction errors"),
    (errors_in_try_five_times, EVENTS, CRITICAL, "another error failed"),
    (errors_in_never_fail, EVENTS, CRITICAL, "an odd error failed (1 times)"),
    (thread_dies, EVENTS, CRITICAL, "unexpected error"),
    (wrongly_taken_for_dead, EVENTS, CRITICAL, "was taken for dead"),
    (cannot_be_rescheduled, EVENTS, CRITICAL, "cannot be rescheduled: no retry"),
    (commit_always_fails, EVENTS, CRITICAL, "cannot be committed (1 times)"),
    (poll_changes, TRACE, DEBUG, "'mail'"),
    (callback_runs, TRACE, DEBUG, "starting callback"),
    (job_runs, TRACE, INFO, "starting"),
    (job_runs, TRACE, INFO, "succeeded with result: 1"),
    (job_runs, TRACE, INFO, "completed"),
    (job_is_interrupted, TRACE, INFO, "interrupted"),
    (conflicts_are_retried, TRACE, WARNING, "error number 1"),
    (conflicts_end, TRACE, WARNING, "gives up"),
]


@pytest.mark.parametrize(
    ("story", "logger", "level", "text"),
    STORIES,
    ids=[f"{story.__name__}-{logging.getLevelName(level)}-{text}" for story, _logger, level, text in STORIES],
)
def test_each_thing_is_logged_in_its_channel_at_its_level(
    scene: Set, caplog: pytest.LogCaptureFixture, story: Any, logger: str, level: int, text: str
) -> None:
    story(scene)

    def found() -> set[tuple[str, int]]:
        records = [record for record in list(caplog.records) if record.name.startswith("collective.zcasync")]
        return {(record.name, record.levelno) for record in records if text in said(record)}

    wait_until(scene.queue, found, 20, f"a log line with {text!r}")
    assert (logger, level) in found()
    if text.startswith(("builtins.", "its code", "cannot be")):
        assert found() == {(logger, level)}


def messages(caplog: pytest.LogCaptureFixture, logger: str, level: int) -> list[str]:
    records = [record for record in list(caplog.records) if (record.name, record.levelno) == (logger, level)]
    return [said(record) for record in records]


def test_a_normal_job_is_told_as_starting_succeeded_and_completed_with_its_callbacks_in_between(
    scene: Set, caplog: pytest.LogCaptureFixture
) -> None:
    callback_runs(scene)
    wait_until(scene.queue, lambda: any("completed" in m for m in messages(caplog, TRACE, INFO)), 20)
    lines = [said(record) for record in caplog.records if record.name == TRACE and record.levelno <= INFO]
    words = ("starting <", "succeeded with result: 1", "starting callback", "completed <")
    first = [next(number for number, line in enumerate(lines) if word in line) for word in words]
    assert first == sorted(first)


def test_a_conflict_is_told_at_its_first_and_at_each_fifth_time(
    scene: Set, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "_pause", lambda run, answer: None)
    scene.run(enginejobs.conflict_times, 11, retry_policy_factory=RetryCommonForever)
    told = [line for line in messages(caplog, TRACE, WARNING) if "error number" in line]
    assert [line.split("number ")[1].split(":")[0] for line in told] == ["1", "5", "10"]


def test_nothing_of_a_normal_job_is_loud(scene: Set, caplog: pytest.LogCaptureFixture) -> None:
    running = scene.dispatch()
    transaction.begin()  # see that the queue is served now
    job = scene.put(enginejobs.add, 1)
    wait_for_result(job, 20)
    running.stop()
    loud = [said(record) for record in caplog.records if record.levelno >= WARNING]
    assert loud == []


def test_one_handler_on_the_package_catches_both_channels() -> None:
    class Catch(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.names.append(record.name)

    catch, package = Catch(), logging.getLogger("collective.zcasync")
    package.addHandler(catch)
    try:
        for name in (EVENTS, TRACE):
            logging.getLogger(name).critical("caught")
    finally:
        package.removeHandler(catch)
    assert catch.names == [EVENTS, TRACE]


def test_a_job_that_must_not_run_twice_says_so_at_the_level_of_a_failure(
    scene: Set, caplog: pytest.LogCaptureFixture
) -> None:
    running = scene.dispatch()
    scene.put(enginejobs.wait, "a", retry_policy_factory=NeverRetry)
    assert enginejobs.started["a"].wait(20)
    running.stop(grace=0)
    enginejobs.released["a"].set()
    wait_until(scene.queue, lambda: any("is not run again" in m for m in messages(caplog, EVENTS, ERROR)), 20)
    assert ReassignedError.__name__ not in " ".join(messages(caplog, EVENTS, CRITICAL))
