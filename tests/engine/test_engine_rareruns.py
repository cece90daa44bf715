"""Runs that are cut off, or given up, in rare states: what follows is as their policies want, and none is lost."""

from collective.zcasync import execution
from collective.zcasync import sweeping
from collective.zcasync.claims import Taker
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.job import serial
from collective.zcasync.retry import NeverRetry
from collective.zcasync.surroundings import Surroundings
from enginejobs import make_agent
from typing import Any

import enginejobs
import transaction


def all_of(*jobs: Any) -> int:
    return len(jobs)


def _put(queue: Any, job: Job) -> Job:
    queue.put(job)
    transaction.commit()
    return job


def _run(queue: Any, agent: Any) -> None:
    """Claim and run what there is, and file it away."""
    while taken := Taker(queue, agent.slot).take(1):
        job = taken[0].job
        agent.hold(job, False)
        transaction.commit()
        around = Surroundings(job._p_jar.db())
        report = execution.perform(around.database, job._p_oid, taken[0].kind, job.token, around)
        transaction.begin()
        sweeping.sweep(queue, agent.slot, [(job._p_oid, report)])
        transaction.commit()
    transaction.commit()


def test_a_serial_job_that_is_a_callback_goes_on_whatever_its_policy_says_of_interruptions(queue: Any) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add, 5)
    callback = serial(Job(enginejobs.note, "a"), Job(enginejobs.note, "b"), postprocess=all_of)
    job.addCallback(callback, retry_policy_factory=NeverRetry)
    _put(queue, job)
    _run(queue, agent)

    assert (enginejobs.calls, callback.error) == (["a", "b"], "")
    assert job.status == COMPLETED
