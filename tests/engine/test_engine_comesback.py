"""Dispatchers that come back at the moment at which others act as if they were gone, and quotas that are cleaned as a
member comes back: one of the two conflicts."""

from collective.zcasync import clock
from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.dispatchers import KEEP_ENDED
from collective.zcasync.job import Job
from collective.zcasync.laning import Laning
from collective.zcasync.queue import get_queue
from contextlib import closing
from datetime import timedelta
from enginejobs import make_agent
from transaction import TransactionManager
from typing import Any
from unittest.mock import Mock
from ZODB.POSException import ConflictError

import enginejobs
import pytest
import transaction

KEY = ("", "content")


class Side:
    """Somebody with a connection and a transaction of his own."""

    def __init__(self, db: Any) -> None:
        self.manager = TransactionManager()
        self.connection = db.open(self.manager)
        self.queue = get_queue(self.connection)

    def close(self) -> None:
        self.manager.abort()
        self.connection.close()

    def take(self, name: str, accepts: Any = None) -> list[Any]:
        agent = next(da for da in self.queue.dispatchers.values() if da.name == name)["main"]
        taken = Taker(self.queue, agent.slot).take(1, accepts)
        agent.hold_all((job, True) for job, _kind in taken)
        return [job for job, _kind in taken]


@pytest.fixture
def sides(db: Any, queue: Any) -> Any:
    with closing(Side(db)) as first, closing(Side(db)) as second:
        yield first, second


def laned(queue: Any, back: Any, other: Any, jobs: int) -> Any:
    """UUID of a dispatcher that is taken for dead, and held a lane, in which so many jobs wait."""
    for number in range(jobs):
        job = Job(enginejobs.add, number)
        job.lane = "content"
        queue.put(job)
    queue.lanes.hold(KEY, back.parent.name)
    transaction.commit()
    assert Taker(queue, other.slot).take(3) == []  # all are moved into the lane
    transaction.commit()
    back.parent.deactivate(died=True)
    transaction.commit()
    return back.parent.UUID


@pytest.mark.parametrize("unregistered", [False, True])
@pytest.mark.parametrize("jobs", [2, 0])
def test_a_lane_whose_holder_comes_back_is_not_taken_from_it_at_that_moment(
    jobs: int, unregistered: bool, queue: Any, sides: Any
) -> None:
    back, other = make_agent(queue), make_agent(queue)
    uuid, others = laned(queue, back, other, jobs), other.parent.name
    if unregistered:
        queue.dispatchers.unregister(uuid)
        transaction.commit()
    one, two = sides
    one.manager.begin()
    if jobs:
        assert one.take(others, lambda job: job.args[0] == 1)
    else:
        slot = next(slot for slot in one.queue.slots.values() if slot.owner == others)
        laning = Laning(Mock())
        laning.begin(one.queue, slot)
        assert laning.end(slot, True, set(), lambda key: False)
    if unregistered:
        queue.dispatchers.register(uuid)
        queue.dispatchers[uuid].activate()
        queue.dispatchers[uuid]["main"] = Agent()
    else:
        back.parent.reactivate()
    transaction.commit()
    if not jobs:
        job = Job(enginejobs.add, 0)
        job.lane = "content"
        queue.put(job)
        transaction.commit()
    two.manager.begin()
    assert two.take(str(uuid), lambda job: job.args[0] == 0)
    two.manager.commit()
    with pytest.raises(ConflictError):
        one.manager.commit()


@pytest.mark.parametrize("back_first", [True, False])
def test_a_dispatcher_that_comes_back_as_its_old_registration_is_removed_keeps_it_or_tries_again(
    back_first: bool, queue: Any, sides: Any
) -> None:
    agent, sibling = make_agent(queue), make_agent(queue)
    name, own = agent.parent.UUID, sibling.parent.UUID
    agent.parent.deactivate()
    transaction.commit()
    one, two = sides
    clock.set_now(clock.utcnow() + KEEP_ENDED + timedelta(minutes=1))
    try:
        one.manager.begin()
        two.manager.begin()
        one.queue.dispatchers.tidy(own)
        assert name not in one.queue.dispatchers
        two.queue.dispatchers.beat(name, 0, "", None)
    finally:
        clock.set_now(None)
    first, second = (two, one) if back_first else (one, two)
    first.manager.commit()
    with pytest.raises(ConflictError):
        second.manager.commit()


@pytest.mark.parametrize("claim_first", [True, False])
def test_a_job_whose_place_in_a_quota_is_given_back_as_it_is_late_does_not_begin_without_one(
    claim_first: bool, queue: Any, sides: Any
) -> None:
    agent = make_agent(queue)
    queue.quotas.create("q", 1)
    job = Job(enginejobs.add, 1)
    job.quota_names = ("q",)
    queue.put(job)
    transaction.commit()
    soon = clock.utcnow() + timedelta(seconds=5)
    queue.quotas["q"].add(job)  # its last owner has not swept it up yet
    job._begin_after = soon
    transaction.commit()
    one, two = sides
    one.manager.begin()
    two.manager.begin()
    one.queue.quotas["q"].clean()  # it is too early for the job by this clock
    assert len(one.queue.quotas["q"]) == 0
    clock.set_now(soon + timedelta(seconds=1))
    try:
        assert two.take(agent.parent.name)
    finally:
        clock.set_now(None)
    first, second = (two, one) if claim_first else (one, two)
    first.manager.commit()
    with pytest.raises(ConflictError):
        second.manager.commit()
