"""What agents take: by filter, by chooser, by a _choose of their own, in queues that are long, paused or shared."""

from collective.zcasync import execution
from collective.zcasync import places
from collective.zcasync.agent import Agent
from collective.zcasync.claims import SPILL
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IFilterAgent
from collective.zcasync.interfaces import NEW
from collective.zcasync.job import Job
from collective.zcasync.rejections import Rejections
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from uuid import uuid4

import enginejobs
import pytest
import transaction


def odd(job: Any) -> bool:
    enginejobs.calls.append(job.args[0])
    return job.args[0] % 2 == 1


def even(job: Any) -> bool:
    return job.args[0] % 2 == 0


def nothing(job: Any) -> bool:
    return False


def broken(job: Any) -> bool:
    raise ZeroDivisionError("the filter is broken")


def first_in_queue(agent: Any) -> Any:
    return agent.queue.claim()


class Picky(Agent):
    """An agent that takes the job with the largest argument."""

    def _choose(self) -> Any:
        best = max(self.queue, key=lambda job: job.args[0], default=None)
        return None if best is None else self.queue.claim(lambda job: job is best)


def _agent(queue: Any, agent: Agent | None = None) -> Agent:
    """An agent of a dispatcher without threads, for claims by hand."""
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = agent = Agent() if agent is None else agent
    transaction.commit()
    return agent


def _put_many(queue: Any, numbers: Any) -> list[Any]:
    """Jobs in one inbox, as one thread puts them."""
    places._thread.shard, places._thread.left = 0, 10**6
    jobs = [queue.put(Job(enginejobs.add, number)) for number in numbers]
    places._thread.left = 0
    transaction.commit()
    return jobs


def _spilled(queue: Any, agent: Agent, numbers: Any) -> list[Any]:
    """Jobs in the backlog of the agent's dispatcher."""
    jobs = _put_many(queue, numbers)
    Taker(queue, agent.slot).spill()
    transaction.commit()
    assert len(agent.slot.backlog("")) == len(jobs)
    return jobs


def test_a_claim_takes_the_first_job_that_its_filter_accepts_or_gives_the_default(queue: Any) -> None:
    jobs = _put_many(queue, range(4))

    assert queue.claim(odd) is jobs[1] and jobs[1].status == NEW and jobs[1].parent is None
    assert queue.claim(nothing, default="none") == "none"
    assert [queue.claim() for _ in range(4)] == [jobs[0], jobs[2], jobs[3], None]


def test_a_filter_that_raises_is_told_to_whoever_claims_and_takes_nothing(queue: Any) -> None:
    jobs = _put_many(queue, range(2))
    with pytest.raises(ZeroDivisionError, match="the filter is broken"):
        queue.claim(broken)
    with pytest.raises(InvalidTypeError, match="'odd' is none"):
        queue.claim("odd")
    assert list(queue) == jobs


def test_a_chooser_sees_what_lies_in_the_backlog_of_its_dispatcher(queue: Any, dispatch: Any) -> None:
    agent = _agent(queue, Agent(chooser=first_in_queue))
    jobs = _spilled(queue, agent, range(SPILL + 6))

    assert [agent.claimJob() for _ in range(3)] == jobs[:3] and agent.claimJob() is None
    assert jobs[0].status == ASSIGNED and len(queue) == len(jobs) - 3
    assert agent.slot.counts["backlog"] == len(jobs) - 3


def test_a_claim_by_hand_sees_the_backlogs_of_all_dispatchers(queue: Any) -> None:
    jobs = _spilled(queue, _agent(queue), range(SPILL + 2))

    assert queue.claim() is jobs[0] and queue.counts()["waiting"] == len(jobs) - 1


def test_filter_and_chooser_of_an_agent_exclude_each_other_until_one_is_taken_away(queue: Any) -> None:
    agent = _agent(queue, Agent(chooser=first_in_queue))
    (job, other) = _put_many(queue, [2, 3])
    with pytest.raises(ValueError, match="cannot set both"):
        agent.filter = odd
    assert agent.filter is None and agent.chooser is first_in_queue and not IFilterAgent.providedBy(agent)
    with pytest.raises(ValueError, match="cannot set both"):
        Agent(first_in_queue, odd)
    agent.chooser = None
    agent.filter = odd
    with pytest.raises(ValueError, match="cannot set both"):
        agent.chooser = first_in_queue
    assert agent.chooser is None and IFilterAgent.providedBy(agent)
    assert [agent.claimJob(), agent.claimJob()] == [other, None]
    agent.filter = None
    assert agent.claimJob() is job


def test_an_agent_of_a_class_of_its_own_chooses_as_it_likes(queue: Any) -> None:
    agent = _agent(queue, Picky(size=2))
    jobs = _put_many(queue, [1, 5, 3, 4])

    assert [agent.claimJob(), agent.claimJob(), agent.claimJob()] == [jobs[1], jobs[3], None]


def test_a_dispatcher_runs_what_an_agent_of_a_class_of_its_own_chooses(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1, poll_interval=60)
    transaction.begin()
    da = queue.dispatchers[running.dispatcher.UUID]
    del da["main"]
    da["main"] = Picky(size=1)
    transaction.commit()
    poll_now(running.dispatcher)
    jobs = [queue.put(Job(enginejobs.note, number)) for number in (2, 9, 4)]
    transaction.commit()
    for job in jobs:
        wait_for_result(job)

    assert enginejobs.calls == [9, 4, 2]


def test_a_job_that_is_too_late_comes_from_a_claim_as_a_job_that_ends_it(queue: Any) -> None:
    agent = _agent(queue)
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(enginejobs.note)
    queue.put(job, begin_by=timedelta(seconds=5))
    transaction.commit()
    set_now(now := utcnow() + timedelta(seconds=6))
    wrapper = agent.claimJob()

    assert execution.expired(wrapper) is job and wrapper.status == ASSIGNED and wrapper.begin_after == now
    assert wrapper() is None
    assert (job.status, callback.result) == (CALLBACKS, None) and job.result.check(TimeoutError)
    (taken,) = Taker(queue, agent.slot).take(5)
    assert (taken.job, taken.kind) == (job, "resume")


def test_a_job_that_is_too_late_for_a_chooser_ends_and_is_filed_away(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1, poll_interval=60)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID]["main"].chooser = first_in_queue
    late = Job(enginejobs.add, 1)
    callback = late.addCallbacks(failure=enginejobs.note)
    queue.put(late, begin_by=timedelta(0))
    transaction.commit()

    assert wait_for_result(late).check(TimeoutError) and callback.result.check(TimeoutError)
    wait_until(queue, lambda: list(queue.finished()) == [late], what="the job's filing")
    assert queue.counts()["failed"] == 1


@pytest.mark.parametrize("reason", ["pause", "quota", "filter"])
def test_a_job_that_is_too_late_ends_whatever_else_keeps_it_from_running(
    reason: str, queue: Any, dispatch: Any
) -> None:
    queue.quotas.create("one")
    transaction.commit()
    running = dispatch(threads=2, poll_interval=0.2)
    transaction.begin()
    holder, late = Job(enginejobs.wait, "a"), Job(enginejobs.note, "never")
    for job in (holder, late):
        job.quota_names = ("one",) if reason == "quota" else ()
    queue.put(holder)
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    transaction.begin()
    if reason == "pause":
        queue.paused = True
    elif reason == "filter":
        queue.dispatchers[running.dispatcher.UUID]["main"].filter = nothing
    queue.put(late, begin_by=timedelta(seconds=0.1))
    transaction.commit()

    assert wait_for_result(late, 20).check(TimeoutError)
    assert enginejobs.calls == ["a"]
    enginejobs.released["a"].set()
    assert wait_for_result(holder, 20) == "a"


@pytest.mark.parametrize("chooser", [None, first_in_queue])
def test_cancelled_jobs_leave_a_queue_that_is_paused(chooser: Any, queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1, poll_interval=60)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID]["main"].chooser = chooser
    queue.paused = True
    jobs = _put_many(queue, range(SPILL + 20))
    waits = Job(enginejobs.add, 1)
    callback = waits.addCallback(enginejobs.note)
    queue.put(waits)
    transaction.commit()
    poll_now(running.dispatcher)
    transaction.begin()
    for job in (*jobs[::2], waits):
        assert queue.cancel(job) == "cancelled"
    transaction.commit()
    wait_until(queue, lambda: queue.counts()["cancelled"] == len(jobs[::2]), what="the filing of cancelled jobs")

    assert {job.status for job in jobs[::2]} == {COMPLETED} and len(list(queue)) == len(jobs[1::2])
    assert waits.result.check(CancelledError) and callback.status != COMPLETED  # nothing runs in a paused queue
    queue.paused = False
    transaction.commit()
    assert wait_for_result(callback).check(CancelledError)


def test_what_a_filter_has_rejected_is_not_looked_at_again(queue: Any) -> None:
    agent, skipped = _agent(queue), Rejections()
    jobs = _spilled(queue, agent, range(0, 2 * (SPILL + 936), 2))
    looked, taker = skipped.looks, Taker(queue, agent.slot, skipped=skipped)
    assert taker.take(1, odd) == [] and taker.more
    while taker.more:
        assert taker.take(1, odd) == []
    assert len(enginejobs.calls) == len(jobs) == 1000 and skipped.looks - looked >= 1000
    enginejobs.calls.clear()
    looked = skipped.looks
    (new,) = _put_many(queue, [7])
    for expected in ([new], [], []):
        taken = Taker(queue, agent.slot, skipped=skipped).take(1, odd)
        assert [one.job for one in taken] == expected
    assert enginejobs.calls == [7] and skipped.looks - looked < 10


def test_a_job_that_comes_in_before_what_was_rejected_is_found(queue: Any) -> None:
    agent, skipped = _agent(queue), Rejections()
    _spilled(queue, agent, range(0, 2 * SPILL + 40, 2))
    assert Taker(queue, agent.slot, skipped=skipped).take(1, odd) == []
    urgent = [Job(enginejobs.add, number) for number in range(1, SPILL + 10)]
    places._thread.shard, places._thread.left = 0, 10**6
    for job in urgent:
        job.set_priority(5)
        queue.put(job)
    places._thread.left = 0
    transaction.commit()
    taker = Taker(queue, agent.slot, skipped=skipped)
    taker.told = [skipped]
    first = taker.take(3, odd)
    taker.spill()

    assert [one.job.args[0] for one in first] == [1, 3, 5]
    assert [one.job.args[0] for one in taker.take(2, odd)] == [7, 9]


def test_what_stays_for_another_reason_than_the_filter_is_offered_again(queue: Any) -> None:
    agent, skipped = _agent(queue), Rejections()
    jobs = _spilled(queue, agent, range(SPILL + 10))

    def not_the_first(job: Any) -> bool:
        return job is not jobs[1]

    taker = Taker(queue, agent.slot, skipped=skipped)
    assert [one.job for one in taker.take(1, odd, not_the_first)] == [jobs[3]]
    assert [one.job for one in taker.take(2, odd)] == [jobs[1], jobs[5]]


def test_a_new_filter_looks_at_all_jobs_again(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1, poll_interval=60)
    transaction.begin()
    agent = queue.dispatchers[running.dispatcher.UUID]["main"]
    agent.filter = nothing
    transaction.commit()
    jobs = _put_many(queue, range(SPILL + 30))
    poll_now(running.dispatcher)
    transaction.begin()
    assert len(list(queue)) == len(jobs)
    agent.filter = None
    transaction.commit()

    assert [wait_for_result(job) for job in jobs] == list(range(SPILL + 30))


def test_what_one_dispatcher_does_not_take_from_its_backlog_another_one_takes(queue: Any, dispatch: Any) -> None:
    first, second = (dispatch(threads=1, poll_interval=60) for _ in range(2))
    for running in (first, second):
        poll_now(running.dispatcher)
    transaction.begin()
    for running, accepts in ((first, even), (second, odd)):
        queue.dispatchers[running.dispatcher.UUID]["main"].filter = accepts
    transaction.commit()
    home = first.dispatcher.claimer.homes[""][0]
    places._thread.shard, places._thread.left = home, 10**6
    jobs = [queue.put(Job(enginejobs.add, number)) for number in range(1, 3 * SPILL, 2)]
    places._thread.left = 0
    transaction.commit()
    for _ in range(2):
        poll_now(first.dispatcher)
    assert len(jobs) > SPILL
    for job in jobs:
        second.dispatcher.poll_soon()
        wait_for_result(job, 20)

    assert {job.agent.parent.UUID for job in jobs} == {second.dispatcher.UUID}
