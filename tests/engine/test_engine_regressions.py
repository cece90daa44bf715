"""Defects that were there once: each has a test that fails without its fix."""

from collections.abc import Callable
from collective.zcasync import claims
from collective.zcasync import deferreds
from collective.zcasync import execution
from collective.zcasync import instanceuuid
from collective.zcasync import outcomes
from collective.zcasync import persistence
from collective.zcasync import places
from collective.zcasync import sweeping
from collective.zcasync import transactions
from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.entries import Item
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import install
from collective.zcasync.reactor import prepare
from collective.zcasync.rejections import Rejections
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_annotation
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from collective.zcasync.threadpool import AgentThreadPool
from collective.zcasync.upkeep import Upkeep
from datetime import timedelta
from enginejobs import make_agent
from twisted.internet.defer import Deferred
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from ZEO.Exceptions import ClientDisconnected
from ZODB.mvccadapter import MVCCAdapterInstance

import enginejobs
import logging
import pytest
import threading
import transaction


def _put(queue: Any, job: Job) -> Job:
    queue.put(job)
    transaction.commit()
    return job


def test_a_job_whose_commit_was_stored_but_not_confirmed_does_not_run_again(
    queue: Any, dispatch: Any, lose_answer: Any
) -> None:
    dispatch(threads=1)
    lost = lose_answer("zcasync-main")
    job = _put(queue, Job(enginejobs.count))

    assert wait_for_result(job) == 1
    assert lost.wait(6)
    assert wait_for_result(_put(queue, Job(enginejobs.note, "behind"))) == "behind"
    transaction.begin()
    assert queue._p_jar.root()["count"] == 1 and job.attempts == 1


def test_a_failure_whose_commit_was_stored_but_not_confirmed_is_not_stored_for_ever(
    queue: Any, dispatch: Any, lose_answer: Any
) -> None:
    dispatch(threads=1)
    lost = lose_answer("zcasync-main")
    job = _put(queue, Job(enginejobs.change_and_raise))

    assert wait_for_result(job).check(ValueError)
    assert lost.wait(6)
    assert wait_for_result(_put(queue, Job(enginejobs.note, "behind"))) == "behind", "its thread is free again"
    assert job.attempts == 1


def test_a_database_that_is_away_costs_no_attempt(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = _put(queue, Job(enginejobs.disconnect_times, 3))

    assert wait_for_result(job) == 4
    assert job.attempts == 1


def test_a_job_that_cannot_be_loaded_while_the_database_is_away_is_waited_for(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch(threads=1)
    load, failed = MVCCAdapterInstance.load, threading.Event()
    job = queue.put(Job(enginejobs.note, "ran"), retry_policy_factory="NeverRetry")

    def load_or_fail(self: Any, oid: bytes) -> Any:
        if oid == job._p_oid and threading.current_thread().name.startswith("zcasync-main") and not failed.is_set():
            failed.set()
            raise ClientDisconnected("no server")
        return load(self, oid)

    monkeypatch.setattr(MVCCAdapterInstance, "load", load_or_fail)
    transaction.commit()

    assert wait_for_result(job) == "ran"
    assert failed.is_set() and job.attempt_log == ()


def test_the_start_of_a_callback_that_must_not_run_twice_is_no_commit_of_its_code(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(enginejobs.note, retry_policy_factory="NeverRetry")
    wait_for_result(_put(queue, job))

    assert callback.result == 1 and callback.attempt_log == ()


def _claimed(queue: Any, agent: Agent, job: Job, active: bool = True) -> Job:
    _put(queue, job)
    assert [one.job for one in Taker(queue, agent.slot).take(1)] == [job]
    agent.hold(job, active)
    transaction.commit()
    return job


@pytest.mark.parametrize("active", [True, False])
def test_a_late_callback_of_a_job_that_is_put_back_is_called_when_it_ends(
    queue: Any, dispatch: Any, active: bool
) -> None:
    agent = make_agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.add, 5), active)
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    sweeping.put_back(queue, agent.slot, job)
    transaction.commit()

    assert job.active_start is None and len(agent.slot.mailbox) == 0
    dispatch()
    assert wait_for_result(job) == 5 and late.result == 5


def test_a_late_callback_is_not_lost_when_the_job_waits_again_and_its_dispatcher_dies(
    queue: Any, dispatch: Any
) -> None:
    agent = make_agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.add, 5))
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    queue.give_back(job)  # as a job thread does; the claim that would sweep it never comes
    transaction.commit()
    agent.parent.deactivate(died=True)
    transaction.commit()
    dispatch()

    assert wait_for_result(job) == 5 and late.result == 5


def test_a_late_callback_is_not_lost_when_a_deferred_ends_its_job_and_the_dispatcher_dies(
    queue: Any, connection: Any, dispatch: Any
) -> None:
    agent = make_agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.add, 5))
    outcomes.keep(job, Deferred(), utcnow())
    transaction.commit()
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "deferred")])
    transaction.commit()
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    deferreds.end(job, "fired", connection, None)  # the claim that would sweep it never comes
    transaction.commit()
    agent.parent.deactivate(died=True)
    transaction.commit()
    dispatch()

    wait_until(late, lambda: late.status == COMPLETED, what="the callback's end")
    wait_until(queue, lambda: queue.counts()["running"] == 0, what="an empty queue")
    assert late.result == "fired" and list(queue.finished()) == [job]


def test_a_job_that_is_cancelled_where_it_waits_again_is_filed_once_though_its_dispatcher_dies(
    queue: Any, dispatch: Any
) -> None:
    agent = make_agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.note, "never"))
    queue.give_back(job)  # as a job thread does; the claim that would sweep it never comes
    transaction.commit()
    assert queue.cancel(job) == "cancelled"
    transaction.commit()
    agent.parent.deactivate(died=True)
    transaction.commit()
    dispatch()

    wait_until(queue, lambda: queue.counts()["waiting"] == 0, what="an empty queue")
    assert list(queue.finished()) == [job] and queue.counts()["cancelled"] == 1


@pytest.mark.parametrize("end", ["returned", "died", "put back"])
def test_a_job_that_was_asked_to_stop_does_not_begin_again(end: str, queue: Any, dispatch: Any) -> None:
    agent = make_agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.note, "never"))
    assert queue.cancel(job) == "stopping"
    transaction.commit()
    if end == "returned":
        queue.give_back(job)
        transaction.commit()
        sweeping.sweep(queue, agent.slot, [(job._p_oid, "returned")])
    elif end == "put back":
        sweeping.put_back(queue, agent.slot, job)
    else:
        agent.parent.deactivate(died=True)
    transaction.commit()
    dispatch()

    assert wait_for_result(job).check(CancelledError)
    assert job.outcome == "cancelled" and enginejobs.calls == [] and len(agent.slot.mailbox if agent.slot else ()) == 0


def test_a_job_that_cannot_be_loaded_any_more_gives_its_quota_back(queue: Any) -> None:
    queue.quotas.create("one")
    agent, job = make_agent(queue), Job(enginejobs.add, 1)
    job.quota_names = ("one",)
    _claimed(queue, agent, job)
    assert queue.quotas["one"].filled
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "unreadable")])

    assert len(queue.quotas["one"]) == 0 and queue.counts()["quarantined"] == 1


def test_a_job_that_is_removed_after_it_was_put_back_gives_its_quota_back(queue: Any) -> None:
    queue.quotas.create("one")
    agent, job = make_agent(queue), Job(enginejobs.add, 1)
    job.quota_names = ("one",)
    _claimed(queue, agent, job)
    queue.give_back(job, front=True)
    transaction.commit()
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "returned")])
    assert job in queue.quotas["one"]
    queue.remove(job)

    assert len(queue.quotas["one"]) == 0


def test_a_callback_that_tells_live_annotations_runs_once_and_keeps_them(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(_annotate_and_wait)
    _put(queue, job)

    assert wait_for_annotation(callback, "step") == "half"
    enginejobs.released["a"].set()
    wait_for_result(job)
    assert enginejobs.calls == ["a"] and callback.attempts == 1
    wait_for_result(_put(queue, Job(enginejobs.add, 2)))
    assert wait_for_annotation(callback, "step") == "half"


def _annotate_and_wait(result: Any) -> str:
    return enginejobs.annotate_and_wait()


def test_many_jobs_for_one_moment_are_all_kept_whatever_inbox_they_came_from(queue: Any) -> None:
    agent, moment = make_agent(queue), utcnow() + timedelta(hours=1)
    for _number in range(300):
        places._thread.left = 0  # draw an inbox for each put, as many threads would
        queue.put(Job(enginejobs.add, 1), begin_after=moment, begin_by=timedelta(hours=1))
    transaction.commit()
    for _claim in range(9):
        assert Taker(queue, agent.slot).take(100) == []
    transaction.commit()

    assert queue.counts()["later"] == len(list(queue.later_jobs())) == len(queue.later) == 300
    assert len(queue.deadlines) == 300
    set_now(moment)
    jobs = [one.job for _claim in range(4) for one in Taker(queue, agent.slot).take(100)]
    assert len({job._p_oid for job in jobs}) == 300 and queue.counts()["later"] == 0


def test_jobs_with_one_key_are_both_parked(queue: Any) -> None:
    queue.quotas.create("none")
    agent = make_agent(queue)
    jobs = [Job(enginejobs.add, number) for number in range(3)]
    for shard, job in enumerate(jobs):
        job.quota_names = ("none",)
        places._thread.shard, places._thread.left = shard, 9
        queue.put(job)
    for shard, job in list(enumerate(jobs))[1:]:  # what two processes that put at once can do
        inbox = queue.inboxes[shard]
        del inbox[job.key]
        job.key = jobs[1].key
        inbox[job.key] = job
    transaction.commit()
    assert [one.job for one in Taker(queue, agent.slot).take(5)] == jobs[:1]

    assert {job._p_oid for _why, job in queue.parked_jobs()} == {job._p_oid for job in jobs[1:]}
    queue.remove(jobs[1])
    queue.remove(jobs[2])
    assert len(queue) == 0


def test_what_an_absent_database_does_not_give_is_not_set_aside(
    queue: Any, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, job = make_agent(queue), _put(queue, Job(enginejobs.add, 1))
    queue.take_out(job)
    agent.slot.backlog("")[job.key] = job
    transaction.commit()
    load = MVCCAdapterInstance.load

    def load_or_fail(self: Any, oid: bytes) -> Any:
        if oid == job._p_oid:
            raise ClientDisconnected("no server")
        return load(self, oid)

    with clients().transaction() as connection:
        job._p_jar.cacheMinimize()
        monkeypatch.setattr(MVCCAdapterInstance, "load", load_or_fail)
        with pytest.raises(ClientDisconnected):
            Taker(get_queue(connection), get_queue(connection).slots[0]).take(1)
        monkeypatch.undo()
        assert list(get_queue(connection).quarantined()) == []


def test_a_job_whose_place_another_took_in_one_claim_is_offered_by_the_next_one(queue: Any) -> None:
    queue.quotas.create("one")
    agent, skipped = make_agent(queue), Rejections()
    first, parked, ahead = (Job(enginejobs.add, number) for number in range(3))
    for job in (first, parked, ahead):
        job.quota_names = ("one",)
    _claimed(queue, agent, first)
    _put(queue, parked)
    assert Taker(queue, agent.slot, skipped=skipped).take(1) == []
    ahead.set_priority(5)
    _put(queue, ahead)
    for done, taken in ((first, ahead), (ahead, parked)):
        queue.quotas["one"].discard(done)
        assert [one.job for one in Taker(queue, agent.slot, skipped=skipped).take(2)] == [taken]


def test_a_deadline_that_was_moved_ends_no_job_before_it(queue: Any) -> None:
    queue.hold_group("")
    agent = make_agent(queue)
    queue.put(job := Job(enginejobs.add, 1), begin_by=timedelta(minutes=1))
    transaction.commit()
    Taker(queue, agent.slot).take(1)
    job.begin_by = timedelta(hours=1)
    transaction.commit()
    set_now(utcnow() + timedelta(minutes=5))
    assert Taker(queue, agent.slot).overdue(9) == []
    set_now(utcnow() + timedelta(hours=1))
    assert [(one.job, one.kind) for one in Taker(queue, agent.slot).overdue(9)] == [(job, "expire")]


def test_a_job_for_later_that_is_cancelled_never_keeps_its_key(queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([5, 5, 5])
    monkeypatch.setattr(persistence, "random", SimpleNamespace(getrandbits=lambda bits: next(draws)))
    job = queue.put(Job(enginejobs.note, "never"), begin_after=utcnow() + timedelta(hours=1))
    agent = make_agent(queue)
    Taker(queue, agent.slot).take(1)
    key = job.key
    queue.cancel(job)
    cancelled = job.key
    assert cancelled != key, "what lies under the old key must not pass for the new entry"
    queue.give_back(job)
    assert job.key not in (key, cancelled), "nor when it has a late callback, and waits once more"
    assert next(draws, None) is None


def test_a_job_for_later_that_is_cancelled_leaves_nothing_behind(queue: Any) -> None:
    agent = make_agent(queue)
    job = Job(enginejobs.add, 1)
    job.addCallback(enginejobs.note)
    queue.put(job, begin_after=utcnow() + timedelta(hours=1))
    transaction.commit()
    Taker(queue, agent.slot).take(1)
    queue.cancel(job)
    assert [(one.job, one.kind) for one in Taker(queue, agent.slot).take(1)] == [(job, "resume")]

    assert queue.counts()["later"] == 0 and not queue.later


def test_a_filter_that_fails_keeps_nobody_else_from_work(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    queue.set_template("worker", "aaa", size=1)
    queue.set_template("worker", "zzz", size=1)
    transaction.commit()
    running = dispatch(threads=None, poll_interval=0.1)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID]["aaa"].filter = _broken
    transaction.commit()
    with caplog.at_level(logging.CRITICAL, "collective.zcasync"):
        assert [wait_for_result(_put(queue, Job(enginejobs.add, number))) for number in (1, 2)] == [1, 2]
    assert "filter or chooser of agent 'aaa'" in caplog.text


def test_a_chooser_that_fails_loses_nothing_and_keeps_nobody_else_from_work(queue: Any, dispatch: Any) -> None:
    queue.set_template("worker", "aaa", size=1)
    queue.set_template("worker", "zzz", size=1)
    transaction.commit()
    running = dispatch(threads=None, poll_interval=0.1)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID]["aaa"].chooser = _take_and_fail
    transaction.commit()
    assert [wait_for_result(_put(queue, Job(enginejobs.add, number))) for number in (1, 2)] == [1, 2]


def _broken(job: Any) -> bool:
    raise ValueError("the filter is broken")


def _take_and_fail(agent: Any) -> Any:
    agent.queue.pull()
    raise ValueError("the chooser is broken")


def _newest_only(job: Any) -> bool:
    return job.args[0] == -1


def test_a_job_behind_more_rejected_ones_than_a_claim_looks_at_is_found(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LOOK_AT_MOST", 5)
    running = dispatch(threads=1, poll_interval=60)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID]["main"].filter = _newest_only
    transaction.commit()
    for number in range(40):
        queue.put(Job(enginejobs.add, number))
    assert wait_for_result(_put(queue, Job(enginejobs.add, -1))) == -1


def test_a_claim_that_was_stored_but_not_confirmed_leaves_no_job_behind(
    queue: Any, dispatch: Any, lose_answer: Any
) -> None:
    dispatch(threads=1)
    lost = lose_answer("zcasync-claims")
    job = _put(queue, Job(enginejobs.add, 5))

    assert wait_for_result(job) == 5
    assert lost.is_set() and job.attempts == 1


def test_a_queue_that_is_removed_costs_its_dispatcher_no_rest_and_no_end(queue: Any, dispatch: Any) -> None:
    queues = install(queue._p_jar, ("", "other"))
    transaction.commit()
    running = dispatch(poll_interval=60)
    other = queues["other"]
    _put(other, Job(enginejobs.wait))
    assert enginejobs.started["a"].wait(6)
    transaction.begin()
    del queues["other"]
    transaction.commit()
    claimer = running.dispatcher.claimer

    def forgotten() -> bool:
        running.dispatcher.poll_soon()
        return "other" not in claimer.homes

    assert wait_until(queue, forgotten, what="a poll without the queue")
    enginejobs.released["a"].set()
    assert wait_for_result(_put(queue, Job(enginejobs.add, 1))) == 1

    assert list(claimer.homes) == [""]
    running.stop(grace=6)
    transaction.begin()
    assert len(queue.dispatchers) == 0 and set(claimer._reports) <= {""}


def test_a_job_that_is_due_while_all_threads_are_busy_does_not_keep_the_claims_running(
    queue: Any, dispatch: Any
) -> None:
    running = dispatch(threads=1, poll_interval=60)
    _put(queue, Job(enginejobs.wait))
    assert enginejobs.started["a"].wait(6)
    queue.put(due := Job(enginejobs.add, 1), begin_after=utcnow() + timedelta(hours=1))
    transaction.commit()
    Taker(queue).take(1)
    transaction.commit()
    set_now(utcnow() + timedelta(hours=2))
    poll_now(running.dispatcher)

    assert running.dispatcher.claimer.upkeep.due == {}
    enginejobs.released["a"].set()
    assert wait_for_result(due) == 1


def test_old_history_is_dropped_also_where_nothing_else_happens(queue: Any, dispatch: Any) -> None:
    first = dispatch()
    job = _put(queue, Job(enginejobs.add, 1))
    wait_for_result(job)
    first.stop()
    transaction.begin()
    make_agent(queue)  # takes the free slot
    second = dispatch()
    transaction.begin()
    queue.slots[0].owner = None  # as after an end without an heir
    transaction.commit()
    assert list(queue.finished()) == [job]
    set_now(utcnow() + timedelta(days=9))

    def dropped() -> bool:
        second.dispatcher.poll_soon()
        return not list(queue.finished())

    assert wait_until(queue, dropped, what="the end of old history")
    assert queue.counts()["succeeded"] == 0


def test_a_late_callback_commits_nothing_of_its_caller_after_a_savepoint_and_a_restart(
    queue: Any, dispatch: Any
) -> None:
    running = dispatch()
    job = _put(queue, Job(enginejobs.add, 1))
    wait_for_result(job)
    running.stop()
    transaction.begin()
    assert job.queue is queue
    queue._p_jar.root()["mine"] = 1
    transaction.savepoint()
    job.addCallback(enginejobs.note)
    transaction.abort()
    assert "mine" not in queue._p_jar.root() and enginejobs.calls == []


def test_run_jobs_does_not_call_what_was_cancelled_or_is_late(queue: Any) -> None:
    cancelled, late = Job(enginejobs.note, "never"), Job(enginejobs.note, "never")
    callback = cancelled.addCallbacks(failure=enginejobs.note)
    queue.put(cancelled)
    queue.put(late, begin_by=timedelta(0))
    queue.cancel(cancelled)
    set_now(utcnow() + timedelta(seconds=1))
    run_jobs(queue, raises=False)

    assert len(enginejobs.calls) == 1 and callback.result.check(CancelledError)
    assert (cancelled.outcome, late.outcome) == ("cancelled", "failed")


def test_what_a_claim_that_conflicts_would_have_noted_as_started_is_noted_by_the_next(dispatch: Any) -> None:
    pool = AgentThreadPool(dispatch().dispatcher, "", "other", 0)
    pool._started.add(b"one")
    assert pool.started() == {b"one"} == pool.started()
    pool._started.add(b"two")
    pool.forget_started()
    assert pool.started() == {b"two"}


def test_jobs_that_must_wait_for_each_other_leave_the_other_threads_to_others(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=3, poll_interval=60)
    for _conflict in range(3):
        running.dispatcher.neighbours.learn(("", "enginejobs.wait"), True)
    slow = [queue.put(Job(enginejobs.wait, "a")) for _number in range(10)]
    other = queue.put(Job(enginejobs.add, 1))
    transaction.commit()

    assert wait_for_result(other) == 1
    assert enginejobs.calls == ["a"]
    enginejobs.released["a"].set()
    assert [wait_for_result(job) for job in slow] == ["a"] * 10


def test_a_job_whose_callbacks_run_holds_no_quota(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("one")
    first, second = Job(enginejobs.add, 1), Job(enginejobs.add, 2)
    first.addCallback(_annotate_and_wait)
    for job in (first, second):
        job.quota_names = ("one",)
        queue.put(job)
    transaction.commit()
    dispatch(threads=2, poll_interval=0.1)

    assert enginejobs.started["a"].wait(6)
    assert wait_for_result(second) == 2
    assert first.status == CALLBACKS
    enginejobs.released["a"].set()
    assert wait_for_result(first) == 1


def test_a_template_that_is_made_larger_needs_no_poll(queue: Any, dispatch: Any) -> None:
    queue.set_template("worker", "main", size=1)
    for name in ("a", "b"):
        queue.put(Job(enginejobs.wait, name))
    transaction.commit()
    dispatch(threads=None, poll_interval=60)
    assert enginejobs.started["a"].wait(6)
    transaction.begin()
    queue.set_template("worker", "main", size=2)
    transaction.commit()

    assert enginejobs.started["b"].wait(6)
    enginejobs.release_all()


def test_trouble_with_a_sibling_does_not_end_the_pings(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = dispatch(poll_interval=60)
    looks = threading.Semaphore(0)

    def look(process: Any) -> bool:
        looks.release()
        raise OverflowError("no such number")

    monkeypatch.setattr(instanceuuid, "process_is_gone", look)
    running.dispatcher.heartbeat.siblings = [(uuid4(), {"pid": 2**99}, None)]
    assert looks.acquire(timeout=6) and looks.acquire(timeout=6)


def test_a_job_whose_dying_thread_cannot_give_it_back_while_the_database_is_away_is_given_back_afterwards(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch(threads=1)
    given_back, tries = execution.interrupted_here, []

    def fail_at_first(*args: Any) -> str:
        tries.append(args)
        if len(tries) < 3:
            raise ClientDisconnected("no server") if len(tries) == 1 else RuntimeError("nobody expects this")
        return given_back(*args)

    monkeypatch.setattr(execution, "interrupted_here", fail_at_first)
    monkeypatch.setattr(transactions, "BACKOFF", (0.01, 0.01, 0.01))
    job = _put(queue, Job(enginejobs.exit_once))

    assert wait_for_result(job, 20) == "second time"
    assert len(tries) == 3 and dict(job.policy_data)["interruptions"] == 1


def test_a_database_that_is_away_as_an_attempt_is_undone_costs_neither_thread_nor_interruption(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = dispatch(threads=1)
    original, away, met = MVCCAdapterInstance.poll_invalidations, threading.Event(), []
    commit = MVCCAdapterInstance.tpc_begin

    def in_the_job() -> bool:
        return threading.current_thread().name.startswith("zcasync-main") and away.is_set()

    def fail_to_begin(self: Any, *args: Any) -> Any:
        if enginejobs.calls and not met and threading.current_thread().name.startswith("zcasync-main"):
            away.set()
            raise ClientDisconnected("no server")
        return commit(self, *args)

    def fail_to_ask(self: Any) -> Any:
        if in_the_job():
            met.append("asked")
            raise ClientDisconnected("no server")
        return original(self)

    def back(*args: Any, **kwargs: Any) -> bool:
        away.clear()
        return True

    monkeypatch.setattr(MVCCAdapterInstance, "tpc_begin", fail_to_begin)
    monkeypatch.setattr(MVCCAdapterInstance, "poll_invalidations", fail_to_ask)
    monkeypatch.setattr(transactions, "wait_for_database", back)
    job = _put(queue, Job(enginejobs.note, "ran"))

    assert wait_for_result(job, 20) == "ran"
    assert met and enginejobs.calls == ["ran", "ran"]
    assert job.attempts == 1 and "interruptions" not in dict(job.policy_data)
    assert len(running.dispatcher.queues[""]["main"].threads) == 1


def test_queues_are_made_as_soon_as_the_database_is_back_that_goes_away_as_they_are_to_be_made(
    clients: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, look, met = clients(), MVCCAdapterInstance.poll_invalidations, threading.Event()

    def fail_once(self: Any) -> Any:
        if not met.is_set():
            met.set()
            raise ClientDisconnected("no server")
        return look(self)

    monkeypatch.setattr(MVCCAdapterInstance, "poll_invalidations", fail_once)
    prepare(database, ("", "other"))

    assert met.is_set()
    with database.transaction() as connection:
        assert get_queues(connection).keys() == ["", "other"]


class _Pool:
    """Threads that are busy, and one job that waits for them."""

    def __init__(self, job: Job) -> None:
        assert job._p_oid is not None and job.token is not None
        self.waiting = [Item(job._p_oid, "run", job.token, job.neighbours, False, 0.0, JobInfo(job, ""))]

    def waits_since(self) -> float | None:
        return 0.0 if self.waiting else None

    def take_back(self, older_than: float) -> list[Item]:
        back, self.waiting = self.waiting, []
        return back


def test_a_job_that_has_waited_too_long_for_a_thread_is_given_back_also_if_the_first_claim_that_does_so_conflicts(
    queue: Any,
) -> None:
    agent = make_agent(queue)
    job = _claimed(queue, agent, Job(enginejobs.add, 1), active=False)
    upkeep = Upkeep(SimpleNamespace(queues={"": {"main": _Pool(job)}}))

    def see_to() -> bool:
        return upkeep.see_to("", queue, agent.slot, False, dict)

    assert see_to() and job.status == PENDING
    transaction.abort()
    assert job.status == ASSIGNED, "it was a conflict"
    assert see_to()
    transaction.commit()
    upkeep.stored("")

    assert job.status == PENDING and list(queue) == [job]
    assert not see_to()
