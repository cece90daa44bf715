"""zopeapp.starting: start and stop inside one process, over and over."""

from App.config import getConfiguration
from collections.abc import Iterator
from collective.zcasync import reactor
from collective.zcasync import zopeapp
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.interfaces import KEY
from collective.zcasync.queue import install
from collective.zcasync.zopeapp import publishing
from collective.zcasync.zopeapp import rule
from collective.zcasync.zopeapp import starting
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.wsgi import make_filter
from dataclasses import replace
from pathlib import Path
from typing import Any
from zc.lockfile import LockError
from ZEO.Exceptions import ClientDisconnected
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import gc
import os
import pytest
import signal
import threading
import Zope2

ON = Settings(dispatcher=True, poll_interval=0.5)


def descriptors() -> set[str]:
    """What the process has open, without the descriptor that this very listing needs."""
    gc.collect()
    links = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            links.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return links


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process with an open database and a dispatcher that is switched on."""
    db = DB(FileStorage(str(tmp_path / "Data.fs")), database_name="main")
    monkeypatch.delenv(rule.VETO, raising=False)
    monkeypatch.setattr(Zope2, "DB", db, raising=False)
    monkeypatch.setattr(Zope2, "opened", [db])
    monkeypatch.setattr(starting, "get_settings", lambda: ON)
    yield monkeypatch
    zopeapp.stop()
    db.close()


def test_twenty_starts_and_stops_leave_nothing_behind(settings: pytest.MonkeyPatch) -> None:
    zopeapp.start()  # what is loaded or opened once, at the first start, is no leak
    zopeapp.stop()
    before = (
        descriptors(),
        set(threading.enumerate()),
        list(Zope2.opened),
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
    )
    for _ in range(20):
        assert zopeapp.start() is zopeapp.running()
        zopeapp.stop()
        assert zopeapp.running() is None
    assert before == (
        descriptors(),
        set(threading.enumerate()),
        list(Zope2.opened),
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
    )


@pytest.fixture
def beside(settings: pytest.MonkeyPatch) -> DB:
    """Another database of the same Zope, as for a mount point."""
    return DB(None, databases=Zope2.DB.databases, database_name="beside")


def test_the_jobs_of_a_mount_point_run_here_as_soon_as_it_has_queues(
    settings: pytest.MonkeyPatch, beside: DB, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    running = zopeapp.start()
    assert running.databases == [Zope2.DB]
    with beside.transaction() as connection:
        install(connection)
    assert starting.serve_all(running, ON) == [Zope2.DB, beside]
    assert starting.serve_all(running, ON) == [Zope2.DB, beside]
    assert caplog.text.count("The jobs of the database 'beside' run here too, in 1 job thread of their own") == 1
    zopeapp.stop()
    assert zopeapp.start().databases == [Zope2.DB, beside]


def test_a_mount_point_that_another_dispatcher_of_this_process_serves_is_left_to_it(
    settings: pytest.MonkeyPatch, beside: DB
) -> None:
    by_hand = reactor.start(beside)
    try:
        assert zopeapp.start().databases == [Zope2.DB]
    finally:
        by_hand.stop(grace=0)


def test_a_root_that_refers_to_the_queues_of_another_database_has_none_of_its_own(
    settings: pytest.MonkeyPatch, beside: DB
) -> None:
    with beside.transaction() as connection:
        queues = install(connection.get_connection("main"))
        connection.root()[KEY] = queues
    assert zopeapp.start().databases == [Zope2.DB]


def test_with_a_database_for_all_queues_no_other_one_is_served(settings: pytest.MonkeyPatch, beside: DB) -> None:
    for each in (Zope2.DB, beside):
        with each.transaction() as connection:
            install(connection)
    settings.setattr(starting, "get_settings", lambda: replace(ON, db_name="beside"))
    assert zopeapp.start().databases == [beside]


def test_a_mount_point_that_does_not_answer_keeps_nobody_from_the_others(
    settings: pytest.MonkeyPatch, beside: DB, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*args: object) -> None:
        raise ClientDisconnected("nobody there")

    settings.setattr(beside, "open", away)
    assert zopeapp.start().databases == [Zope2.DB]
    assert "'beside' does not tell whether it has queues" in caplog.text


def test_databases_of_zope_conf_that_nobody_has_opened_are_opened_as_soon_as_they_can_be(
    settings: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Tab:
        away = True

        def listDatabaseNames(self) -> list[str]:
            return ["main", "away", "beside"]

        def getDatabase(self, name: str) -> DB:
            if name == "away" and self.away:
                raise LockError("in use")
            databases = Zope2.DB.databases
            return databases.get(name) or DB(None, databases=databases, database_name=name)

    tab = Tab()
    settings.setattr(getConfiguration(), "dbtab", tab, raising=False)
    running = zopeapp.start()
    assert set(Zope2.DB.databases) == {"main", "beside"}
    starting.serve_all(running, ON)
    assert caplog.text.count("The database 'away' cannot be opened; its jobs wait") == 1
    tab.away = False
    starting.serve_all(running, ON)
    assert set(Zope2.DB.databases) == {"main", "beside", "away"}


def test_the_dispatcher_gets_the_settings(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = Settings(
        dispatcher=True,
        role="night",
        threads=2,
        queues=("",),
        poll_interval=7,
        shutdown_grace=3,
        uuid_file=str(tmp_path / "uuid.txt"),
    )
    settings.setattr(starting, "get_settings", lambda: wanted)
    dispatcher = zopeapp.start().dispatcher
    assert dispatcher.role == "night"
    assert dispatcher.max_threads == 2
    assert dispatcher.served == {""}
    assert dispatcher.poll_interval == 7
    assert dispatcher.shutdown_grace == 3
    assert (tmp_path / "uuid.txt").read_text().startswith(str(dispatcher.UUID))


@pytest.mark.parametrize("polite", [True, False])
def test_the_dispatcher_of_a_server_is_polite_unless_it_is_told_not_to_be(
    settings: pytest.MonkeyPatch, polite: bool
) -> None:
    settings.setattr(starting, "get_settings", lambda: Settings(dispatcher=True, polite=polite))
    around = zopeapp.start().dispatcher.around
    assert around.politeness is (publishing.politeness if polite else None)


def test_a_second_start_changes_nothing(settings: pytest.MonkeyPatch) -> None:
    first = zopeapp.start()
    assert zopeapp.start() is first
    assert len(Zope2.opened) == 2


def test_a_stop_without_a_start_does_nothing(settings: pytest.MonkeyPatch) -> None:
    zopeapp.stop()
    assert zopeapp.running() is None


def test_a_start_after_the_databases_were_closed_is_a_new_one(settings: pytest.MonkeyPatch) -> None:
    first = zopeapp.start()
    Zope2.opened[0].close()  # as a server does at its end
    assert zopeapp.running() is None
    assert zopeapp.start() is not first
    assert len(Zope2.opened) == 2


def test_the_filter_starts_it_and_returns_the_application_as_it_is(settings: pytest.MonkeyPatch) -> None:
    application = object()
    assert make_filter(application, {}) is application
    assert zopeapp.running() is not None


@pytest.mark.parametrize("start", [zopeapp.start, starting.start_by_filter])
def test_a_vetoed_start_returns_nothing(settings: pytest.MonkeyPatch, start: Any) -> None:
    settings.setenv(rule.VETO, "off")
    assert start() is None
    assert zopeapp.running() is None


def test_wrong_settings_stop_a_start_by_call(settings: pytest.MonkeyPatch) -> None:
    def refuse() -> Settings:
        raise ConfigurationError("threads: '0' is not allowed")

    settings.setattr(starting, "get_settings", refuse)
    with pytest.raises(ConfigurationError):
        zopeapp.start()


def test_a_forked_child_inherits_no_running_dispatcher(settings: pytest.MonkeyPatch) -> None:
    running = zopeapp.start()
    child = os.fork()
    if child == 0:
        inherited = zopeapp.running()
        zopeapp.stop()
        os._exit(0 if inherited is None else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert zopeapp.running() is running
    assert running.dispatcher.activated


def test_commands_that_start_zope_decide_by_themselves(
    settings: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with starting.held_back():
        starting.process_starting()
    assert caplog.text == ""
    with caplog.at_level("INFO"):
        starting.process_starting()
    assert "Dispatcher not started" in caplog.text


def test_whoever_waits_for_the_end_hears_of_a_dispatcher_that_died(settings: pytest.MonkeyPatch) -> None:
    zopeapp.start().crash()
    starting.wait_for_end()
    zopeapp.stop()
    assert zopeapp.running() is None


def test_whoever_waits_for_the_end_hears_that_a_job_hangs(settings: pytest.MonkeyPatch) -> None:
    zopeapp.start().dispatcher.hung = "1 (some job)"
    starting.wait_for_end()
    zopeapp.stop()
    assert zopeapp.running() is None


def test_whoever_waits_for_the_end_hears_of_a_stop(settings: pytest.MonkeyPatch) -> None:
    zopeapp.start()
    waiting = threading.Thread(target=starting.wait_for_end)
    waiting.start()
    zopeapp.stop()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_server_whose_database_is_read_only_serves_without_jobs_and_says_why(
    settings: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.setattr(Zope2.DB.storage, "isReadOnly", lambda: True)
    assert zopeapp.start() is None
    assert "Dispatcher not started: the database 'main' is read-only" in caplog.text
