"""zopeapp.limits: what ends a worker before a signal does."""

from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync import instanceuuid
from collective.zcasync import reactor
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.limits import Drained
from collective.zcasync.zopeapp.limits import Limits
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import pytest
import time

#: Seconds that any single step may take on a busy machine.
PATIENCE = 30


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Any]:
    db = DB(FileStorage(str(tmp_path / "Data.fs")))
    reactor.prepare(db)
    yield db
    db.close()


@pytest.fixture
def running(database: Any) -> Iterator[RunningDispatcher]:
    one = reactor.start(database, threads=2)
    one.dispatcher.polls.wait_for(0, PATIENCE)
    yield one
    one.stop(grace=0)


def put(database: Any, function: Any, *args: Any) -> None:
    with database.transaction() as connection:
        get_queue(connection).put(Job(function, *args))


def wait_until_drained(drained: Drained) -> None:
    end = time.monotonic() + PATIENCE
    while not drained():
        assert time.monotonic() < end


@pytest.mark.parametrize(
    ("settings", "reached"),
    [
        (Settings(), ""),
        (Settings(max_jobs=7), "it has run 7 jobs"),
        (Settings(max_jobs=8), ""),
        (Settings(max_minutes=2), "it has run for 2 minutes"),
        (Settings(max_minutes=3), ""),
        (Settings(max_megabytes=300), "it uses 300 MB of memory"),
        (Settings(max_megabytes=301), ""),
    ],
)
def test_each_limit_holds_from_its_value_on_and_0_is_none(
    settings: Settings, reached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instanceuuid, "process_memory", lambda: 300 * 2**20)
    limits = Limits(settings, SimpleNamespace(ran=7), spread=0)
    limits._began -= 121
    assert limits() is bool(reached)
    assert limits.reached == reached


def test_workers_that_start_together_have_limits_apart_but_never_greater() -> None:
    limits = [Limits(Settings(max_jobs=1000, max_minutes=100), SimpleNamespace(ran=0)) for _ in range(20)]
    jobs = {one._jobs for one in limits}
    assert len(jobs) == 20
    assert all(900 <= number <= 1000 for number in jobs)
    assert all(90 <= one._minutes <= 100 for one in limits)


def test_what_runs_in_the_threads_is_counted(running: RunningDispatcher, database: Any) -> None:
    put(database, int, "3")
    put(database, int, "three")
    wait_until_drained(Drained(running.dispatcher))
    assert (running.dispatcher.ran, running.dispatcher.failed) == (2, 1)
    assert Limits(Settings(max_jobs=2), running.dispatcher)()


def test_a_queue_is_drained_when_its_jobs_and_those_that_they_put_have_ended(
    running: RunningDispatcher, database: Any
) -> None:
    put(database, chain, 3)
    wait_until_drained(Drained(running.dispatcher))
    assert running.dispatcher.ran == 4


def chain(further: int) -> int:
    """Puts another one of its kind, so many times."""
    if further:
        api.put(chain, further - 1)
    return further


def test_what_waits_for_a_person_does_not_keep_a_queue_from_being_drained(
    running: RunningDispatcher, database: Any
) -> None:
    with database.transaction() as connection:
        get_queue(connection).paused = True
    put(database, int, "3")
    wait_until_drained(Drained(running.dispatcher))
    assert running.dispatcher.ran == 0
