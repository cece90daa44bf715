"""Registration, pings, life and death of dispatchers, and their agents."""

from collective.zcasync import dispatcher
from collective.zcasync.agent import addMainAgentActivationHandler
from collective.zcasync.agent import Agent
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.events import DispatcherActivated
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IFilterAgent
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.neighbours import GROW_AFTER
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.reactor import start
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from datetime import timedelta
from persistent.mapping import PersistentMapping
from typing import Any
from uuid import uuid4

import enginejobs
import gc
import logging
import os
import pytest
import threading
import transaction
import zope.event


def _registered(queue: Any) -> DispatcherAgents:
    queue.dispatchers.register(name := uuid4())
    return queue.dispatchers[name]


def test_registration_activation_and_their_ends_are_told(queue: Any) -> None:
    told: list[str] = []
    zope.event.subscribers.append(listen := lambda event: told.append(type(event).__name__))
    try:
        da = _registered(queue)
        with pytest.raises(ValueError, match="registered already"):
            queue.dispatchers.register(da.UUID)
        da.activate()
        with pytest.raises(ValueError, match="is active"):
            queue.dispatchers.unregister(da.UUID)
        da.deactivate()
        with pytest.raises(ValueError, match="not active"):
            da.deactivate()
        assert queue.dispatchers.unregister(da.UUID) is da
    finally:
        zope.event.subscribers.remove(listen)
    dispatcher_events = [name for name in told if name.startswith("Dispatcher")]
    assert dispatcher_events == [
        "DispatcherRegistered",
        "DispatcherActivated",
        "DispatcherDeactivated",
        "DispatcherUnregistered",
    ]
    assert da.UUID not in queue.dispatchers


def test_dispatchers_are_a_mapping_by_uuid_that_cannot_be_assigned_to(queue: Any) -> None:
    names = [uuid4() for _ in range(5)]
    for name in names:
        queue.dispatchers.register(name)
    das = queue.dispatchers
    assert list(das) == das.keys() == sorted(names) and len(das) == 5
    assert [da.UUID for da in das.values()] == sorted(names) and das.items() == [(da.UUID, da) for da in das.values()]
    assert das.get(uuid4(), "none") == "none" and names[0] in das and uuid4() not in das
    with pytest.raises(TypeError):
        das[names[0]] = das[names[1]]
    with pytest.raises(TypeError):
        del das[names[0]]
    for call in (das.unregister, das.ping, das.__getitem__):
        with pytest.raises(KeyError):
            call(uuid4())
    assert das.keys() == sorted(names)


def test_death_counts_from_the_last_ping_or_the_activation_whichever_is_newer(queue: Any) -> None:
    set_now(now := utcnow())
    da = _registered(queue)
    assert not da.dead, "it never worked"
    da.activate()
    with pytest.raises(ValueError, match="is active"):
        da.activate()
    for seconds, dead in ((60, False), (60.001, True)):
        set_now(now + timedelta(seconds=seconds))
        assert da.dead is dead
    queue.dispatchers.ping(da.UUID)
    assert not da.dead
    set_now(now + timedelta(seconds=121))
    assert da.dead
    da.ping_death_interval = timedelta(seconds=90)
    assert not da.dead
    set_now(now + timedelta(seconds=151))
    da.deactivate()
    assert da.dead, "also when it is not active any more"


def test_a_ping_is_written_when_it_is_due_and_brings_the_buried_back(
    queue: Any, caplog: pytest.LogCaptureFixture
) -> None:
    set_now(now := utcnow())
    da = _registered(queue)
    da.activate()
    queue.dispatchers.ping(da.UUID)
    set_now(now + timedelta(seconds=29))
    queue.dispatchers.ping(da.UUID)
    assert (da.last_ping.value, da.last_ping.count, da.dead) == (now, 1, False)
    now += timedelta(seconds=30)
    set_now(now)
    queue.dispatchers.ping(da.UUID)
    assert (da.last_ping.value, da.last_ping.count) == (now, 2)
    set_now(now + timedelta(seconds=61))
    assert da.dead
    da.deactivate()
    with caplog.at_level(logging.CRITICAL, "collective.zcasync"):
        queue.dispatchers.ping(da.UUID)
    assert da.activated and not da.dead and "taken for dead" in caplog.text


def test_a_silent_dispatcher_is_buried_and_its_job_runs_elsewhere(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DispatcherAgents, "ping_interval", timedelta(seconds=0.2))
    monkeypatch.setattr(DispatcherAgents, "ping_death_interval", timedelta(seconds=0.8))
    first = dispatch(threads=1)
    job = queue.put(Job(enginejobs.wait))
    transaction.commit()
    assert enginejobs.started["a"].wait(6)
    first.crash()
    enginejobs.started["a"].clear()
    dispatch(threads=1, poll_interval=0.1)
    assert enginejobs.started["a"].wait(10)
    enginejobs.released["a"].set()

    assert wait_for_result(job) == "a"
    buried = queue.dispatchers[first.dispatcher.UUID]
    assert buried.activated is None and buried.slot is None, "it can be seen for a day"


def test_a_dispatcher_that_is_wrongly_buried_comes_back_and_works(queue: Any, dispatch: Any) -> None:
    running = dispatch(poll_interval=0.1)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID].deactivate(died=True)
    transaction.commit()
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()

    assert wait_for_result(job) == 1
    assert queue.dispatchers[running.dispatcher.UUID].activated


def test_what_was_ended_for_a_dispatcher_that_is_wrongly_buried_stores_nothing_any_more(
    queue: Any, dispatch: Any
) -> None:
    """Its thread begins a new transaction after that, so that no conflict keeps the commit out."""
    running, root = dispatch(poll_interval=0.1, threads=1), queue._p_jar.root()
    root["two"] = PersistentMapping()
    job = queue.put(Job(enginejobs.abort_and_wait))
    job.policy = "NeverRetry"
    transaction.commit()
    assert enginejobs.started["a"].wait(6)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID].deactivate(died=True)
    transaction.commit()
    assert (job.status, type(job.result.value)) == (COMPLETED, AbortedError)
    enginejobs.released["a"].set()
    after = queue.put(Job(enginejobs.add, 1))  # the one thread is free again
    transaction.commit()

    assert wait_for_result(after) == 1
    assert "effect" not in root["two"]
    assert (job.status, type(job.result.value)) == (COMPLETED, AbortedError)


def test_a_free_slot_is_taken_again_with_what_lies_in_it(queue: Any, dispatch: Any) -> None:
    first = dispatch()
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    wait_for_result(job)
    first.stop()
    second = dispatch()
    transaction.begin()

    assert len(queue.slots) == 1
    assert queue.slots[0].owner == str(second.dispatcher.UUID)
    assert list(queue.finished()) == [job]


def test_agents_follow_the_templates_of_their_role(queue: Any, dispatch: Any) -> None:
    queue.set_template("worker", "main", size=2)
    queue.set_template("worker", "extra", size=1, prefetch=0)
    queue.set_template("embedded", "small", size=1)
    transaction.commit()
    running = dispatch(threads=None, poll_interval=0.1)
    transaction.begin()
    da = queue.dispatchers[running.dispatcher.UUID]
    assert {name: (agent.size, agent.prefetch) for name, agent in da.items()} == {"main": (2, 64), "extra": (1, 0)}
    queue.set_template("worker", "main", size=4)
    transaction.commit()
    poll_now(running.dispatcher)

    assert da["main"].size == 4
    assert running.dispatcher.queues[""]["main"].getSize() == 4


def test_the_threads_of_a_process_are_the_limit_for_all_its_agents(queue: Any, dispatch: Any) -> None:
    queue.set_template("worker", "main", size=5)
    transaction.commit()
    running = dispatch(threads=2)
    assert running.dispatcher.queues[""]["main"].getSize() == 2


def _small_numbers(job: Any) -> bool:
    return job.args[0] < 10


def _newest(agent: Any) -> Any:
    jobs = list(agent.queue)
    if not jobs:
        return None
    agent.queue.remove(jobs[-1])
    return jobs[-1]


def test_an_agent_with_a_filter_leaves_other_jobs_to_others(queue: Any, dispatch: Any) -> None:
    da = _registered(queue)
    da.activate()
    da["small"] = agent = Agent(filter=_small_numbers)
    big, small = queue.put(Job(enginejobs.note, 10)), queue.put(Job(enginejobs.note, 1))
    transaction.commit()

    assert IFilterAgent.providedBy(agent)
    assert agent.claimJob() is small and agent.claimJob() is None
    assert (small.status, small.agent, big.status) == (ASSIGNED, agent, PENDING)
    with pytest.raises(ValueError, match="cannot set both"):
        agent.chooser = _newest


def test_an_agent_with_a_chooser_of_its_own_runs_what_it_chooses(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1, poll_interval=0.1)
    transaction.begin()
    da = queue.dispatchers.active()[0]
    da["main"].chooser = _newest
    assert not IFilterAgent.providedBy(da["main"])
    transaction.commit()
    jobs = [queue.put(Job(enginejobs.note, number)) for number in range(3)]
    transaction.commit()
    for job in jobs:
        wait_for_result(job)

    assert enginejobs.calls == [2, 1, 0]


def test_an_agent_claims_no_more_than_its_size_and_nothing_when_its_dispatcher_is_not_active(queue: Any) -> None:
    da = _registered(queue)
    da.activate()
    da["main"] = agent = Agent(size=2)
    for number in range(4):
        queue.put(Job(enginejobs.note, number))
    transaction.commit()

    assert [agent.claimJob().args[0] for _ in range(2)] == [0, 1]
    assert agent.claimJob() is None
    assert len(agent) == 2 and [job.args[0] for job in agent] == [0, 1]
    assert agent.index(agent[1]) == 1 and agent[0] in agent
    with pytest.raises(ValueError, match="holds 2 jobs"):
        del da["main"]
    da.deactivate()
    assert len(queue) == 4 and agent.claimJob() is None
    assert [job.args[0] for job in queue] == [0, 1, 2, 3]


def test_the_main_agent_is_added_once_at_activation(queue: Any) -> None:
    da = _registered(queue)
    addMainAgentActivationHandler(DispatcherActivated(da))
    main = da["main"]
    addMainAgentActivationHandler(DispatcherActivated(da))
    assert da["main"] is main and main.name == "main" and main.parent is da
    with pytest.raises(ValueError, match="an agent is wanted"):
        da["other"] = object()


def test_a_dispatcher_is_known_in_its_process_by_its_uuid(dispatch: Any, db: Any) -> None:
    running = dispatch()
    uuid = running.dispatcher.UUID

    assert dispatcher.get(uuid) is running.dispatcher is dispatcher.get()
    with pytest.raises(ValueError, match="is in this process already"):
        dispatcher.Dispatcher(db, running.reactor, uuid=uuid)
    running.stop()
    assert dispatcher.get(uuid) is None


def test_a_dispatcher_can_be_activated_again_and_polls_at_its_pace(queue: Any, dispatch: Any) -> None:
    running = dispatch(poll_interval=60)
    running.dispatcher.deactivate()
    running.dispatcher.activate()
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()

    assert wait_for_result(job) == 1
    ticks = [call for call in running.reactor.getDelayedCalls() if call.func == running.dispatcher._tick]
    assert len([call for call in ticks if call.args == (running.dispatcher.activated,)]) == 1


def test_a_fork_inherits_no_dispatcher(dispatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = dispatch()
    monkeypatch.setattr(os, "getpid", lambda: running.dispatcher.pid + 1)
    assert dispatcher.get() is None and dispatcher.get(running.dispatcher.UUID) is None


def test_many_starts_and_stops_leave_neither_threads_nor_descriptors(open_database: Any) -> None:
    db = open_database()
    start(db).stop()
    gc.collect()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _number in range(20):
        running = start(db)
        running.dispatcher.polls.wait_for(0, 6)
        running.stop()
    gc.collect()

    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    with db.transaction() as connection:
        assert len(connection.root()["collective.zcasync"][""].dispatchers) == 0


def test_neighbours_that_conflict_are_halved_and_grow_again() -> None:
    neighbours, who = Neighbours(8), ("site", "task")
    neighbours.learn(who, True, "Document")
    assert neighbours.limits() == {who: 4} and neighbours.collisions == {who: "Document"}
    for _number in range(GROW_AFTER):
        neighbours.learn(who, False)
    assert neighbours.limits() == {who: 5}
    with neighbours.changed:
        assert [neighbours.enter(who) for _number in range(6)] == [True] * 5 + [False]
        assert neighbours.enter(("site", "other"))
    neighbours.leave(who)
    with neighbours.changed:
        assert neighbours.enter(who)


def test_neighbours_that_conflict_again_wait_longer_before_they_are_tried_side_by_side() -> None:
    neighbours, who = Neighbours(2), ("site", "task")

    def smooth_until_grown() -> int:
        count = 0
        while neighbours.limits():
            neighbours.learn(who, False)
            count += 1
        return count

    needed = []
    for _round in range(8):
        neighbours.learn(who, True)
        needed.append(smooth_until_grown())
    assert needed == [50, 100, 200, 400, 800, 1600, 1600, 1600]


def test_an_attempt_after_a_conflict_is_alone_in_its_group() -> None:
    neighbours = Neighbours(4)
    order: list[str] = []
    sharing, waiting = threading.Event(), threading.Event()

    def first() -> None:
        with neighbours.attempt("site", again=False):
            sharing.set()
            assert waiting.wait(6)
            order.append("first")

    def again() -> None:
        assert sharing.wait(6)
        waiting.set()
        with neighbours.attempt("site", again=True):
            order.append("alone")

    threads = [threading.Thread(target=call) for call in (first, again)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6)
    with neighbours.attempt("other site", again=False), neighbours.attempt("site", again=True):
        order.append("both")
    assert order == ["first", "alone", "both"]
