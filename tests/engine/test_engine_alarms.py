"""Alarms: each begins where its limit says, says what to do, and is gone when it is mended."""

from collective.zcasync import alarms
from collective.zcasync import clock
from collective.zcasync import queueactions
from collective.zcasync import series
from collective.zcasync.agent import Agent
from collective.zcasync.job import Job
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from datetime import timedelta
from typing import Any
from zope.i18n import interpolate

import enginejobs
import pytest
import transaction

MINUTE = timedelta(minutes=1)


@pytest.fixture
def agent(queue: Any) -> Agent:
    agent = enginejobs.make_agent(queue)
    agent.parent.process = {"host": "apple", "pid": 4711}
    agent.parent.ping(clock.utcnow())
    transaction.commit()
    return agent


def kinds(queue: Any, **options: Any) -> list[str]:
    return [alarm.kind for alarm in alarms.examine(queue.parent, **options)]


def text(queue: Any, kind: str) -> str:
    alarm = next(alarm for alarm in alarms.examine(queue.parent) if alarm.kind == kind)
    assert alarm.advice.default
    return str(interpolate(alarm.text.default, alarm.text.mapping))


def put(queue: Any, ago: timedelta = timedelta(0), **options: Any) -> Any:
    job = queue.put(Job(enginejobs.add), **options)
    job.put_at = clock.utcnow() - ago
    transaction.commit()
    return job


@pytest.mark.usefixtures("agent")
def test_a_queue_with_a_dispatcher_and_young_jobs_is_well(queue: Any) -> None:
    put(queue, 14 * MINUTE)
    put(queue, 60 * MINUTE, begin_after=clock.utcnow() + MINUTE)
    assert kinds(queue) == []


def test_the_oldest_waiting_job_counts_from_when_it_could_have_begun(queue: Any, agent: Agent) -> None:
    put(queue, 60 * MINUTE, begin_after=clock.utcnow() - 16 * MINUTE)
    assert "has waited for 16:0" in text(queue, "waiting")
    assert kinds(queue, limits=alarms.Limits(waiting=20 * MINUTE)) == []
    agent.queue.pull()
    assert kinds(queue) == []


@pytest.mark.usefixtures("agent")
def test_a_job_of_a_held_site_does_not_count_as_waiting(queue: Any) -> None:
    job = put(queue, 60 * MINUTE)
    assert kinds(queue) == ["waiting"]
    queue.hold_group(job.group)
    assert kinds(queue) == []


@pytest.mark.usefixtures("agent")
def test_a_paused_queue_is_told_from_the_beginning_and_urgent_only_when_jobs_wait_too_long(queue: Any) -> None:
    queue.paused = True
    put(queue)
    assert [(alarm.kind, alarm.urgent) for alarm in alarms.examine(queue.parent)] == [("paused", False)]
    assert text(queue, "paused").endswith("Jobs in it: 1.")
    put(queue, 16 * MINUTE)
    assert kinds(queue) == ["waiting"]


@pytest.mark.usefixtures("agent")
def test_a_paused_site_is_told_to_itself_and_to_those_who_look_at_all(queue: Any) -> None:
    queueactions.pause_site(queue.parent, "01", "/site")
    assert kinds(queue) == kinds(queue, group="01") == ["paused site"]
    assert text(queue, "paused site") == "All jobs of the site /site are paused: none begins."
    assert kinds(queue, group="02") == []
    queueactions.resume_site(queue.parent, "01")
    assert kinds(queue) == []


def test_a_queue_without_a_dispatcher_is_urgent_only_when_jobs_wait(queue: Any) -> None:
    assert [alarm.urgent for alarm in alarms.examine(queue.parent)] == [False]
    put(queue, 60 * MINUTE)
    assert kinds(queue) == ["unserved"]
    assert text(queue, "unserved").endswith("Jobs in it: 1.")
    assert alarms.examine(queue.parent)[0].urgent


def test_a_dispatcher_that_stops_serves_nobody(queue: Any, agent: Agent) -> None:
    agent.parent.leaving = clock.utcnow()
    assert kinds(queue) == ["unserved"]


def test_a_dead_dispatcher_is_named_once_for_all_its_queues(queue: Any, agent: Agent) -> None:
    agent.parent.activated = agent.parent.last_ping.value = clock.utcnow() - 3 * MINUTE
    assert text(queue, "silent").startswith("A dispatcher (apple, pid 4711) has given no sign of life for 3:0")
    assert kinds(queue) == ["silent", "unserved"]


def test_a_clock_that_is_wrong_is_told_and_not_urgent(queue: Any, agent: Agent) -> None:
    agent.parent.last_ping.skew = -3.0
    assert text(queue, "clock").endswith("is wrong by 3.0 s.")
    assert [alarm.urgent for alarm in alarms.examine(queue.parent)] == [False]


def test_jobs_that_need_a_person_are_counted_those_of_one_site_if_asked(queue: Any, agent: Agent) -> None:
    put(queue, begin_after=clock.utcnow() + MINUTE)
    job = put(queue)
    agent.claimJob()
    job.needs_attention = True
    agent.slot.mailbox[(job._p_oid, "overdue", "")] = True
    insert(queue.quarantine, make_key(), ("its class is gone", put(queue)))
    transaction.commit()
    assert kinds(queue) == ["attention", "overdue", "quarantined"]
    assert text(queue, "attention").endswith(": 1.")
    assert kinds(queue, group="/another/site") == []


@pytest.mark.usefixtures("agent")
def test_the_failing_share_needs_a_few_jobs_that_ended(queue: Any) -> None:
    slot = queue.dispatchers.active()[0].slot
    ended(slot, 2, 2)
    assert kinds(queue) == []
    ended(slot, 6, 2)
    assert text(queue, "failing").endswith("25 % have failed: 2 of 8.")
    assert kinds(queue, limits=alarms.Limits(failing=0.25)) == []


def ended(slot: Any, succeeded: int, failed: int) -> None:
    slot.series = series.OOBTree({series.this_minute() - 1: (0,) * 8})
    slot.counts = {"succeeded": succeeded, "failed": failed}
