"""Functions and classes that the engine's tests put as jobs. Jobs find them under this module's name."""

from collections.abc import Callable
from collective.zcasync import execution
from collective.zcasync import local
from collective.zcasync import sweeping
from collective.zcasync.agent import Agent
from collective.zcasync.claims import Taker
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.surroundings import Surroundings
from persistent import Persistent
from persistent.mapping import PersistentMapping
from typing import Any
from uuid import uuid4
from ZEO.Exceptions import ClientDisconnected
from ZODB.POSException import ConflictError

import sys
import threading
import time
import transaction

#: Signals between a test and its jobs, by name; ``fresh`` makes them anew.
started: dict[str, threading.Event] = {}
released: dict[str, threading.Event] = {}
calls: list[Any] = []


def fresh() -> None:
    started.clear()
    released.clear()
    calls.clear()
    for name in ("a", "b", "c"):
        started[name] = threading.Event()
        released[name] = threading.Event()


def release_all() -> None:
    """Let all jobs go on that wait."""
    for event in released.values():
        event.set()


#: Threads that were there before the test: of others, or of a test that has failed as they did not end.
before: set[threading.Thread] = set()


def end_threads() -> set[threading.Thread]:
    """Let all jobs go on, and wait for the threads that stopped dispatchers have left to them; those that do not end.

    Before their database is closed: its end leaves locks of commits behind, for which threads would wait for ever.
    """
    release_all()
    left = {thread for thread in threading.enumerate() if thread.name.startswith("zcasync-main")} - before
    for thread in left:
        thread.join(12)
    return {thread for thread in left if thread.is_alive()}


def make_agent(queue: Any) -> Agent:
    """An agent of a dispatcher without threads, for claims by hand."""
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = agent = Agent()
    transaction.commit()
    return agent


def perform(agent: Agent, info: JobInfo | None = None, **around: Any) -> str:
    """What a dispatcher does with the next job that waits, without its threads; return what it would report of it."""
    job = agent.claimJob()
    transaction.commit()
    database = job._p_jar.db()
    report = execution.perform(database, job._p_oid, "run", job.token, Surroundings(database, **around), info)
    transaction.begin()
    return report


def put_and_commit(queue: Any, job: Job) -> Job:
    queue.put(job)
    transaction.commit()
    return job


def run_and_file(queue: Any, agent: Any) -> None:
    """Claim and run what there is, and file it away."""
    while taken := Taker(queue, agent.slot).take(1):
        job = taken[0].job
        agent.hold(job, False)
        transaction.commit()
        around = Surroundings(job._p_jar.db())
        report = execution.perform(around.database, job._p_oid, taken[0].kind, job.token, around)
        transaction.begin()
        sweeping.sweep(queue, agent.slot, [(job._p_oid, report)])
        transaction.commit()
    transaction.commit()


def root() -> Any:
    return local.getJob()._p_jar.root()


def add(*numbers: float) -> float:
    return sum(numbers)


def note(value: Any) -> Any:
    calls.append(value)
    return value


def count(key: str = "count") -> int:
    data = root()
    data[key] = data.get(key, 0) + 1
    return data[key]


def fails_first(result: Any) -> str:
    calls.append("tried")
    if len(calls) == 1:
        raise ValueError("not yet")
    return f"after {result}"


def put_one() -> None:
    local.getQueue().put(Job(add, 1))


def count_in(mapping: Any) -> int:
    """A change that only this job's mapping sees: no conflict with others."""
    mapping["count"] = mapping.get("count", 0) + 1
    return mapping["count"]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")  # at once, so that no line of the log gets into it
    sys.stdout.flush()


def change_and_raise() -> None:
    root()["changed"] = True
    raise ValueError("on purpose")


def change_and_return_failure() -> Any:
    root()["changed"] = True
    try:
        raise ValueError("returned")
    except ValueError as error:
        return Failure.from_exception(error)


def wait(name: str = "a") -> str:
    """Tell that the job runs, and wait until the test lets it go."""
    calls.append(name)
    started[name].set()
    assert released[name].wait(20)
    return name


def wait_and_count(name: str = "a") -> int:
    number = count()
    wait(name)
    return number


def conflict_times(times: int) -> int:
    calls.append("conflict")
    if len(calls) <= times:
        raise ConflictError()
    return len(calls)


def disconnect_times(times: int) -> int:
    calls.append("away")
    if len(calls) <= times:
        raise ClientDisconnected("no server")
    return len(calls)


def exit_once() -> str:
    calls.append("exit")
    if len(calls) == 1:
        raise SystemExit
    return "second time"


def commit_and_wait() -> str:
    """A job that commits by itself, before and after it waits. Its first run waits for "a", its second for "b".

    The two commits write different objects (made by the test), so that nothing but the fence can make them conflict.
    """
    name = "b" if "a" in calls else "a"
    calls.append(name)
    root()["one"]["runs"] = name
    transaction.commit()
    transaction.begin()  # this snapshot is older than a takeover that comes during the wait
    assert "effect" not in root()["two"]
    started[name].set()
    assert released[name].wait(20)
    root()["two"]["effect"] = name
    transaction.commit()
    return name


def abort_and_wait() -> str:
    """A job that aborts after it has waited, so that its snapshot is newer than a takeover."""
    name = "b" if "a" in calls else "a"
    calls.append(name)
    started[name].set()
    assert released[name].wait(20)
    transaction.abort()
    root()["two"]["effect"] = name
    transaction.commit()
    return name


def abort_and_note(result: Any) -> Any:
    """A callback that aborts, and goes on."""
    transaction.abort()
    calls.append(result)
    return result


def annotate_and_wait(name: str = "a") -> str:
    local.setLiveAnnotation("step", "half")
    return wait(name)


def failing_hook() -> str:
    def hook() -> None:
        raise RuntimeError("the hook says no")

    transaction.get().addBeforeCommitHook(hook)
    return "never stored"


def doom() -> str:
    calls.append("doom")
    transaction.doom()
    return "never stored"


def unpicklable() -> Any:
    return threading.Lock()


def change_and_return(size: int, pieces: int) -> list[str]:
    """So many texts of so many characters."""
    root()["changed"] = True
    return [f"{number}".ljust(size) for number in range(pieces)]


class Unspeakable:
    """It cannot be stored, and has no text."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        raise ValueError("no words")


def make(factory: Callable[[], BaseException]) -> None:
    raise factory()


class TwoArguments(Exception):
    """Its instances pickle, and never load again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Counter(Persistent):
    """Something with a method that can be a job."""

    value = 0

    def increase(self, by: int = 1) -> int:
        self.value += by
        return self.value


class Hooked(Job):
    """A job with hooks of its own."""

    def setUp(self) -> str:
        calls.append("set up")
        return "info"

    def tearDown(self, setup_info: Any) -> None:
        calls.append(("torn down", setup_info))


class Looking(Job):
    """Notes before its attempt and after its commit what others have stored in the root as "elsewhere"."""

    def setUp(self) -> None:
        calls.append(self._p_jar.root().get("elsewhere"))

    def tearDown(self, setup_info: Any) -> None:
        calls.append(self._p_jar.root().get("elsewhere"))


def store_elsewhere() -> None:
    with root()._p_jar.db().transaction() as connection:
        connection.root()["elsewhere"] = "stored"


def make_savepoint() -> None:
    count()
    transaction.savepoint()


def mapping() -> PersistentMapping:
    return PersistentMapping()


def catch_up(connections: list[Any]) -> None:
    """Begin anew in each connection, with all that any of them committed: ZEO tells other clients a moment later."""
    newest = max(connection.db().lastTransaction() for connection in connections)
    end = time.monotonic() + 6
    for connection in connections:
        while connection.db().lastTransaction() < newest:
            assert time.monotonic() < end, "a client does not hear of the newest transaction"
        connection.transaction_manager.begin()


def count_slowly(key: str = "count", seconds: float = 0.02) -> int:
    """A change that conflicts with that of any other such job that runs meanwhile."""
    number = count(key)
    threading.Event().wait(seconds)
    return number
