"""What a job's record holds: little, since all of it is loaded and written several times in a job's life."""

from collective.zcasync import clock
from collective.zcasync import sweeping
from collective.zcasync.claims import Taker
from collective.zcasync.job import Job
from collective.zcasync.jobinfo import End
from collective.zcasync.slot import Slot
from collective.zcasync.testing import wait_for_result
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from typing import Any

import enginejobs
import pickle
import transaction

NOON = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=timezone.utc)


def stored(job: Job) -> dict[str, Any]:
    """What the job's record holds: plain values in one text of bytes, the rest beside it."""
    plain, rest = job.__getstate__()
    return {**pickle.loads(plain), **rest}


class Remembering(Job):
    """A job of the application, with another default and one of its own."""

    capture_locals = True
    mood = ""


def test_a_new_job_holds_what_is_not_usual_and_no_datetimes(queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()

    assert set(stored(job)) == {"_callable", "_args", "put_at", "parent", "key", "shard"}
    assert job.put_at == clock.from_microseconds(stored(job)["put_at"])


def test_only_references_and_what_is_not_plain_stand_beside_the_plain_values(queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1, ("two", (3.0, b"4"))))
    follower = job.addCallback(enginejobs.note)
    job.policy_data["when"] = NOON
    transaction.commit()
    job._p_deactivate()

    assert job.__getstate__()[1] == {"parent": queue, "_callbacks": (follower,), "_policy_data": (("when", NOON),)}
    assert job.args == [1, ("two", (3.0, b"4"))] and job.callbacks == (follower,) and job.policy_data["when"] == NOON


def test_the_record_of_a_job_is_small_to_its_end(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    wait_for_result(job)
    data, _serial = queue._p_jar._storage.load(job._p_oid)

    assert len(data) < 500
    assert not any(isinstance(value, datetime) for value in stored(job).values())
    assert job.put_at <= job.active_start <= job.active_end == job.initial_callbacks_end


def test_what_is_not_written_is_there_when_the_job_is_loaded_again(queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1), begin_after=NOON)
    job.priority = 3
    transaction.commit()
    job.priority, job.attempts = 0, 0
    transaction.commit()
    job._p_deactivate()

    assert (job.priority, job.attempts, job.result, job.error, job.kwargs) == (0, 0, None, "", {})
    assert job.begin_after == NOON
    job.begin_by = timedelta(hours=1)
    assert job.deadline() == NOON + timedelta(hours=1)


def test_records_of_one_dict_with_datetimes_and_all_defaults_are_read_as_before() -> None:
    job = Job(enginejobs.add, 1)
    job.__setstate__({**stored(job), "put_at": NOON, "active_start": None, "_status_id": 0, "_payload": None})

    assert (job.put_at, job.active_start, job.status) == (NOON, None, "new-status")
    job.put_at = NOON
    assert stored(job)["put_at"] == clock.to_microseconds(NOON)


def test_the_defaults_of_an_applications_class_are_written_as_they_may_change(queue: Any) -> None:
    job = Remembering(enginejobs.add)
    job.capture_locals, job.mood, job.priority = False, "", 0
    queue.put(job)
    transaction.commit()
    job._p_deactivate()

    assert (job.capture_locals, job.mood) == (False, "")
    assert {"capture_locals", "mood"} <= set(stored(job)) and "priority" not in stored(job)


def _claimed(queue: Any, number: int) -> tuple[Any, list[Job]]:
    agent = enginejobs.make_agent(queue)
    jobs = [queue.put(Job(enginejobs.add, value)) for value in range(number)]
    transaction.commit()
    assert len(Taker(queue, agent.slot).take(number)) == number
    agent.hold_all([(job, True) for job in jobs])
    transaction.commit()
    return agent.slot, jobs


def test_a_slot_writes_of_a_running_job_little_more_than_its_reference(queue: Any) -> None:
    slot, (job,) = _claimed(queue, 1)

    def size() -> int:
        return len(queue._p_jar._storage.load(slot._p_oid)[0])

    before, others = size(), [Job(enginejobs.add, number) for number in range(20)]
    for other in others:
        queue._p_jar.add(other)
    slot.hold("main", others)
    transaction.commit()

    assert list(slot.running) == [job._p_oid, *(other._p_oid for other in others)]
    assert size() - before < 20 * 25


def test_a_slot_knows_its_running_jobs_again_also_from_a_record_of_before(queue: Any) -> None:
    slot, jobs = _claimed(queue, 3)
    slot._p_deactivate()
    held = {job._p_oid: (job, "main") for job in jobs}

    assert list(slot.running.items()) == list(held.items())
    old = Slot(1)
    old.__setstate__({**slot.__getstate__(), "running": held})
    assert old.running == held


def test_a_job_that_is_told_of_twice_is_filed_once(queue: Any) -> None:
    slot, jobs = _claimed(queue, 2)
    for job in jobs:
        job._finish(1, clock.utcnow())
    ends = {job._p_oid: end for job in jobs if (end := End.of(job))}
    told = [(job._p_oid, "finished") for job in jobs]

    assert len(ends) == 2
    sweeping.sweep(queue, slot, told + told, ends)
    assert sorted(job.args[0] for job in queue.finished()) == [0, 1]
    assert (slot.running, slot.counts["succeeded"]) == ({}, 2)
