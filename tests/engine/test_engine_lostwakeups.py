"""Wake-ups that are lost, and too many of them: polls find all, nobody sleeps on after an outage, claims are merged."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import notify
from collective.zcasync import wakeup
from collective.zcasync.clock import utcnow
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.reactor import start
from collective.zcasync.testing import wait_until
from contextlib import ExitStack
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from postgresserver import postgres_server
from typing import Any
from zeoprocess import ZEOProcess

import enginejobs
import pytest
import threading
import transaction

#: Seconds between polls: what begins before that was woken.
NEVER = 600

#: Transactions that put while nobody has a thread.
PUTS = 300

#: Seconds that a test waits at most for what others do.
LONG = 60


@pytest.fixture(params=["filestorage", "zeo", "relstorage"])
def clients(request: pytest.FixtureRequest) -> Callable[[], Any]:
    names = {"filestorage": "open_database", "zeo": "zeo_database", "relstorage": "relstorage_database"}
    opened: Callable[[], Any] = request.getfixturevalue(names[request.param])
    return opened


def put_by(database: Any, *names: str) -> None:
    """Put jobs that wait, in one transaction of another process."""
    with database.transaction() as connection:
        for name in names:
            get_queue(connection).put(Job(enginejobs.wait, name))


def until(look: Callable[[], Any], what: str) -> None:
    end = threading.Event()
    for _number in range(LONG * 20):
        if look():
            return
        end.wait(0.05)
    raise AssertionError(f"waited in vain until {what}")


def test_without_any_wake_up_the_poll_finds_all(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("one", 1)
    transaction.commit()
    running = dispatch(poll_interval=0.1)
    running.dispatcher.watcher.callback = lambda oids, tid: None
    queue.paused = True
    jobs = [Job(enginejobs.wait, name) for name in ("a", "b")] + [Job(enginejobs.note, number) for number in range(400)]
    for job in jobs[:2]:
        job.quota_names = ("one",)
    for job in jobs:
        queue.put(job)
    queue.put(Job(enginejobs.wait, "c"), begin_after=utcnow() + timedelta(seconds=0.5))
    transaction.commit()
    queue.paused = False
    transaction.commit()

    assert enginejobs.started["a"].wait(LONG) and enginejobs.started["c"].wait(LONG)
    assert not enginejobs.started["b"].is_set()
    for attempt in transaction.manager.attempts(20):  # the polls write it too
        with attempt:
            queue.quotas.resize("one", 2)
    assert enginejobs.started["b"].wait(LONG)
    enginejobs.release_all()
    wait_until(queue, lambda: queue.counts()["succeeded"] == 403, LONG, "that all have run")


def test_puts_that_come_while_all_threads_are_busy_cause_no_claims(queue: Any, dispatch: Any) -> None:
    dispatcher = dispatch(poll_interval=NEVER, threads=1).dispatcher
    put_by(queue._p_jar.db(), "a")
    assert enginejobs.started["a"].wait(LONG)
    commits = claims_of(dispatcher)
    for number in range(PUTS):
        queue.put(Job(enginejobs.note, number))
        transaction.commit()
    put_by(queue._p_jar.db(), "b")
    assert len(commits) <= 5
    enginejobs.released["a"].set()
    wait_until(queue, lambda: enginejobs.calls[1:], LONG, "that they begin")


def claims_of(dispatcher: Any) -> list[None]:
    """Gets longer at each transaction that the claim thread tries to commit from now on."""
    commits: list[None] = []
    commit = dispatcher.manager.commit

    def counted() -> None:
        commits.append(None)
        commit()

    dispatcher.manager.commit = counted
    return commits


# Outages


def close(database: Any) -> None:
    """ZODB stumbles over a connection whose opening has failed."""
    with suppress(KeyError):
        database.close()


@pytest.fixture
def zeo(tmp_path: Path) -> Iterator[ZEOProcess]:
    with ZEOProcess(tmp_path) as server:
        yield server


@pytest.mark.processes
def test_nobody_stays_asleep_when_a_zeo_server_was_restarted(zeo: ZEOProcess) -> None:
    own, other = zeo.database(), zeo.database()
    with own.transaction() as connection:
        install(connection)
    running = start(own, poll_interval=NEVER, threads=3)
    running.dispatcher.polls.wait_for(0, LONG)
    put_by(other, "a")
    assert enginejobs.started["a"].wait(LONG)
    zeo.server.kill()
    until(lambda: not own.storage.is_connected() and not other.storage.is_connected(), "both have lost it")
    running.dispatcher._wake.set()  # a round that meets the outage, and forgets why it was woken
    zeo.restart()
    until(other.storage.is_connected, "the other one is back")
    put_by(other, "b")
    assert enginejobs.started["b"].wait(LONG)
    put_by(other, "c")
    assert enginejobs.started["c"].wait(LONG)
    enginejobs.release_all()
    running.stop()


@pytest.mark.processes
@pytest.mark.parametrize("told", [False, True], ids=["polled", "notify"])
def test_nobody_stays_asleep_when_postgresql_was_restarted(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if told:
        monkeypatch.setattr(wakeup, "POLL", NEVER)
    with postgres_server("fsync=off") as server, ExitStack() as stack:
        where = server.new_database()

        def another() -> Any:
            database = server.open(where)
            stack.callback(close, database)
            if told:
                assert notify.switch_on(database)
                stack.callback(notify.switch_off, database)
            return database

        own = another()
        with own.transaction() as connection:
            install(connection)
        running = start(own, poll_interval=NEVER, threads=3)
        running.dispatcher.polls.wait_for(0, LONG)
        listener = running.dispatcher.watcher._listener
        until(lambda: not told or listener.connected, "it listens")
        put_by(another(), "a")
        assert enginejobs.started["a"].wait(LONG)
        server.stop()
        running.dispatcher._wake.set()  # a round that meets the outage, and forgets why it was woken
        until(lambda: running.dispatcher.last_error, "it has met the outage")
        server.start()
        for name in "bc":
            put_by(another(), name)
            assert enginejobs.started[name].wait(LONG)
        enginejobs.release_all()
        running.stop()
