"""Cancelling and retrying many jobs at once."""

from BTrees.LOBTree import LOBTree
from collections import Counter
from collections.abc import Iterator
from collective.zcasync import bulk
from collective.zcasync.claims import Taker
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QueueNotFound
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.queue import Queue
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
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
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ten jobs in a transaction, which looks at forty entries."""
    monkeypatch.setattr(bulk, "BATCH", 10)
    monkeypatch.setattr(bulk, "LOOK", 40)
    enginejobs.fresh()
    yield
    for name in enginejobs.released:
        enginejobs.released[name].set()


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
