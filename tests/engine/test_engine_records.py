"""What a job's record holds: little, since all of it is loaded and written several times in a job's life."""

from collective.zcasync import clock
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_for_result
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from typing import Any

import enginejobs
import transaction

NOON = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=timezone.utc)


class Remembering(Job):
    """A job of the application, with another default and one of its own."""

    capture_locals = True
    mood = ""


def test_a_new_job_holds_what_is_not_usual_and_no_datetimes(queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()

    assert set(job.__getstate__()) == {"_callable", "_args", "put_at", "parent", "key", "shard"}
    assert job.put_at == clock.from_microseconds(job.__getstate__()["put_at"])


def test_the_record_of_a_job_is_small_to_its_end(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    wait_for_result(job)
    data, _serial = queue._p_jar._storage.load(job._p_oid)

    assert len(data) < 600
    assert not any(isinstance(value, datetime) for value in job.__getstate__().values())
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


def test_records_with_datetimes_and_all_defaults_are_read_as_before() -> None:
    job = Job(enginejobs.add, 1)
    job.__setstate__({**job.__getstate__(), "put_at": NOON, "active_start": None, "_status_id": 0, "_payload": None})

    assert (job.put_at, job.active_start, job.status) == (NOON, None, "new-status")
    job.put_at = NOON
    assert job.__getstate__()["put_at"] == clock.to_microseconds(NOON)


def test_the_defaults_of_an_applications_class_are_written_as_they_may_change(queue: Any) -> None:
    job = Remembering(enginejobs.add)
    job.capture_locals, job.mood, job.priority = False, "", 0
    queue.put(job)
    transaction.commit()
    job._p_deactivate()

    assert (job.capture_locals, job.mood) == (False, "")
    assert {"capture_locals", "mood"} <= set(job.__getstate__()) and "priority" not in job.__getstate__()
