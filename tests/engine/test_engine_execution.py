"""The run of a job, from the put to the end, on a real storage with a real dispatcher."""

from collective.zcasync import transactions
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_for_annotation
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_for_start
from collective.zcasync.testing import wait_until
from datetime import timedelta
from twisted.python.failure import Failure as TwistedFailure
from typing import Any
from ZODB.mvccadapter import MVCCAdapterInstance

import enginejobs
import http.server
import logging
import lxml.etree
import pytest
import threading
import transaction
import urllib.error
import urllib.request


def test_a_put_job_runs_after_the_commit_and_keeps_its_result(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = queue.put(Job(enginejobs.add, 1, 2))
    assert job.status == PENDING
    transaction.commit()

    assert wait_for_result(job) == 3
    assert job.status == COMPLETED
    assert job.put_at <= job.active_start <= job.active_end == job.finished_at
    assert (job.outcome, job.attempts, job.error) == ("succeeded", 1, "")


def test_a_put_that_is_aborted_never_existed(queue: Any, dispatch: Any) -> None:
    dispatch()
    queue.put(Job(enginejobs.note, "aborted"))
    transaction.abort()
    wait_for_result(_put(queue, enginejobs.note, "committed"))

    assert enginejobs.calls == ["committed"]
    assert len(queue) == 0


def test_what_a_job_changes_and_its_outcome_are_in_one_commit(queue: Any, dispatch: Any, db: Any) -> None:
    dispatch()
    job = _put(queue, enginejobs.count)
    wait_for_result(job)

    assert queue._p_jar.root()["count"] == 1
    assert queue._p_jar.root()._p_serial == job._p_serial


def test_a_job_that_raises_changes_nothing_and_keeps_a_traceback(queue: Any, dispatch: Any) -> None:
    dispatch()
    result = wait_for_result(job := _put(queue, enginejobs.change_and_raise))

    assert "changed" not in queue._p_jar.root()
    assert isinstance(result, TwistedFailure) and isinstance(result, Failure)
    assert result.check(ValueError) and result.getErrorMessage() == "on purpose"
    assert "change_and_raise" in result.getTraceback() and 'raise ValueError("on purpose")' in result.getTraceback()
    assert (job.outcome, job.error) == ("failed", "ValueError: on purpose")


def test_a_job_that_returns_a_failure_keeps_its_changes(queue: Any, dispatch: Any) -> None:
    dispatch()
    result = wait_for_result(job := _put(queue, enginejobs.change_and_return_failure))

    assert queue._p_jar.root()["changed"] is True
    assert job.failed and result.getErrorMessage() == "returned"


@pytest.mark.parametrize(
    "factory",
    [
        lambda: ValueError("plain"),
        lambda: _bad_gateway(),
        lambda: enginejobs.TwoArguments("one", "two"),
    ],
    ids=["plain", "HTTPError", "two arguments"],
)
def test_failures_of_awkward_exceptions_are_stored_and_load_again(
    factory: Any, queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, clients: Any
) -> None:
    dispatch()
    monkeypatch.setattr(enginejobs, "factory", factory, raising=False)
    monkeypatch.setattr(enginejobs, "raise_it", _named(factory, "raise_it"), raising=False)
    job = _put(queue, enginejobs.raise_it)  # type: ignore[attr-defined]
    wait_for_result(job)

    with clients().transaction() as fresh:
        again = fresh.get(job._p_oid)
        assert again.result.check(type(factory()))
        assert "Traceback" in again.result.getTraceback()
        assert str(factory()) in again.result.getErrorMessage()


def test_a_failure_of_twisted_and_a_syntax_error_of_lxml_are_stored_as_text(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, clients: Any
) -> None:
    def foreign() -> Any:
        try:
            lxml.etree.fromstring("<a>")
        except lxml.etree.XMLSyntaxError:
            return TwistedFailure()

    foreign.__module__, foreign.__qualname__ = "enginejobs", "foreign"
    monkeypatch.setattr(enginejobs, "foreign", foreign, raising=False)
    dispatch()
    job = _put(queue, foreign)
    wait_for_result(job)

    with clients().transaction() as fresh:
        assert fresh.get(job._p_oid).result.check("lxml.etree.XMLSyntaxError")


def test_a_result_that_cannot_be_stored_is_kept_as_text_and_the_work_is_kept(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, enginejobs.unpicklable)

    assert "lock" in wait_for_result(job)
    assert job.outcome == "succeeded"


def test_conflicts_are_tried_again_in_the_same_thread(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, enginejobs.conflict_times, 3)

    assert wait_for_result(job) == 4
    assert job.attempts == 4


def test_conflicts_without_end_fail_the_job_after_five_attempts(queue: Any, dispatch: Any) -> None:
    dispatch()
    result = wait_for_result(_put(queue, enginejobs.conflict_times, 100))

    assert result.check("ZODB.POSException.ConflictError")
    assert len(enginejobs.calls) == 5


def test_a_database_that_is_away_is_no_conflict_and_is_waited_for(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "AGAIN", 0.001)
    dispatch()
    job = _put(queue, enginejobs.disconnect_times, 8)

    assert wait_for_result(job) == 9
    assert len(enginejobs.calls) == 9


def test_jobs_that_write_the_same_object_all_end_well(queue: Any, dispatch: Any) -> None:
    dispatch(threads=4)
    jobs = [queue.put(Job(enginejobs.count)) for _ in range(40)]
    transaction.commit()

    assert sorted(wait_for_result(job, 20) for job in jobs) == list(range(1, 41))
    assert queue._p_jar.root()["count"] == 40
    assert max(job.attempts for job in jobs) <= 3


def test_a_commit_that_is_refused_ends_in_the_failure_of_the_commit(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch()
    with caplog.at_level(logging.INFO, "collective.zcasync"):
        result = wait_for_result(_put(queue, enginejobs.failing_hook))

    assert result.check(RuntimeError)
    (lost,) = (record for record in caplog.records if "Prior to this" in record.getMessage())
    assert lost.levelname == "INFO" and "succeeded with result: 'never stored'" in lost.getMessage()
    assert "Commit failed" in lost.getMessage() and "the hook says no" in lost.getMessage()


def test_a_job_that_dooms_its_transaction_fails_at_once(queue: Any, dispatch: Any) -> None:
    dispatch()
    result = wait_for_result(_put(queue, enginejobs.doom))

    assert result.check("transaction.interfaces.DoomedTransaction")
    assert enginejobs.calls == ["doom"]


def test_a_job_whose_thread_dies_runs_again(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    job = _put(queue, enginejobs.exit_once)

    assert wait_for_result(job) == "second time"
    assert [kind for _when, kind, _text in job.attempt_log] == ["interruption"]
    pool = running.dispatcher.queues[""]["main"]
    assert len(pool.threads) == pool.size


def test_the_jobs_of_a_crashed_dispatcher_run_on_another_one(queue: Any, dispatch: Any) -> None:
    first = dispatch(threads=1)
    job, waiting = _put(queue, enginejobs.wait, "a"), _put(queue, enginejobs.add, 1)
    assert enginejobs.started["a"].wait(6)
    first.crash()
    _make_dead(queue, first)
    enginejobs.started["a"].clear()
    dispatch()
    assert enginejobs.started["a"].wait(6)
    enginejobs.released["a"].set()

    assert wait_for_result(job) == "a"
    assert wait_for_result(waiting) == 1
    assert enginejobs.calls == ["a", "a"]
    assert queue.counts()["running"] == 0 or wait_for_result(_put(queue, enginejobs.add, 2)) == 2


@pytest.mark.parametrize("call", [enginejobs.commit_and_wait, enginejobs.abort_and_wait])
def test_an_old_owner_that_commits_by_itself_changes_nothing_after_a_takeover(
    call: Any, queue: Any, dispatch: Any
) -> None:
    first = dispatch(threads=1)
    effects = _two_mappings(queue)
    job = _put(queue, call)
    assert enginejobs.started["a"].wait(6)
    old_threads = list(first.dispatcher.queues[""]["main"].jobids)
    first.crash()
    _make_dead(queue, first)
    dispatch(threads=1)
    assert enginejobs.started["b"].wait(6)
    enginejobs.released["a"].set()
    for thread in old_threads:
        thread.join(6)
    transaction.begin()
    assert "effect" not in effects

    enginejobs.released["b"].set()
    assert wait_for_result(job) == "b"
    assert effects["effect"] == "b"


def test_a_job_that_commits_by_itself_says_so(queue: Any, dispatch: Any) -> None:
    dispatch()
    _two_mappings(queue)
    enginejobs.released["a"].set()
    job = _put(queue, enginejobs.commit_and_wait)
    wait_for_result(job)

    assert [kind for _when, kind, _text in job.attempt_log] == ["committed"]


def test_a_clean_stop_waits_for_what_runs(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    job = _put(queue, enginejobs.wait)
    later = _put(queue, enginejobs.add, 5)
    assert enginejobs.started["a"].wait(6)
    reactor = running.dispatcher.reactor
    reactor.callFromThread(reactor.callLater, 0.2, enginejobs.released["a"].set)
    running.stop(grace=6)

    transaction.begin()
    assert (job.status, job.result) == (COMPLETED, "a")
    assert later.status == PENDING and len(queue) == 1
    assert queue.counts()["running"] == 0 and len(queue.dispatchers) == 0


def test_a_stop_without_grace_gives_the_job_back_and_the_old_thread_changes_nothing(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    job = _put(queue, enginejobs.wait_and_count)
    assert enginejobs.started["a"].wait(6)
    pool = running.dispatcher.queues[""]["main"]
    threads = list(pool.jobids)
    running.stop(grace=0)
    transaction.begin()
    assert job.status == PENDING
    enginejobs.released["a"].set()
    for thread in threads:
        thread.join(6)
    transaction.begin()
    assert job.status == PENDING and "count" not in queue._p_jar.root()

    dispatch()
    assert wait_for_result(job) == 1
    assert queue._p_jar.root()["count"] == 1


def test_a_job_with_never_retry_ends_aborted_when_it_is_interrupted(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    job = queue.put(Job(enginejobs.wait), retry_policy_factory="NeverRetry")
    transaction.commit()
    assert enginejobs.started["a"].wait(6)
    running.stop(grace=0)
    enginejobs.released["a"].set()

    transaction.begin()
    assert job.status == COMPLETED and job.result.check(AbortedError)


def test_a_job_that_must_not_run_twice_is_active_in_the_database_before_it_runs(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    job = queue.put(Job(enginejobs.wait), retry_policy_factory="NeverRetry")
    transaction.commit()
    assert enginejobs.started["a"].wait(6)

    transaction.begin()
    assert job.status == ACTIVE
    enginejobs.released["a"].set()
    wait_for_result(job)


def test_a_live_annotation_is_seen_while_the_job_runs_and_kept_afterwards(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, enginejobs.annotate_and_wait)

    assert wait_for_annotation(job, "step") == "half"
    assert job.status == ACTIVE
    enginejobs.released["a"].set()
    wait_for_result(job)
    assert job.attempts == 1
    assert wait_for_annotation(job, "step") == "half"


def test_a_method_of_a_persistent_object_runs_on_that_object(queue: Any, dispatch: Any) -> None:
    dispatch()
    counter = queue._p_jar.root()["counter"] = enginejobs.Counter()
    transaction.commit()

    assert wait_for_result(_put(queue, counter.increase, 5)) == 5
    assert counter.value == 5


def test_a_job_that_misses_its_begin_by_ends_with_a_timeout(queue: Any, dispatch: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1), begin_by=timedelta(0))
    transaction.commit()
    dispatch()

    assert wait_for_result(job).check(TimeoutError)


def test_a_job_for_later_starts_at_its_time_without_waiting_for_a_poll(queue: Any, dispatch: Any) -> None:
    dispatch(poll_interval=60)
    job = Job(enginejobs.add, 1)
    queue.put(job, begin_after=_soon(0.3))
    transaction.commit()

    wait_for_result(job)
    assert timedelta(0) <= job.active_start - job.begin_after < timedelta(seconds=2)


def test_hooks_of_a_job_class_run_around_each_attempt(queue: Any, dispatch: Any) -> None:
    dispatch()
    wait_for_result(_put_job(queue, enginejobs.Hooked(enginejobs.note, "called")))
    wait_until(queue, lambda: len(enginejobs.calls) > 2, what="what follows the commit")

    assert enginejobs.calls == ["set up", "called", ("torn down", "info")]


def test_code_that_follows_the_commit_of_its_job_sees_what_others_have_stored_meanwhile(queue: Any) -> None:
    agent = enginejobs.make_agent(queue)
    queue.put(enginejobs.Looking(enginejobs.store_elsewhere))
    transaction.commit()

    enginejobs.perform(agent, own=True)
    assert enginejobs.calls == [None, "stored"]


@pytest.mark.parametrize(
    ("call", "times"), [(enginejobs.add, 1), (enginejobs.make_savepoint, 2)], ids=["plain", "savepoint"]
)
def test_a_job_that_only_the_engine_looks_at_after_its_commit_asks_once_what_is_new(
    queue: Any, monkeypatch: pytest.MonkeyPatch, call: Any, times: int
) -> None:
    agent, asked, ask = enginejobs.make_agent(queue), [], MVCCAdapterInstance.poll_invalidations

    def note(self: Any) -> Any:
        if self is not queue._p_jar._storage:
            asked.append(self)
        return ask(self)

    monkeypatch.setattr(MVCCAdapterInstance, "poll_invalidations", note)
    job = _put_job(queue, Job(call))

    enginejobs.perform(agent, own=True)
    assert job.outcome == "succeeded"
    assert len(asked) == times


def test_a_job_can_be_called_directly_once(connection: Any) -> None:
    job = connection.root()["job"] = Job(enginejobs.add, 1, 2)
    transaction.commit()

    assert (job.status, job(3)) == (NEW, 6)
    assert job.status == COMPLETED
    with pytest.raises(BadStatusError, match="NEW or ASSIGNED"):
        job()


def test_the_start_of_a_job_is_told_to_those_who_wait(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, enginejobs.wait)

    assert wait_for_start(job) >= job.put_at
    enginejobs.released["a"].set()
    wait_for_result(job)


class _BadGateway(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(502)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to read it."""


def _bad_gateway() -> BaseException:
    """The error of a real connection: it holds a socket, which no pickle takes."""
    with http.server.HTTPServer(("127.0.0.1", 0), _BadGateway) as server:
        answer = threading.Thread(target=server.handle_request)
        answer.start()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/")
        except urllib.error.HTTPError as error:
            return error
        finally:
            answer.join(6)
    raise AssertionError("the server answered well")


def _named(factory: Any, name: str) -> Any:
    def raise_it() -> None:
        raise factory()

    raise_it.__module__, raise_it.__qualname__ = "enginejobs", name
    return raise_it


def _put_job(queue: Any, job: Job) -> Job:
    queue.put(job)
    transaction.commit()
    return job


def _put(queue: Any, call: Any, *args: Any) -> Job:
    return _put_job(queue, Job(call, *args))


def _two_mappings(queue: Any) -> Any:
    """Two objects for a job's effects; the second is returned."""
    root = queue._p_jar.root()
    root["one"], root["two"] = enginejobs.mapping(), enginejobs.mapping()
    transaction.commit()
    return root["two"]


def _soon(seconds: float) -> Any:
    return utcnow() + timedelta(seconds=seconds)


def _make_dead(queue: Any, running: Any) -> None:
    """Let the crashed dispatcher's silence count at once."""
    transaction.begin()
    da = queue.dispatchers[running.dispatcher.UUID]
    da.process = {**da.process, "pid": 2**22 + 1}
    transaction.commit()
