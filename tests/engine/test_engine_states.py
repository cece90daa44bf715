"""A job takes every step of the table of transitions, and no other."""

from collections.abc import Callable
from collective.zcasync import execution
from collective.zcasync import local
from collective.zcasync import states
from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.surroundings import Surroundings
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import itertools
import pytest
import re
import states as script
import transaction

ALL = (NEW, PENDING, ASSIGNED, ACTIVE, CALLBACKS, COMPLETED)

#: What the jobs of a test have seen of themselves, or a callback of its job.
seen: list[Any] = []


def look(*_results: Any) -> None:
    """A job, or a callback, that notes its own status."""
    seen.append(local.getJob().status)


def look_at_main(_result: Any) -> None:
    """A callback that notes the status of its job."""
    seen.append(local.getJob().parent.status)


class World:
    """A queue, and an agent of a dispatcher that claims nothing by itself."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        queue.dispatchers.register(name := uuid4())
        self.da = queue.dispatchers[name]
        self.da.activate()
        self.agent = self.da["main"] = Agent()
        transaction.commit()

    def put(self, call: Callable[..., Any] = look, callback: Any = None, **options: Any) -> Any:
        job = self.queue.put(Job(call), **options)
        if callback is not None:
            job.addCallback(callback)
        transaction.commit()
        return job

    def claim(self, job: Any, active: bool = False) -> Any:
        """What a claim does: ``active`` if a thread is free."""
        assert [taken.job for taken in Taker(self.queue, self.da.slot).take(1)] == [job]
        self.agent.hold(job, active)
        transaction.commit()
        return job

    def perform(self, job: Any, kind: str = "run") -> None:
        """What a job thread does with a claimed job."""
        execution.perform(job._p_jar.db(), job._p_oid, kind, job.token, Surroundings())
        transaction.begin()

    def too_late(self, callback: Any = None) -> Any:
        """A claimed job whose begin_by has passed."""
        job = self.put(callback=callback, begin_by=timedelta(minutes=1))
        set_now(utcnow() + timedelta(hours=1))
        return self.claim(job)


@pytest.fixture
def world(queue: Any) -> World:
    seen.clear()
    return World(queue)


# One function for each step: it returns the status before and after.


def new_to_pending(world: World) -> tuple[Any, Any]:
    job = Job(look)
    return job.status, world.queue.put(job).status


def new_to_assigned(world: World) -> tuple[Any, Any]:
    world.put()
    job = world.queue.claim()
    before = job.status
    world.agent.hold(job, active=False)
    return before, job.status


def new_to_active(world: World) -> tuple[Any, Any]:
    job = Job(look)
    before = job.status
    job()
    return before, *seen


def new_to_callbacks(world: World) -> tuple[Any, Any]:
    job = Job(look)
    job.addCallback(look_at_main)
    before = job.status
    job.fail()
    return before, *seen


def new_to_completed(world: World) -> tuple[Any, Any]:
    job = Job(look)
    before = job.status
    job.fail()
    return before, job.status


def pending_to_new(world: World) -> tuple[Any, Any]:
    job = world.put()
    before = job.status
    world.queue.remove(job)
    return before, job.status


def pending_to_assigned(world: World) -> tuple[Any, Any]:
    job = world.put()
    return job.status, world.claim(job).status


def pending_to_active(world: World) -> tuple[Any, Any]:
    job = world.put()
    callback = job.addCallback(look)
    before = callback.status
    job.fail()
    return before, *seen


def pending_to_callbacks(world: World) -> tuple[Any, Any]:
    job = world.put(callback=look)
    before = job.status
    world.queue.cancel(job)
    return before, job.status


def pending_to_completed(world: World) -> tuple[Any, Any]:
    job = world.put()
    before = job.status
    world.queue.cancel(job)
    return before, job.status


def assigned_to_new(world: World) -> tuple[Any, Any]:
    job = world.claim(world.put())
    return job.status, world.agent.pull().status


def assigned_to_pending(world: World) -> tuple[Any, Any]:
    job = world.claim(world.put())
    before = job.status
    world.da.deactivate()
    return before, job.status


def assigned_to_active(world: World) -> tuple[Any, Any]:
    job = world.claim(world.put())
    before = job.status
    world.perform(job)
    return before, *seen


def assigned_to_callbacks(world: World) -> tuple[Any, Any]:
    job = world.too_late(look_at_main)
    before = job.status
    world.perform(job, "expire")
    return before, *seen


def assigned_to_completed(world: World) -> tuple[Any, Any]:
    job = world.too_late()
    before = job.status
    world.perform(job, "expire")
    return before, job.status


def active_to_pending(world: World) -> tuple[Any, Any]:
    job = world.claim(world.put(), active=True)
    before = job.status
    world.da.deactivate()
    return before, job.status


def active_to_callbacks(world: World) -> tuple[Any, Any]:
    job = world.claim(world.put(callback=look_at_main), active=True)
    world.perform(job)
    return tuple(seen)


def active_to_completed(world: World) -> tuple[Any, Any]:
    job = world.claim(world.put(), active=True)
    world.perform(job)
    return *seen, job.status


def callbacks_to_completed(world: World) -> tuple[Any, Any]:
    job = world.put(callback=look)
    world.queue.cancel(job)
    before = job.status
    world.claim(job)
    world.perform(job, "resume")
    return before, job.status


def completed_to_callbacks(world: World) -> tuple[Any, Any]:
    job = world.claim(world.put(), active=True)
    world.perform(job)
    before = job.status
    seen.clear()
    job.addCallback(look_at_main)
    return before, *seen


@pytest.mark.parametrize("step", states.TRANSITIONS, ids=script.name_of)
def test_a_job_takes_every_step_of_the_table(world: World, step: states.Transition) -> None:
    assert globals()[script.name_of(step)](world) == (step.before, step.after)


@pytest.mark.parametrize(
    ("before", "after"),
    sorted(set(itertools.product(ALL, ALL)) - {(step.before, step.after) for step in states.TRANSITIONS}),
)
def test_no_job_takes_a_step_that_is_not_in_the_table(before: Any, after: Any) -> None:
    job = SimpleNamespace(status=before)
    with pytest.raises(BadStatusError, match=f"is {before.default}, from where no job becomes {after.default}"):
        states.check_step(job, after)


def test_a_job_that_has_ended_cannot_end_again(world: World) -> None:
    job = world.claim(world.put(), active=True)
    world.perform(job)
    with pytest.raises(BadStatusError):
        job._finish("another result", utcnow())
    assert job.result is None and job.outcome == "succeeded"


def test_the_status_changes_in_one_place_only(repository: Path) -> None:
    modules = (repository / "src").rglob("*.py")
    writes = [(path.name, len(re.findall(r"\._status_id = ", path.read_text()))) for path in modules]
    assert [(name, count) for name, count in writes if count] == [("job.py", 1)]


def test_the_page_shows_the_table_of_the_code(repository: Path) -> None:
    page = (repository / "docs" / "concepts" / "states.md").read_text()
    assert script.filled(page) == page
