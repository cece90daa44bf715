"""RelStorage on PostgreSQL: jobs live there as elsewhere, and puts wake dispatchers with NOTIFY where that is on."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import notify
from collective.zcasync import wakeup
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.reactor import start
from collective.zcasync.testing import wait_for_result
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from postgresserver import PostgresServer
from typing import Any

import enginejobs
import logging
import os
import psycopg2
import pytest
import threading
import time
import transaction
import ZODB

#: Longer than any test: who waits for it is woken by something else.
NEVER = 120

#: How our connections show in PostgreSQL.
OURS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'zcasync: {}'"


@pytest.fixture
def server(postgres: PostgresServer) -> PostgresServer:
    return postgres


@pytest.fixture
def clients(relstorage_database: Callable[[], Any]) -> Callable[[], Any]:
    return relstorage_database


@pytest.fixture
def other(clients: Callable[[], Any], db: Any) -> Any:
    """A process that only puts."""
    return clients()


@pytest.fixture
def polls_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "POLL", NEVER)
    monkeypatch.setattr(wakeup, "SLOW_POLL", NEVER)


def put_by(database: Any, *jobs: Job, commit: bool = True) -> None:
    """Put jobs in one transaction of another process."""
    manager = transaction.TransactionManager(explicit=True)
    connection = database.open(manager)
    manager.begin()
    for job in jobs:
        get_queue(connection).put(job)
    if commit:
        manager.commit()
    else:
        manager.abort()
    connection.close()


def until(look: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 10
    while not look():
        assert time.monotonic() < end, f"waited in vain until {what}"
        threading.Event().wait(0.01)


def hears(running: Any) -> bool:
    listener = running.dispatcher.watcher._listener
    return listener is not None and listener.connected


def hearing(dispatch: Callable[..., Any], db: Any) -> Any:
    """A dispatcher that is told of puts, and finds none by its own polls."""
    assert notify.switch_on(db)
    running = dispatch(poll_interval=NEVER)
    until(lambda: hears(running), "the dispatcher listens")
    return running


@contextmanager
def notifications(server: PostgresServer, db: Any) -> Iterator[Callable[[], int]]:
    """Listen as well; what is yielded counts what has been told up to its call."""
    dsn = db.storage._adapter._dsn
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    connection.cursor().execute(f"LISTEN {notify.CHANNEL}")

    def count() -> int:
        server.sql(f"NOTIFY {notify.CHANNEL}, 'count'", dsn.rpartition("=")[2])

        def all_told() -> bool:
            connection.poll()
            return any(told.payload == "count" for told in connection.notifies)

        until(all_told, "the last notification has come")
        told = [one for one in connection.notifies if one.payload != "count"]
        connection.notifies.clear()
        return len(told)

    yield count
    connection.close()


# Jobs on RelStorage


def test_on_relstorage_jobs_run_and_fail_with_all_or_nothing(queue: Any, dispatch: Any) -> None:
    dispatch()
    good, bad = queue.put(Job(enginejobs.count)), queue.put(Job(enginejobs.change_and_raise))
    transaction.commit()

    assert wait_for_result(good) == 1
    assert wait_for_result(bad).check(ValueError)
    assert queue._p_jar.root()["count"] == 1 and "changed" not in queue._p_jar.root()
    assert (good.outcome, bad.outcome, bad.error) == ("succeeded", "failed", "ValueError: on purpose")


def test_on_relstorage_a_job_that_conflicts_with_another_client_runs_again(
    queue: Any, dispatch: Any, other: Any
) -> None:
    dispatch()
    job = queue.put(Job(enginejobs.wait_and_count))
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    with other.transaction() as connection:
        connection.root()["count"] = 10
    enginejobs.released["a"].set()

    assert wait_for_result(job) == 11
    assert (job.attempts, enginejobs.calls) == (2, ["a", "a"])


def test_on_relstorage_a_dead_dispatchers_job_is_taken_over(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DispatcherAgents, "ping_interval", timedelta(seconds=0.3))
    monkeypatch.setattr(DispatcherAgents, "ping_death_interval", timedelta(seconds=1.5))
    first = dispatch(threads=1)
    job = queue.put(Job(enginejobs.wait_and_count))
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    first.crash()
    enginejobs.started["a"].clear()
    dispatch(threads=1, poll_interval=0.1)
    assert enginejobs.started["a"].wait(20)
    enginejobs.released["a"].set()

    assert wait_for_result(job) == 1
    assert queue._p_jar.root()["count"] == 1


def test_a_dispatcher_on_relstorage_asks_for_changes_where_nothing_tells_of_them(dispatch: Any, other: Any) -> None:
    running = dispatch(poll_interval=NEVER)
    put_by(other, Job(enginejobs.wait))

    assert enginejobs.started["a"].wait(10)
    enginejobs.released["a"].set()
    assert running.dispatcher.watcher._listener is None


# With NOTIFY


def test_a_job_of_another_client_starts_though_nothing_is_polled(
    dispatch: Any, db: Any, other: Any, polls_never: None
) -> None:
    hearing(dispatch, db)
    notify.switch_on(other)
    put_by(other, Job(enginejobs.wait))

    assert enginejobs.started["a"].wait(10)
    enginejobs.released["a"].set()


def test_a_put_names_its_inbox_so_that_nobody_has_to_ask_what_has_changed(
    dispatch: Any, db: Any, other: Any, polls_never: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = hearing(dispatch, db).dispatcher.watcher
    until(lambda: not watcher._look.is_set(), "what came before is looked at")
    asked: list[bool] = []
    monkeypatch.setattr(watcher._look, "set", lambda: asked.append(True))
    notify.switch_on(other)
    put_by(other, Job(enginejobs.wait))

    assert enginejobs.started["a"].wait(10) and asked == []
    enginejobs.released["a"].set()


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ("00000000000000aa", {b"\0\0\0\0\0\0\0\xaa"}),
        ("00000000000000aa,00000000000000bb", {b"\0\0\0\0\0\0\0\xaa", b"\0\0\0\0\0\0\0\xbb"}),
        ("", None),
        ("from somebody else", None),
    ],
)
def test_a_notification_names_inboxes_or_nothing(payload: str, named: set[bytes] | None) -> None:
    assert notify._named(payload) == named


def test_a_notification_of_many_inboxes_names_none(server: PostgresServer, db: Any) -> None:
    assert notify.switch_on(db)
    channel = notify.channel_of(db)
    assert channel is not None
    sent: list[str] = []
    channel._execute = sent.append  # type: ignore[method-assign]
    oids = [number.to_bytes(8, "big") for number in range(notify.MOST_NAMED + 1)]
    channel.send(True, set(oids[1:]))
    channel.send(True, set(oids))
    channel.send(True, {None, oids[0]})

    assert [len(payload.split(",")) if payload else 0 for payload in sent] == [notify.MOST_NAMED, 0, 0]


def test_what_nobody_tells_of_is_found_by_the_slow_poll(
    dispatch: Any, db: Any, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "POLL", NEVER)
    monkeypatch.setattr(wakeup, "SLOW_POLL", 0.2)
    hearing(dispatch, db)
    put_by(other, Job(enginejobs.wait))

    assert enginejobs.started["a"].wait(10)
    enginejobs.released["a"].set()


def test_a_transaction_is_told_of_once_and_only_if_it_commits(server: PostgresServer, other: Any) -> None:
    notify.switch_on(other)
    with notifications(server, other) as count:
        put_by(other, *(Job(enginejobs.add, number) for number in range(3)))
        assert count() == 1
        put_by(other, Job(enginejobs.add), commit=False)
        assert count() == 0
        put_by(other, Job(enginejobs.add))
        assert count() == 1


def test_nothing_is_told_where_it_is_not_switched_on(server: PostgresServer, other: Any) -> None:
    with notifications(server, other) as count:
        put_by(other, Job(enginejobs.add))
        assert count() == 0


def test_a_place_in_a_quota_that_others_wait_for_is_told_of(
    server: PostgresServer, queue: Any, dispatch: Any, db: Any, polls_never: None
) -> None:
    queue.quotas.create("one", 1)
    transaction.commit()
    hearing(dispatch, db)
    jobs = [queue.put(Job(enginejobs.wait, name)) for name in "ab"]
    for job in jobs:
        job.quota_names = ("one",)
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    with notifications(server, db) as count:
        enginejobs.released["a"].set()
        assert enginejobs.started["b"].wait(10)
        assert count() == 1
    enginejobs.released["b"].set()
    assert [wait_for_result(job) for job in jobs] == ["a", "b"]


def test_a_listener_that_is_cut_off_comes_back_and_the_storage_is_polled_meanwhile(
    server: PostgresServer,
    dispatch: Any,
    db: Any,
    other: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(wakeup, "SLOW_POLL", NEVER)
    monkeypatch.setattr(notify, "RETRY", 0.05)
    running = hearing(dispatch, db)
    channel = notify.channel_of(db)
    assert channel is not None
    answers, open_one = threading.Event(), channel.open

    def open_if_it_answers(what: str) -> Any:
        if not answers.is_set():
            raise psycopg2.OperationalError("no answer\n  at all")
        return open_one(what)

    monkeypatch.setattr(channel, "open", open_if_it_answers)
    with caplog.at_level(logging.INFO, "collective.zcasync"):
        server.sql(f"SELECT pg_terminate_backend(pid) FROM ({OURS.format('listen')}) AS listeners")
        until(lambda: not hears(running), "the loss is noticed")
        put_by(other, Job(enginejobs.wait, "a"))
        assert enginejobs.started["a"].wait(10)
        enginejobs.released["a"].set()
        assert caplog.text.count("PostgreSQL does not tell of commits (") == 1

        answers.set()
        until(lambda: hears(running), "the dispatcher listens again")
        assert "PostgreSQL tells of commits again" in caplog.text
    monkeypatch.setattr(wakeup, "POLL", NEVER)
    notify.switch_on(other)
    put_by(other, Job(enginejobs.wait, "b"))
    assert enginejobs.started["b"].wait(10)
    enginejobs.released["b"].set()


def test_a_sender_that_was_cut_off_sends_through_a_new_connection(server: PostgresServer, other: Any) -> None:
    notify.switch_on(other)
    with notifications(server, other) as count:
        put_by(other, Job(enginejobs.add))
        server.sql(f"SELECT pg_terminate_backend(pid) FROM ({OURS.format('notify')}) AS senders")
        until(lambda: not server.sql(OURS.format("notify")), "the server has ended the session")
        put_by(other, Job(enginejobs.add))
        assert count() == 2


def test_a_notification_that_cannot_be_sent_is_no_trouble_of_the_caller(
    queue: Any, db: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notify.switch_on(db)

    def refuse(what: str) -> Any:
        raise psycopg2.OperationalError("too many\nclients")

    monkeypatch.setattr(notify.channel_of(db), "open", refuse)
    for number in range(3):
        queue.put(Job(enginejobs.add, number))
        transaction.commit()

    assert len(queue) == 3
    assert caplog.text.count("NOTIFY could not be sent (too many clients)") == 1  # and not tried again at once


def test_a_fork_sends_through_a_connection_of_its_own(
    server: PostgresServer, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify.switch_on(other)
    with notifications(server, other) as count:
        put_by(other, Job(enginejobs.add))
        parents = server.sql(OURS.format("notify"))
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: 1)
            put_by(other, Job(enginejobs.add))
            both = server.sql(OURS.format("notify"))
            notify.switch_off(other)
        assert count() == 2
        assert len(both) == 2 and set(parents) < set(both)
        until(lambda: server.sql(OURS.format("notify")) == parents, "the child's session has ended, not the parent's")
        notify._inherited.pop().close()


def test_the_end_of_a_dispatcher_leaves_no_thread_pipe_or_connection(
    server: PostgresServer, queue: Any, db: Any
) -> None:
    threads, pipes = set(threading.enumerate()), _pipes()
    for _ in range(3):
        running = hearing(partial(start, db), db)
        wait_for_result(_put(queue))
        running.stop()
        until(lambda: not server.sql(OURS.format("%")), "the server has ended the sessions")
    assert set(threading.enumerate()) <= threads
    assert _pipes() == pipes


def test_a_listener_ends_while_it_cannot_connect(
    dispatch: Any, db: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "RETRY", NEVER)
    notify.switch_on(db)

    def refuse(what: str) -> Any:
        raise psycopg2.OperationalError("no answer")

    monkeypatch.setattr(notify.channel_of(db), "open", refuse)
    running = dispatch()
    until(lambda: "PostgreSQL does not tell of commits (no answer)" in caplog.text, "the refusal is logged")
    running.stop()
    assert "zcasync-listener" not in [thread.name for thread in threading.enumerate()]


def test_another_storage_gets_one_clear_line_and_nothing_else(
    open_database: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    database: ZODB.DB = open_database()
    assert not notify.switch_on(database)
    assert not notify.switch_on(database)
    (record,) = caplog.records
    assert "needs RelStorage on PostgreSQL" in record.getMessage() and "is FileStorage" in record.getMessage()
    assert notify.channel_of(database) is None


def _put(queue: Any) -> Job:
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    return job


def _pipes() -> int:
    kinds = []
    for name in os.listdir("/proc/self/fd"):
        try:
            kinds.append(os.readlink(f"/proc/self/fd/{name}").partition(":")[0])
        except FileNotFoundError:
            continue
    return kinds.count("pipe")
