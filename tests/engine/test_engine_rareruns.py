"""Runs that are cut off, or given up, in rare states: what follows is as their policies want, and none is lost."""

from collective.zcasync import actions
from collective.zcasync import api
from collective.zcasync import execution
from collective.zcasync import foreground
from collective.zcasync import joblog
from collective.zcasync import sweeping
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.job import serial
from collective.zcasync.retry import NeverRetry
from collective.zcasync.surroundings import Surroundings
from datetime import timedelta
from enginejobs import make_agent
from enginejobs import put_and_commit
from enginejobs import run_and_file
from typing import Any

import enginejobs
import logging
import pytest
import time
import transaction


class InAnHour(NeverRetry):
    """Interrupted, it goes on in an hour."""

    def interrupted(self) -> Any:
        return timedelta(hours=1)


class Thrice(NeverRetry):
    """It counts by itself, as policies may."""

    times = 0

    def interrupted(self) -> Any:
        self.times += 1
        return self.times < 3


def all_of(*jobs: Any) -> int:
    return len(jobs)


def returns_a_job() -> Job:
    enginejobs.calls.append("outer")
    return Job(enginejobs.note, "inner")


def test_a_serial_job_that_is_a_callback_goes_on_whatever_its_policy_says_of_interruptions(queue: Any) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add, 5)
    callback = serial(Job(enginejobs.note, "a"), Job(enginejobs.note, "b"), postprocess=all_of)
    job.addCallback(callback, retry_policy_factory=NeverRetry)
    put_and_commit(queue, job)
    run_and_file(queue, agent)

    assert (enginejobs.calls, callback.error) == (["a", "b"], "")
    assert job.status == COMPLETED


def test_a_job_that_was_set_aside_as_it_ran_is_not_run_again_if_its_policy_says_so(queue: Any) -> None:
    agent = make_agent(queue)
    job = put_and_commit(queue, Job(enginejobs.note, "once"))
    job.retry_policy_factory = NeverRetry
    taken = Taker(queue, agent.slot).take(1)[0].job
    agent.hold(taken, True)
    transaction.commit()
    assert job.status == ACTIVE
    sweeping.set_aside(queue, agent.slot, job, "its class or record cannot be loaded")
    transaction.commit()
    actions.release(job)
    transaction.commit()
    run_and_file(queue, agent)

    assert (enginejobs.calls, job.outcome) == ([], "failed")
    assert list(queue.finished()) == [job]


def test_a_job_that_was_set_aside_as_it_came_to_wait_for_another_waits_and_is_not_run_again(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(returns_a_job))
    taken = Taker(queue, agent.slot).take(1)[0].job
    agent.hold(taken, True)
    transaction.commit()
    around = Surroundings(job._p_jar.db())
    assert execution.perform(around.database, job._p_oid, "run", job.token, around) == "waiting"
    transaction.begin()
    sweeping.set_aside(queue, agent.slot, job, "its class or record cannot be loaded")
    transaction.commit()
    actions.release(job)
    transaction.commit()
    run_and_file(queue, agent)
    run_and_file(queue, agent)

    assert (enginejobs.calls, job.result) == (["outer", "inner"], "inner")
    assert queue.counts()["awaiting"] == 0


def test_an_interrupted_callback_waits_as_long_as_its_policy_wants_though_an_answer_is_lost(
    queue: Any, lose_answer: Any
) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add, 5)
    callback = job.addCallback(enginejobs.note, retry_policy_factory=InAnHour)
    put_and_commit(queue, job)
    agent.hold(Taker(queue, agent.slot).take(1)[0].job, True)
    job._finish(5, utcnow())
    callback._begin(utcnow())
    transaction.commit()
    lost = lose_answer("MainThread")
    around = Surroundings(job._p_jar.db())
    assert execution.perform(around.database, job._p_oid, "resume", job.token, around) == "returned"
    transaction.begin()

    assert lost.is_set() and enginejobs.calls == []
    assert job.resume_at > utcnow() + timedelta(minutes=50)


class Stops:
    """The mail of a dispatcher that stops, and asks each job to do so."""

    def enter(self, running: Any) -> None:
        self.running = running

    def leave(self, running: Any) -> None:
        """Nobody asks it any more."""

    def said(self, running: Any) -> None:
        """Nobody writes it."""


mail = Stops()


def is_stopped() -> None:
    enginejobs.calls.append("begun")
    mail.running.ask("shutdown")
    api.checkpoint()


def test_a_job_that_stops_with_its_dispatcher_waits_as_long_as_its_policy_wants(queue: Any) -> None:
    agent, job = make_agent(queue), Job(is_stopped)
    put_and_commit(queue, job)
    job.retry_policy_factory = InAnHour
    taken = Taker(queue, agent.slot).take(1)[0].job
    agent.hold(taken, True)
    transaction.commit()
    around = Surroundings(job._p_jar.db(), mail=mail)
    assert execution.perform(around.database, job._p_oid, "run", job.token, around) == "returned"
    transaction.begin()

    assert job.not_before() > utcnow() + timedelta(minutes=50)


def test_a_policy_counts_the_stops_of_a_dispatcher_with_which_its_job_stops(queue: Any) -> None:
    agent, job = make_agent(queue), Job(is_stopped)
    put_and_commit(queue, job)
    job.retry_policy_factory = Thrice
    transaction.commit()
    for _time in range(4):
        taken = Taker(queue, agent.slot).take(1)[0].job
        agent.hold(taken, True)
        transaction.commit()
        around = Surroundings(job._p_jar.db(), mail=mail)
        report = execution.perform(around.database, job._p_oid, "run", job.token, around)
        transaction.begin()
        sweeping.sweep(queue, agent.slot, [(job._p_oid, report)])
        transaction.commit()
        if report == "finished":
            break

    assert (len(enginejobs.calls), job.outcome) == (3, "failed")


def fails() -> None:
    raise ValueError("it does so always")


def test_retries_that_wait_in_the_queue_do_not_make_a_job_young_again(queue: Any) -> None:
    agent, start = make_agent(queue), utcnow()
    queue.parent.policies["steady"] = ConfiguredPolicy("steady", attempts=None, first_wait=1800.0, age_limit=3600.0)
    job = Job(fails)
    job.policy = "steady"
    put_and_commit(queue, job)
    for hours in range(6):
        set_now(start + timedelta(hours=hours))
        run_and_file(queue, agent)

    assert (job.outcome, job.attempts) == ("failed", 3)


def logs() -> None:
    logging.getLogger("rareruns").warning("now")


def test_what_an_attempt_has_logged_on_a_machine_whose_clock_was_ahead_is_kept(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(logs))
    ahead = time.time() + 300
    job.logs = ((ahead, joblog.Log(((ahead, logging.WARNING, "rareruns", "before"),))),)
    transaction.commit()
    run_and_file(queue, agent)

    assert [line[3] for _began, log in job.logs for line in log.lines] == ["before", "now"]


def test_a_job_that_was_asked_to_stop_as_it_came_back_does_not_run_in_the_foreground(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.note, "runs"))
    agent.hold(Taker(queue, agent.slot).take(1)[0].job, True)
    transaction.commit()
    assert queue.cancel(job) == "stopping"
    queue.give_back(job)
    transaction.commit()
    with pytest.raises(BadStatusError):
        foreground.run(job._p_jar.db(), job.id)
    transaction.begin()
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "returned")])
    transaction.commit()
    run_and_file(queue, agent)

    assert (enginejobs.calls, job.outcome) == ([], "cancelled")


def fails_with(result: Any) -> None:
    enginejobs.calls.append(result)
    raise ValueError("it does so always")


def is_given_nothing(number: int) -> None:
    raise KeyError(number)


def test_a_callback_that_is_retried_is_called_with_the_result_of_its_job_again(queue: Any) -> None:
    agent, good, bad = make_agent(queue), Job(enginejobs.add, 5), Job(is_given_nothing, 7)
    for job in (good, bad):
        job.addCallback(fails_with)
        put_and_commit(queue, job)
        run_and_file(queue, agent)
        assert actions.retry(job.callbacks[0]).error == ""
        transaction.commit()
        run_and_file(queue, agent)

    first, second, third, fourth = enginejobs.calls
    assert (first, second) == (5, 5)
    assert third.check(KeyError) and fourth.check(KeyError)
