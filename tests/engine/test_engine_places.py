"""Where jobs stand, and what they keep meanwhile: leftovers that the model, or a look with its eyes, has found."""

from collective.zcasync.job import Job
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from typing import Any

import enginejobs
import transaction


def test_a_callback_with_a_late_callback_of_its_own_is_in_no_history(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    job = queue.put(Job(enginejobs.note, 1))
    callback = job.addCallback(Job(enginejobs.note))
    transaction.commit()
    wait_for_result(job)
    late = callback.addCallback(Job(enginejobs.note))
    other = queue.put(Job(enginejobs.note, 2))  # so that the late one cannot run at once
    transaction.commit()
    wait_for_result(late)
    wait_for_result(other)
    poll_now(running.dispatcher)
    wait_until(queue, lambda: queue.counts()["running"] == 0, what="the sweep")
    assert {found.id for found in queue.finished()} == {job.id, other.id}
    assert queue.counts()["succeeded"] == 2


def test_a_job_that_is_held_gives_up_its_places_in_quotas(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("one", 1)
    held = Job(enginejobs.note, 1)
    held.quota_names, held.group = ("one",), "site"
    queue.put(held)
    transaction.commit()
    queue.quotas["one"].add(held)  # as one that was put back after a conflict
    queue.hold_group("site")
    other = Job(enginejobs.note, 2)
    other.quota_names = ("one",)
    queue.put(other)
    transaction.commit()
    dispatch()
    assert wait_for_result(other) == 2
    assert len(queue.quotas["one"]) <= 1 and held not in queue.quotas["one"]


def test_a_job_that_is_set_aside_gives_up_its_places_in_quotas(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("one", 1)
    queue.code_wait = -1.0
    unknown = Job(enginejobs.note, 1)
    unknown.quota_names = ("one",)
    queue.put(unknown)
    unknown._callable = "enginejobs:no_such_function"
    transaction.commit()
    queue.quotas["one"].add(unknown)  # as one that was put back after a conflict
    other = Job(enginejobs.note, 2)
    other.quota_names = ("one",)
    queue.put(other)
    transaction.commit()
    dispatch()
    assert wait_for_result(other) == 2
    assert [job for _reason, job in queue.quarantined()] == [unknown]
