"""Cancelling and retrying many jobs at once."""

from BTrees.LOBTree import LOBTree
from collections import Counter
from collections.abc import Iterator
from collective.zcasync import bulk
from collective.zcasync import manyjobs
from collective.zcasync.claims import Taker
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QueueNotFound
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.failure import Failure
from collective.zcasync.filing import file_away
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.persistence import is_put_back
from collective.zcasync.queue import Queue
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from collective.zcasync.threadlocal import local
from datetime import timedelta
from enginejobs import make_agent
from typing import Any

import enginejobs
import pytest
import transaction

#: How a database is shared makes no difference to what is tested here.
pytestmark = pytest.mark.parametrize("clients", ["filestorage"], indirect=True)

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten jobs in a transaction, which looks at forty entries."""
    monkeypatch.setattr(bulk, "BATCH", 10)
    monkeypatch.setattr(bulk, "LOOK", 40)


def put(queue: Any, count: int, call: Any = enginejobs.note, group: str = "", **options: Any) -> list[Any]:
    jobs = [queue.put(Job(call, number), **options) for number in range(count)]
    for job in jobs:
        job.group = group
    transaction.commit()
    return jobs


def spilled(queue: Any, slot: Any) -> None:
    """What waits lies in the backlog of a slot, as after a claim."""
    Taker(queue, slot).spill()
    transaction.commit()


def sweep(queue: Any, slot: Any) -> None:
    """What a claim would file away, is filed away."""
    queue.paused = True
    for _number in range(100):
        Taker(queue, slot).take(1)
    queue.paused = False
    transaction.commit()


def outcomes(jobs: list[Any]) -> set[str | None]:
    transaction.begin()
    return {job.outcome for job in jobs}


def test_all_jobs_that_wait_are_cancelled_wherever_they_lie(queue: Any, connection: Any) -> None:
    slot = make_agent(queue).slot
    queue.quotas.create("one")
    queue.hold_group("held")
    jobs = [*put(queue, 300), *put(queue, 20, group="site"), *put(queue, 15, group="held")]
    jobs += put(queue, 25, begin_after=utcnow() + HOUR)
    for job in put(queue, 12):
        queue.take_out(job)
        if "quota:one" not in queue.parked:
            queue.parked["quota:one"] = LOBTree()
        queue.parked["quota:one"][job.key] = job
        queue.adjust("parked", 1)
        jobs.append(job)
    spilled(queue, slot)
    Taker(queue, slot).take(0)
    jobs += put(queue, 290)
    seen: list[Counter[str]] = []

    assert bulk.cancel_all(connection, progress=seen.append) == {"cancelled": len(jobs)}
    assert outcomes(jobs) == {"cancelled"} and len(list(queue)) == 0
    assert seen[-1] == {"cancelled": len(jobs)} and len(seen) >= len(jobs) // 10
    steps = [after.total() - before.total() for before, after in zip([Counter[str](), *seen], seen, strict=False)]
    assert 1 <= min(steps) and max(steps) == 10
    assert bulk.cancel_all(connection) == {}
    sweep(queue, slot)
    counts = queue.counts()
    assert (counts["cancelled"], counts["waiting"], counts["parked"]) == (len(jobs), 0, 0)


@pytest.mark.parametrize(
    ("which", "number"),
    [
        ({}, 45),
        ({"states": ("waiting",)}, 30),
        ({"states": ("scheduled",)}, 15),
        ({"queue": ""}, 40),
        ({"queue": "other"}, 5),
        ({"group": "site"}, 10),
        ({"task": "enginejobs.add"}, 20),
        ({"task": "*.note", "group": ""}, 15),
        ({"task": "nothing"}, 0),
        ({"states": ("running",)}, 0),
    ],
)
def test_only_those_that_match_are_cancelled(which: Any, number: int, queue: Any, connection: Any) -> None:
    queue.parent["other"] = other = Queue()
    put(queue, 10, group="site")
    put(queue, 15, enginejobs.add)
    put(queue, 15, begin_after=utcnow() + HOUR)
    put(other, 5, enginejobs.add)

    assert bulk.cancel_all(connection, **which).total() == number
    transaction.begin()
    assert len(list(queue)) + len(list(other)) == 45 - number


def test_running_jobs_are_asked_to_stop_and_those_that_wait_for_them_end(queue: Any, dispatch: Any) -> None:
    dispatch(threads=2)
    running = queue.put(Job(enginejobs.wait))
    outer = queue.put(Job(enginejobs.note, running))  # returns it
    transaction.commit()
    assert wait_until(queue, lambda: running.status == ACTIVE and any(queue.awaiting()))
    assert bulk.cancel_all(queue) == {}
    assert bulk.cancel_all(queue, ("running",)) == {"cancelled": 1, "stopping": 1}
    transaction.begin()
    assert running.stop_requested and outer.outcome == "cancelled"
    enginejobs.released["a"].set()
    assert wait_for_result(running) == "a"


def test_a_claim_in_the_midst_of_a_batch_costs_it_a_second_try(
    queue: Any, connection: Any, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(queue)
    jobs = put(queue, 30)
    tried: list[int] = []
    plain = bulk._cancel

    def cancel(one: Any, job: Any, wanted: Any) -> Iterator[str]:
        tried.append(job.args[0])
        if len(tried) == 25:
            with db.transaction() as other:
                assert other.get(agent._p_oid).claimJob().args == [0]
        yield from plain(one, job, wanted)

    monkeypatch.setattr(bulk, "_cancel", cancel)
    assert bulk.cancel_all(connection) == {"cancelled": 29}
    transaction.begin()
    assert [job.outcome for job in jobs] == [None] + ["cancelled"] * 29
    assert jobs[0].agent is agent and list(agent) == [jobs[0]]
    assert len(tried) <= 30 + 10  # one batch was tried twice


def test_the_callers_transaction_is_left_alone(queue: Any, connection: Any) -> None:
    put(queue, 3)
    connection.root()["mine"] = 1
    assert bulk.cancel_all(connection) == {"cancelled": 3}
    assert connection.root()["mine"] == 1 and len(list(queue)) == 3
    transaction.abort()
    assert "mine" not in connection.root() and len(list(queue)) == 0


def test_what_the_callback_raises_ends_the_work_with_what_is_done(queue: Any, connection: Any) -> None:
    def stop(done: Counter[str]) -> None:
        if done.total() >= 20:
            raise KeyboardInterrupt

    put(queue, 50)
    with pytest.raises(KeyboardInterrupt):
        bulk.cancel_all(connection, progress=stop)
    transaction.begin()
    assert 20 <= 50 - len(list(queue)) <= 29


def test_failed_jobs_are_put_again_once_and_in_their_order(queue: Any, connection: Any) -> None:
    slot = make_agent(queue).slot
    failed = put(queue, 45)
    for job in failed:
        queue.end(job, Failure.from_exception(ValueError("bad")))
    gone = put(queue, 5, group="site")
    for job in gone:
        queue.cancel(job)
    sweep(queue, slot)
    assert queue.counts()["failed"] == 45

    assert bulk.retry_all(connection, ("cancelled", "failed"), group="site") == {"retried": 5}
    assert bulk.retry_all(connection, group="nowhere") == {}
    assert bulk.retry_all(connection, task="*note") == {"retried": 45}
    assert bulk.retry_all(connection, ("failed", "cancelled")) == {}
    transaction.begin()
    again = sorted((job for job in queue if job.group == ""), key=lambda job: job.key)
    assert [job.args[0] for job in again] == list(range(45))
    assert [job.retried_as for job in failed] == [job.id for job in again]
    assert {job.status for job in again} == {PENDING} and queue.counts()["waiting"] == 50


def test_a_job_that_cannot_be_put_again_keeps_nobody_else(queue: Any, connection: Any, caplog: Any) -> None:
    slot = make_agent(queue).slot
    queue.quotas.create("one")
    jobs = put(queue, 25)
    for job in jobs[:3]:
        job.quota_names = ("one",)
    for job in jobs:
        queue.end(job, Failure.from_exception(ValueError("bad")))
    sweep(queue, slot)
    queue.quotas.remove("one")
    transaction.commit()

    assert bulk.retry_all(connection) == {"retried": 22, "refused": 3}
    assert caplog.text.count("cannot be put again: ") == 3 and "unknown quota name" in caplog.text
    transaction.begin()
    assert len(list(queue)) == 22 and [job.retried_as for job in jobs[:3]] == [""] * 3


def test_a_job_costs_as_many_loads_among_many_jobs_as_among_few(
    queue: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = make_agent(queue).slot
    loads: list[str] = []
    plain = type(connection).setstate

    def setstate(self: Any, obj: Any) -> None:
        loads.append(type(obj).__name__)
        plain(self, obj)

    monkeypatch.setattr(bulk, "BATCH", 50)
    monkeypatch.setattr(bulk, "LOOK", 500)
    costs = []
    for count in (300, 3000):
        put(queue, count)
        for _number in range(3):
            spilled(queue, slot)
        with monkeypatch.context() as patch:
            patch.setattr(type(connection), "setstate", setstate)
            seen = bulk.cancel_all(queue)
        assert seen == {"cancelled": count}
        costs.append(len(loads) / count)
        loads.clear()
        for _number in range(4):
            sweep(queue, slot)
    assert costs[1] < costs[0] * 1.5 and costs[1] < 3


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda at: bulk.cancel_all(at, ("failed",)), InvalidValueError, "'failed' cannot .*waiting, scheduled, run"),
        (lambda at: bulk.retry_all(at, ("waiting",)), InvalidValueError, "'waiting' cannot .* use failed, cancelled"),
        (lambda at: bulk.cancel_all(at, queue="x"), QueueNotFound, "no queue is named 'x'"),
        (lambda at: bulk.retry_all(at, queue="x"), QueueNotFound, "no queue is named 'x'"),
        (lambda at: bulk.cancel_all(7), InvalidValueError, "leads to no database"),
    ],
)
def test_wrong_wishes_change_nothing(call: Any, error: type, words: str, queue: Any, connection: Any) -> None:
    put(queue, 3)
    with pytest.raises(error, match=words):
        call(connection)
    transaction.begin()
    assert len(list(queue)) == 3 == queue.counts()["waiting"]


def end(queue: Any, slot: Any, count: int, error: Exception | None = None) -> list[Any]:
    """Jobs in the history."""
    jobs = put(queue, count)
    for job in jobs:
        job._title = f"job {job.args[0]}"
        queue.take_out(job)
        job._finish(job.args[0] if error is None else Failure.from_exception(error), utcnow())
        file_away(queue, slot, job)
    transaction.commit()
    return jobs


def change(queue: Any, verb: str, states: tuple[str, ...], **options: Any) -> dict[str, int]:
    """What the job answers that does this, run here."""
    job = queue.put(Job(manyjobs.change_jobs, verb, states, **options))
    transaction.commit()
    answer: dict[str, int] = with_job(job)
    return answer


def test_all_that_match_are_deleted_from_the_history_and_no_others(queue: Any) -> None:
    slot = make_agent(queue).slot
    end(queue, slot, 25, KeyError("member"))
    end(queue, slot, 12, OSError("disk"))
    end(queue, slot, 3)
    waiting = put(queue, 2)
    assert change(queue, "delete", ("failed",), search={"cause": "KeyError"}, by="jane", total=25) == {"deleted": 25}
    transaction.begin()
    assert {kind: number for kind, number in queue.counts().items() if number} == {
        "waiting": 3,
        "failed": 12,
        "succeeded": 3,
    }
    assert sum(tally.number for tally in queue.failures().values()) == 12
    assert change(queue, "delete", ("failed", "finished")) == {"deleted": 15}
    assert outcomes(waiting) == {None}


def test_all_waiting_jobs_of_a_site_are_removed_as_if_nobody_had_put_them(queue: Any, connection: Any) -> None:
    slot = make_agent(queue).slot
    ended = end(queue, slot, 3)
    gone, others = put(queue, 300), put(queue, 12)
    for job in (*gone, *ended):
        job.group = "site"
    queue.quotas.create("few", 1)
    gone[0].quota_names = ("few",)
    queue.quotas["few"].add(gone[0])  # as one has that was put back
    transaction.commit()
    commits: list[int] = []

    told = bulk.remove_all(connection, group="site", progress=lambda done: commits.append(done["removed"]))
    transaction.begin()
    assert told == {"removed": 300} and len(commits) >= 300 // bulk.BATCH
    assert sorted(job.id for job in queue) == sorted(job.id for job in others)
    assert queue.counts()["waiting"] == 12 and list(queue.finished()) == ended[::-1]
    assert not queue.quotas["few"].filled and {job.parent for job in gone} == {None}
    assert bulk.remove_all(connection, group="site") == {}


def test_all_that_match_run_now_each_moved_once_wherever_they_wait(queue: Any, connection: Any) -> None:
    slot = make_agent(queue).slot
    jobs = [*put(queue, 30, begin_after=utcnow() + HOUR), *put(queue, 30)]
    spilled(queue, slot)
    jobs += put(queue, 30, begin_after=utcnow() + HOUR)
    assert change(queue, "run", ("waiting", "scheduled"), by="jane") == {"moved": 90}
    assert change(queue, "run", ("waiting", "scheduled")) == {}
    transaction.begin()
    assert all(is_put_back(job.key) and not job.held_back for job in jobs)
    assert len([job for job in queue if job.task != bulk.TASK]) == 90
    assert queue.counts()["later"] == 0
    assert [text for _when, what, text in jobs[0].attempt_log if what == "by_run"] == ["jane"]


def test_all_that_match_are_rescheduled_or_given_a_priority(queue: Any) -> None:
    when = utcnow() + HOUR
    jobs = put(queue, 25)
    assert change(queue, "priority", ("waiting",), value=3) == {"moved": 25}
    assert change(queue, "schedule", ("waiting",), value=when, search={"task": "note"}) == {"moved": 25}
    transaction.begin()
    assert {(job.priority, job._begin_after) for job in jobs} == {(3, when)}


def test_the_job_that_changes_many_is_never_meant_itself(queue: Any) -> None:
    other = queue.put(Job(manyjobs.change_jobs, "cancel", ("waiting",)))
    put(queue, 3)
    assert change(queue, "cancel", ("waiting", "running"), by="jane") == {"cancelled": 3}
    assert outcomes([other]) == {None}


def test_the_job_that_changes_many_tells_its_progress_and_stops_when_asked(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, float | None]] = []

    def progress(done: float, total: float | None = None) -> None:
        told.append((done, total))
        if done >= 20:
            raise StopRequested

    monkeypatch.setattr(manyjobs.running, "progress", progress)
    jobs = put(queue, 50)
    job = queue.put(Job(manyjobs.change_jobs, "cancel", ("waiting",), total=50))
    transaction.commit()
    with pytest.raises(StopRequested):
        with_job(job)
    assert told == [(10, 50), (20, 50)]
    transaction.begin()
    assert sum(job.outcome == "cancelled" for job in jobs) == 20


def with_job(job: Any) -> Any:
    local.job = job
    try:
        return job.callable(*job.args, **dict(job.kwargs))
    finally:
        local.job = None


def test_what_cannot_be_done_with_many_is_refused(queue: Any) -> None:
    job = queue.put(Job(manyjobs.change_jobs, "frobnicate", ("waiting",)))
    with pytest.raises(InvalidValueError, match="frobnicate"):
        with_job(job)
