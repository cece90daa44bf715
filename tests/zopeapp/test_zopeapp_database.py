"""zopeapp.database: which database holds the queues, and what a dispatcher finds in it."""

from collections.abc import Iterator
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import install
from collective.zcasync.zopeapp import database as module
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.database import get_database
from collective.zcasync.zopeapp.database import prepare
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError

import pytest
import transaction
import Zope2


@pytest.fixture
def db(tmp_path: Path) -> Iterator[DB]:
    made = DB(FileStorage(str(tmp_path / "Data.fs")), database_name="main")
    yield made
    made.close()


def test_the_queues_are_created(db: DB) -> None:
    prepare(db, Settings())
    with db.transaction() as connection:
        assert list(get_queues(connection)) == [""]


def test_a_second_start_writes_nothing(db: DB) -> None:
    prepare(db, Settings())
    before = db.lastTransaction()
    prepare(db, Settings())
    assert db.lastTransaction() == before


def test_the_transaction_of_the_caller_is_left_alone(db: DB) -> None:
    current = transaction.begin()
    prepare(db, Settings())
    assert transaction.get() is current


def test_processes_that_create_the_queues_together_both_go_on(db: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    def install_too_late(connection: Any) -> Any:
        queues = install(connection)
        monkeypatch.setattr(module, "install", install)
        prepare(db, Settings())  # the other process commits between
        return queues

    monkeypatch.setattr(module, "install", install_too_late)
    prepare(db, Settings())
    with db.transaction() as connection:
        assert list(get_queues(connection)) == [""]


def test_a_conflict_that_never_ends_is_raised(db: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    def conflict(connection: Any) -> Any:
        raise ConflictError

    monkeypatch.setattr(module, "install", conflict)
    with pytest.raises(ConflictError):
        prepare(db, Settings())


def test_a_queue_that_does_not_exist_is_told(db: DB, caplog: pytest.LogCaptureFixture) -> None:
    prepare(db, Settings(queues=("", "mail")))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "The queue 'mail' in zope.conf does not exist (yet); create it, for example in a profile's zcasync.xml"
    ]


def test_the_main_database_is_taken_by_default(db: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zope2, "DB", db, raising=False)
    assert get_database(Settings()) is db


def test_another_database_is_taken_by_name(db: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = DB(None, database_name="jobs", databases=db.databases)
    monkeypatch.setattr(Zope2, "DB", db, raising=False)
    assert get_database(Settings(db_name="jobs")) is jobs
    jobs.close()


def test_an_unknown_database_is_refused_with_the_known_ones(db: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zope2, "DB", db, raising=False)
    with pytest.raises(ConfigurationError, match="no database 'mian' .did you mean 'main'[?].; it has main"):
        get_database(Settings(db_name="mian"))
