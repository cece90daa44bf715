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
from zopeinstance import Instance

import pytest
import signal
import Zope2

RELSTORAGE = """\
%import relstorage
  <relstorage>
    keep-history false
    <postgresql>
      driver psycopg2
      dsn {dsn}
    </postgresql>
  </relstorage>"""

NOTIFY_ON = ("<product-config collective.zcasync>", "  notify on", "</product-config>")

#: The sessions of ours that PostgreSQL knows.
OURS = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'zcasync: %' ORDER BY 1"

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


def test_a_put_of_a_server_is_told_to_a_worker_by_postgresql(server: PostgresServer, tmp_path: Path) -> None:
    storage = RELSTORAGE.format(dsn=server.dsn(server.new_database()))
    instance = Instance(tmp_path / "instance", storage)
    try:
        instance.write_zope_conf(*NOTIFY_ON)
        worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
        worker.wait_for("runs jobs")
        web = instance.runwsgi()
        instance.put(web, "greet", "client")
        worker.wait_for(f"hello client from a job in process {worker.pid}")
        assert server.sql(OURS) == [("zcasync: listen",), ("zcasync: notify",)]
        assert worker.stop() == 0
        assert web.stop(signal.SIGINT) == 0
        assert "Traceback" not in worker.output + web.output
    finally:
        instance.close()
