"""Commits that were stored, while the server seems gone before it has said so; and servers that go as work begins."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import execution
from collective.zcasync import transactions
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from enginemodel import a_world
from enginemodel import World
from twisted.internet import defer
from typing import Any
from ZEO.Exceptions import ClientDisconnected

import enginejobs
import pytest
import threading
import transaction

#: What jobs have returned.
made: list[Any] = []


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as world:
        yield world


def put(world: World, policy: str | None = None) -> int:
    client = world.clients[0]
    client.begin()
    job = world.new_job(policy)
    client.queue.put(job)
    client.then = [world.learn(job)]
    assert client.commit()
    return int(job.args[0])


def deferred_job(*_result: Any) -> Any:
    made.append(defer.Deferred())
    return made[-1]


def put_now(queue: Any, job: Any, **options: Any) -> Any:
    queue.put(job, **options)
    transaction.commit()
    return job


def perform(job: Any, kind: str = "run") -> str:
    """What a thread does with a claimed job; what it would report of it."""
    database = job._p_jar.db()
    report = execution.perform(database, job._p_oid, kind, job.token, Surroundings(database))
    transaction.begin()
    return report


def test_a_server_that_is_gone_as_a_transaction_begins_is_waited_for(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = transaction.TransactionManager()
    begin, refused, calls = manager.begin, [ClientDisconnected("gone")], []

    def begin_later() -> Any:
        if refused:
            raise refused.pop()
        return begin()

    monkeypatch.setattr(manager, "begin", begin_later)
    transactions.surely(lambda: calls.append(1), "a test", manager, queue._p_jar.db(), threading.Event())
    assert (refused, calls) == ([], [1])


def test_what_threads_have_reported_is_kept_when_the_server_is_gone_as_a_claim_begins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, number = world.start(1, 0), put(world)
    world.take(one).advance()
    with monkeypatch.context() as patch:

        def sync(force: bool = True) -> None:
            raise ClientDisconnected("gone")

        patch.setattr(one.connection._storage, "sync", sync)
        with pytest.raises(ClientDisconnected):
            one.claimer.claim("", True, True, 1)
    world.claim(one, True, True).advance()
    slots = world.look().slots.values()
    assert [slot.running for slot in slots] == [{}]
    assert world.observer.job(number)._status_id == 3


def test_a_job_that_came_back_and_was_claimed_anew_without_an_answer_runs(world: World, lose_answer: Any) -> None:
    one, number = world.start(1, 0), put(world, "enginemodel:Scripted")
    world.take(one).advance(outcome="raise", answer=timedelta(0))  # it waits again, which its thread has reported
    while world.committed_token(world.oids[number]) is None:
        lost = lose_answer("MainThread")
        try:
            one.claimer.claim("", True, True, 1)
        except ClientDisconnected:
            assert lost.is_set()
    assert world.committed_token(world.oids[number]) is not None and not world.startable()
    world.take(one).advance()
    world.look()
    assert world.observer.job(number).outcome == "succeeded"


def test_a_late_callback_of_a_job_that_was_claimed_anew_for_it_without_an_answer_runs(
    world: World, lose_answer: Any
) -> None:
    one, number = world.start(1, 0), put(world)
    world.take(one).advance()  # its thread has reported that it ended, and how
    client = world.clients[0]
    client.begin()
    late = world.new_job()
    client.connection.root()["more"] = 1  # so that the callback has to run as a job
    client.job(number).addCallback(late)
    client.then = [world.learn(late)]
    assert client.commit()
    lose_answer("MainThread")
    with pytest.raises(ClientDisconnected):
        one.claimer.claim("", True, True, 1)
    assert world.committed_token(world.oids[number]) is not None and not world.startable()
    world.take(one).advance()
    world.look()
    assert world.observer.job(int(late.args[0]))._status_id == 3 == world.observer.job(number)._status_id


def test_the_end_of_a_job_that_was_not_begun_in_time_is_not_stored_for_ever(
    queue: Any, dispatch: Any, lose_answer: Any
) -> None:
    dispatch(threads=1)
    lost = lose_answer("zcasync-main")
    past = clock.utcnow() - timedelta(hours=1)
    job = put_now(queue, Job(enginejobs.count), begin_after=past, begin_by=timedelta(seconds=1))

    assert wait_for_result(put_now(queue, Job(enginejobs.note, "behind"))) == "behind", "its thread is free again"
    assert lost.is_set()
    transaction.begin()
    assert (job.status, job.outcome) == (COMPLETED, "failed")


def test_the_end_of_an_interrupted_job_is_not_stored_for_ever(queue: Any, lose_answer: Any) -> None:
    agent = enginejobs.make_agent(queue)
    put_now(queue, Job(enginejobs.count), retry_policy_factory="NeverRetry")
    job = agent.claimJob()
    job._begin(clock.utcnow())
    job.interrupted_by = "death"
    transaction.commit()
    lost = lose_answer("MainThread")

    assert perform(job) == "finished"
    assert lost.is_set() and job.result.check(AbortedError)


def test_the_end_of_a_callback_that_comes_too_late_is_not_stored_for_ever(queue: Any, lose_answer: Any) -> None:
    agent = enginejobs.make_agent(queue)
    job, late = Job(enginejobs.note, "done"), Job(enginejobs.note)
    late.begin_by = timedelta(0)
    job.addCallback(late)
    put_now(queue, job)
    agent.claimJob()
    transaction.commit()
    lost = lose_answer("MainThread", 2)

    assert perform(job) == "finished"
    assert lost.is_set() and (job.status, late.outcome) == (COMPLETED, "failed")


def test_a_job_whose_deferred_has_fired_is_filed_away_though_no_answer_came(
    queue: Any, dispatch: Any, lose_answer: Any
) -> None:
    running = dispatch(threads=1)
    job = put_now(queue, Job(deferred_job))

    def waits() -> bool:
        return any(slot.deferreds for slot in queue.slots.values())

    assert wait_until(queue, waits, what="a job that waits for its Deferred")
    lost = lose_answer("zcasync-deferreds")
    running.reactor.callFromThread(made.pop().callback, 7)

    assert wait_for_result(job) == 7
    assert wait_until(queue, lambda: not waits(), what="the job's way into the history")
    assert lost.is_set()


def test_a_job_that_comes_back_for_its_callbacks_waits_for_its_deferred_no_longer(queue: Any) -> None:
    agent = enginejobs.make_agent(queue)
    job = put_now(queue, Job(enginejobs.count))
    slot = agent.slot
    slot.deferreds = {job._p_oid: (job, agent.name)}
    slot.hold(agent.name, iter([job]))
    assert (list(slot.running), slot.deferreds) == ([job._p_oid], {})


def test_a_callback_whose_deferred_belongs_to_a_dispatcher_that_was_taken_for_dead_ends(queue: Any) -> None:
    agent = enginejobs.make_agent(queue)
    job, callback = Job(enginejobs.note, "done"), Job(deferred_job)
    job.addCallback(callback)
    last = job.addCallback(enginejobs.note)
    put_now(queue, job)
    agent.claimJob()
    transaction.commit()
    assert perform(job) == "deferred"
    queue.give_back(job)  # as a takeover does that came before its commit
    transaction.commit()
    agent.claimJob()
    transaction.commit()

    assert perform(job, "resume") == "finished"
    assert callback.result.check(AbortedError) and (job.status, last.outcome) == (COMPLETED, "succeeded")


@pytest.mark.parametrize("look", [len, lambda queue: queue.put(Job(enginejobs.add, 1)), lambda queue: list(queue)])
def test_an_inbox_that_cannot_be_loaded_is_told_as_what_it_is(
    look: Callable[[Any], Any], queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for inbox in queue.inboxes:
        inbox._p_deactivate()

    def gone(*args: Any) -> Any:
        raise ClientDisconnected("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(queue._p_jar._storage, "load", gone)
        with pytest.raises(ClientDisconnected, match="the server is gone"):
            look(queue)
    transaction.abort()
    assert len(queue) == 0
