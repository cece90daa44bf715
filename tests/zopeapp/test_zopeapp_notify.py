"""``notify on`` in zope.conf: what it switches on in servers, workers and processes that only put."""

from collections.abc import Iterator
from collective.zcasync import notify
from collective.zcasync import zopeapp
from collective.zcasync.zopeapp import rule
from collective.zcasync.zopeapp import starting
from collective.zcasync.zopeapp.config import Settings
from pathlib import Path
from postgresserver import postgres_server
from postgresserver import PostgresServer
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import pytest
import Zope2

CLIENT = Settings(dispatcher=False, notify=True)
SERVER = Settings(dispatcher=True, notify=True)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def zope(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Be a process with this database and these settings."""
    databases: list[Any] = []

    def become(database: Any, settings: Settings) -> None:
        databases.append(database)
        monkeypatch.delenv(rule.VETO, raising=False)
        monkeypatch.setattr(Zope2, "DB", database, raising=False)
        monkeypatch.setattr(Zope2, "opened", [database])
        monkeypatch.setattr(starting, "get_settings", lambda: settings)

    yield become
    zopeapp.stop()
    for database in databases:
        notify.switch_off(database)
        database.close()


def test_a_process_without_a_dispatcher_tells_of_its_puts(zope: Any, server: PostgresServer) -> None:
    zope(server.open(server.new_database()), CLIENT)
    starting.process_starting()
    assert zopeapp.running() is None
    assert notify.channel_of(Zope2.DB) is not None


def test_a_dispatcher_listens(zope: Any, server: PostgresServer) -> None:
    zope(server.open(server.new_database()), SERVER)
    started = zopeapp.start()
    assert started is not None
    assert started.dispatcher.watcher._listener is not None


def test_without_the_setting_nothing_is_switched_on(zope: Any, server: PostgresServer) -> None:
    zope(server.open(server.new_database()), Settings(dispatcher=True))
    starting.process_starting()
    started = zopeapp.start()
    assert started is not None
    assert started.dispatcher.watcher._listener is None
    assert notify.channel_of(Zope2.DB) is None


def test_on_another_storage_one_line_says_that_it_changes_nothing(
    zope: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zope(DB(FileStorage(str(tmp_path / "Data.fs")), database_name="main"), SERVER)
    starting.process_starting()
    assert zopeapp.start() is not None
    lines = [record.getMessage() for record in caplog.records if "NOTIFY" in record.getMessage()]
    assert len(lines) == 1 and "the database 'main' is FileStorage" in lines[0]
