"""The catastrophes of zc.async's list, each with what must happen: those that no other module of these tests proves.

Threads that die: also test_engine_policies. Processes that are killed, freeze, leave or meet: test_engine_processes and
test_engine_membership. Policies with errors: test_engine_policies. Callbacks: test_engine_callbacks. Filters and
choosers that fail, databases that are away while a job is loaded: test_engine_regressions.
"""

from collective.zcasync import execution
from collective.zcasync import transactions
from collective.zcasync.agent import Agent
from collective.zcasync.claiming import CLAIM_TRIES
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.retry import NeverRetry
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from uuid import uuid4
from ZEO.Exceptions import ClientDisconnected
from ZODB.mvccadapter import MVCCAdapterInstance
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError
from ZODB.POSException import ReadConflictError

import enginejobs
import logging
import pytest
import socket
import threading
import transaction


@pytest.fixture(autouse=True)
def unlocked() -> None:
    locked.clear()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "collective.zcasync")
    return caplog


def _levels(log: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.levelname for record in log.records if words in record.getMessage()]


def _put(queue: Any, job: Job, **options: Any) -> Job:
    job = queue.put(job, **options)
    transaction.commit()
    return job


def _lives_on(queue: Any) -> bool:
    """Whether the dispatcher still works."""
    return bool(wait_for_result(_put(queue, Job(enginejobs.add, 1, 1)), 12) == 2)


def _errors(running: Any, kind: type[Exception]) -> list[Failure]:
    """What went wrong while it polled, as its polls tell."""
    found = [poll[""]["main"]["error"] for poll in running.dispatcher.polls if poll.get("")]
    return [error for error in found if error is not None and error.check(kind)]


# 1: a job thread dies


def test_an_unexpected_error_in_a_job_thread_is_told_and_its_job_runs_again_in_a_new_thread(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    running = dispatch(threads=1)
    perform, failures = execution.perform, []

    def fail_once(*args: Any) -> Any:
        if not failures:
            failures.append(threading.current_thread())
            raise RuntimeError("nobody expects this")
        return perform(*args)

    monkeypatch.setattr(execution, "perform", fail_once)
    job = _put(queue, Job(enginejobs.note, "ran"))

    assert wait_for_result(job, 12) == "ran"
    assert enginejobs.calls == ["ran"] and job.policy_data["thread_ends"] == 1
    assert _levels(log, "A job thread ends: unexpected error") == ["CRITICAL"]
    failures[0].join(10)
    threads = running.dispatcher.queues[""]["main"].threads
    assert len(threads) == 1 and failures[0] not in threads
    assert _lives_on(queue)


# 2 and 3: the process is killed, or stops, and starts again under the same UUID


@pytest.mark.parametrize("end", ["crash", "stop"])
def test_what_ran_when_its_dispatcher_ended_is_first_in_line_when_the_same_one_starts_again(
    end: str, queue: Any, dispatch: Any
) -> None:
    first = dispatch(threads=1)
    uuid = first.dispatcher.UUID
    job = _put(queue, Job(enginejobs.wait_and_count, "a"))
    assert enginejobs.started["a"].wait(10)
    behind = _put(queue, Job(enginejobs.note, "behind"))
    first.crash() if end == "crash" else first.stop(grace=0)
    enginejobs.started["a"].clear()
    second = dispatch(threads=1, uuid=uuid)
    assert second.dispatcher.UUID == uuid
    assert enginejobs.started["a"].wait(10)
    transaction.begin()
    assert behind.status == PENDING
    enginejobs.released["a"].set()

    assert wait_for_result(job, 12) == 1, "the first run changed nothing"
    assert wait_for_result(behind) == "behind"
    data = dict(job.policy_data)
    assert (data["interruptions"], data["deaths" if end == "crash" else "stops"]) == (1, 1)
    assert job.deaths == (1 if end == "crash" else 0)


def test_a_clean_stop_gives_back_what_had_not_begun_without_a_count(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    waits = _put(queue, Job(enginejobs.wait, "a"))
    assert enginejobs.started["a"].wait(10)
    jobs = [queue.put(Job(enginejobs.note, number)) for number in range(3)]
    transaction.commit()
    poll_now(running.dispatcher)
    running.stop(grace=0)
    transaction.begin()

    assert [job.status for job in (waits, *jobs)] == [PENDING] * 4
    assert list(queue)[0] is waits, "what had begun goes first"
    assert all(dict(job.policy_data) == {} for job in jobs)


# 6: a job has another owner while its old thread still runs it


def test_a_job_that_was_reassigned_is_left_alone_by_its_old_thread_which_says_so(
    queue: Any, dispatch: Any, log: pytest.LogCaptureFixture
) -> None:
    running = dispatch(threads=1, poll_interval=1000)
    job = _put(queue, Job(enginejobs.wait_and_count, "a"))
    assert enginejobs.started["a"].wait(10)
    transaction.begin()
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = Agent()
    da["main"].hold(job, True)
    transaction.commit()
    token = job.token
    enginejobs.released["a"].set()
    wait_until(queue, lambda: _levels(log, "was reassigned while this thread ran it"), 12, "the end of the old run")
    transaction.begin()

    assert _levels(log, "was reassigned while this thread ran it") == ["ERROR"]
    assert (job.token, job.outcome, job.agent) == (token, None, da["main"])
    assert "count" not in queue._p_jar.root()
    info = running.dispatcher.jobs[(int(job.id, 16), running.dispatcher.db.database_name)]
    wait_until(queue, lambda: info["reassigned"], 12, "that it is noted")
    assert _lives_on(queue)


# 7: conflicts and disconnects in job and commit: test_engine_execution, test_engine_policies; work that must not be
# done twice here


@pytest.mark.parametrize("trouble", ["conflict in the job", "conflict at the commit", "stop", "death"])
def test_the_effect_on_a_socket_of_a_job_that_is_never_retried_shows_once_whatever_happens(
    trouble: str, queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DispatcherAgents, "ping_interval", timedelta(seconds=0.2))
    monkeypatch.setattr(DispatcherAgents, "ping_death_interval", timedelta(seconds=1))
    here, there = socket.socketpair()
    sockets[:] = [there]
    queue._p_jar.root()["shared"] = shared = enginejobs.mapping()
    job = _put(queue, Job(send, trouble), retry_policy_factory=NeverRetry)
    running = dispatch(threads=1)
    assert enginejobs.started["a"].wait(10)
    if trouble == "conflict at the commit":
        transaction.begin()
        shared["other"] = 1
        transaction.commit()
    elif trouble == "stop":
        running.stop(grace=0)
    elif trouble == "death":
        running.crash()
    if trouble in ("stop", "death"):
        dispatch(threads=1)
        assert wait_for_result(job, 20).check(AbortedError), "while its old thread still runs"
    enginejobs.released["a"].set()

    result = wait_for_result(job, 12)
    assert result.check(AbortedError if trouble in ("stop", "death") else ConflictError)
    assert _lives_on(queue)
    there.close()
    here.settimeout(10)
    assert here.recv(100) == b"effect" and here.recv(100) == b""
    here.close()


sockets: list[socket.socket] = []


def send(trouble: str) -> None:
    sockets[0].sendall(b"effect")
    if trouble == "conflict at the commit":
        enginejobs.root()["shared"]["mine"] = 1
    enginejobs.wait("a")
    if trouble == "conflict in the job":
        raise ConflictError()


# 11: the outcome cannot be stored


@pytest.mark.parametrize("error", [ValueError, ConflictError, ClientDisconnected])
def test_an_outcome_that_cannot_be_stored_is_tried_again_until_it_can(
    error: type[Exception], queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "BACKOFF", (0.01, 0.01, 0.01))
    dispatch(threads=1)
    finish, failures = Job._finish, []

    def refuse(self: Any, result: Any, *args: Any) -> None:
        if isinstance(result, Failure) and len(failures) < 3:
            failures.append(error)
            raise error("cannot store it")
        finish(self, result, *args)

    monkeypatch.setattr(Job, "_finish", refuse)
    job = _put(queue, Job(enginejobs.change_and_raise))

    assert wait_for_result(job, 60).check(ValueError)
    assert failures == [error] * 3 and job.attempts == 1
    assert "changed" not in queue._p_jar.root()


# 13 and 14: trouble while polling


locked: list[str] = []


def locked_chooser(agent: Any) -> Any:
    """What another claim has changed: always, until the test is content."""
    if "open" not in locked:
        locked.append("locked")
        raise ConflictError("somebody else was first")
    return agent.queue.claim()


def test_conflicts_of_claims_are_told_after_many_and_the_polls_go_on(
    queue: Any, dispatch: Any, log: pytest.LogCaptureFixture
) -> None:
    running = dispatch(threads=1, poll_interval=0.2)
    for manager in transaction.manager.attempts(20):
        with manager:
            queue.dispatchers[running.dispatcher.UUID]["main"].chooser = locked_chooser
    job = _put(queue, Job(enginejobs.add, 1))
    wait_until(queue, lambda: len(locked) > CLAIM_TRIES, 20, "that a claim was given up")
    assert set(_levels(log, "conflicted in a row")) == {"CRITICAL"}

    def noted() -> bool:
        infos = [poll.get("", {}).get("main") for poll in running.dispatcher.polls]
        return any(info and info["error"] is not None and info["error"].check(ConflictError) for info in infos)

    wait_until(queue, noted, 20, "that a poll notes it")
    count = running.dispatcher.polls.count
    wait_until(queue, lambda: running.dispatcher.polls.count > count, 20, "a further poll")
    locked.append("open")

    assert wait_for_result(job, 12) == 1


@pytest.mark.parametrize("where", ["load", "tpc_begin"])
def test_a_database_that_goes_away_while_claims_read_or_commit_is_told_and_work_goes_on_when_it_is_back(
    where: str, queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    running = dispatch(poll_interval=0.2)
    original, away, met = getattr(MVCCAdapterInstance, where), threading.Event(), threading.Event()

    def fail(self: Any, *args: Any) -> Any:
        if away.is_set() and threading.current_thread().name == "zcasync-claims":
            met.set()
            raise ClientDisconnected("no server")
        return original(self, *args)

    monkeypatch.setattr(MVCCAdapterInstance, where, fail)
    monkeypatch.setattr(transactions, "wait_for_database", lambda *args, **kwargs: True)
    away.set()
    job = _put(queue, Job(enginejobs.add, 1))
    running.dispatcher.connection.cacheMinimize()
    running.dispatcher.poll_soon()
    assert met.wait(20)
    wait_until(queue, lambda: _levels(log, "the database is away"), 20, "that it is told")
    assert set(_levels(log, "the database is away")) == {"CRITICAL"}
    wait_until(queue, lambda: _errors(running, ClientDisconnected), 20, "that a poll remembers it")
    away.clear()

    assert wait_for_result(job, 12) == 1


# 16 and 17: records that cannot be loaded


def test_a_claimed_job_whose_record_is_gone_is_set_aside_and_its_thread_works_on(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    load = MVCCAdapterInstance.load
    job = queue.put(Job(enginejobs.note, "never"))

    def load_or_fail(self: Any, oid: bytes) -> Any:
        if oid == job._p_oid and threading.current_thread().name.startswith("zcasync-main"):
            raise POSKeyError(oid)
        return load(self, oid)

    monkeypatch.setattr(MVCCAdapterInstance, "load", load_or_fail)
    transaction.commit()
    running = dispatch(threads=1)
    wait_until(queue, lambda: list(queue.quarantined()), 12, "the quarantine")

    assert [found for _reason, found in queue.quarantined()] == [job]
    assert _levels(log, "cannot be loaded; it is set aside") == ["CRITICAL"]
    assert len(running.dispatcher.queues[""]["main"].threads) == 1 and _lives_on(queue)
    assert enginejobs.calls == [] and queue.counts()["running"] <= 1


def test_a_waiting_job_whose_record_is_gone_is_set_aside_before_a_thread_gets_it(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = MVCCAdapterInstance.load
    job, behind = queue.put(Job(enginejobs.note, "never")), queue.put(Job(enginejobs.add, 2))

    def load_or_fail(self: Any, oid: bytes) -> Any:
        if oid == job._p_oid and threading.current_thread().name == "zcasync-claims":
            raise POSKeyError(oid)
        return load(self, oid)

    monkeypatch.setattr(MVCCAdapterInstance, "load", load_or_fail)
    transaction.commit()
    dispatch(threads=1)

    assert wait_for_result(behind, 12) == 2, "nothing is blocked"
    assert [found for _reason, found in queue.quarantined()] == [job]
    assert enginejobs.calls == []


def test_conflicts_while_a_job_is_loaded_are_no_trouble_of_the_job(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    load, failures = MVCCAdapterInstance.load, []
    job = queue.put(Job(enginejobs.note, "ran"), retry_policy_factory=NeverRetry)

    def load_or_fail(self: Any, oid: bytes) -> Any:
        ours = oid == job._p_oid and threading.current_thread().name.startswith("zcasync-main")
        if ours and len(failures) < 7:
            failures.append(oid)
            raise ReadConflictError()
        return load(self, oid)

    monkeypatch.setattr(MVCCAdapterInstance, "load", load_or_fail)
    transaction.commit()
    dispatch(threads=1)

    assert wait_for_result(job, 12) == "ran"
    assert len(failures) == 7
    assert _levels(log, "conflicted") == ["WARNING"] * 2, "the first time, and each fifth"


# 18: what is over already


def test_a_job_that_has_ended_before_its_thread_begins_is_told_and_filed_away(
    queue: Any, dispatch: Any, db: Any, log: pytest.LogCaptureFixture
) -> None:
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = agent = Agent()
    job = queue.put(Job(enginejobs.note, "never"))
    assert queue.claim() is job
    agent.hold(job, False)
    transaction.commit()
    job.fail(ValueError("over"))
    transaction.commit()
    info, reports = JobInfo(job, ""), []

    def run() -> None:
        reports.append(execution.perform(db, job._p_oid, "run", job.token, Surroundings(db), info))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(12)

    assert reports == [execution.FINISHED] and enginejobs.calls == []
    assert _levels(log, "is already completed") == ["ERROR"]
    transaction.begin()
    da.deactivate()
    transaction.commit()
    assert job.status == COMPLETED and job.result.check(ValueError)
    assert list(queue.finished()) == [job] and queue.counts()["running"] == 0


# 20: errors in the hooks of a job's class


class Awkward(Job):
    """Its hooks fail as the argument says."""

    def setUp(self) -> str:
        enginejobs.calls.append("set up")
        if self.kwargs.get("where") == "setUp":
            raise LookupError("in setUp")
        return "info"

    def tearDown(self, setup_info: Any) -> None:
        enginejobs.calls.append(("torn down", setup_info))
        if self.kwargs.get("where") == "tearDown":
            raise LookupError("in tearDown")


def note_call(where: str = "") -> str:
    enginejobs.calls.append("called")
    if where == "job":
        raise LookupError("in the job")
    return "done"


@pytest.mark.parametrize(
    ("where", "calls", "outcome"),
    [
        ("", ["set up", "called", ("torn down", "info")], "succeeded"),
        ("setUp", ["set up", ("torn down", None)], "failed"),
        ("job", ["set up", "called", ("torn down", "info")], "failed"),
        ("tearDown", ["set up", "called", ("torn down", "info")], "succeeded"),
    ],
)
def test_the_hooks_of_an_attempt_run_once_each_wherever_an_error_is(
    where: str, calls: list[Any], outcome: str, queue: Any, dispatch: Any, log: pytest.LogCaptureFixture
) -> None:
    dispatch(threads=1)
    job = _put(queue, Awkward(note_call, where=where))
    wait_for_result(job)
    wait_until(queue, lambda: len(enginejobs.calls) >= len(calls), 20, "the end of the attempt")
    if where == "tearDown":
        wait_until(queue, lambda: _levels(log, "tearDown of"), 20, "that it is told")

    assert (job.outcome, enginejobs.calls) == (outcome, calls)
    assert _levels(log, "tearDown of") == (["CRITICAL"] if where == "tearDown" else [])
    assert job.result == "done" if outcome == "succeeded" else job.result.check(LookupError)
