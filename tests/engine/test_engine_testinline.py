"""Jobs at each commit, in the thread that commits: no dispatcher, but everything else as in production."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import testinline
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.retry import NeverRetry
from collective.zcasync.testing import inline_jobs
from collective.zcasync.testing import run_due
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import set_now
from collective.zcasync.testing import setUpDatetime
from collective.zcasync.testing import tearDownDatetime
from datetime import timedelta
from typing import Any
from ZODB.POSException import ConflictError

import collective.zcasync
import enginejobs
import pytest
import threading
import transaction


@pytest.fixture
def inline(db: Any) -> Iterator[None]:
    with inline_jobs(db):
        yield


def test_a_commit_returns_when_what_it_put_has_run_in_its_thread(inline: None, queue: Any) -> None:
    job = queue.put(Job(who_and_where))
    assert job.status == "pending-status"
    transaction.commit()
    assert job.result == threading.current_thread().name  # seen without a begin
    assert queue._p_jar.root()["count"] == 1
    assert list(queue) == []


def test_an_aborted_put_runs_nothing(inline: None, queue: Any) -> None:
    queue.put(Job(enginejobs.note, "never"))
    transaction.abort()
    assert enginejobs.calls == []


def test_callbacks_and_what_jobs_put_are_run_by_the_same_commit(inline: None, queue: Any) -> None:
    job = queue.put(Job(put_two))
    callback = job.addCallback(enginejobs.note)
    transaction.commit()
    assert (job.result, callback.result) == ("put", "put")
    assert sorted(map(str, enginejobs.calls)) == ["1", "2", "put"]


def test_what_a_job_puts_runs_after_that_job_and_its_callbacks(inline: None, queue: Any) -> None:
    job = queue.put(Job(put_two))
    job.addCallback(enginejobs.note)
    transaction.commit()
    assert enginejobs.calls == ["put", 1, 2]


def test_what_a_job_raises_is_its_result_and_the_commit_stands(inline: None, queue: Any) -> None:
    queue._p_jar.root()["mine"] = True
    job = queue.put(Job(enginejobs.change_and_raise))
    transaction.commit()
    assert isinstance(job.result, Failure)
    assert "on purpose" in job.result.getTraceback()
    assert "changed" not in queue._p_jar.root()
    assert queue._p_jar.root()["mine"] is True


def test_conflicts_are_tried_again_as_in_a_job_thread(inline: None, queue: Any) -> None:
    job = queue.put(Job(enginejobs.conflict_times, 2))
    transaction.commit()
    assert job.result == 3
    assert job.attempts == 3


def test_a_job_that_is_never_retried_fails_at_its_first_conflict(inline: None, queue: Any) -> None:
    job = queue.put(Job(enginejobs.conflict_times, 2), retry_policy_factory=NeverRetry)
    transaction.commit()
    assert job.result.check(ConflictError) is ConflictError
    assert enginejobs.calls == ["conflict"]


def test_jobs_for_later_run_when_something_is_put_at_their_time(inline: None, queue: Any) -> None:
    setUpDatetime()
    try:
        late = queue.put(Job(enginejobs.note, "late"), begin_after=clock.utcnow() + timedelta(hours=1))
        missed = queue.put(Job(enginejobs.note, "missed"), begin_by=timedelta(0))
        transaction.commit()
        assert (late.result, missed.result) == (None, "missed")
        expired = Job(enginejobs.note, "expired")
        set_now(clock.utcnow() + timedelta(minutes=59))
        queue.put(expired, begin_after=clock.utcnow() + timedelta(seconds=1), begin_by=timedelta(seconds=1))
        transaction.commit()
        set_now(clock.utcnow() + timedelta(minutes=1))
        assert run_due(queue._p_jar.db()) == 2
        assert late.result == "late"
        assert expired.result.check(TimeoutError) is TimeoutError
    finally:
        tearDownDatetime()


def test_finished_jobs_are_filed_in_the_history(inline: None, queue: Any) -> None:
    queue.put(Job(enginejobs.add, 1))
    queue.put(Job(enginejobs.change_and_raise))
    transaction.commit()
    counts = queue.counts()
    assert (counts["waiting"], counts["succeeded"], counts["failed"]) == (0, 1, 1)


def test_a_job_with_callbacks_is_filed_once(inline: None, queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    job.addCallback(enginejobs.note)
    transaction.commit()
    assert list(queue.finished()) == [job] and queue.counts()["succeeded"] == 1


def test_the_transaction_of_the_thread_is_its_own_again(inline: None, queue: Any) -> None:
    manager = transaction.manager.manager
    queue.put(Job(commit_and_abort))
    transaction.commit()
    assert transaction.manager.manager is manager
    queue._p_jar.root()["after"] = 1
    transaction.commit()
    assert queue._p_jar.root()["after"] == 1
    assert collective.zcasync.local.getJob() is None


def test_after_the_block_jobs_wait_for_a_dispatcher(db: Any, queue: Any) -> None:
    with inline_jobs(db):
        pass
    job = queue.put(Job(enginejobs.note, 1))
    transaction.commit()
    assert job.status == "pending-status"


def test_jobs_of_other_databases_are_left_alone(inline: None, queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    with inline_jobs(other_database()):
        transaction.commit()
    assert job.result == 1  # by the database's own


def test_what_surrounds_the_jobs_is_entered_around_those_of_a_commit(db: Any, queue: Any) -> None:
    with inline_jobs(db, surroundings):
        queue.put(Job(enginejobs.note, 1))
        queue.put(Job(enginejobs.note, 2))
        transaction.commit()
    assert enginejobs.calls == ["in", 1, 2, "out"]


def test_jobs_that_put_one_another_for_ever_are_noticed(db: Any, queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testinline, "LIMIT", 5)
    queue.put(Job(put_again))
    transaction.commit()
    with pytest.raises(AssertionError, match="more than 5 jobs in a row"):
        run_due(db)


def put_again() -> None:
    collective.zcasync.local.getQueue().put(Job(put_again))


def who_and_where() -> str:
    enginejobs.count()
    return threading.current_thread().name


def put_two() -> str:
    for number in (1, 2):
        collective.zcasync.local.getQueue().put(Job(enginejobs.note, number))
    return "put"


def commit_and_abort() -> str:
    enginejobs.count()
    transaction.commit()
    transaction.abort()
    return "done"


def other_database() -> Any:
    import ZODB

    return ZODB.DB(None)


class surroundings:
    def __enter__(self) -> None:
        enginejobs.calls.append("in")

    def __exit__(self, *exc_info: object) -> None:
        enginejobs.calls.append("out")


def add_to_the_first(result: Any) -> None:
    """A callback that adds another one to the callback before it, which has ended."""
    collective.zcasync.local.getJob().parent.callbacks[0].addCallback(enginejobs.note)


@pytest.mark.parametrize("how", ["run", "committed"])
def test_a_callback_on_an_ended_one_runs_with_the_others_of_its_job(how: str, db: Any, queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 5))
    ended = job.addCallback(enginejobs.add)
    job.addCallback(add_to_the_first)
    if how == "run":
        run_jobs(queue._p_jar)
    else:
        with inline_jobs(db):
            transaction.commit()

    assert job.status == ended.status == COMPLETED and enginejobs.calls == [5]
