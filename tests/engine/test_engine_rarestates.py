"""Jobs in states that are rarely met, as two change them at once, or by hand: none is lost, or in two places."""

from collections.abc import Callable
from collective.zcasync import actions
from collective.zcasync import bulk
from collective.zcasync import direct
from collective.zcasync import outcomes
from collective.zcasync import persistence
from collective.zcasync import places
from collective.zcasync import sweeping
from collective.zcasync import takeover
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.retry import NeverRetry
from collective.zcasync.upkeep import Upkeep
from datetime import timedelta
from enginejobs import make_agent
from enginejobs import put_and_commit
from enginejobs import run_and_file
from twisted.internet.defer import Deferred
from types import SimpleNamespace
from typing import Any
from ZODB.POSException import ConflictError

import enginejobs
import pytest
import transaction


class Later(NeverRetry):
    """A policy that wants another attempt in an hour."""

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        return timedelta(hours=1)


deferreds: list[Deferred[Any]] = []


def returns_a_job(result: Any) -> Job:
    return Job(enginejobs.note, "inner")


def returns_a_deferred(result: Any) -> Deferred[Any]:
    deferreds[:] = [Deferred()]
    return deferreds[0]


def _filed(queue: Any, agent: Any) -> Job:
    """A job that is in the history."""
    job = put_and_commit(queue, Job(enginejobs.add, 5))
    run_and_file(queue, agent)
    assert list(queue.finished()) == [job]
    return job


def test_a_failed_job_is_filed_once_though_a_claim_finds_it_as_its_last_callback_has_ended(
    queue: Any, clients: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, job, run = make_agent(queue), Job(enginejobs.add), direct.run_callbacks
    job.addCallback(enginejobs.note)
    put_and_commit(queue, job)

    def run_and_be_overtaken(*args: Any) -> str:
        ended = run(*args)
        with clients().transaction() as connection:
            mine = get_queue(connection)
            Taker(mine, mine.slots[agent.slot.number]).take(5)
        return ended

    monkeypatch.setattr(direct, "run_callbacks", run_and_be_overtaken)
    job.fail()
    transaction.begin()
    Taker(queue, agent.slot).take(5)
    transaction.commit()

    assert list(queue.finished()) == [job] and queue.counts()["failed"] == 1


def test_a_job_that_was_set_aside_is_in_one_place_when_it_is_failed(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.add))
    Taker(queue, agent.slot).set_aside(queue._find(job), "nobody knows its callable")
    transaction.commit()
    job.fail(ValueError("given up"))
    run_and_file(queue, agent)

    assert list(queue.quarantined()) == [] and queue.counts()["quarantined"] == 0
    assert list(queue.finished()) == [job]


def _standing_alone(queue: Any, agent: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
    """A callback that has ended, as has its job; and one behind it, for which it stands in the queue itself."""
    job = Job(enginejobs.add, 5)
    alone = job.addCallback(enginejobs.add)
    put_and_commit(queue, job)
    run_and_file(queue, agent)
    queue._p_jar.root()["mine"] = 1
    late = alone.addCallback(*args, **options)
    transaction.commit()
    assert alone.parent is queue and job.status == COMPLETED
    return alone, late


def test_a_callback_that_wants_to_wait_lets_one_wait_that_stands_in_the_queue_itself(queue: Any) -> None:
    agent = make_agent(queue)
    alone, late = _standing_alone(queue, agent, enginejobs.fails_first, retry_policy_factory=Later)
    run_and_file(queue, agent)

    assert enginejobs.calls == ["tried"] and alone.status == CALLBACKS and queue.counts()["later"] == 1
    set_now(utcnow() + timedelta(hours=1, seconds=1))
    run_and_file(queue, agent)
    assert late.result == "after 5" and alone.status == COMPLETED and enginejobs.calls == ["tried", "tried"]


def test_a_callback_that_comes_to_stand_in_the_queue_itself_gets_the_mail_of_those_behind_it(queue: Any) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add, 5)
    alone, other = job.addCallback(enginejobs.add), job.addCallback(enginejobs.add)
    behind = alone.addCallback(enginejobs.add)
    put_and_commit(queue, job)
    assert agent.claimJob() is job
    job._finish(5, utcnow())
    for one in (alone, behind):
        one._begin(utcnow())
        one._finish(5, utcnow())
    alone._complete(utcnow())
    transaction.commit()
    told = behind.addCallback(enginejobs.note)
    transaction.commit()
    assert len(agent.slot.mailbox) == 1
    other._begin(utcnow())
    other._finish(5, utcnow())
    job._complete(utcnow())
    transaction.commit()
    alone.addCallback(enginejobs.add)  # the mail is not opened yet, and the job has ended
    transaction.commit()
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "finished")])
    transaction.commit()
    run_and_file(queue, agent)

    assert told.result == 5 and len(agent.slot.mailbox) == 0


def test_a_job_that_is_set_aside_as_somebody_cancels_it_is_in_one_place(queue: Any, db: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.add))
    queue.take_out(job)
    agent.slot.backlog("")[job.key] = job
    agent.slot.count("backlog", 1)
    transaction.commit()
    Taker(queue, agent.slot).set_aside(queue._find(job), "nobody knows its callable")
    manager = transaction.TransactionManager()
    other = db.open(manager)
    assert get_queue(other).cancel(other.get(job._p_oid)) == "cancelled"
    manager.commit()
    other.close()
    with pytest.raises(ConflictError):
        transaction.commit()
    transaction.abort()


@pytest.mark.parametrize("where", ["waits", "runs"])
def test_a_job_whose_late_callback_is_to_run_cannot_be_deleted(where: str, queue: Any) -> None:
    agent = make_agent(queue)
    job = _filed(queue, agent)
    queue._p_jar.root()["mine"] = 1
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    if where == "runs":
        assert agent.claimJob() is job
        transaction.commit()
    with pytest.raises(BadStatusError):
        actions.delete(job)
    assert bulk.delete_all(queue, ("finished",)) == {}
    transaction.begin()
    if where == "runs":
        sweeping.put_back(queue, agent.slot, job)
        transaction.commit()
    run_and_file(queue, agent)
    assert late.result == 5 and list(queue.finished()) == [job]


def test_a_job_that_is_deleted_after_its_late_callback_has_run_does_not_come_back(queue: Any) -> None:
    agent = make_agent(queue)
    job = _filed(queue, agent)
    late = job.addCallback(enginejobs.note)  # runs here, and leaves the job in an inbox
    assert late.result == 5 and queue.counts()["waiting"] == 1
    actions.delete(job)
    transaction.commit()
    run_and_file(queue, agent)

    assert list(queue.finished()) == [] and queue.counts()["succeeded"] == queue.counts()["waiting"] == 0


@pytest.mark.parametrize("way", ["called", "removed"])
def test_a_callback_in_the_mail_of_a_job_that_is_taken_from_its_agent_by_hand_runs(way: str, queue: Any) -> None:
    agent, other, job = make_agent(queue), make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    assert agent.claimJob() is job
    transaction.commit()
    told = job.addCallback(enginejobs.note)
    transaction.commit()
    assert len(agent.slot.mailbox) == 1
    if way == "called":
        assert job() == 5
    else:
        agent.remove(job)
        queue.putBack(job)
        transaction.commit()
    run_and_file(queue, other)

    assert told.result == 5 and len(agent.slot.mailbox) == 0 and list(queue.finished()) == [job]


@pytest.mark.parametrize("kind", [returns_a_job, returns_a_deferred])
def test_a_late_callback_that_waits_ends_with_what_it_waits_for_and_not_with_the_lease(
    kind: Callable[[Any], Any], queue: Any
) -> None:
    agent = make_agent(queue)
    job = _filed(queue, agent)
    late, behind = job.addCallback(kind), job.addCallback(enginejobs.note)
    transaction.commit()
    assert (late.status, behind.result) == ("active-status", None)
    if kind is returns_a_deferred:
        deferreds[0].callback("inner")
    transaction.begin()
    run_and_file(queue, agent)

    assert late.result == "inner" and behind.result == 5 and job.status == COMPLETED


def test_a_job_that_is_put_back_never_gets_a_key_under_which_something_of_it_lies(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter([5, 4, 4])
    monkeypatch.setattr(
        persistence, "random", SimpleNamespace(getrandbits=lambda bits: next(draws), randint=lambda first, last: last)
    )
    agent, moment = make_agent(queue), utcnow() + timedelta(hours=1)
    job = queue.put(Job(enginejobs.note, "never"), begin_after=moment)
    Taker(queue, agent.slot).take(1)
    key = job.key
    places._thread.left = 0
    monkeypatch.setattr("collective.zcasync.puts.my_shard", lambda count: 0)
    other = queue.put(Job(enginejobs.note, "later"), begin_after=moment)
    assert other.key == key - 1
    queue.cancel(job)

    assert job.key != key


def test_a_job_with_two_entries_that_cannot_be_loaded_is_set_aside_once(queue: Any) -> None:
    agent = make_agent(queue)
    job = queue.put(Job(enginejobs.add, 5), begin_after=utcnow() + timedelta(hours=1))
    assert Taker(queue, agent.slot).take(1) == []
    stale = queue._find(job)
    queue.cancel(job)
    transaction.commit()
    for row in (queue._find(job), stale):  # a process that lacks its class does not know which of them is stale
        Taker(queue, agent.slot).set_aside(row, "its class cannot be loaded")
    transaction.commit()
    assert len(list(queue.quarantined())) == queue.counts()["quarantined"] == 1
    actions.release(job)
    transaction.commit()
    run_and_file(queue, agent)

    assert list(queue.quarantined()) == [] and list(queue.finished()) == [job]


@pytest.mark.parametrize("told_when", ["before", "after"])
def test_a_callback_in_the_mail_of_a_job_that_was_set_aside_runs_when_it_is_released(
    told_when: str, queue: Any
) -> None:
    first, second, job = make_agent(queue), make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    assert first.claimJob() is job
    transaction.commit()
    told = job.addCallback(enginejobs.note) if told_when == "before" else None
    transaction.commit()
    sweeping.sweep(queue, first.slot, [(job._p_oid, "unreadable")])
    transaction.commit()
    told = told or job.addCallback(enginejobs.note)
    transaction.commit()
    actions.release(job)
    transaction.commit()
    run_and_file(queue, second)

    assert told.result == 5 and list(queue.finished()) == [job] and len(first.slot.mailbox) == 0


def test_a_callback_in_the_mail_of_a_job_that_was_set_aside_runs_when_that_is_cancelled(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, job = make_agent(queue), make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    assert first.claimJob() is job
    transaction.commit()
    told = job.addCallback(enginejobs.note)
    transaction.commit()
    with monkeypatch.context() as patch:
        patch.setattr(takeover, "_status", lambda job: None)  # its class is missing where its dispatcher is buried
        first.parent.deactivate(died=True)
    transaction.commit()
    assert queue.cancel(job) == "cancelled"
    transaction.commit()
    run_and_file(queue, second)

    assert told.status == COMPLETED and list(queue.finished()) == [job] and list(queue.quarantined()) == []


def test_an_agent_whose_job_waits_for_a_deferred_cannot_be_removed(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    assert agent.claimJob() is job
    job._begin(utcnow())
    outcomes.keep(job, Deferred(), utcnow())
    transaction.commit()
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "deferred")])
    transaction.commit()
    with pytest.raises(InvalidValueError, match="holds 1 job"):
        del agent.parent["main"]


def test_a_job_that_waits_and_was_claimed_by_a_claim_that_had_no_answer_is_given_back(queue: Any) -> None:
    agent = make_agent(queue)
    job = _filed(queue, agent)
    late = job.addCallback(returns_a_job)
    transaction.commit()
    assert late.status == "active-status" and [one.job for one in Taker(queue, agent.slot).take(1)] == [job]
    agent.hold(job, True)
    transaction.commit()
    claimer = SimpleNamespace(tokens={})
    upkeep = Upkeep(SimpleNamespace(queues={}, claimer=claimer))
    upkeep.doubtful.add("")
    upkeep.see_to("", queue, agent.slot, False, set)
    transaction.commit()
    run_and_file(queue, agent)

    assert late.result == "inner" and job.status == COMPLETED


def test_a_callback_that_came_by_mail_for_an_ended_one_runs_though_its_job_ends_as_the_mail_is_opened(
    queue: Any, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, job, complete = make_agent(queue), Job(enginejobs.add, 5), Job._complete
    ended, other = job.addCallback(enginejobs.add), job.addCallback(enginejobs.add)
    put_and_commit(queue, job)
    assert agent.claimJob() is job
    job._finish(5, utcnow())
    ended._begin(utcnow())
    ended._finish(5, utcnow())
    transaction.commit()
    told = ended.addCallback(enginejobs.note)
    transaction.commit()
    other._begin(utcnow())
    other._finish(5, utcnow())
    job._complete(utcnow())
    transaction.commit()
    assert len(agent.slot.mailbox) == 1
    manager = transaction.TransactionManager()
    connection = db.open(manager)

    def sweep_meanwhile(self: Any, now: Any) -> None:
        if self is job and get_queue(connection).slots[agent.slot.number].running:
            manager.begin()
            mine = get_queue(connection)
            sweeping.sweep(mine, mine.slots[agent.slot.number], [(job._p_oid, "finished")])
            manager.commit()
        complete(self, now)

    monkeypatch.setattr(Job, "_complete", sweep_meanwhile)
    job.addCallback(enginejobs.add)  # it runs here, and then the job is to end once more
    run_and_file(queue, agent)
    connection.close()

    assert told.result == 5 and [one.status for one in (job, ended)] == [COMPLETED, COMPLETED]


def test_who_ends_a_callback_as_one_behind_it_gets_a_late_one_conflicts(queue: Any, db: Any) -> None:
    job = Job(enginejobs.add, 5)
    callback = job.addCallback(enginejobs.add)
    behind = callback.addCallback(enginejobs.add)
    put_and_commit(queue, job)
    for one in (job, callback, behind):
        one._begin(utcnow()) if one is not job else None
        one._finish(5, utcnow())
    transaction.commit()
    manager = transaction.TransactionManager()
    other = db.open(manager)
    other.get(callback._p_oid)._complete(utcnow())
    behind.addCallback(enginejobs.note)
    transaction.commit()
    assert behind.status == CALLBACKS
    with pytest.raises(ConflictError):
        manager.commit()
    manager.abort()
    other.close()


@pytest.mark.parametrize("way", ["resumed by hand", "late callback"])
def test_a_job_that_was_set_aside_after_its_end_is_in_one_place_when_its_callbacks_run_by_hand(
    way: str, queue: Any
) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add, 5)
    callback = job.addCallback(enginejobs.note) if way == "resumed by hand" else None
    put_and_commit(queue, job)
    queue.cancel(job)
    Taker(queue, agent.slot).set_aside(queue._find(job), "its class cannot be loaded")
    transaction.commit()
    if callback is not None:
        job.resumeCallbacks()
    else:
        callback = job.addCallback(enginejobs.note)
    transaction.begin()
    run_and_file(queue, agent)

    assert callback.status == COMPLETED and list(queue.finished()) == [job]
    assert list(queue.quarantined()) == [] and queue.counts()["quarantined"] == 0


def test_a_callback_in_the_mail_of_a_job_that_is_filed_by_hand_runs(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    assert agent.claimJob() is job
    transaction.commit()
    told = job.addCallback(enginejobs.note)
    transaction.commit()
    job._finish(5, utcnow())
    agent.completed.add(job)
    transaction.commit()
    run_and_file(queue, agent)

    assert told.result == 5 and list(queue.finished()) == [job] and len(agent.slot.mailbox) == 0


def test_a_job_that_was_set_aside_after_its_end_can_be_deleted(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    job.addCallback(enginejobs.note)
    queue.cancel(job)
    Taker(queue, agent.slot).set_aside(queue._find(job), "its class cannot be loaded")
    transaction.commit()
    actions.delete(job)

    assert list(queue.quarantined()) == [] and queue.counts()["quarantined"] == 0


def test_a_job_that_was_claimed_again_and_has_not_begun_counts_no_death(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    assert agent.claimJob() is job
    agent.slot.started = frozenset([job._p_oid])
    transaction.commit()
    queue.give_back(job)  # as its thread does; the claim that takes it again comes before the report
    transaction.commit()
    assert agent.claimJob() is job
    transaction.commit()
    agent.parent.deactivate(died=True)
    transaction.commit()

    assert (job.deaths, job.attempt_log, list(queue)) == (0, (), [job])
