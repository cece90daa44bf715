"""How many jobs are claimed ahead of free threads."""

from collections.abc import Callable
from collective.zcasync.entries import Item
from collective.zcasync.job import Job
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.testing import wait_for_result
from typing import Any

import enginejobs
import pytest
import time
import transaction


@pytest.fixture
def pool(dispatch: Callable[..., Any]) -> Any:
    """The three threads of an idle dispatcher."""
    return dispatch().dispatcher.queues[""]["main"]


def test_jobs_are_claimed_ahead_for_fifty_milliseconds(pool: Any) -> None:
    assert pool.wants(32) == (3, 0)  # nothing is known of them yet
    pool.mean = 0.01
    assert pool.wants(32) == (3, 15)
    assert pool.wants(8) == (3, 8)
    assert pool.wants(0) == (3, 0)
    pool.mean = 0.06
    assert pool.wants(32) == (3, 0)


def test_where_claims_are_slow_jobs_are_claimed_ahead_for_four_of_them(pool: Any) -> None:
    pool.mean = 0.1  # mostly its commit: that is slow too
    assert pool.wants(32, claim=0.02) == (3, 0)
    assert pool.wants(32, claim=0.05) == (3, 6)
    assert pool.wants(32, claim=0.5) == (3, 15)  # what waits for a second is given back


def test_where_nothing_is_claimed_ahead_a_claim_waits_for_the_other_threads_that_run_short_jobs(pool: Any) -> None:
    now = time.monotonic()
    first, second = "first", "second"
    pool.prefetch, pool.mean = 0, 0.01
    pool.jobids[first], pool._began[first] = b"a", now
    pool.jobids[second], pool._began[second] = b"b", now

    assert now < pool.gathers(claim=0.02) <= now + 0.05
    assert pool.gathers(claim=0.001) is None  # it is over before
    pool._began[first] = pool._began[second] = now - 1
    assert pool.gathers(claim=0.02) is None  # they are not short
    pool._began[first], pool.jobids[second] = now, None
    assert pool.gathers(claim=0.02) is not None
    pool.prefetch = 32
    assert pool.gathers(claim=0.02) is None
    pool.prefetch, pool.jobids[first] = 0, None
    assert pool.gathers(claim=0.02) is None
    job = Job(enginejobs.add, 1)
    pool.waiting.extend(Item(b"a", "run", "", job.neighbours, True, now, JobInfo(job, "")) for _ in range(2))
    assert pool.gathers(claim=0.02) is not None  # they have begun as good as
    pool.waiting.clear()
    pool.jobids.clear()


def test_a_dispatcher_knows_how_long_its_claims_take(queue: Any, dispatch: Callable[..., Any]) -> None:
    claimer = dispatch().dispatcher.claimer
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    wait_for_result(job)
    assert 0 < claimer.agents.mean <= 0.5


def test_of_jobs_that_run_one_after_the_other_as_many_are_claimed_as_may_share_a_transaction(pool: Any) -> None:
    alone, shared = Job(enginejobs.count), Job(enginejobs.add)
    shared.groupable = True
    pool.mean = 0.02
    for job in (alone, shared):
        with pool._changed:
            assert pool.dispatcher.neighbours.enter(job.neighbours)
        pool.dispatcher.neighbours._limit(job.neighbours).limit = 1.0
    pool.dispatcher.around.bundle = lambda who: 0.2
    admits = pool.admits()

    assert [admits(alone) for _ in range(3)] == [True, True, False]
    assert [admits(shared) for _ in range(11)] == [True] * 10 + [False]
