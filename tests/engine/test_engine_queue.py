"""Putting, waiting, taking: the queue's structures, quotas, and what is set aside."""

from collective.zcasync import actions
from collective.zcasync import places
from collective.zcasync import upkeep
from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import UTC
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IAgent
from collective.zcasync.interfaces import IDispatcherAgents
from collective.zcasync.interfaces import IDispatchers
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import IQuota
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.places import SHARDS
from collective.zcasync.queue import install
from collective.zcasync.queue import Queue
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.upkeep import drop_old
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from ZODB.POSException import ConflictError
from zope.interface.verify import verifyObject

import enginejobs
import importlib
import pytest
import sys
import transaction


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with a function, a class and a job class, which a test can delete."""
    (tmp_path / "goingaway.py").write_text(
        "from collective.zcasync.job import Job\n"
        "class Thing:\n    pass\n"
        "class SpecialJob(Job):\n    pass\n"
        "def work(*args):\n    return 'worked'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("goingaway")
    sys.modules.pop("goingaway", None)


def _delete(module: Any) -> None:
    Path(module.__file__).unlink()
    sys.modules.pop(module.__name__)
    importlib.invalidate_caches()


def test_the_structures_keep_the_contracts_of_their_interfaces(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = queue.put(Job(enginejobs.add))
    queue.quotas.create("one")
    transaction.commit()
    da = queue.dispatchers.active()[0]

    assert verifyObject(IQueue, queue)
    assert verifyObject(IJob, job)
    assert verifyObject(IQuota, queue.quotas["one"])
    assert verifyObject(IDispatchers, queue.dispatchers)
    assert verifyObject(IDispatcherAgents, da)
    assert verifyObject(IAgent, da["main"])


def test_jobs_are_offered_put_back_first_then_in_the_order_of_their_time(queue: Any) -> None:
    now = utcnow()
    first = queue.put(Job(enginejobs.note, 1))
    late = queue.put(Job(enginejobs.note, 4), begin_after=now + timedelta(hours=1))
    second = queue.put(Job(enginejobs.note, 2), begin_after=now - timedelta(days=1))
    third = queue.put(Job(enginejobs.note, 3))
    transaction.commit()
    assert [job.args[0] for job in queue] == [1, 2, 3, 4]

    assert queue.claim() is first
    queue.putBack(third_party := queue.claim())
    assert third_party is second
    assert list(queue) == [second, third, late]


def test_a_higher_priority_goes_ahead_and_ten_minutes_of_waiting_make_up_for_a_step(queue: Any) -> None:
    set_now(datetime(2030, 1, 1, tzinfo=UTC))
    old = queue.put(Job(enginejobs.note, "old"))
    set_now(datetime(2030, 1, 1, 0, 5, tzinfo=UTC))
    urgent = Job(enginejobs.note, "urgent")
    urgent.set_priority(1)
    queue.put(urgent)
    set_now(datetime(2030, 1, 1, 0, 20, tzinfo=UTC))
    too_late = Job(enginejobs.note, "too late")
    too_late.set_priority(1)
    queue.put(too_late)

    assert list(queue) == [urgent, old, too_late]


@pytest.mark.parametrize("value", [16, -17, 1.0, "1", None])
def test_a_priority_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="-16 to 15"):
        Job(enginejobs.add).set_priority(value)


def test_jobs_can_be_pulled_and_removed_before_they_are_claimed(queue: Any) -> None:
    jobs = [queue.put(Job(enginejobs.note, number)) for number in range(4)]
    transaction.commit()

    assert queue.pull() is jobs[0]
    assert queue.pull(-1) is jobs[3]
    queue.remove(jobs[1])
    assert list(queue) == [jobs[2]] and len(queue) == 1
    with pytest.raises(LookupError, match="not in queue"):
        queue.remove(jobs[1])
    with pytest.raises(IndexError):
        queue.pull(7)


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        (lambda: 1, InvalidJobError, "lambda"),
        (int, InvalidJobError, "wrap it"),
        ("not a callable", InvalidJobError, "cannot be a job"),
    ],
)
def test_what_cannot_be_a_job_is_refused_at_the_door(item: Any, error: Any, words: str, queue: Any) -> None:
    with pytest.raises(error, match=words):
        queue.put(item)
    assert len(queue) == 0


def test_an_argument_that_cannot_be_stored_is_refused_with_its_place(queue: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="argument 2"):
        queue.put(Job(enginejobs.note, 1, lambda: 2))
    with pytest.raises(InvalidArgumentError, match="value"):
        queue.put(Job(enginejobs.note, value=sys.stdout))
    assert len(queue) == 0


def test_a_time_without_a_zone_is_refused(queue: Any) -> None:
    with pytest.raises(ValueError, match="timezone-naive"):
        queue.put(Job(enginejobs.add), begin_after=datetime(2030, 1, 1))  # noqa: DTZ001


def test_an_unknown_quota_is_refused(queue: Any) -> None:
    job = Job(enginejobs.add)
    job.quota_names = ("nobody",)
    with pytest.raises(QuotaNotFound) as caught:
        queue.put(job)
    assert caught.value.args == ("unknown quota name", "nobody") and isinstance(caught.value, ValueError)
    with pytest.raises(TypeError, match="must be a tuple"):
        Job(enginejobs.add).quota_names = "nobody"


def test_two_putters_and_a_claim_do_not_conflict(clients: Any, db: Any) -> None:
    """All three work on the same inboxes at once, each with a snapshot from before the others' commits."""
    managers = [transaction.TransactionManager() for _ in range(3)]
    connections = [clients().open(manager) for manager in managers]
    queues = [install(connection)[""] for connection in connections]
    for _ in range(60):
        queues[0].put(Job(enginejobs.add, 1))
    managers[0].commit()
    enginejobs.catch_up(connections)
    for queue in queues[:2]:
        for _ in range(30):
            queue.put(Job(enginejobs.add, 2))
    taken = Taker(queues[2]).take(20)
    managers[2].commit()
    managers[1].commit()
    managers[0].commit()
    enginejobs.catch_up(connections)

    assert len(taken) == 20
    assert len(queues[2]) == 100
    for connection in connections:
        connection.transaction_manager.abort()
        connection.close()


def test_two_claims_of_the_same_job_conflict(clients: Any, db: Any) -> None:
    managers = [transaction.TransactionManager() for _ in range(2)]
    connections = [clients().open(manager) for manager in managers]
    queues = [install(connection)[""] for connection in connections]
    queues[0].put(Job(enginejobs.add))
    managers[0].commit()
    enginejobs.catch_up(connections)
    assert all(queue.claim() is not None for queue in queues)
    managers[0].commit()

    with pytest.raises(ConflictError):
        managers[1].commit()
    for manager, connection in zip(managers, connections, strict=True):
        manager.abort()
        connection.close()


def test_a_full_inbox_overflows_and_a_claim_moves_the_rest_to_its_backlog(
    queue: Any, dispatch: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(upkeep, "STALE_AFTER", 60.0)  # what is given back on a busy machine comes out of its order
    queue.inboxes = queue.inboxes[:1]
    queue.overflows = queue.overflows[:1]
    jobs = [queue.put(Job(enginejobs.note, number)) for number in range(400)]
    transaction.commit()
    assert len(queue.overflows[0]) > 100 and len(queue) == 400

    dispatch(threads=1)
    for job in jobs:
        wait_for_result(job, 20)
    assert enginejobs.calls == list(range(400))
    assert len(queue) == 0


def test_a_quota_is_never_passed_and_its_jobs_wait_without_keeping_others(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("one", 1)
    slow = [Job(enginejobs.wait, name) for name in ("a", "b")]
    for job in slow:
        job.quota_names = ("one",)
        queue.put(job)
    other = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    dispatch(threads=3, poll_interval=60)

    assert enginejobs.started["a"].wait(6)
    assert wait_for_result(other) == 1
    assert not enginejobs.started["b"].is_set()
    assert queue.quotas["one"].filled and queue.counts()["parked"] == 1
    enginejobs.released["a"].set()
    assert enginejobs.started["b"].wait(6)
    enginejobs.released["b"].set()
    assert [wait_for_result(job) for job in slow] == ["a", "b"]


def test_a_quota_that_is_removed_or_resized_lets_its_jobs_go(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("one", 1)
    jobs = [Job(enginejobs.wait, name) for name in ("a", "b", "c")]
    for job in jobs:
        job.quota_names = ("one",)
        queue.put(job)
    transaction.commit()
    dispatch(threads=3, poll_interval=60)
    assert enginejobs.started["a"].wait(6)
    transaction.begin()
    queue.quotas.resize("one", 2)
    transaction.commit()
    assert enginejobs.started["b"].wait(6)
    transaction.begin()
    queue.quotas.remove("one")
    transaction.commit()
    assert enginejobs.started["c"].wait(6)
    enginejobs.release_all()
    assert [wait_for_result(job) for job in jobs] == ["a", "b", "c"]


def test_a_waiting_job_that_is_cancelled_ends_with_its_callbacks_run(queue: Any, dispatch: Any) -> None:
    job = queue.put(Job(enginejobs.note, "never"))
    job.addCallbacks(failure=enginejobs.note)
    later = queue.put(Job(enginejobs.note, "never"), begin_after=utcnow() + timedelta(hours=1))
    transaction.commit()
    dispatch()
    queue.paused = False

    transaction.begin()
    assert queue.cancel(later) == "cancelled"
    transaction.commit()
    assert wait_for_result(later).check(CancelledError)
    assert later.outcome == "cancelled"
    assert "never" in str(wait_for_result(job))


def test_a_paused_queue_starts_nothing_until_it_goes_on(queue: Any, dispatch: Any) -> None:
    queue.paused = True
    job = queue.put(Job(enginejobs.add, 1))
    cancelled = queue.put(Job(enginejobs.add, 2))
    transaction.commit()
    running = dispatch(poll_interval=60)
    poll_now(running.dispatcher)
    transaction.begin()
    assert job.status == PENDING
    assert queue.cancel(cancelled) == "cancelled"
    queue.paused = False
    transaction.commit()

    assert wait_for_result(job) == 1
    assert wait_for_result(cancelled).check(CancelledError)


def test_the_jobs_of_a_held_group_wait_until_it_is_released(queue: Any, dispatch: Any) -> None:
    queue.hold_group("site")
    held, free = Job(enginejobs.add, 1), Job(enginejobs.add, 2)
    held.group = "site"
    queue.put(held)
    queue.put(free)
    transaction.commit()
    dispatch(poll_interval=60)

    assert wait_for_result(free) == 2
    assert held.status == PENDING and queue.counts()["parked"] == 1
    queue.release_group("site")
    transaction.commit()
    assert wait_for_result(held) == 1


def test_groups_are_served_in_turn(queue: Any) -> None:
    for group, count in (("big", 20), ("small", 2)):
        for number in range(count):
            job = Job(enginejobs.note, f"{group} {number}")
            job.group = group
            queue.put(job)
    transaction.commit()

    first = [one.job.args[0] for one in Taker(queue).take(6)]
    assert {"small 0", "small 1"} < set(first)
    assert [name for name in first if name.startswith("big")] == [f"big {number}" for number in range(4)]


def test_jobs_whose_code_is_gone_do_not_keep_those_behind_and_can_be_seen(
    queue: Any, dispatch: Any, module: Any
) -> None:
    unknown = queue.put(Job(module.work))
    argument = queue.put(Job(enginejobs.note, module.Thing()))
    special = queue.put(module.SpecialJob(enginejobs.add, 1))
    behind = queue.put(Job(enginejobs.add, 2))
    transaction.commit()
    oids = {"unknown": unknown._p_oid, "special": special._p_oid}
    queue._p_jar.cacheMinimize()
    _delete(module)
    del special
    dispatch(poll_interval=0.1)

    assert wait_for_result(behind) == 2
    result = wait_for_result(argument)
    assert "is gone" in result.getErrorMessage() and "goingaway" in result.getErrorMessage()
    transaction.begin()
    assert unknown.status == PENDING and unknown.callable_name == "goingaway:work"
    assert [(job._p_oid, "SpecialJob" in reason) for reason, job in queue.quarantined()] == [(oids["special"], True)]


def test_a_job_whose_code_nobody_has_is_set_aside_after_its_time(queue: Any, dispatch: Any, module: Any) -> None:
    queue.code_wait = 0.0
    unknown = queue.put(Job(module.work))
    behind = queue.put(Job(enginejobs.add, 2))
    transaction.commit()
    _delete(module)
    dispatch(poll_interval=0.1)

    assert wait_for_result(behind) == 2
    transaction.begin()
    assert [job for _reason, job in queue.quarantined()] == [unknown]
    assert queue.counts()["quarantined"] == 1


def test_a_job_that_waited_long_before_anybody_looked_at_it_waits_for_its_code_from_then_on(
    queue: Any, dispatch: Any, module: Any
) -> None:
    set_now(noon := utcnow())
    unknown = queue.put(Job(module.work))
    transaction.commit()
    _delete(module)
    set_now(noon + timedelta(hours=2))
    running = dispatch()
    poll_now(running.dispatcher)
    transaction.begin()
    assert not list(queue.quarantined()), "another dispatcher may have the code, and no thread free"
    running.stop()
    set_now(noon + timedelta(hours=3, seconds=1))
    running = dispatch()
    poll_now(running.dispatcher)
    transaction.begin()
    assert [job for _reason, job in queue.quarantined()] == [unknown]
    actions.retry(unknown)
    transaction.commit()
    poll_now(running.dispatcher)
    transaction.begin()
    assert (unknown.status, list(queue.quarantined())) == (PENDING, []), "released, it waits for its code once more"


def test_a_job_on_which_its_process_dies_three_times_is_set_aside(queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    for _death in range(3):
        name = uuid4()
        queue.dispatchers.register(name)
        da = queue.dispatchers[name]
        da.activate()
        da["main"] = agent = Agent()
        transaction.commit()
        taken = Taker(queue, da.slot).take(1)
        agent.hold(taken[0].job, True)
        transaction.commit()
        da.deactivate(died=True)
        transaction.commit()

    assert [reason for reason, found in queue.quarantined() if found is job] == ["its process died 3 times under it"]
    assert len(queue) == 0


def test_counts_are_those_of_a_recount(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("none", 1)
    for number in range(30):
        queue.put(Job(enginejobs.add, number))
    queue.put(Job(enginejobs.change_and_raise))
    queue.put(Job(enginejobs.add), begin_after=utcnow() + timedelta(hours=1))
    transaction.commit()
    running = dispatch()
    last = queue.put(Job(enginejobs.add, 100))
    transaction.commit()
    wait_for_result(last)
    running.stop()

    transaction.begin()
    counts = queue.counts()
    none = dict.fromkeys(("waiting", "parked", "awaiting", "running", "quarantined", "cancelled"), 0)
    assert counts == {**none, "later": 1, "succeeded": 31, "failed": 1}
    assert len(list(queue.finished("succeeded"))) == 31
    assert [job.outcome for job in queue.finished("failed")] == ["failed"]
    assert len(list(queue.later_jobs())) == 1
    newest = [job.finished_at for job in queue.finished()]
    assert len(newest) == 32


def test_two_dispatchers_share_the_work_and_run_each_job_once(queue: Any, dispatch: Any) -> None:
    one, two = dispatch(), dispatch()
    for running in (one, two):
        poll_now(running.dispatcher)
    assert sorted(one.dispatcher.claimer.homes[""] + two.dispatcher.claimer.homes[""]) == list(range(SHARDS))
    jobs = []
    for number in range(200):
        places._thread.left = 0  # draw an inbox for each put, as many threads would
        jobs.append(queue.put(Job(enginejobs.note, number)))
    transaction.commit()
    for job in jobs:
        wait_for_result(job, 20)

    assert sorted(enginejobs.calls) == list(range(200))
    assert len({job.agent.parent.UUID for job in jobs if job.agent.parent is not None}) == 2


def test_a_job_in_the_inbox_of_a_busy_dispatcher_is_taken_by_one_with_a_free_thread(queue: Any, dispatch: Any) -> None:
    one, two = dispatch(threads=1, poll_interval=60), dispatch(threads=1, poll_interval=60)
    for running in (one, two):
        poll_now(running.dispatcher)
    blocker = queue.put(Job(enginejobs.wait, "a"))
    transaction.commit()
    assert enginejobs.started["a"].wait(6)
    jobs = [queue.put(Job(enginejobs.add, number)) for number in range(40)]
    transaction.commit()

    assert [wait_for_result(job) for job in jobs] == list(range(40))
    enginejobs.released["a"].set()
    assert wait_for_result(blocker) == "a"


def test_queues_take_only_queues_and_say_who_they_are(connection: Any) -> None:
    queues = install(connection)
    with pytest.raises(ValueError, match="value must be IQueue"):
        queues["other"] = object()
    queues["other"] = other = Queue()
    assert (other.name, other.parent) == ("other", queues)
    assert queues.keys() == ["", "other"]
    del queues["other"]
    assert other.parent is None and other.name == ""


def test_the_finished_jobs_of_whole_periods_are_dropped(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    good, bad = queue.put(Job(enginejobs.add, 1)), queue.put(Job(enginejobs.change_and_raise))
    transaction.commit()
    wait_for_result(good)
    wait_for_result(bad)
    running.stop()
    transaction.begin()
    slot = next(iter(queue.slots.values()))
    set_now((begun := utcnow()) + timedelta(days=8))
    assert drop_old(queue, slot) and list(queue.finished()) == [bad]
    assert not drop_old(queue, slot)
    set_now(begun + timedelta(days=31))
    assert drop_old(queue, slot)
    assert bad.status == COMPLETED and list(queue.finished()) == []
