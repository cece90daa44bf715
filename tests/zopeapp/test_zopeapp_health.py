"""zopeapp.health: what probes are told of a dispatcher, and the server that tells it."""

from collections.abc import Iterator
from collective.zcasync import alarms
from collective.zcasync import figurereading
from collective.zcasync import figures
from collective.zcasync import reactor
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.job import Job
from collective.zcasync.membership import Membership
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.queue import get_queue
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.zopeapp import health
from collective.zcasync.zopeapp.health import Page
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request
from urllib.request import urlopen
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import pytest
import sys
import threading
import time

HOST = "127.0.0.1"

#: Seconds that any single step may take on a busy machine.
PATIENCE = 30


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, text and content type of an answer."""
    try:
        answer = urlopen(Request(f"http://{HOST}:{port}{path}", method=method), timeout=PATIENCE)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.read().decode(), answer.headers["Content-Type"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Any]:
    db = DB(FileStorage(str(tmp_path / "Data.fs")))
    yield db
    db.close()


@pytest.fixture
def running(database: Any) -> Iterator[RunningDispatcher]:
    """A dispatcher that has polled once."""
    one = reactor.start(database, poll_interval=0.5)
    one.dispatcher.polls.wait_for(0, PATIENCE)
    yield one
    one.stop(grace=0)


def test_a_dispatcher_at_work_is_live_and_ready(running: RunningDispatcher) -> None:
    with health.serving(HOST, 0, health.pages(running.dispatchers)) as port:
        assert ask(port, "/live") == (200, "ok\n", "text/plain; charset=utf-8")
        assert ask(port, "/ready")[:2] == (200, "ok\n")


def test_neither_jobs_that_need_a_person_nor_a_wrong_clock_are_a_reason_to_start_it_anew(
    running: RunningDispatcher, database: Any
) -> None:
    with database.transaction() as connection:
        queue = get_queue(connection)
        insert(queue.quarantine, make_key(), ("its process died 3 times under it", Job(len, ())))
        queue.adjust("quarantined", 1)
        for da in queue.dispatchers.values():
            da.last_ping.skew = 600.0
        assert {alarm.kind for alarm in alarms.examine(connection)} == {"quarantined", "clock"}
    running.dispatcher.heartbeat.skew = 600.0
    with health.serving(HOST, 0, health.pages(running.dispatchers)) as port:
        assert ask(port, "/live")[:2] == ask(port, "/ready")[:2] == (200, "ok\n")


def test_prometheus_is_told_numbers_without_that_a_probe_waits_for_them(
    running: RunningDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on, read = threading.Event(), threading.Event(), figures.of_databases

    def slowly(connection: Any) -> Any:
        reading.set()
        assert go_on.wait(PATIENCE)
        return read(connection)

    monkeypatch.setattr(figures, "of_databases", slowly)
    monkeypatch.setattr(figurereading, "PATIENCE", PATIENCE)
    told: list[tuple[int, str, str]] = []
    with health.serving(HOST, 0, health.pages(running.dispatchers)) as port:
        scrape = threading.Thread(target=lambda: told.append(ask(port, "/metrics")))
        scrape.start()
        assert reading.wait(PATIENCE)
        assert ask(port, "/live")[0] == ask(port, "/ready")[0] == 200
        go_on.set()
        scrape.join(PATIENCE)
    [(status, text, content_type)] = told
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "\nzcasync_process_dispatchers 1.0\n" in text
    assert '\nzcasync_jobs{database="unnamed",queue="default",state="waiting"} 0.0\n' in text


def test_without_the_library_of_prometheus_the_page_says_what_to_install(
    running: RunningDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with health.serving(HOST, 0, health.pages(running.dispatchers)) as port:
        status, text, _type = ask(port, "/metrics")
    assert status == 501
    assert "pip install 'collective.zcasync[prometheus]'" in text


def test_what_is_not_well_is_one_word_with_the_status_that_probes_want() -> None:
    with health.serving(HOST, 0, {"/ready": lambda: health.verdict("database")}) as port:
        assert ask(port, "/ready")[:2] == (503, "not ok: database\n")


def test_a_page_is_found_by_its_path_alone_and_others_are_not(running: RunningDispatcher) -> None:
    pages = {**health.pages(running.dispatchers), "/more": lambda: Page(200, "# of another kind", "text/x")}
    with health.serving(HOST, 0, pages) as port:
        assert ask(port, "/more?x=1") == (200, "# of another kind\n", "text/x")
        assert ask(port, "/more", "HEAD")[:2] == (200, "")
        assert ask(port, "/")[:2] == (404, "not found\n")
        assert ask(port, "/live/..")[0] == 404


def test_a_page_that_fails_shows_nothing_of_why(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Page:
        raise LookupError("the secret")

    with health.serving(HOST, 0, {"/live": fail}) as port:
        assert ask(port, "/live")[:2] == (500, "error\n")
    assert "the secret" in caplog.text


def test_a_slow_page_keeps_no_probe_waiting() -> None:
    began, go = threading.Event(), threading.Event()

    def wait() -> Page:
        began.set()
        assert go.wait(PATIENCE)
        return Page(200, "late")

    with health.serving(HOST, 0, {"/slow": wait, "/live": lambda: Page(200, "ok")}) as port:
        slow = threading.Thread(target=ask, args=(port, "/slow"))
        slow.start()
        assert began.wait(PATIENCE)
        assert ask(port, "/live")[0] == 200
        go.set()
        slow.join(PATIENCE)


def test_a_port_in_use_is_a_clear_error() -> None:
    with health.serving(HOST, 0, {}) as port, pytest.raises(ConfigurationError, match=f"health-port: {HOST}:{port} "):
        with health.serving(HOST, port, {}):
            pytest.fail("two servers share a port")


def test_the_port_is_free_again_at_the_end() -> None:
    with health.serving(HOST, 0, {}) as port:
        assert ask(port, "/")[0] == 404
    with health.serving(HOST, port, {}) as again:
        assert again == port


def test_a_dispatcher_that_has_not_polled_is_starting(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(Membership, "renew", lambda membership: go.wait(PATIENCE))
    reactor.prepare(database)
    one = RunningDispatcher(database)
    try:
        assert health.ready(one.dispatcher) == "starting"
    finally:
        go.set()
        one.stop(grace=0)


def test_without_its_database_it_is_not_ready_and_lives(
    running: RunningDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.dispatcher.heartbeat, "may_claim", lambda: False)
    assert health.ready(running.dispatcher) == "database"
    assert health.live(running.dispatcher) == ""


def test_one_that_serves_no_queue_says_so(database: Any) -> None:
    reactor.prepare(database)
    one = RunningDispatcher(database, queues=("nowhere",))
    try:
        one.dispatcher.polls.wait_for(0, PATIENCE)
        assert health.ready(one.dispatcher) == "unregistered"
    finally:
        one.stop(grace=0)


@pytest.mark.parametrize(
    ("reasons", "whole"),
    [
        (("", ""), ""),
        (("unregistered", ""), ""),
        (("", "database"), "database"),
        (("unregistered", "unregistered"), "unregistered"),
    ],
)
def test_a_process_with_several_databases_is_ready_if_none_is_away_and_one_is_served(
    reasons: tuple[str, str], whole: str, running: RunningDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(reasons)
    monkeypatch.setattr(health, "ready", lambda dispatcher: next(left))
    assert health.state([running.dispatcher, running.dispatcher]) == ("", whole)


def test_one_that_stops_lives_and_is_not_ready(running: RunningDispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    end = running.dispatcher.mail.stop

    def stop() -> None:
        seen.append((health.live(running.dispatcher), health.ready(running.dispatcher)))
        end()

    monkeypatch.setattr(running.dispatcher.mail, "stop", stop)
    running.stop(grace=0)
    assert seen == [("", "leaving")]
    assert (health.live(running.dispatcher), health.ready(running.dispatcher)) == ("", "stopped")


def test_a_reactor_that_stands_still_is_not_alive(running: RunningDispatcher) -> None:
    began, go = threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        assert go.wait(PATIENCE)

    running.reactor.callFromThread(block)
    assert began.wait(PATIENCE)
    try:
        running.dispatcher.ticked -= 2 * health.SILENCE
        assert health.live(running.dispatcher) == "reactor"
    finally:
        go.set()


def test_a_process_is_not_alive_if_the_dispatcher_of_one_of_its_databases_stands_still(
    running: RunningDispatcher, database: Any
) -> None:
    beside = running.serve(DB(None, databases=database.databases, database_name="beside"))
    assert beside is not None and health.state(running.dispatchers)[0] == ""
    beside.heartbeat.stop()
    assert health.state(running.dispatchers)[0] == "heartbeat"


def test_a_heartbeat_that_stands_still_is_not_alive_unless_it_waits_for_the_database(
    running: RunningDispatcher,
) -> None:
    heartbeat = running.dispatcher.heartbeat
    heartbeat.stop()
    assert health.live(running.dispatcher) == "heartbeat"
    heartbeat._thread = threading.current_thread()
    heartbeat.beat = time.monotonic() - 2 * health.SILENCE
    assert health.live(running.dispatcher) == "heartbeat"
    heartbeat.pinging = True
    assert health.live(running.dispatcher) == ""
    heartbeat._thread = threading.Thread(target=lambda: None)
    heartbeat._thread.start()
    heartbeat._thread.join()
