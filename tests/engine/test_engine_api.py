"""What most people use: api, tasks, and the helpers for tests."""

from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync import dispatcher
from collective.zcasync import local
from collective.zcasync import tasks
from collective.zcasync.clock import utcnow
from collective.zcasync.events import JobEvent
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.exceptions import QueueNotFound
from collective.zcasync.exceptions import TaskNotFound
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.testing import get_poll
from collective.zcasync.testing import JobFailed
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from datetime import timedelta
from typing import Any

import enginejobs
import pytest
import transaction
import zope.component
import zope.event


@tasks.task(name="engine.add", title="Add numbers", policy="NeverRetry", timeout=5)
def add(*numbers: int) -> int:
    """The task of these tests."""
    return sum(numbers)


@tasks.task
def put_another() -> str:
    api.put(add, 40, 2)
    return str(local.getJob().id)


@pytest.fixture(autouse=True)
def source(connection: Any) -> Iterator[None]:
    zope.component.provideUtility(lambda: connection, IConnectionSource)
    yield
    zope.component.getGlobalSiteManager().unregisterUtility(provided=IConnectionSource)


def test_a_task_can_be_put_by_itself_by_its_name_and_called_as_a_function(queue: Any, dispatch: Any) -> None:
    dispatch()
    jobs = [add.put(1, 2), api.put("engine.add", 3, 4), api.put(add, 5, 6), add.options(priority=3).put(7, 8)]
    transaction.commit()

    assert add(1, 2) == 3
    assert [wait_for_result(job) for job in jobs] == [3, 7, 11, 15]
    assert {(job.task, job.title, job.policy) for job in jobs} == {("engine.add", "Add numbers", "NeverRetry")}
    assert [job.priority for job in jobs] == [0, 0, 0, 3]


def test_the_names_of_options_do_not_collide_with_those_of_the_task(queue: Any) -> None:
    job = api.options(begin_after=timedelta(hours=1), begin_by=timedelta(hours=2)).put(enginejobs.note, value=1)

    assert dict(job.kwargs) == {"value": 1}
    assert timedelta(minutes=59) < job.begin_after - utcnow() <= timedelta(hours=1)
    assert job.begin_by == timedelta(hours=2)


def test_a_job_can_put_another_one_in_its_own_commit(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put_another.put()
    transaction.commit()
    assert wait_for_result(job) == job.id
    everywhere = (*queue, *(found for found, _uuid, _agent in queue.running()), *queue.finished())
    another = next(found for found in everywhere if found is not job)

    assert wait_for_result(another) == 42


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"queue": "nowhere"}, QueueNotFound, "no queue is named 'nowhere'"),
        ({"priority": 99}, InvalidValueError, "-16 to 15"),
        ({"quotas": "one"}, InvalidJobError, "must be a tuple"),
        ({"quotas": ("nobody",)}, ValueError, "unknown quota name"),
        ({"begin_by": timedelta(-1)}, InvalidValueError, "zero or more"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_stored(options: Any, error: Any, words: str, queue: Any) -> None:
    with pytest.raises(error, match=words):
        api.options(**options).put(enginejobs.add)
    transaction.commit()
    assert len(queue) == 0


def test_an_unknown_task_is_refused_with_the_names_of_those_that_exist(queue: Any) -> None:
    with pytest.raises(TaskNotFound, match=r"engine\.add"):
        api.put("engine.ad")


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="two tasks are named"):
        tasks.task(name="engine.add")(enginejobs.add)


def test_a_put_without_a_known_connection_says_what_to_do() -> None:
    zope.component.getGlobalSiteManager().unregisterUtility(provided=IConnectionSource)
    with pytest.raises(PutRefused, match="get_queue"):
        api.put(enginejobs.add)


def test_many_jobs_are_put_at_once_from_tuples_and_dicts(queue: Any) -> None:
    assert (
        api.put_many(
            enginejobs.note, ((number,) if number % 2 else {"value": number} for number in range(25)), batch=10
        )
        == 25
    )
    assert [job.args[0] if job.args else job.kwargs["value"] for job in put_jobs(queue)] == list(range(25))
    transaction.abort()
    assert put_jobs(queue) == []


def test_many_jobs_in_batches_of_their_own_are_kept_up_to_the_faulty_one(queue: Any) -> None:
    items: list[Any] = [(number,) for number in range(25)]
    items[17] = "not a tuple"
    with pytest.raises(InvalidJobError, match="item 17"):
        api.put_many(enginejobs.note, items, batch=10, commit=True)
    transaction.abort()
    assert len(queue) == 10


def test_a_job_is_found_by_its_id_and_nothing_else_is(queue: Any, connection: Any) -> None:
    job = api.put(enginejobs.add, 1)
    assert api.job(job.id) is job
    transaction.commit()
    assert api.job(job.id) is job
    counter = connection.root()["counter"] = enginejobs.Counter()
    transaction.commit()

    for id in ("zz", "", None, "ffffff", "1@nowhere", f"{int.from_bytes(counter._p_oid, 'big'):x}"):
        with pytest.raises(JobNotFound):
            api.job(id)  # type: ignore[arg-type]


def test_cancelling_tells_what_became_of_the_job(queue: Any, dispatch: Any) -> None:
    waiting = api.put(enginejobs.add)
    transaction.commit()
    assert api.cancel(waiting.id) == "cancelled"
    transaction.commit()
    dispatch()
    running = api.put(enginejobs.wait)
    transaction.commit()
    assert enginejobs.started["a"].wait(6)
    transaction.begin()
    assert not running.stop_requested
    assert api.cancel(running.id) == "stopping"
    transaction.commit()
    assert running.stop_requested
    enginejobs.released["a"].set()
    wait_for_result(running)
    assert api.cancel(running.id) == "finished"
    assert running.attempts == 1


def test_a_job_that_was_set_aside_can_be_cancelled(queue: Any, dispatch: Any) -> None:
    job = api.put(enginejobs.add)
    queue.take_out(job)
    queue.quarantine[1] = ("for a test", job)
    queue.adjust("quarantined", 1)
    transaction.commit()
    dispatch()
    assert api.cancel(job.id) == "cancelled"
    transaction.commit()

    assert wait_for_result(job).check(CancelledError)
    assert list(queue.quarantined()) == [] and queue.counts()["quarantined"] == 0


def test_the_repr_of_a_job_names_its_call_and_hides_secrets(queue: Any) -> None:
    job = api.put(enginejobs.note, 1, value="shown", password="hidden")
    assert repr(job).startswith("<collective.zcasync.job.Job (oid ")
    assert "enginejobs.note(1, value='shown', password=" in repr(job)
    assert "hidden" not in repr(job)


def test_jobs_run_inline_without_a_commit_callbacks_included(queue: Any, connection: Any) -> None:
    job = api.put(enginejobs.count)
    job.addCallbacks(success=enginejobs.note)
    later = api.options(begin_after=timedelta(hours=1)).put(enginejobs.count)
    assert run_jobs(queue) == [job]

    assert connection.root()["count"] == 1 and enginejobs.calls == [1]
    assert later.status == PENDING
    transaction.abort()
    assert "count" not in connection.root()


def test_inline_a_failing_job_is_undone_and_raised_with_its_traceback(queue: Any, connection: Any) -> None:
    connection.root()["mine"] = 1
    job = api.put(enginejobs.change_and_raise)
    with pytest.raises(JobFailed, match="on purpose"):
        run_jobs(queue)

    assert "changed" not in connection.root() and connection.root()["mine"] == 1
    assert job.failed
    api.put(enginejobs.change_and_raise)
    assert [found.error for found in run_jobs(queue, raises=False)] == ["ValueError: on purpose"]


def test_the_first_poll_of_the_dispatcher_can_be_awaited(queue: Any, dispatch: Any) -> None:
    running = dispatch()

    assert dispatcher.get() is running.dispatcher
    poll = get_poll(dispatcher.get(), 0)
    assert set(poll) == {""} and "main" in poll[""]
    assert running.dispatcher.getStatusInfo()["status"] == "RUNNING"


def test_events_tell_of_jobs_after_their_commit_and_cannot_break_them(queue: Any, dispatch: Any) -> None:
    told: list[Any] = []

    def listen(event: Any) -> None:
        if isinstance(event, JobEvent):
            told.append(type(event).__name__)
            raise RuntimeError("a subscriber of no use")

    zope.event.subscribers.append(listen)
    try:
        running = dispatch()
        job = queue.put(Job(enginejobs.change_and_raise))
        assert told == []
        transaction.commit()
        wait_for_result(job)
        running.stop()  # it waits for what the threads have to tell
    finally:
        zope.event.subscribers.remove(listen)
    assert told == ["JobPut", "JobStarted", "JobFailed"]


def test_of_several_tasks_for_one_function_the_one_that_is_put_runs(queue: Any) -> None:
    one, other = (tasks.register(tasks.Task(enginejobs.note, name=f"engine.note{n}", queue="")) for n in (1, 2))
    try:
        jobs = [other.put(1), one.put(2), api.put("engine.note2", 3), api.put(enginejobs.note, 4)]
        assert [job.task for job in jobs] == ["engine.note2", "engine.note1", "engine.note2", "engine.note1"]
    finally:
        for task in (one, other):
            del tasks.registry[task.name]
        del tasks._by_handler[one.handler_name]
