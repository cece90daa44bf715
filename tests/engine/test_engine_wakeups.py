"""No job waits for a poll when a thread is free: whatever lets it begin wakes a dispatcher, on each storage."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import notify
from collective.zcasync import wakeup
from collective.zcasync.agent import Agent
from collective.zcasync.claims import SPILL
from collective.zcasync.clock import utcnow
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.retry import NeverRetry
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from uuid import UUID
from ZEO.Exceptions import ClientDisconnected

import enginejobs
import pytest
import threading
import transaction

#: Seconds between polls and looks at the storage: what begins before that was woken.
NEVER = 600

#: Seconds that a test waits at most for what others do.
LONG = 20


STORAGES = ["filestorage", "zeo", "relstorage", "notify"]


@pytest.fixture
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "notify":
        monkeypatch.setattr(wakeup, "POLL", NEVER)
        monkeypatch.setattr(wakeup, "SLOW_POLL", NEVER)
    return str(request.param)


@pytest.fixture
def clients(request: pytest.FixtureRequest, storage: str) -> Callable[[], Any]:
    names = {"filestorage": "open_database", "zeo": "zeo_database"}
    opened: Callable[[], Any] = request.getfixturevalue(names.get(storage, "relstorage_database"))

    def open_one() -> Any:
        database = opened()
        if storage == "notify":
            assert notify.switch_on(database)
        return database

    return open_one


class Scene:
    """Dispatchers that no poll helps, and jobs that tell when they begin."""

    def __init__(self, queue: Any, clients: Callable[[], Any], dispatch: Callable[..., Any]) -> None:
        self.queue, self.clients, self._dispatch = queue, clients, dispatch
        self.dispatchers: list[Any] = []

    def begin(self, threads: int = 3, **options: Any) -> Any:
        """One more dispatcher, in a process of its own as far as the database can tell."""
        running = self._dispatch(threads=threads, poll_interval=NEVER, **options)
        self.dispatchers.append(running.dispatcher)
        listener = running.dispatcher.watcher._listener
        wait_until(self.queue, lambda: listener is None or listener.connected, LONG, "that it listens")
        self.fall_asleep()
        return running

    def fall_asleep(self) -> None:
        """Return when no dispatcher has anything to do, nor plans to do."""
        wait_until(self.queue, self._asleep, LONG, "that all dispatchers sleep")

    def _asleep(self) -> bool:
        rounds = [one.rounds for one in self.dispatchers]
        threading.Event().wait(0.05)
        planned = [one._wake.is_set() or one._pause() < LONG for one in self.dispatchers]
        return not any(planned) and rounds == [one.rounds for one in self.dispatchers]

    def put(self, *args: Any, queue: Any = None, quota: str = "", group: str = "", **options: Any) -> Job:
        job = args[0] if isinstance(args[0], Job) else Job(*args)
        job.quota_names = (quota,) if quota else ()
        job.group = group
        (self.queue if queue is None else queue).put(job, **options)
        transaction.commit()
        return job

    def occupy(self, name: str = "a", **options: Any) -> Job:
        """A job that runs until it is released."""
        job = self.put(enginejobs.wait, name, **options)
        assert enginejobs.started[name].wait(LONG)
        return job

    def agent(self, number: int = 0) -> Any:
        """The agent of one of the dispatchers."""
        transaction.begin()
        return self.queue.dispatchers[self.dispatchers[number].UUID]["main"]

    def specialists(self) -> None:
        """Two dispatchers: the first runs jobs "a" only, the second no others than "b"."""
        self.begin()
        self.begin()
        self.agent(0).filter, self.agent(1).filter = only_a, only_b
        transaction.commit()
        self.fall_asleep()


@pytest.fixture
def scene(queue: Any, clients: Callable[[], Any], dispatch: Callable[..., Any]) -> Scene:
    return Scene(queue, clients, dispatch)


def only_a(job: Any) -> bool:
    return tuple(job.args) == ("a",)


def only_b(job: Any) -> bool:
    return tuple(job.args) == ("b",)


def hand_on(job: Job) -> Job:
    return job


def then_wait(name: str, result: Any) -> str:
    return enginejobs.wait(name)


def fail_first(name: str) -> str:
    """The first run tells that it began as "a", and fails when it is released."""
    if enginejobs.calls:
        return enginejobs.wait(name)
    enginejobs.wait("a")
    raise ValueError("not yet")


class Soon(NeverRetry):
    """Longer than a thread waits by itself."""

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        return timedelta(seconds=1.1)


# What happens before the yield lets a job "b" wait, and what happens behind it lets it begin.

Cause = Callable[[Scene], Iterator[None]]


def a_put_in_another_thread(scene: Scene) -> Iterator[None]:
    scene.begin()
    yield
    scene.put(enginejobs.wait, "b")


def a_put_in_another_process(scene: Scene) -> Iterator[None]:
    other = scene.clients()
    scene.begin()
    yield
    with other.transaction() as connection:
        get_queue(connection).put(Job(enginejobs.wait, "b"))


def a_freed_slot(scene: Scene) -> Iterator[None]:
    scene.begin(threads=1)
    scene.occupy("a")
    scene.put(enginejobs.wait, "b")
    yield
    enginejobs.released["a"].set()


def _frees_a_quota(scene: Scene, begin: Callable[[], Any]) -> Iterator[None]:
    scene.queue.quotas.create("one", 1)
    transaction.commit()
    begin()
    scene.occupy("a", quota="one")
    scene.put(enginejobs.wait, "b", quota="one")
    yield
    enginejobs.released["a"].set()


def a_freed_quota(scene: Scene) -> Iterator[None]:
    return _frees_a_quota(scene, scene.begin)


def a_quota_that_another_process_frees(scene: Scene) -> Iterator[None]:
    return _frees_a_quota(scene, scene.specialists)


def a_due_begin_after(scene: Scene) -> Iterator[None]:
    scene.begin()
    yield
    scene.put(enginejobs.wait, "b", begin_after=utcnow() + timedelta(seconds=0.7))


def a_due_begin_after_of_a_job_that_another_process_has_moved(scene: Scene) -> Iterator[None]:
    scene.specialists()
    yield
    scene.put(enginejobs.wait, "b", begin_after=utcnow() + timedelta(seconds=0.7))


def a_reschedule(scene: Scene) -> Iterator[None]:
    scene.begin(threads=1)
    scene.put(fail_first, "b", retry_policy_factory=Soon)
    assert enginejobs.started["a"].wait(LONG)
    yield
    enginejobs.released["a"].set()


def an_inner_job_that_ends(scene: Scene) -> Iterator[None]:
    scene.begin(threads=1)
    outer = Job(hand_on, Job(enginejobs.wait, "a"))
    outer.addCallback(Job(then_wait, "b"))
    scene.put(outer)
    assert enginejobs.started["a"].wait(LONG)
    yield
    enginejobs.released["a"].set()


def a_cancelled_job_with_a_callback(scene: Scene) -> Iterator[None]:
    scene.begin()
    job = Job(enginejobs.add)
    job.addCallbacks(failure=Job(then_wait, "b"))
    scene.put(job, begin_after=utcnow() + timedelta(hours=1))
    wait_until(scene.queue, lambda: list(scene.queue.later_jobs()), LONG, "that it lies among those for later")
    yield
    scene.queue.cancel(job)
    transaction.commit()


def a_resumed_queue(scene: Scene) -> Iterator[None]:
    scene.queue.paused = True
    scene.put(enginejobs.wait, "b")
    scene.begin()
    yield
    scene.queue.paused = False
    transaction.commit()


def a_released_group(scene: Scene) -> Iterator[None]:
    scene.queue.hold_group("site")
    scene.put(enginejobs.wait, "b", group="site")
    scene.begin()
    yield
    scene.queue.release_group("site")
    transaction.commit()


def a_resized_quota(scene: Scene) -> Iterator[None]:
    scene.begin()
    scene.queue.quotas.create("one", 1)  # after the start: it is watched all the same
    transaction.commit()
    scene.occupy("a", quota="one")
    scene.put(enginejobs.wait, "b", quota="one")
    yield
    scene.queue.quotas.resize("one", 2)
    transaction.commit()


def a_removed_quota(scene: Scene) -> Iterator[None]:
    scene.begin()
    scene.queue.quotas.create("one", 1)
    transaction.commit()
    scene.occupy("a", quota="one")
    scene.put(enginejobs.wait, "b", quota="one")
    yield
    scene.queue.quotas.remove("one")
    transaction.commit()


def a_changed_filter(scene: Scene) -> Iterator[None]:
    scene.begin()
    scene.agent().filter = only_a
    transaction.commit()
    scene.put(enginejobs.wait, "b")
    yield
    scene.agent().filter = only_b
    transaction.commit()


def a_larger_agent(scene: Scene) -> Iterator[None]:
    scene.begin()
    scene.agent().size = 1
    transaction.commit()
    scene.occupy("a")
    scene.put(enginejobs.wait, "b")
    yield
    scene.agent().size = 2
    transaction.commit()


def a_new_agent(scene: Scene) -> Iterator[None]:
    scene.begin()
    scene.agent().filter = only_a
    transaction.commit()
    scene.put(enginejobs.wait, "b")
    yield
    scene.agent().parent["second"] = Agent(filter=only_b)
    transaction.commit()


def a_new_template(scene: Scene) -> Iterator[None]:
    scene.begin()
    scene.agent().size = 0
    transaction.commit()
    scene.put(enginejobs.wait, "b")
    yield
    scene.queue.set_template("worker", "second")
    transaction.commit()


def a_template_of_a_role_that_has_one(scene: Scene) -> Iterator[None]:
    scene.queue.set_template("worker", "main", size=1)
    transaction.commit()
    scene.begin()
    scene.agent().filter = only_a
    transaction.commit()
    scene.put(enginejobs.wait, "b")
    yield
    scene.queue.set_template("worker", "second")
    transaction.commit()


def a_new_queue(scene: Scene) -> Iterator[None]:
    scene.begin()
    yield
    install(scene.queue._p_jar, ("new",))
    transaction.commit()
    scene.put(enginejobs.wait, "b", queue=get_queue(scene.queue._p_jar, "new"))


def the_backlog_of_a_busy_process(scene: Scene) -> Iterator[None]:
    for _process in range(2):
        scene.begin(threads=1)
    yield
    jobs = [
        Job(enginejobs.wait, "a"),
        *(Job(enginejobs.note, number) for number in range(SPILL)),
        Job(enginejobs.wait, "b"),
    ]
    for job in jobs:
        scene.queue.put(job)
    transaction.commit()


def a_job_that_was_claimed_ahead_of_a_long_one(scene: Scene) -> Iterator[None]:
    scene.queue.inboxes = scene.queue.inboxes[:1]
    scene.queue.overflows = scene.queue.overflows[:1]
    transaction.commit()
    for number in (1, 2):  # the inbox has its home at the first of them
        scene.begin(threads=1, uuid=UUID(int=number))
    scene.agent(1).filter = only_b
    transaction.commit()
    for _number in range(5):
        scene.put(enginejobs.note, "quick")
    yield
    for name in "ab":
        scene.queue.put(Job(enginejobs.wait, name))
    transaction.commit()


def a_process_that_leaves(scene: Scene) -> Iterator[None]:
    running = scene.begin()
    scene.put(fail_first, "b")
    assert enginejobs.started["a"].wait(LONG)
    scene.begin()
    yield
    running.stop(grace=0)


SETTINGS: list[Cause] = [
    a_resumed_queue,
    a_released_group,
    a_resized_quota,
    a_removed_quota,
    a_changed_filter,
    a_larger_agent,
    a_new_agent,
    a_new_template,
    a_template_of_a_role_that_has_one,
    a_new_queue,
]

CAUSES: list[Cause] = [
    a_put_in_another_thread,
    a_put_in_another_process,
    a_freed_slot,
    a_freed_quota,
    a_quota_that_another_process_frees,
    a_due_begin_after,
    a_due_begin_after_of_a_job_that_another_process_has_moved,
    a_reschedule,
    an_inner_job_that_ends,
    a_cancelled_job_with_a_callback,
    the_backlog_of_a_busy_process,
    a_job_that_was_claimed_ahead_of_a_long_one,
    a_process_that_leaves,
    *SETTINGS,
]


# NOTIFY tells of no settings: these are polled for, as where it is not switched on.
ALL = [(storage, cause) for storage in STORAGES for cause in CAUSES if storage != "notify" or cause not in SETTINGS]


@pytest.mark.parametrize(("storage", "cause"), ALL, ids=lambda one: getattr(one, "__name__", one), indirect=["storage"])
def test_no_job_waits_for_a_poll_when_a_thread_is_free(cause: Cause, scene: Scene) -> None:
    steps = cause(scene)
    next(steps)
    scene.fall_asleep()
    assert not enginejobs.started["b"].is_set()
    next(steps, None)

    assert enginejobs.started["b"].wait(LONG), f"{cause.__name__} woke nobody"


@pytest.mark.parametrize("storage", STORAGES[:3], indirect=True)
def test_who_begins_to_watch_as_the_storage_is_away_hears_of_what_is_committed_when_it_is_back(
    clients: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, told = clients(), threading.Event()
    kind = type(database._mvcc_storage.new_instance())
    look = kind.poll_invalidations

    def fail(*args: Any) -> Any:
        raise ClientDisconnected("no server")

    monkeypatch.setattr(kind, "poll_invalidations", fail)
    watcher = wakeup.CommitWatcher(database, lambda oids, tid: told.set())
    monkeypatch.setattr(kind, "poll_invalidations", look)
    with database.transaction() as connection:
        watcher.watch({connection.root()._p_oid})
    told.clear()
    with database.transaction() as connection:
        connection.root()["changed"] = True

    assert told.wait(LONG)
    watcher.close()
