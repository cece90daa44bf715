"""What happened in the last 24 hours: counted with claims, by minute, and read in spans."""

from BTrees.OOBTree import OOBTree
from BTrees.OOBTree import OOBucket
from collective.zcasync import activity
from collective.zcasync import clock
from collective.zcasync import series
from collective.zcasync import sweeping
from collective.zcasync import upkeep
from collective.zcasync.agent import Agent
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import datetime
from datetime import timedelta
from typing import Any

import enginejobs
import pytest
import transaction
import ZODB.serialize

NOON = datetime(2026, 5, 4, 12, 0, 10, tzinfo=clock.UTC)


@pytest.fixture(autouse=True)
def noon() -> None:
    clock.set_now(NOON)


@pytest.fixture
def agent(queue: Any) -> Agent:
    return enginejobs.make_agent(queue)


class Item:
    def __init__(self, job: Any) -> None:
        self.oid = job._p_oid


def claim(agent: Agent) -> str:
    """What a dispatcher's claim does for one job, and the claim that sweeps it."""
    queue, slot = agent.queue, agent.slot
    agent.parent.ping(clock.utcnow())
    row = series.begin(queue, slot)
    job = agent.claimJob()
    series.end(slot, row, [(None, [Item(job)])])
    transaction.commit()
    return str(job.id)


def run(queue: Any, agent: Agent, call: Any = enginejobs.add) -> None:
    queue.put(Job(call))
    claim_and_end(queue, agent)


def claim_and_end(queue: Any, agent: Agent) -> None:
    job = agent.queue._p_jar.get(int(claim(agent), 16).to_bytes(8, "big"))
    job._finish(None, clock.utcnow(), "failed" if "raise" in job.task else "succeeded")
    transaction.commit()
    row = series.begin(queue, agent.slot)
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "finished")])
    series.end(agent.slot, row)
    transaction.commit()


def at(minutes: float) -> None:
    clock.set_now(NOON + timedelta(minutes=minutes))


def numbers(span: activity.Span) -> tuple[int, int, int, int]:
    return span.put, span.started, span.succeeded, span.failed


def test_what_happens_in_a_minute_is_counted_for_it_and_seen_at_once(queue: Any, agent: Agent) -> None:
    run(queue, agent)
    run(queue, agent, enginejobs.change_and_raise)
    at(1)
    run(queue, agent)
    spans = activity.last_day(queue._p_jar, minutes=1)
    assert [numbers(span) for span in spans[-2:]] == [(2, 2, 1, 1), (1, 1, 1, 0)]
    assert spans[-1].begin == NOON.replace(minute=1, second=0)


def test_what_happened_before_a_long_silence_stays_where_it_was(queue: Any, agent: Agent) -> None:
    run(queue, agent)
    at(180)
    assert numbers(activity.last_hour(queue._p_jar)) == (0, 0, 0, 0)
    run(queue, agent)
    hours = activity.last_day(queue._p_jar, minutes=60)
    assert [numbers(span) for span in hours[-4:]] == [(1, 1, 1, 0), (0, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 0)]


def test_the_failing_share_is_of_those_that_ended_in_the_hour(queue: Any, agent: Agent) -> None:
    for call in (enginejobs.add, enginejobs.change_and_raise):
        run(queue, agent, call)
    at(90)
    for call in (enginejobs.add, enginejobs.add, enginejobs.add, enginejobs.change_and_raise):
        run(queue, agent, call)
    assert activity.last_hour(queue._p_jar).failing == 0.25


def test_latencies_are_from_the_moment_when_a_job_could_have_begun(queue: Any, agent: Agent) -> None:
    queue.put(Job(enginejobs.add))
    queue.put(Job(enginejobs.add), begin_after=NOON + timedelta(seconds=9))
    transaction.commit()
    clock.set_now(NOON + timedelta(seconds=10))
    claim_and_end(queue, agent)
    claim_and_end(queue, agent)
    span = activity.last_hour(queue._p_jar)
    assert (span.latency, span.longest) == (5.5, 10.0)


def test_what_waits_is_the_most_of_each_span_and_stays_while_nothing_is_claimed(queue: Any, agent: Agent) -> None:
    run(queue, agent)
    for _job in range(3):
        queue.put(Job(enginejobs.add))
    transaction.commit()
    at(1)
    claim_and_end(queue, agent)
    at(3)
    spans = activity.last_day(queue._p_jar, minutes=1)
    assert [span.waiting for span in spans[-4:]] == [1, 3, 3, 2]


def test_a_takeover_leaves_what_the_dead_one_has_counted_to_whoever_has_its_slot(queue: Any, agent: Agent) -> None:
    run(queue, agent)
    queue.put(Job(enginejobs.add))
    claim(agent)
    at(30)
    slot = agent.slot
    agent.parent.deactivate(died=True)
    transaction.commit()
    other = enginejobs.make_agent(queue)
    assert other.slot is slot
    at(31)
    run(queue, other)
    spans = activity.last_day(queue._p_jar)
    assert sum(span.succeeded for span in spans) == 2 and spans[-2].put == 2


def test_dropping_old_jobs_of_the_history_is_nothing_that_happened(queue: Any, agent: Agent) -> None:
    run(queue, agent)
    queue.retention_jobs, at_once = 0, agent.slot.history
    name = at_once.names("succeeded")[0]
    agent.slot.count("succeeded", -at_once.drop(name))
    transaction.commit()
    assert numbers(activity.last_hour(queue._p_jar)) == (1, 1, 1, 0)
    assert upkeep.drop_old(queue, agent.slot) is False


def test_rows_are_kept_for_a_day_and_an_hour_at_most(queue: Any, agent: Agent) -> None:
    for minute in range(0, 26 * 60, 20):
        at(minute)
        run(queue, agent)
    kept = agent.slot.series
    assert len(kept) <= (24 + 2) * 3
    assert len(activity.last_day(queue._p_jar, minutes=20)) == 72
    assert {numbers(span) for span in activity.last_day(queue._p_jar, minutes=20)} == {(1, 1, 1, 0)}


def test_a_clock_that_was_put_back_loses_rows_and_nothing_else(queue: Any, agent: Agent) -> None:
    run(queue, agent)
    at(-120)
    run(queue, agent)
    at(1)
    run(queue, agent)
    assert sum(span.succeeded for span in activity.last_day(queue._p_jar)) == 3


def test_each_claim_costs_a_few_bytes_and_a_minute_a_small_record(queue: Any, agent: Agent) -> None:
    run(queue, agent)
    slot = agent.slot
    writer = ZODB.serialize.ObjectWriter(slot)
    with_it = len(writer.serialize(slot))
    kept, tally = slot.__dict__.pop("series"), slot.__dict__.pop("tally")
    assert with_it - len(writer.serialize(slot)) <= 60
    slot.series, slot.tally = kept, tally
    for minute in range(24 * 60):
        kept[series.this_minute() + minute] = (100, 500_000, 510_000, 480_000, 20_000, 100, 80_000_000, 900)
    transaction.commit()
    assert len(writer.serialize(kept._firstbucket)) <= 1500


def test_a_dispatcher_counts_what_it_claims_and_files(queue: Any, dispatch: Any) -> None:
    clock.set_now(None)
    dispatch()
    jobs = [queue.put(Job(enginejobs.add, number)) for number in range(5)]
    transaction.commit()
    for job in jobs:
        wait_for_result(job)
    wait_until(queue, lambda: activity.last_hour(queue._p_jar).succeeded == 5, what="the count of all")
    span = activity.last_hour(queue._p_jar)
    assert numbers(span) == (5, 5, 5, 0) and span.latency is not None


def test_the_last_hour_reads_nothing_of_the_hours_before(queue: Any, agent: Agent) -> None:
    now, row = series.this_minute(), series.row_of(agent.slot, 0)
    agent.slot.series = OOBTree({minute: tuple(row) for minute in range(now - series.KEPT, now + 1)})
    transaction.commit()
    jar = queue._p_jar

    def read() -> int:
        return sum(isinstance(record, OOBucket) for _oid, record in jar._cache.lru_items())

    jar.cacheMinimize()
    activity.last_hour(jar)
    hour = read()
    activity.last_day(jar)
    assert hour * 5 < read()
