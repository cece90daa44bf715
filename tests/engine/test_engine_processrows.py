"""The processes that run jobs, as people see them; and how they are told to take no more jobs."""

from collective.zcasync import alarms
from collective.zcasync import clock
from collective.zcasync import doctor
from collective.zcasync import filing
from collective.zcasync import processes
from collective.zcasync.exceptions import NotHere
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any

import enginejobs
import pytest
import transaction


def rows(queue: Any) -> list[processes.ProcessRow]:
    transaction.commit()
    return processes.processes(queue._p_jar)


def test_a_process_that_serves_two_queues_is_one_row(queue: Any, dispatch: Any) -> None:
    install(queue._p_jar, ("mail",))
    transaction.commit()
    dispatch(threads=2)
    (one,) = rows(queue)
    assert (one.state, one.queues, one.threads) == ("active", ("", "mail"), 2)
    assert one.row.host and one.row.pid and one.row.version and not one.error


def test_it_says_what_it_is_doing(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = queue.put(Job(enginejobs.wait, "a"))
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    (one,) = rows(queue)
    assert [row.id for row in one.jobs] == [job.id] and one.running == 1
    enginejobs.released["a"].set()
    wait_for_result(job)


def test_a_paused_dispatcher_ends_what_runs_and_begins_nothing_until_it_takes_jobs_again(
    queue: Any, dispatch: Any
) -> None:
    running = dispatch()
    uuid = str(running.dispatcher.UUID)
    first = queue.put(Job(enginejobs.wait, "a"))
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    processes.pause(queue._p_jar, uuid)
    transaction.commit()
    wait_until(queue, lambda: all(pool.size == 0 for pool in running.dispatcher._pools()))
    second = queue.put(Job(enginejobs.add, 2))
    transaction.commit()
    enginejobs.released["a"].set()
    wait_for_result(first)
    running.dispatcher.poll_soon()
    running.dispatcher.polls.wait_for(len(running.dispatcher.polls), 6)
    transaction.begin()
    assert second.status != "completed-status" and rows(queue)[0].state == "paused"
    assert {finding.kind for finding in doctor.examine(queue._p_jar)} >= {"agent-paused"}
    assert [alarm.kind for alarm in alarms.examine(queue._p_jar)] == ["unserved"]
    processes.resume(queue._p_jar, uuid)
    transaction.commit()
    assert wait_for_result(second) == 2
    assert rows(queue)[0].state == "active" and alarms.examine(queue._p_jar) == []


def test_what_waits_for_a_thread_of_a_paused_dispatcher_is_taken_by_another(queue: Any, dispatch: Any) -> None:
    first = dispatch(threads=1)
    queue.put(Job(enginejobs.wait, "a"))
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    jobs = [queue.put(Job(enginejobs.add, number)) for number in range(5)]
    processes.pause(queue._p_jar, str(first.dispatcher.UUID))
    transaction.commit()
    dispatch()
    assert [wait_for_result(job, 30) for job in jobs] == [0, 1, 2, 3, 4]


def test_an_agent_that_is_paused_claims_nothing_by_hand(queue: Any) -> None:
    agent = enginejobs.make_agent(queue)
    queue.put(Job(enginejobs.add))
    agent.paused = True
    assert agent.claimJob() is None
    agent.paused = False
    assert agent.claimJob() is not None


def test_dead_and_ended_ones_are_told_apart_and_come_last(queue: Any) -> None:
    agents = [enginejobs.make_agent(queue) for _number in range(3)]
    agents[0].parent.deactivate()
    agents[1].parent.activated = clock.utcnow() - timedelta(minutes=5)
    agents[2].parent.ping(clock.utcnow())
    assert [one.state for one in rows(queue)] == ["active", "silent", "ended"]


def test_the_last_error_of_a_claim_comes_with_a_ping(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    running.dispatcher.last_error = "OSError: the disk is full"
    running.dispatcher.heartbeat._ping()
    (one,) = rows(queue)
    assert one.error == "OSError: the disk is full" and one.error_at is not None
    running.dispatcher.heartbeat._ping()
    assert rows(queue)[0].error_at == one.error_at


def test_the_jobs_that_failed_last_are_told_of_the_dispatcher_that_ran_them(queue: Any) -> None:
    one, other = (enginejobs.make_agent(queue) for _number in range(2))

    def fail(agent: Any, minutes: int) -> str:
        job = queue.put(Job(str))
        queue.take_out(job)
        failure = Failure.from_exception(ValueError(f"{minutes} minutes"))
        job._finish(failure, agent.parent.activated + timedelta(minutes=minutes))
        filing.file_away(queue, agent.slot, job)
        return str(job.id)

    fail(one, -60)  # of an earlier owner of its slot
    ids = [fail(one, minutes) for minutes in range(1, 6)]
    fail(other, 3)
    found = {row.row.uuid: row.failed for row in rows(queue)}
    told = found[one.parent.name]
    assert [row.id for row in told] == ids[:1:-1] and told[0].error == "ValueError: 5 minutes"
    assert len(found[other.parent.name]) == 1


def test_a_dispatcher_that_nobody_knows_cannot_be_paused(queue: Any) -> None:
    with pytest.raises(NotHere, match="its process may have ended"):
        processes.pause(queue._p_jar, "nobody")
