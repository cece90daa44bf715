"""What a queue offers in which order, who takes it, and how many at once."""

from collective.zcasync import claims
from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import ICompletedCollection
from collective.zcasync.interfaces import IFilterAgent
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.queue import Queue
from collective.zcasync.retry import NeverRetry
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from collective.zcasync.upkeep import drop_old
from datetime import timedelta
from typing import Any
from uuid import uuid4
from ZODB.POSException import ConflictError
from zope.interface.verify import verifyObject

import enginejobs
import logging
import pytest
import threading
import time
import transaction


@pytest.fixture(autouse=True)
def none_runs() -> None:
    running.clear()


running: list[int] = []
lock = threading.Lock()


def busy(number: int) -> int:
    """Note how many of these run at once."""
    with lock:
        running.append(number)
        enginejobs.calls.append(len(running))
    enginejobs.released["a"].wait(0.05)
    with lock:
        running.remove(number)
    return number


class InAnHour(NeverRetry):
    def interrupted(self) -> Any:
        return timedelta(hours=1)


def _agent(queue: Any, size: int = 3) -> Agent:
    """An agent of a dispatcher without threads, for claims by hand."""
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = agent = Agent(size=size)
    transaction.commit()
    return agent


def _job(queue: Any, *quotas: str, call: Any = enginejobs.add, args: Any = (), **options: Any) -> Any:
    job = Job(call, *args)
    job.quota_names = quotas
    return queue.put(job, **options)


def _claim(queue: Any, agent: Agent, count: int = 1, active: bool = True) -> list[Any]:
    taken = [one.job for one in Taker(queue, agent.slot).take(count)]
    for job in taken:
        agent.hold(job, active)
    transaction.commit()
    return taken


def test_what_was_put_back_is_offered_first_then_all_by_the_later_of_put_and_begin(queue: Any) -> None:
    set_now(now := utcnow())
    one, two = _job(queue), _job(queue, begin_after=now + timedelta(minutes=2))
    set_now(now + timedelta(minutes=1))
    three, past = _job(queue), _job(queue, begin_after=now - timedelta(days=1))
    set_now(now + timedelta(minutes=3))
    five, six = _job(queue), _job(queue)
    assert list(queue) == [one, three, past, two, five, six]
    assert [queue.claim(), queue.claim()] == [one, three]
    for job in (three, one):
        queue.putBack(job)
    transaction.commit()

    assert list(queue) == [three, one, past, two, five, six] and [queue.claim() for _ in range(7)][-1] is None


def test_a_queue_is_a_sequence_wherever_its_jobs_lie(queue: Any) -> None:
    agent = _agent(queue)
    queue.quotas.create("one")
    running, parked = _job(queue, "one"), _job(queue, "one")
    later = _job(queue, begin_after=utcnow() + timedelta(hours=1))
    assert _claim(queue, agent) == [running] and _claim(queue, agent) == []
    waiting = _job(queue)
    transaction.commit()

    assert list(queue) == [parked, waiting, later] and len(queue) == 3 and bool(queue)
    assert [queue[0], queue[1], queue[-1], queue[-3]] == [parked, waiting, later, parked]
    assert running not in list(queue) and queue.counts()["parked"] == queue.counts()["later"] == 1
    assert [queue.pull(-1), queue.pull(), queue.pull()] == [later, parked, waiting]
    assert list(queue) == [] and len(queue) == 0 and not queue


def test_a_put_takes_functions_methods_and_jobs_and_its_options_win(queue: Any) -> None:
    counter = queue._p_jar.root()["counter"] = enginejobs.Counter()
    job = Job(enginejobs.add, 1)
    job.begin_after = utcnow() - timedelta(days=2)
    job.begin_by, job.failure_log_level, job.retry_policy_factory = timedelta(1), logging.INFO, "NeverRetry"
    kept = queue.put(job)
    assert kept is job and kept._p_jar is queue._p_jar and (kept.begin_by, kept.failure_log_level) == (timedelta(1), 20)
    moment = utcnow() + timedelta(hours=2)
    other = Job(enginejobs.add)
    other.begin_after, other.failure_log_level = utcnow(), logging.INFO
    assert queue.put(other, moment, timedelta(hours=1), logging.WARNING, "RetryCommonForever") is other
    assert (other.begin_after, other.begin_by, other.failure_log_level) == (moment, timedelta(hours=1), logging.WARNING)
    assert type(other.getRetryPolicy()).__name__ == "RetryCommonForever"
    for call in (enginejobs.add, counter.increase, time.time, counter.__setattr__):
        put = queue.put(call)
        assert isinstance(put, Job) and put.status == PENDING and put.callable == call


def test_what_has_begun_or_ended_cannot_be_put(queue: Any) -> None:
    agent, job = _agent(queue), _job(queue)
    assert _claim(queue, agent) == [job]
    ended = queue._p_jar.root()["ended"] = Job(enginejobs.add)
    transaction.commit()
    ended()
    for wrong in (job, ended):
        with pytest.raises(InvalidValueError, match="only a NEW job"):
            queue.put(wrong)
    assert len(queue) == 0


def test_an_interrupted_job_comes_again_first_and_one_for_later_at_its_time(queue: Any) -> None:
    agent, job, second = _agent(queue), _job(queue), _job(queue, retry_policy_factory=InAnHour)
    other = _job(queue)
    assert _claim(queue, agent, 2) == [job, second]
    job.handleInterrupt()
    second.handleInterrupt()
    transaction.commit()

    assert list(queue) == [job, other, second] and job.status == PENDING and job.active_start is None
    assert second.begin_after > utcnow() + timedelta(minutes=50)
    with pytest.raises(BadStatusError, match="only an ACTIVE job"):
        job.handleInterrupt()


def test_an_interrupted_job_that_is_given_up_ends_with_its_callbacks_run(queue: Any) -> None:
    agent, job = _agent(queue), Job(enginejobs.add)
    callback = job.addCallbacks(failure=enginejobs.note)
    queue.put(job, retry_policy_factory="NeverRetry")
    transaction.commit()
    assert _claim(queue, agent) == [job]
    job.handleInterrupt()
    transaction.commit()
    assert job.result.check(AbortedError) and callback.result.check(AbortedError) and job.status == COMPLETED
    assert list(agent) == [] and list(agent.completed) == [job]


def test_an_interruption_in_callbacks_resumes_them(connection: Any) -> None:
    job = connection.root()["job"] = Job(enginejobs.add)
    job.addCallback(enginejobs.note)
    job._status_id, job._result = 2, "done"
    transaction.commit()
    job.handleInterrupt()
    assert job.status == COMPLETED and enginejobs.calls == ["done"]


@pytest.mark.parametrize("status", [NEW, PENDING, ASSIGNED, CALLBACKS])
def test_a_job_that_has_not_begun_can_be_failed(status: str, queue: Any) -> None:
    agent, job = _agent(queue), Job(enginejobs.add)
    callback = job.addCallbacks(failure=enginejobs.note)
    queue._p_jar.root()["job"] = job
    if status in (PENDING, ASSIGNED):
        queue.put(job)
        transaction.commit()
    if status == ASSIGNED:
        assert agent.claimJob() is job
    if status == CALLBACKS:
        callback.failure.callable = enginejobs.note
        job._status_id, job._result, job.error = 2, None, ""
    transaction.commit()
    assert job.status == status
    job.fail()

    assert job.status == COMPLETED and list(queue) == [] and list(agent) == []
    if status == CALLBACKS:
        assert callback.result is None and callback.job not in (None, callback.failure)
    else:
        assert job.result.check(TimeoutError) and callback.result.check(TimeoutError)
    with pytest.raises(BadStatusError, match="can only call fail"):
        job.fail()


def test_a_job_that_runs_cannot_be_failed(queue: Any) -> None:
    agent, job = _agent(queue), _job(queue)
    assert _claim(queue, agent) == [job]
    with pytest.raises(BadStatusError, match="can only call fail"):
        job.fail()
    assert list(agent) == [job]


def test_three_threads_that_add_callbacks_as_a_job_ends_lose_none(queue: Any, dispatch: Any, db: Any) -> None:
    dispatch(threads=1)
    job = _job(queue, call=enginejobs.wait)
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    step, conflicts = threading.Barrier(4, timeout=20), []

    def add(number: int) -> None:
        manager = transaction.TransactionManager()
        connection = db.open(manager)
        try:
            for attempt in range(50):
                manager.begin()
                try:
                    if number:
                        connection.get(job._p_oid).addCallback(Job(enginejobs.note))
                    if attempt == 0:
                        step.wait()
                    if number == 0:
                        enginejobs.released["a"].set()
                    manager.commit()
                    return
                except ConflictError:
                    conflicts.append(number)
                    manager.abort()
        finally:
            manager.abort()
            connection.close()

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    wait_until(queue, lambda: job.status == COMPLETED and len(job.callbacks) == 3, 20, "the end of all callbacks")
    assert [callback.result for callback in job.callbacks] == ["a"] * 3 and len(conflicts) < 150
    assert enginejobs.calls == ["a"] * 4 and job.attempts == 1


def test_each_queue_has_dispatchers_agents_and_jobs_of_its_own(queue: Any, dispatch: Any) -> None:
    queues = install(queue._p_jar, ("", "other"))
    other = queues["other"]
    transaction.commit()
    running = dispatch(poll_interval=60)
    poll_now(running.dispatcher)
    new = queues["new"] = Queue()
    transaction.commit()
    poll_now(running.dispatcher)
    transaction.begin()
    jobs = [each.put(Job(enginejobs.add, number)) for number, each in enumerate((queue, other, new))]
    transaction.commit()

    assert [wait_for_result(job) for job in jobs] == [0, 1, 2] and [job.queue for job in jobs] == [queue, other, new]
    assert [list(each.dispatchers) for each in (queue, other, new)] == [[running.dispatcher.UUID]] * 3
    das = [each.dispatchers[running.dispatcher.UUID] for each in (queue, other, new)]
    assert len({da["main"]._p_oid for da in das}) == 3


def test_an_agent_with_jobs_is_neither_replaced_nor_removed_nor_taken_from_elsewhere(queue: Any) -> None:
    agent, job = _agent(queue), _job(queue)
    da = agent.parent
    assert agent.claimJob() is job
    transaction.commit()
    for wrong in (lambda: da.__setitem__("main", Agent()), lambda: da.__delitem__("main")):
        with pytest.raises(InvalidValueError, match="holds 1 jobs"):
            wrong()
    with pytest.raises(InvalidValueError, match="holds jobs already"):
        da["second"] = agent
    assert list(da) == ["main"] and da["main"] is agent
    agent.remove(job)
    assert job.parent is None and len(agent) == 0
    da["main"] = Agent()
    del da["main"]
    assert len(da) == 0


def test_an_agent_is_a_sequence_of_what_it_holds_and_lets_go(queue: Any) -> None:
    agent = _agent(queue, size=3)
    assert not agent and len(agent) == 0
    jobs = [_job(queue) for _ in range(4)]
    transaction.commit()
    assert bool(queue)
    assert [agent.claimJob() for _ in range(4)] == [*jobs[:3], None]
    assert bool(agent) and list(agent) == jobs[:3] and (len(agent), agent[0], agent[-1]) == (3, jobs[0], jobs[2])
    assert agent.index(jobs[1]) == 1 and agent.pull() is jobs[0] and agent.queue is queue
    del agent[0]
    assert list(agent) == [jobs[2]] and jobs[1].parent is None and jobs[2].agent is agent
    agent.size = 1
    assert agent.claimJob() is None and IFilterAgent.providedBy(agent)
    agent.size = 2
    assert agent.claimJob() is jobs[3] and agent.claimJob() is None
    with pytest.raises(InvalidValueError, match="not held by this agent"):
        agent.index(jobs[0])


def test_an_agent_claims_nothing_when_its_dispatcher_is_silent(queue: Any) -> None:
    agent, _waits = _agent(queue), _job(queue)
    transaction.commit()
    set_now(utcnow() + timedelta(minutes=2))
    assert agent.parent.dead and agent.claimJob() is None
    agent.parent.ping(utcnow())
    assert agent.claimJob() is not None


def test_finished_jobs_are_listed_newest_first_for_a_week(queue: Any) -> None:
    agent, start = _agent(queue, size=9), utcnow().replace(hour=12)
    assert not agent.completed and verifyObject(ICompletedCollection, agent.completed)
    jobs = []
    for day in range(9):
        set_now(start + timedelta(days=day))
        agent.parent.ping(utcnow())
        jobs.append(_job(queue, call=enginejobs.note, args=(day,)))
        transaction.commit()
        assert agent.claimJob() is jobs[-1]
        transaction.commit()
        jobs[-1]()
    done = agent.completed

    assert list(done) == jobs[::-1] and len(done) == 9 and bool(done)
    assert done.first() is jobs[8] and done.last() is jobs[0]
    assert done.first(start + timedelta(days=3)) is jobs[3] and done.last(start + timedelta(days=3)) is jobs[4]
    assert list(done.iter(start + timedelta(days=5), start + timedelta(days=2))) == [jobs[5], jobs[4], jobs[3]]
    with pytest.raises(InvalidValueError, match="no job ended at or before"):
        done.first(start - timedelta(days=1))
    assert drop_old(queue, agent.slot)
    assert list(done) == jobs[:0:-1] and queue.retention_days == 7
    with pytest.raises(InvalidValueError, match="COMPLETED"):
        done.add(Job(enginejobs.add))
    waiting = _job(queue)
    waiting._status_id, waiting.agent_name = 3, "main"
    waiting.initial_callbacks_end = utcnow() + timedelta(seconds=1)
    done.add(waiting)
    assert done.first() is waiting


def test_quotas_are_made_resized_and_removed_by_name(queue: Any) -> None:
    quotas = queue.quotas
    assert quotas.create("one") is None and quotas["one"].size == 1
    quotas.create("many", 5)
    assert quotas.keys() == ["many", "one"] and len(quotas) == 2 and "one" in quotas and bool(quotas)
    assert (quotas["many"].name, quotas["many"].parent, bool(quotas["many"])) == ("many", quotas, False)
    quotas["many"].size = 6
    agent, job = _agent(queue), _job(queue, "one")
    assert _claim(queue, agent) == [job]
    quotas.create("one", 2)
    assert bool(quotas["one"]) and quotas["one"].size == 2 and list(quotas["one"]) == [job] and quotas["one"][0] is job
    quotas.remove("many")
    assert quotas.get("many") is None and quotas.keys() == ["one"]
    with pytest.raises(TypeError):
        quotas["new"] = quotas["one"]


def test_a_quota_takes_only_jobs_that_name_it_and_no_more_than_its_size(queue: Any) -> None:
    queue.quotas.create("one")
    quota, first, second = queue.quotas["one"], _job(queue, "one"), _job(queue, "one")
    transaction.commit()
    quota.add(first)
    quota.add(first)
    assert quota.filled and len(quota) == 1 and first in quota and second not in quota
    with pytest.raises(InvalidValueError, match="is filled: 1 jobs run"):
        quota.add(second)


def test_two_dispatchers_together_never_exceed_a_quota(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("two", 2)
    for _number in range(2):
        dispatch(threads=3)
    jobs = [_job(queue, "two", call=busy, args=(number,)) for number in range(24)]
    transaction.commit()
    for job in jobs:
        wait_for_result(job, 60)

    assert max(enginejobs.calls) <= 2 and sorted(job.result for job in jobs) == list(range(24))
    assert len({job.agent.parent.UUID for job in jobs}) >= 1 and running == []


def test_two_claims_cannot_take_the_last_place_of_a_quota_together(clients: Any, queue: Any) -> None:
    queue.quotas.create("one")
    agents = [_agent(queue), _agent(queue)]
    _jobs = [_job(queue, "one"), _job(queue, "one")]
    transaction.commit()
    managers = [transaction.TransactionManager() for _ in agents]
    connections = [clients().open(manager) for manager in managers]
    enginejobs.catch_up([queue._p_jar, *connections])
    for number, (connection, agent) in enumerate(zip(connections, agents, strict=True)):
        mine, name = connection.get(queue._p_oid), agent.parent.UUID
        wanted = _jobs[number]._p_oid
        taken = Taker(mine, mine.dispatchers[name].slot).take(1, None, lambda job, wanted=wanted: job._p_oid == wanted)
        assert len(taken) == 1
    managers[0].commit()
    with pytest.raises(ConflictError):
        managers[1].commit()
    for manager, connection in zip(managers, connections, strict=True):
        manager.abort()
        connection.close()


def test_a_member_leaves_its_quota_when_it_has_ended_or_waits_for_later_and_stays_when_it_is_put_back(
    queue: Any,
) -> None:
    queue.quotas.create("three", 3)
    agent, quota = _agent(queue), queue.quotas["three"]
    ended, later, back = (_job(queue, "three") for _ in range(3))
    assert _claim(queue, agent, 3) == [ended, later, back] and quota.filled
    ended._status_id = 2
    for job in (later, back):
        job.handleInterrupt()
    later._begin_after = utcnow() + timedelta(hours=1)
    quota.clean()

    assert list(quota) == [back] and not quota.filled
    quota.size = 1
    assert quota.filled and [one.job for one in Taker(queue, agent.slot).take(1)] == [back]


def test_a_claimed_job_keeps_its_place_though_it_be_too_early_by_the_clock_of_another_machine(queue: Any) -> None:
    queue.quotas.create("one")
    agent, due = _agent(queue), _job(queue, "one")
    due._begin_after = utcnow()
    set_now(utcnow() + timedelta(minutes=1))
    assert _claim(queue, agent, active=False) == [due]
    set_now(due._begin_after - timedelta(minutes=5))
    queue.quotas["one"].clean()
    assert list(queue.quotas["one"]) == [due]


def test_a_job_does_not_lose_its_place_to_a_machine_that_cleans_as_another_claims_it(queue: Any, db: Any) -> None:
    queue.quotas.create("one")
    agent, job, quota = _agent(queue), _job(queue, "one"), queue.quotas["one"]
    begin = job._begin_after = utcnow()
    set_now(begin + timedelta(minutes=1))
    assert _claim(queue, agent) == [job]
    queue.give_back(job, front=True)
    transaction.commit()
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    set_now(begin - timedelta(minutes=5))
    connection.get(quota._p_oid).clean()
    assert len(connection.get(quota._p_oid)) == 0
    set_now(begin + timedelta(minutes=1))
    assert _claim(queue, agent) == [job]
    with pytest.raises(ConflictError):
        manager.commit()
    manager.abort()
    connection.close()

    assert list(quota) == [job]


def test_the_jobs_of_a_dispatcher_that_stops_keep_their_places_and_come_again_first(queue: Any) -> None:
    queue.quotas.create("one")
    agent, job, waits = _agent(queue), _job(queue, "one"), _job(queue, "one")
    assert _claim(queue, agent) == [job]
    agent.parent.deactivate()
    transaction.commit()
    other = _agent(queue)
    assert list(queue) == [job, waits] and list(queue.quotas["one"]) == [job]
    assert _claim(queue, other, 2) == [job] and list(queue.quotas["one"]) == [job]


def test_a_quota_that_is_removed_keeps_its_jobs_neither_from_claims_nor_from_a_stop(queue: Any) -> None:
    queue.quotas.create("one")
    agent = _agent(queue)
    running, claimed, waits = (_job(queue, "one") for _ in range(3))
    assert _claim(queue, agent) == [running]
    queue.quotas.remove("one")
    transaction.commit()
    assert agent.claimJob() is claimed
    transaction.commit()
    agent.parent.deactivate()
    transaction.commit()
    assert {job._p_oid for job in queue} == {job._p_oid for job in (running, claimed, waits)}
    assert len(_claim(queue, _agent(queue), 9)) == 3


def test_jobs_that_wait_for_a_filled_quota_are_not_looked_at(queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.quotas.create("one")
    agent = _agent(queue)
    jobs = [_job(queue, "one") for _ in range(300)]
    transaction.commit()
    for _claim_number in range(20):
        _claim(queue, agent, 50)
    assert queue.counts()["parked"] == 299 and list(agent) == jobs[:1]
    looked, consider = [], claims.Taker.consider

    def count(self: Any, row: Any, *args: Any) -> Any:
        looked.append(row.job)
        return consider(self, row, *args)

    monkeypatch.setattr(claims.Taker, "consider", count)
    queue._p_jar.cacheMinimize()
    assert _claim(queue, agent, 50) == [] and looked == []
    assert sum(1 for job in jobs[1:] if job._p_changed is not None) == 0  # none was loaded
    queue.quotas["one"].discard(jobs[0])
    assert _claim(queue, agent, 50) == [jobs[1]] and len(looked) < 5
