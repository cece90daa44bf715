"""zopeapp.newdatabase: of processes that start together on a new database the first one sets it up."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.zopeapp import newdatabase
from collective.zcasync.zopeapp.newdatabase import wait_for_setup
from OFS.Folder import Folder
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError

import logging
import pytest
import transaction


class Databases:
    """Stands for the databases of a zope.conf. ``errors``: what opening them raises at first."""

    def __init__(self, folder: Path) -> None:
        self.mount_paths = {"/": "main", "/beside": "beside"}
        self.databases: dict[str, Any] = {}
        self.errors: list[Exception] = []
        self._folder = folder

    def getDatabase(self, name: str) -> Any:
        if name not in self.databases:
            if self.errors:
                self.databases[name] = SimpleNamespace()  # as ZODB leaves it
                raise self.errors.pop()
            DB(FileStorage(str(self._folder / f"{name}.fs")), databases=self.databases, database_name=name)
        return self.databases[name]

    def add(self, name: str) -> None:
        """As another process does."""
        with self.databases["main"].transaction() as connection:
            connection.root()["Application"]._setObject(name, Folder(name))


@pytest.fixture
def places(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Databases]:
    caplog.set_level(logging.INFO, "collective.zcasync.zopeapp")
    places = Databases(tmp_path)
    yield places
    transaction.abort()
    for one in places.databases.values():
        one.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[float]]:
    """Lets something happen in each pause; the pauses."""

    def happens(what: Callable[[], Any]) -> list[float]:
        taken: list[float] = []

        def pause(seconds: float) -> None:
            taken.append(seconds)
            what()

        monkeypatch.setattr(newdatabase.transactions, "pause", pause)
        return taken

    return happens


def test_the_first_one_sets_it_up_and_the_next_ones_wait_for_that(
    places: Databases, pauses: Any, caplog: pytest.LogCaptureFixture
) -> None:
    names = iter(("virtual_hosting", "browser_id_manager", "index_html"))
    taken = pauses(lambda: places.add(next(names)))
    wait_for_setup(places)
    assert taken == [] and caplog.messages == []
    wait_for_setup(places)
    assert len(taken) == 3
    assert caplog.messages == [
        "Another process sets up the new database; waiting until it has done so",
        "The new database is set up",
    ]
    wait_for_setup(places)
    assert len(taken) == 3 and len(caplog.messages) == 2


def test_one_whose_first_process_has_died_is_set_up_by_the_next_one(
    places: Databases, pauses: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(newdatabase, "time", SimpleNamespace(monotonic=lambda: now[0]))
    taken = pauses(lambda: now.__setitem__(0, now[0] + 50))
    wait_for_setup(places)
    wait_for_setup(places)
    assert len(taken) == 3 and "Nobody has set up the new database in 120 s" in caplog.text


def test_who_meets_another_one_at_the_very_first_object_looks_again(
    places: Databases, pauses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.errors = [ConflictError(), ConflictError()]
    pauses(lambda: places.add("index_html"))
    make, made = Folder.__init__, []

    def meanwhile(self: Any, *args: Any) -> None:
        if not made:
            made.append(1)
            wait_for_setup(places)
        make(self, *args)

    monkeypatch.setattr("OFS.Application.Application.__init__", meanwhile)
    wait_for_setup(places)
    with places.databases["main"].transaction() as connection:
        assert "index_html" in connection.root()["Application"]


@pytest.mark.parametrize(("error", "left"), [(ConflictError(), 20 - newdatabase.ATTEMPTS), (OSError("disk"), 19)])
def test_what_is_no_conflict_or_does_not_end_is_raised(places: Databases, error: Exception, left: int) -> None:
    places.errors = [error] * 20
    with pytest.raises(type(error)):
        wait_for_setup(places)
    assert len(places.errors) == left
