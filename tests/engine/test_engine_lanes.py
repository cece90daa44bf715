"""Lanes: jobs that would conflict between processes run in one dispatcher at a time."""

from collective.zcasync import lanes
from collective.zcasync.claims import Taker
from collective.zcasync.entries import place_rows
from collective.zcasync.job import Job
from collective.zcasync.lanes import Lanes
from collective.zcasync.laning import Laning
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.queue import get_queue
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from transaction import TransactionManager
from typing import Any
from unittest.mock import MagicMock
from ZODB.POSException import ConflictError

import enginejobs
import pytest
import threading
import transaction

LONG = 60

KEY = ("", "content")


def laned(*args: Any, lane: str = "content", **options: Any) -> Job:
    job = Job(enginejobs.add, *args)
    job.lane = lane
    for name, value in options.items():
        setattr(job, name, value)
    return job


@pytest.fixture
def agents(queue: Any) -> tuple[Any, Any]:
    return enginejobs.make_agent(queue), enginejobs.make_agent(queue)


def claim(agent: Any, want: int = 1, needed: Any = None) -> list[Any]:
    """What one claim of that agent's dispatcher takes."""
    taken = Taker(agent.queue, agent.slot).take(want, needed=needed)
    for job, _kind in taken:
        agent.hold(job, True)
    transaction.commit()
    return [job for job, _kind in taken]


def in_lane(queue: Any, key: tuple[str, str] = KEY) -> list[Any]:
    lane = queue.lanes.get(key)
    rows = [row.job for place in queue.places((), None, None) if place.lane == key for row in place_rows(place)]
    assert lane.waiting() == len(rows)
    return rows


def test_only_the_dispatcher_that_holds_a_lane_takes_its_jobs_and_others_move_them_there(
    queue: Any, agents: Any
) -> None:
    first, second = agents
    jobs = [queue.put(laned(number)) for number in range(3)]
    transaction.commit()
    assert claim(first) == jobs[:1]

    assert queue.lanes.get(KEY).holder == first.parent.name
    assert claim(second, 3) == []
    assert in_lane(queue) == jobs[1:]
    assert queue.counts()["waiting"] == 2 and len(queue) == 2
    assert claim(first, 3) == jobs[1:]
    assert in_lane(queue) == [] and queue.counts()["waiting"] == 0


def test_two_sites_and_two_lanes_of_one_share_nothing(queue: Any, agents: Any) -> None:
    first, second = agents
    one, two, three = laned(1, group="a"), laned(2, group="b"), laned(3, group="a", lane="other")
    for job in (one, two, three):
        queue.put(job)
    transaction.commit()
    assert claim(first) == [one]
    assert set(claim(second, 3)) == {two, three}
    assert {key: lane.holder for key, lane in queue.lanes.items()} == {
        ("a", "content"): first.parent.name,
        ("b", "content"): second.parent.name,
        ("a", "other"): second.parent.name,
    }


@pytest.mark.parametrize("how", ["dies", "leaves"])
def test_another_dispatcher_takes_over_the_lane_of_one_that(how: str, queue: Any, agents: Any) -> None:
    first, second = agents
    jobs = [queue.put(laned(number)) for number in range(2)]
    transaction.commit()
    claim(first)
    assert claim(second) == []
    if how == "dies":
        first.parent.deactivate(died=True)
    else:
        first.parent.leaving = lanes.clock.utcnow()
    transaction.commit()

    assert claim(second, 2)[-1] is jobs[1]
    assert queue.lanes.get(KEY).holder == second.parent.name


def test_what_of_a_lane_cannot_begin_now_does_not_stand_in_the_way_of_others(queue: Any, agents: Any) -> None:
    first, _second = agents
    many = [queue.put(laned(number)) for number in range(100)]
    other = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    begun: list[Any] = []

    def one_at_a_time(job: Any) -> bool:
        begun.append(job)
        return not job.lane or sum(bool(one.lane) for one in begun) <= 1

    assert claim(first, 2, one_at_a_time) == [many[0], other]
    assert in_lane(queue) == many[1:], "out of the way of what is put later"


def test_a_cancelled_or_removed_job_leaves_its_lane(queue: Any, agents: Any) -> None:
    first, second = agents
    jobs = [queue.put(laned(number)) for number in range(4)]
    transaction.commit()
    claim(first)
    claim(second)
    queue.cancel(jobs[1])
    queue.remove(jobs[2])
    transaction.commit()
    claim(second)

    assert in_lane(queue) == jobs[3:]
    assert queue.counts()["waiting"] == 1


def test_a_full_quota_and_a_late_deadline_hold_in_a_lane_too(queue: Any, agents: Any) -> None:
    first, second = agents
    queue.quotas.create("q")
    jobs = [queue.put(laned(number, quota_names=("q",))) for number in range(2)]
    transaction.commit()
    assert claim(first, 2) == jobs[:1]
    assert [why for why, _job in queue.parked_jobs()] == ["quota:q"]
    queue.quotas["q"].discard(jobs[0])
    transaction.commit()
    assert claim(second) == []
    assert in_lane(queue) == jobs[1:], "others move it to its lane once there is room"


def test_a_lane_that_was_left_with_jobs_rings_for_all_and_an_empty_one_vanishes(queue: Any, agents: Any) -> None:
    first, second = agents
    jobs = [queue.put(laned(number)) for number in range(2)]
    transaction.commit()
    claim(first)
    claim(second)
    queue.lanes.let_go(KEY)
    transaction.commit()
    assert queue.lanes.bell() == 1
    assert claim(second, 2) == jobs[1:]
    queue.lanes.let_go(KEY)
    transaction.commit()

    assert list(queue.lanes.items()) == [] and queue.lanes.bell() == 1


@pytest.mark.parametrize("first_is_the_mover", [True, False])
@pytest.mark.parametrize("waits", [True, False], ids=["with jobs", "empty"])
def test_no_job_is_moved_into_a_lane_while_its_holder_lets_go(
    first_is_the_mover: bool, waits: bool, queue: Any, agents: Any, db: Any
) -> None:
    first, second = agents
    jobs = [queue.put(laned(number)) for number in range(3)]
    transaction.commit()
    claim(first)
    if waits:
        Taker(queue, second.slot, only={jobs[1].key}).take(1)
        transaction.commit()
    mover, closer = [TransactionManager() for _number in range(2)]
    moving, closing = get_queue(db.open(mover)), get_queue(db.open(closer))
    other = next(slot for slot in moving.slots.values() if slot.owner == second.parent.name)
    Taker(moving, other, only={jobs[2].key}).take(1)
    closing.lanes.let_go(KEY)
    for manager in (mover, closer) if first_is_the_mover else (closer, mover):
        if manager is (closer if first_is_the_mover else mover):
            with pytest.raises(ConflictError):
                manager.commit()
            manager.abort()
        else:
            manager.commit()
    transaction.begin()

    held = first.parent.name if first_is_the_mover else None
    assert queue.lanes.get(KEY) is None or queue.lanes.get(KEY).holder == held
    assert {job for _key, job in queue.waiting()} == set(jobs[1:])
    for connection in (moving._p_jar, closing._p_jar):
        connection.close()


def test_no_job_is_moved_into_a_lane_while_its_holder_takes_the_last_and_lets_go(
    queue: Any, agents: Any, db: Any
) -> None:
    first, second = agents
    jobs = [queue.put(laned(number)) for number in range(3)]
    transaction.commit()
    claim(first)
    Taker(queue, second.slot, only={jobs[1].key}).take(1)
    transaction.commit()
    mover, closer = [TransactionManager() for _number in range(2)]
    moving, closing = get_queue(db.open(mover)), get_queue(db.open(closer))
    slots = {slot.owner: slot for slot in moving.slots.values()}
    Taker(moving, slots[second.parent.name], only={jobs[2].key}).take(1)
    lane = closing.lanes.get(KEY)
    del lane.tree[lane.first()]
    lane.waiting.change(-1)
    closing.lanes.let_go(KEY)
    mover.commit()
    with pytest.raises(ConflictError):
        closer.commit()
    closer.abort()
    transaction.begin()

    assert in_lane(queue) == jobs[1:]
    for connection in (moving._p_jar, closing._p_jar):
        connection.close()


def test_two_that_move_jobs_into_a_lane_and_its_holder_who_takes_do_not_conflict(
    queue: Any, agents: Any, db: Any
) -> None:
    first, second = agents
    third = enginejobs.make_agent(queue)
    jobs = [queue.put(laned(number)) for number in range(5)]
    transaction.commit()
    claim(first)
    Taker(queue, second.slot, only={jobs[1].key}).take(1)
    transaction.commit()
    managers = []
    for agent, job in ((second, jobs[2]), (third, jobs[3]), (first, None)):
        managers.append(TransactionManager())
        there = get_queue(db.open(managers[-1]))
        slot = next(slot for slot in there.slots.values() if slot.owner == agent.parent.name)
        taker = Taker(there, slot, shards=(), only=None if job is None else {job.key})
        taker.shards = () if job is None else range(len(there.inboxes))
        assert len(taker.take(1)) == (job is None)
    for manager in managers:
        manager.commit()
    transaction.begin()

    assert in_lane(queue) == jobs[2:4]


def test_who_conflicted_is_remembered_for_a_while_and_only_so_many() -> None:
    known = Lanes()
    assert known.learn("site", "task") and not known.learn("site", "task")
    job = laned(1, lane="", group="site")
    job._task = "task"
    assert known.of(job) == ("site", "content")
    assert not known.forget_old()
    known.learned[("site", "task")] -= (lanes.REMEMBERED + 1) * 1_000_000
    assert known.forget_old() and known.of(job) is None
    for number in range(lanes.MOST_REMEMBERED):
        known.learn("site", str(number))
    assert not known.learn("site", "task")
    assert len(known.learned) == lanes.MOST_REMEMBERED


def test_a_queue_from_before_lanes_works_without_and_gets_them_from_its_next_dispatcher(
    queue: Any, dispatch: Any
) -> None:
    del queue.lanes
    job = queue.put(laned(1))
    transaction.commit()
    assert queue.lanes is None and [found for _key, found in queue.waiting()] == [job]
    dispatch()
    transaction.begin()
    assert queue.lanes is not None


# With dispatchers that run


def put_counting(queue: Any, number: int, lane: str) -> list[Any]:
    jobs = [queue.put(Job(enginejobs.count_slowly)) for _number in range(number)]
    for job in jobs:
        job.lane = lane
        job.retry_policy_factory = RetryCommonForever
    transaction.commit()
    return jobs


def held_by(queue: Any) -> set[str]:
    return {lane.holder for _key, lane in queue.lanes.items() if lane.holder is not None}


def test_jobs_of_one_lane_never_conflict_though_two_dispatchers_are_there(queue: Any, dispatch: Any) -> None:
    for _number in range(2):
        dispatch(poll_interval=1000)
    jobs = put_counting(queue, 30, "content")
    for job in jobs:
        wait_for_result(job, LONG)
    transaction.begin()

    assert sorted(job.result for job in jobs) == list(range(1, 31))
    assert {job.attempts for job in jobs} == {1}
    assert len({job.agent.parent.name for job in jobs}) == 1, "one dispatcher held the lane all the time"
    wait_until(queue, lambda: list(queue.lanes.items()) == [], LONG, "the end of the lane")


def test_what_others_move_into_a_lane_wakes_its_holder_without_a_poll(queue: Any, dispatch: Any) -> None:
    running = [dispatch(poll_interval=1000) for _number in range(2)]
    first = queue.put(Job(enginejobs.wait, "a"))
    first.lane = "content"
    transaction.commit()
    assert enginejobs.started["a"].wait(LONG)
    transaction.begin()
    holder = next(one.dispatcher for one in running if {str(one.dispatcher.UUID)} == held_by(queue))
    jobs = put_counting(queue, 30, "content")
    wait_until(queue, lambda: queue.lanes.get(KEY).waiting() > 20, LONG, "what was moved into the lane")
    enginejobs.released["a"].set()
    for job in (first, *jobs):
        wait_for_result(job, LONG)
    transaction.begin()

    assert {job.agent.parent.name for job in (first, *jobs)} == {str(holder.UUID)}
    assert {job.attempts for job in jobs} == {1}


def test_other_jobs_of_the_site_use_the_threads_of_both_while_a_lane_is_busy(queue: Any, dispatch: Any) -> None:
    for _number in range(2):
        dispatch(threads=2, poll_interval=1000)
    content = put_counting(queue, 20, "content")
    others = [queue.put(Job(enginejobs.wait, "b")) for _number in range(3)]
    transaction.commit()
    wait_until(queue, lambda: enginejobs.calls.count("b") == 3, LONG, "three that run beside the lane")
    enginejobs.released["b"].set()
    for job in (*content, *others):
        wait_for_result(job, LONG)
    transaction.begin()

    assert {job.attempts for job in content} == {1}
    assert len({job.agent.parent.name for job in others}) == 2


def test_a_lane_is_learned_from_conflicts_with_another_dispatcher(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "collective.zcasync.events")
    for _number in range(2):
        dispatch(threads=2)
    jobs = put_counting(queue, 60, "")
    for job in jobs:
        wait_for_result(job, LONG)
    transaction.begin()
    assert list(queue.lanes.learned) == [("", "enginejobs.count_slowly")]
    assert caplog.text.count("they share a lane now") == 1
    more = put_counting(queue, 40, "")
    for job in more:
        wait_for_result(job, LONG)
    transaction.begin()

    assert sorted(job.result for job in more) == list(range(61, 101))
    assert max(job.attempts for job in more) <= 3 and sum(job.attempts - 1 for job in more) <= 4


def test_a_holder_whose_agents_do_not_take_the_first_job_leaves_the_lane_to_others(queue: Any, dispatch: Any) -> None:
    queue.set_template("worker", "main", size=1)
    queue.set_template("other", "main", size=1)
    transaction.commit()
    picky = dispatch(role="worker", poll_interval=0.1).dispatcher
    open_to_all = dispatch(role="other", poll_interval=0.1).dispatcher
    transaction.begin()
    queue.dispatchers[picky.UUID]["main"].filter = takes_even
    transaction.commit()
    poll_now(picky)
    jobs = [queue.put(laned(number)) for number in range(40)]
    transaction.commit()
    for job in jobs:
        wait_for_result(job, LONG)
    transaction.begin()

    assert {job.agent.parent.UUID for job in jobs if job.args[0] % 2} == {open_to_all.UUID}


def takes_even(job: Any) -> bool:
    return not job.args[0] % 2


# What a process learns from its conflicts


def test_only_an_attempt_beside_which_no_neighbour_ran_conflicts_with_another_process() -> None:
    neighbours, who = Neighbours(4), ("site", "task")
    told: list[int] = []
    neighbours.suspicion = lambda: told.append(1)
    for again in (False, True):
        with neighbours.attempt("site", again):
            neighbours.learn(who, True)
    assert neighbours.suspects() == [who] and told == [1]

    other = ("site", "other")
    for _number in range(5):
        with neighbours.attempt("site", False):
            with_neighbour(neighbours)
            assert not neighbours.learn(other, True)
    assert neighbours.suspects() == [who]


def with_neighbour(neighbours: Neighbours) -> None:
    """Another attempt of the site begins and ends meanwhile."""

    def run() -> None:
        with neighbours.attempt("site", False):
            neighbours.learn(("site", "neighbour"), False)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_seldom_conflicts_make_nobody_suspicious() -> None:
    neighbours, who = Neighbours(4), ("site", "task")
    for number in range(100):
        with neighbours.attempt("site", False):
            neighbours.learn(who, number % 25 == 0)
    assert neighbours.suspects() == []


def test_jobs_of_a_lane_begin_one_at_a_time_and_not_at_all_while_it_stands() -> None:
    neighbours, who, other = Neighbours(4), ("site", "content"), ("site", "other")
    neighbours.narrow(who)
    assert neighbours.room(who) == 1 and neighbours.enter(who) and not neighbours.enter(who)
    assert neighbours.enter(other) and neighbours.enter(other)
    neighbours.leave(who)
    neighbours.lanes_may_begin = lambda group: group != "site"

    assert neighbours.room(who) == 0 and not neighbours.enter(who)
    assert neighbours.enter(other)


def raise_once(error: Any) -> None:
    """A conflict, once."""
    enginejobs.calls.append("tried")
    if len(enginejobs.calls) == 1:
        raise ConflictError() if error is None else ConflictError(object=enginejobs.Counter())


@pytest.mark.parametrize(("what", "told"), [(None, "ConflictError"), ("object", "enginejobs.Counter")])
def test_the_class_that_collided_is_noted_for_the_panels(what: Any, told: str, queue: Any) -> None:
    agent, neighbours = enginejobs.make_agent(queue), Neighbours(3)
    job = queue.put(Job(raise_once, what))
    transaction.commit()
    enginejobs.perform(agent, neighbours=neighbours)

    assert (job.attempts, neighbours.collisions) == (2, {job.neighbours: told})


def test_a_holder_leaves_the_lane_to_others_only_when_none_of_its_jobs_runs_there_any_more(
    queue: Any, agents: Any
) -> None:
    first, second = agents
    jobs = [queue.put(laned(number)) for number in range(3)]
    transaction.commit()
    assert claim(first) == jobs[:1]
    assert claim(second, 2) == [], "they are moved into the lane"
    laning = Laning(MagicMock())

    def end(full: bool, done: set[bytes]) -> list[Any]:
        """A claim of the holder, none of whose agents takes the second job; what it takes."""
        view = laning.begin(queue, first.slot)
        taken = Taker(queue, first.slot, lanes=view).take(1, lambda job: job is not jobs[1])
        first.hold_all((job, True) for job, _kind in taken)
        laning.end(first.slot, full, done, lambda key: key == jobs[1].key)
        transaction.commit()
        return [job for job, _kind in taken]

    laning._stuck[""] = {KEY: jobs[1].key}  # as the last poll has seen it
    view = laning.begin(queue, first.slot)
    laning.end(first.slot, True, set(), lambda key: key == jobs[1].key)
    transaction.commit()
    assert queue.lanes.get(KEY).holder == first.parent.name and view.me == first.parent.name
    assert claim(second, 2) == [], "the first job of the lane runs"
    assert end(True, set()) == [] and end(False, set()) == [], (
        "no more of the lane begins, or the others never come to it"
    )
    assert laning.due() == [] and queue.lanes.get(KEY).holder == first.parent.name
    assert end(False, {jobs[0]._p_oid}) == [] and queue.lanes.get(KEY).holder is None
    assert len(laning.due()) == 1
    assert claim(second) == jobs[1:2]
