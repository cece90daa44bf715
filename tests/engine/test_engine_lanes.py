"""Lanes: jobs that would conflict between processes run in one dispatcher at a time."""

from collective.zcasync import lanes
from collective.zcasync.claims import Taker
from collective.zcasync.entries import place_rows
from collective.zcasync.job import Job
from collective.zcasync.lanes import Lanes
from typing import Any

import enginejobs
import pytest
import transaction

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
