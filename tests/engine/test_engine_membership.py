"""A dispatcher among others: it joins queues, pings before it claims, survives trouble, and follows its agents."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import dispatcher
from collective.zcasync import heartbeat
from collective.zcasync import local
from collective.zcasync import reactor
from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.events import DispatcherActivated
from collective.zcasync.events import DispatcherReactivated
from collective.zcasync.failure import Failure
from collective.zcasync.heartbeat import Heartbeat
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.membership import BESIDE
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import install
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from uuid import uuid4
from ZEO.Exceptions import ClientDisconnected

import enginejobs
import logging
import pytest
import threading
import time
import transaction
import zope.event


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[Any], None]], None]]:
    listeners: list[Any] = []

    def add(listener: Callable[[Any], None]) -> None:
        listeners.append(listener)
        zope.event.subscribers.append(listener)

    yield add
    for listener in listeners:
        zope.event.subscribers.remove(listener)


def _put(queue: Any, job: Job, **options: Any) -> Job:
    job = queue.put(job, **options)
    transaction.commit()
    return job


def _change(call: Callable[[], None]) -> None:
    """Commit a change that a dispatcher's claims may conflict with."""
    for manager in transaction.manager.attempts(20):
        with manager:
            call()


def _registered(queue: Any) -> DispatcherAgents:
    queue.dispatchers.register(name := uuid4())
    return queue.dispatchers[name]


# Pings


def test_a_ping_is_written_also_when_the_clock_was_put_back(queue: Any) -> None:
    set_now(now := utcnow())
    da = _registered(queue)
    da.activate()
    queue.dispatchers.ping(da.UUID)
    set_now(now - timedelta(minutes=10))
    queue.dispatchers.ping(da.UUID)
    assert da.last_ping.count == 2 and da.last_ping.value == now - timedelta(minutes=10)
    with pytest.raises(KeyError):
        queue.dispatchers.ping(uuid4())


def test_the_intervals_of_a_dispatcher_are_stored_with_it_and_followed_at_once(
    queue: Any, dispatch: Any, db: Any
) -> None:
    running = dispatch(poll_interval=1000)
    transaction.begin()
    da = queue.dispatchers[running.dispatcher.UUID]
    assert (da.ping_interval, da.ping_death_interval) == (timedelta(seconds=30), timedelta(seconds=60))
    count = da.last_ping.count

    def shorten() -> None:
        da.ping_interval, da.ping_death_interval = timedelta(seconds=0.1), timedelta(seconds=7)

    _change(shorten)
    poll_now(running.dispatcher)
    wait_until(queue, lambda: da.last_ping.count >= count + 3, 10, "more pings")
    with db.transaction() as other:
        stored = get_queues(other)[""].dispatchers[da.UUID]
        assert (stored.ping_interval, stored.ping_death_interval) == (timedelta(seconds=0.1), timedelta(seconds=7))


def test_a_clock_that_jumps_ten_minutes_either_way_buries_nobody(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DispatcherAgents, "ping_interval", timedelta(seconds=0.2))
    monkeypatch.setattr(DispatcherAgents, "ping_death_interval", timedelta(seconds=2))
    two = [dispatch(poll_interval=0.2) for _number in range(2)]
    transaction.begin()
    das = [queue.dispatchers[one.dispatcher.UUID] for one in two]
    for minutes in (10, -20):
        set_now(utcnow() + timedelta(minutes=minutes))
        transaction.begin()
        wanted = [da.last_ping.count + 12 for da in das]
        wait_until(
            queue,
            lambda wanted=wanted: all(da.last_ping.count >= count for da, count in zip(das, wanted, strict=True)),
            20,
            "pings for more than the death interval",
        )
    assert "is dead" not in caplog.text and all(da.activated for da in das)
    assert "ahead of that of the storage" in caplog.text
    assert max(abs(da.last_ping.skew) for da in das) > 500


def test_each_ping_tells_memory_version_and_skew(queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DispatcherAgents, "ping_interval", timedelta(seconds=0.1))
    running = dispatch()
    transaction.begin()
    da = queue.dispatchers[running.dispatcher.UUID]
    wait_until(queue, lambda: da.last_ping.skew is not None, 10, "a second ping")
    assert da.last_ping.memory > 10**7
    assert da.last_ping.version == da.process["version"] != ""
    assert abs(da.last_ping.skew) < heartbeat.SKEW


@pytest.mark.parametrize(
    ("skew", "level", "words"),
    [(2.5, "WARNING", "2.5 s ahead of"), (-3.0, "WARNING", "3.0 s behind"), (1.9, None, "")],
)
def test_a_skew_above_two_seconds_is_told_once_and_so_is_its_end(
    skew: float, level: str | None, words: str, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    beat = dispatch().dispatcher.heartbeat
    with caplog.at_level(logging.INFO, "collective.zcasync.events"):
        caplog.clear()
        for _ping in range(3):
            beat._report("a clock", skew)
        told = [(r.levelname, r.getMessage()) for r in caplog.records if "a clock" in r.getMessage()]
        assert [name for name, _text in told] == ([level] if level else [])
        assert all(words in text for _name, text in told)
        caplog.clear()
        for _ping in range(3):
            beat._report("a clock", 0.0)
        ends = [r.levelname for r in caplog.records if "agrees with that of a clock" in r.getMessage()]
        assert ends == (["INFO"] if level else [])


def test_a_dispatcher_pings_before_it_claims(queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    ping, hold = DispatcherAgents.ping, Agent.hold_all

    def noting_ping(self: Any, *args: Any) -> None:
        order.append("ping")
        ping(self, *args)

    def noting_hold(self: Any, *args: Any) -> None:
        order.append("claim")
        hold(self, *args)

    monkeypatch.setattr(DispatcherAgents, "ping", noting_ping)
    monkeypatch.setattr(Agent, "hold_all", noting_hold)
    job = _put(queue, Job(enginejobs.add, 1))
    dispatch()
    assert wait_for_result(job) == 1
    assert order[0] == "ping" and "claim" in order


def test_who_could_not_ping_claims_nothing_until_it_has_pinged_and_read_its_registration(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DispatcherAgents, "ping_interval", timedelta(seconds=0.2))
    monkeypatch.setattr(DispatcherAgents, "ping_death_interval", timedelta(seconds=1))
    running = dispatch(poll_interval=0.1)
    beat, write, away = running.dispatcher.heartbeat, Heartbeat._write, threading.Event()

    def write_or_fail(self: Any, connection: Any) -> Any:
        if away.is_set():
            raise ClientDisconnected("no server")
        return write(self, connection)

    monkeypatch.setattr(Heartbeat, "_write", write_or_fail)
    away.set()
    wait_until(queue, lambda: not beat.may_claim(), 10, "the end of claims")
    job = _put(queue, Job(enginejobs.note, 1))
    for _poll in range(3):
        poll_now(running.dispatcher)
    transaction.begin()
    assert job.active_start is None and enginejobs.calls == []
    away.clear()
    assert wait_for_result(job, 12) == 1
    assert beat.may_claim()


def test_after_a_late_ping_the_registration_is_read_before_the_next_claim(dispatch: Any) -> None:
    beat = dispatch(poll_interval=1000).dispatcher.heartbeat
    beat._unread = True
    assert not beat.may_claim()
    beat._pinged = time.monotonic() - 100
    beat.registration_was_read()
    assert not beat.may_claim(), "a registration that was read before the ping is too old"
    beat._pinged = time.monotonic()
    beat.registration_was_read()
    assert beat.may_claim()


def test_the_empty_registration_of_a_dead_dispatcher_goes_after_a_day(queue: Any, dispatch: Any) -> None:
    dead, holding = _registered(queue), _registered(queue)
    for da in (dead, holding):
        da.activate()
        da["main"] = Agent()
    dead.deactivate(died=True)
    held = queue.put(Job(enginejobs.add, 1))
    queue.claim()
    holding["main"].hold(held, False)
    slot, holding.activated = holding.slot, None
    transaction.commit()
    assert slot.running
    running = dispatch()
    transaction.begin()
    assert {dead.UUID, holding.UUID} < set(queue.dispatchers)
    set_now(utcnow() + timedelta(hours=25))
    poll_now(running.dispatcher)
    transaction.begin()
    assert dead.UUID not in queue.dispatchers, "it is empty"
    assert holding.UUID in queue.dispatchers, "it still holds a job"
    assert running.dispatcher.UUID in queue.dispatchers


# Joining


def test_a_queue_that_is_added_at_run_time_is_served_from_the_next_poll_on(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    _change(lambda: install(queue._p_jar, ("", "late")) and None)
    poll = poll_now(running.dispatcher)
    transaction.begin()
    assert set(poll) == {"", "late"}
    late = get_queues(queue._p_jar)["late"]
    assert late.dispatchers[running.dispatcher.UUID].activated
    assert wait_for_result(_put(late, Job(enginejobs.add, 1))) == 1


def test_a_subscriber_that_fails_at_activation_is_told_retried_and_keeps_no_other_queue(
    queue: Any, dispatch: Any, listen: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _change(lambda: install(queue._p_jar, ("", "awkward")) and None)
    failing = threading.Event()
    failing.set()

    def refuse(event: Any) -> None:
        if isinstance(event, DispatcherActivated) and event.object.queue.name == "awkward" and failing.is_set():
            raise ValueError("not this one")

    listen(refuse)
    running = dispatch()
    assert wait_for_result(_put(queue, Job(enginejobs.add, 1))) == 1
    transaction.begin()
    awkward = get_queues(queue._p_jar)["awkward"]
    assert len(awkward.dispatchers) == 0, "its activation was aborted"
    assert poll_now(running.dispatcher)["awkward"] is None
    assert "cannot join queue 'awkward'" in caplog.text and "not this one" in caplog.text
    failing.clear()
    poll_now(running.dispatcher)
    assert wait_for_result(_put(awkward, Job(enginejobs.add, 2))) == 2


def test_another_process_with_the_same_uuid_keeps_this_one_from_the_queue_until_it_is_gone(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    da = _registered(queue)
    da.activate()
    da.process = {"boot_id": "another machine", "pid": 7, "host": "apple", "started": 1, "pid_namespace": "x"}
    da["main"] = Agent()
    transaction.commit()
    running = dispatch(uuid=da.UUID)
    job = _put(queue, Job(enginejobs.add, 1))
    for _poll in range(2):
        assert poll_now(running.dispatcher) == {"": None}
    told = [record for record in caplog.records if "another process?" in record.getMessage()]
    assert [record.levelname for record in told if record.levelname != "DEBUG"] == ["ERROR"], "once is enough"
    assert "pid 7 on apple" in told[0].getMessage()
    transaction.begin()
    assert da.last_ping.count == 0, "it does not ping for the other"
    assert job.active_start is None

    def end() -> None:
        da.deactivate()

    _change(end)
    poll_now(running.dispatcher)
    assert wait_for_result(job) == 1
    assert da.process["incarnation"] == running.dispatcher.membership.process["incarnation"]


def test_a_false_death_is_told_with_an_event_and_cleans_nothing(
    queue: Any, dispatch: Any, listen: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    listen(lambda event: told.append(type(event)))
    running = dispatch(threads=1)
    job = _put(queue, Job(enginejobs.wait))
    assert enginejobs.started["a"].wait(10)
    transaction.begin()
    da = queue.dispatchers[running.dispatcher.UUID]
    _change(lambda: da.__setitem__("extra", Agent(size=1)))
    told.clear()
    _change(lambda: da.deactivate(died=True))
    poll_now(running.dispatcher)
    transaction.begin()
    assert DispatcherReactivated in told and DispatcherActivated not in told
    assert "taken for dead" in caplog.text
    assert da.activated and set(da) == {"main", "extra"}
    enginejobs.released["a"].set()
    assert wait_for_result(job, 12) == "a"


# Trouble


def test_the_polls_go_on_after_errors_in_them(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = dispatch(poll_interval=0.1)
    one, renew, open_, failures = (
        running.dispatcher,
        running.dispatcher.membership.renew,
        running.dispatcher.db.open,
        [],
    )

    def fail_thrice() -> None:
        if len(failures) < 3:
            failures.append("renew")
            raise ValueError("a poll that fails")
        renew()

    monkeypatch.setattr(one.membership, "renew", fail_thrice)
    wait_until(queue, lambda: len(failures) == 3, 20, "three failures")

    def refuse_once(*args: Any) -> Any:
        if threading.current_thread().name == "zcasync-claims" and "open" not in failures:
            failures.append("open")
            raise ClientDisconnected("no connection")
        return open_(*args)

    def lose_once() -> None:
        if "lost" not in failures:
            failures.append("lost")
            raise ClientDisconnected("gone")
        renew()

    monkeypatch.setattr(one.db, "open", refuse_once)
    monkeypatch.setattr(one.membership, "renew", lose_once)
    wait_until(queue, lambda: "open" in failures, 20, "the failure to open a connection")

    assert wait_for_result(_put(queue, Job(enginejobs.add, 1)), 20) == 1
    count = one.polls.count
    wait_until(queue, lambda: one.polls.count > count + 2, 20, "more polls")
    assert "a poll that fails" in caplog.text and "the database is away" in caplog.text


def test_a_claim_that_fails_in_one_queue_is_remembered_and_keeps_no_other_queue(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _change(lambda: install(queue._p_jar, ("", "awkward")) and None)
    running = dispatch()
    claim, failing = running.dispatcher.claimer._claim_once, threading.Event()
    failing.set()

    def claim_or_fail(name: str, *args: Any) -> Any:
        if name == "awkward" and failing.is_set():
            raise ValueError("a claim that fails")
        return claim(name, *args)

    monkeypatch.setattr(running.dispatcher.claimer, "_claim_once", claim_or_fail)
    poll = poll_now(running.dispatcher)
    error = poll["awkward"]["main"]["error"]
    assert isinstance(error, Failure) and error.check(ValueError)
    assert wait_for_result(_put(queue, Job(enginejobs.add, 1))) == 1
    assert "a claim in queue 'awkward' failed" in caplog.text
    awkward = get_queues(queue._p_jar)["awkward"]
    job = _put(awkward, Job(enginejobs.add, 2))
    failing.clear()
    assert wait_for_result(job, 12) == 2


# Threads and connections


def test_the_main_reactors_way_to_activate_works_too(queue: Any, db: Any) -> None:
    running = reactor.start(db, threads=1)
    try:
        running.dispatcher.deactivate()
        running.dispatcher.activate(threaded=True)
        assert running.dispatcher.activated
        with pytest.raises(ValueError, match="is active"):
            running.dispatcher.activate(threaded=True)
        assert wait_for_result(_put(queue, Job(enginejobs.add, 1))) == 1
    finally:
        running.stop()
    assert dispatcher.get(running.dispatcher.UUID) is None
    with pytest.raises(ValueError, match="not active"):
        running.dispatcher.deactivate()


def test_dispatchers_are_forgotten_by_pop_and_clear(dispatch: Any) -> None:
    one = dispatch().dispatcher
    assert dispatcher.pop(one.UUID) is one and dispatcher.get(one.UUID, "none") == "none"
    assert dispatcher.pop(one.UUID, "none") == "none"
    dispatcher._dispatchers[one.UUID] = one
    assert dispatcher.pop() is one
    dispatcher._dispatchers[one.UUID] = one
    dispatcher.clear()
    assert dispatcher.get(default="none") == "none"


def test_the_databases_pool_grows_and_shrinks_with_the_job_threads_and_is_restored(
    queue: Any, dispatch: Any, db: Any
) -> None:
    base = db.getPoolSize()
    queue.set_template("worker", "main", size=2)
    transaction.commit()
    running = dispatch(threads=None)
    assert db.getPoolSize() == base + BESIDE + 2
    _change(lambda: queue.set_template("worker", "main", size=5))
    poll_now(running.dispatcher)
    assert db.getPoolSize() == base + BESIDE + 5
    _change(lambda: queue.set_template("worker", "main", size=1))
    poll_now(running.dispatcher)
    assert db.getPoolSize() == base + BESIDE + 1
    running.stop()
    assert db.getPoolSize() == base


def note_connection() -> bool:
    """Whether what the last job has loaded is still there, in the same connection."""
    connection = local.getJob()._p_jar
    warm = connection._cache.get(connection.root()["loaded"]._p_oid) is not None
    connection.root()["loaded"].get("anything")
    enginejobs.calls.append((connection, connection.root()["loaded"]))
    return warm


def test_a_thread_works_in_a_warm_connection_that_it_closes_after_each_job(queue: Any, dispatch: Any) -> None:
    queue._p_jar.root()["loaded"] = enginejobs.mapping()
    dispatch(threads=1)
    jobs = [_put(queue, Job(note_connection))]
    wait_for_result(jobs[0])
    for _number in range(3):
        jobs.append(_put(queue, Job(note_connection)))
        wait_for_result(jobs[-1])
    connections = {id(connection): connection for connection, _loaded in enginejobs.calls}
    assert len(connections) == 1 and len({id(loaded) for _connection, loaded in enginejobs.calls}) == 1
    assert [job.result for job in jobs[1:]] == [True] * 3
    wait_until(queue, lambda: all(one.opened is None for one in connections.values()), 10, "that it is closed")


def _odd(job: Any) -> bool:
    return job.args[0] == "b"


def _even(job: Any) -> bool:
    return job.args[0] != "b"


def test_agents_are_added_resized_and_removed_while_the_others_go_on(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=None)
    one = running.dispatcher
    transaction.begin()
    da = queue.dispatchers[one.UUID]
    job = _put(queue, Job(enginejobs.wait, "a"))
    assert enginejobs.started["a"].wait(10)
    threads = list(one.queues[""]["main"].threads)

    def add() -> None:
        da["main"].filter = _even
        da["odd"] = Agent(filter=_odd, size=1)

    _change(add)
    poll_now(one)
    second = _put(queue, Job(enginejobs.wait, "b"))
    assert enginejobs.started["b"].wait(10)
    assert [pool.size for pool in one.queues[""].values()] == [3, 1]
    transaction.begin()
    with pytest.raises(ValueError, match="holds 1 jobs"):
        del da["odd"]
    transaction.abort()
    _change(lambda: setattr(da["odd"], "size", 2))
    poll_now(one)
    assert one.queues[""]["odd"].getSize() == 2
    enginejobs.released["b"].set()
    assert wait_for_result(second) == "b"
    wait_until(queue, lambda: len(da["odd"]) == 0, 10, "that the job is filed away")
    gone = list(one.queues[""]["odd"].threads)

    def remove() -> None:
        del da["odd"]

    _change(remove)
    poll_now(one)
    for thread in gone:
        thread.join(10)
    assert set(one.queues[""]) == {"main"} and not any(thread.is_alive() for thread in gone)
    assert one.queues[""]["main"].threads == threads and all(thread.is_alive() for thread in threads)
    enginejobs.released["a"].set()
    assert wait_for_result(job) == "a"
    assert wait_for_result(_put(queue, Job(enginejobs.note, "c"))) == "c"


def test_an_agent_that_is_removed_as_a_job_is_claimed_for_it_conflicts(queue: Any, clients: Any, db: Any) -> None:
    da = _registered(queue)
    da.activate()
    da["main"] = Agent()
    job = _put(queue, Job(enginejobs.add, 1))
    manager = transaction.TransactionManager()
    other = db.open(manager)
    remover = get_queues(other)[""].dispatchers[da.UUID]
    del remover["main"]
    assert queue.claim() is job
    da["main"].hold(job, True)
    transaction.commit()
    with pytest.raises(transaction.interfaces.TransientError):
        manager.commit()
    manager.abort()
    other.close()
    transaction.begin()
    assert da["main"].jobs() == [job] and job.status != COMPLETED


# What a dispatcher holds


def test_what_a_dispatcher_holds_at_its_end_goes_back_is_interrupted_resumed_or_filed_away(queue: Any) -> None:
    queue.quotas.create("gone", 5)
    da = _registered(queue)
    da.activate()
    da["main"] = agent = Agent(size=5)
    assigned, active, callbacks, completed = (queue.put(Job(enginejobs.note, number)) for number in range(4))
    assigned.quota_names = ("gone",)
    callbacks.addCallback(enginejobs.note)
    transaction.commit()
    for job in (assigned, active, callbacks, completed):
        assert agent.claimJob() is job
    queue.quotas.remove("gone")
    since, assigner = assigned.begin_after, assigned.assignerUUID
    active._begin(utcnow())
    for job in (callbacks, completed):
        job._begin(utcnow())
        job._finish("result", utcnow())
    transaction.commit()
    da.deactivate()
    transaction.commit()

    assert [job.status for job in (assigned, active, callbacks, completed)] == [PENDING, PENDING, CALLBACKS, COMPLETED]
    assert (assigned.begin_after, assigned.assignerUUID) == (since, assigner) and since is not None
    assert set(queue) == {assigned, active} and list(queue.finished()) == [completed]
    assert (dict(assigned.policy_data), active.policy_data["stops"], da.slot) == ({}, 1, None)
    assert [taken for taken in Taker(queue).take(5) if taken.job is callbacks] == [(callbacks, "resume")]
    with pytest.raises(ValueError, match="not active"):
        da.deactivate()


def test_agents_with_jobs_cannot_be_added_replaced_or_removed(queue: Any) -> None:
    da, other = _registered(queue), _registered(queue)
    da.activate()
    other.activate()
    da["main"] = agent = Agent()
    da["spare"] = Agent()
    _put(queue, Job(enginejobs.add, 1))
    job = agent.claimJob()
    transaction.commit()
    with pytest.raises(ValueError, match="an agent is wanted"):
        da["other"] = job
    with pytest.raises(ValueError, match="holds jobs already"):
        other["main"] = agent
    with pytest.raises(ValueError, match="holds 1 jobs"):
        da["main"] = Agent()
    with pytest.raises(ValueError, match="holds 1 jobs"):
        del da["main"]
    del da["spare"]
    assert dict(da) == {"main": agent} and agent.jobs() == [job]
    assert queue.counts()["running"] == 1
