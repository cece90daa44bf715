"""Databases, queues and dispatchers for the engine's tests: real storages, no Zope."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import claiming
from collective.zcasync import clock
from collective.zcasync import dispatcher
from collective.zcasync import notify
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.reactor import start
from pathlib import Path
from postgresserver import postgres_server
from postgresserver import PostgresServer
from typing import Any
from ZEO.Exceptions import ClientDisconnected
from ZODB.FileStorage import FileStorage
from ZODB.mvccadapter import MVCCAdapterInstance
from zope.component import getGlobalSiteManager

import enginejobs
import gc
import pytest
import sys
import threading
import traceback
import transaction
import ZEO
import ZODB


@pytest.fixture(scope="module", autouse=True)
def little_to_look_through() -> None:
    """Full collections of garbage look past what modules before have left: hundreds of tests make one, at their end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_but_the_engine() -> Iterator[None]:
    """In a run of all tests the layers of others are set up meanwhile: put aside what they register."""
    registry = getGlobalSiteManager()
    aside = [(kind, registry.queryUtility(kind)) for kind in (IJobContext, IConnectionSource)]
    for kind, utility in aside:
        registry.unregisterUtility(utility, kind)
    yield
    for kind, utility in aside:
        if utility is not None:
            registry.registerUtility(utility, kind)
    dispatcher.clear()  # the next test begins in a process that knows none


@pytest.fixture(autouse=True)
def fresh_jobs() -> Iterator[None]:
    """Jobs of the tests before are forgotten, and none waits for this test when it is over."""
    enginejobs.fresh()
    enginejobs.before = set(threading.enumerate())
    yield
    # They log what they meet: not in the middle of the next test.
    left = enginejobs.end_threads()
    assert not left, "this test leaves threads that do not end:\n" + "\n".join(map(name_and_stack, left))


def name_and_stack(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join([f"{thread.name}\n", *traceback.format_stack(frame)])


@pytest.fixture(autouse=True)
def the_clock_goes_on() -> Iterator[None]:
    """After a test that has set it."""
    yield
    clock.set_now(None)


@pytest.fixture(autouse=True)
def finished_jobs_are_filed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the second that finished jobs may stay with their dispatcher: many tests would wait for that alone."""
    monkeypatch.setattr(claiming, "SWEEP_AFTER", 0.1)


@pytest.fixture
def lose_answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., threading.Event]:
    """``lose_answer(name, number)``: that commit of a thread of that name is stored, and then the server seems gone."""

    def lose(thread_name: str, number: int = 1) -> threading.Event:
        lost, finish, left = threading.Event(), MVCCAdapterInstance.tpc_finish, [number]

        def finish_and_lose(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = finish(self, *args, **kwargs)
            if threading.current_thread().name.startswith(thread_name):
                left[0] -= 1
                if left[0] == 0:
                    lost.set()
                    raise ClientDisconnected("the answer is lost")
            return result

        monkeypatch.setattr(MVCCAdapterInstance, "tpc_finish", finish_and_lose)
        return lost

    return lose


@pytest.fixture
def open_database(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Open the test's database; on FileStorage all calls give the same one."""
    databases: list[Any] = []

    def open_one() -> Any:
        if not databases:
            databases.append(ZODB.DB(FileStorage(str(tmp_path / "Data.fs")), pool_size=20))
        return databases[0]

    yield open_one
    enginejobs.end_threads()
    for database in databases:
        database.close()


@pytest.fixture
def zeo_database(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Open another client of the test's ZEO server at each call, as another process would."""
    address, stop = ZEO.server(str(tmp_path / "Data.fs"))
    databases: list[Any] = []

    def open_one() -> Any:
        # The first is the test's own: at the beginning of a transaction it asks the server what is new, so that a test
        # sees what others have committed. The others lag a little behind the server, as clients do.
        storage = ZEO.client(address, wait_timeout=10, server_sync=not databases)
        databases.append(ZODB.DB(storage, pool_size=20))
        return databases[-1]

    yield open_one
    enginejobs.end_threads()
    for database in databases:
        database.close()
    stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server("fsync=off") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_database(postgres: PostgresServer) -> str:
    """One for all tests, as a new one is thousands of files."""
    return postgres.new_database()


@pytest.fixture
def relstorage_database(postgres: PostgresServer, postgres_database: str) -> Iterator[Callable[[], Any]]:
    """Open another client of a database in PostgreSQL at each call, as another process would."""
    postgres.empty(postgres_database)
    databases: list[Any] = []

    def open_one() -> Any:
        databases.append(postgres.open(postgres_database))
        return databases[-1]

    yield open_one
    enginejobs.end_threads()
    for database in databases:
        notify.switch_off(database)
        database.close()


@pytest.fixture(params=["filestorage", "zeo"])
def clients(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """The conformance run: opens the database once as FileStorage, once as clients of a ZEO server."""
    return request.getfixturevalue("open_database" if request.param == "filestorage" else "zeo_database")


@pytest.fixture
def db(clients: Callable[[], Any]) -> Any:
    database = clients()
    with database.transaction() as connection:
        install(connection)
    return database


@pytest.fixture
def connection(db: Any) -> Iterator[Any]:
    transaction.abort()
    connection = db.open()
    yield connection
    transaction.abort()
    connection.close()


@pytest.fixture
def queue(connection: Any) -> Any:
    return get_queue(connection)


@pytest.fixture
def dispatch(clients: Callable[[], Any], db: Any) -> Iterator[Callable[..., RunningDispatcher]]:
    """Start dispatchers; on ZEO each is a client of its own. The first one shares the test's database."""
    running: list[RunningDispatcher] = []

    def begin(**options: Any) -> RunningDispatcher:
        database = db if not running else clients()
        running.append(start(database, **{"threads": 3, **options}))
        running[-1].dispatcher.polls.wait_for(0, 6)
        return running[-1]

    yield begin
    for one in running:
        if one.reactor is not None and one.dispatcher.activated:
            one.stop(grace=0)
