"""A ZEO server that was started again gives away anew what it gave away before: no client must use that any more."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import freshoids
from collective.zcasync.job import Job
from collective.zcasync.reactor import start
from pathlib import Path
from serverprocess import PATIENCE
from typing import Any
from zeoprocess import ZEOProcess

import enginejobs
import pytest
import threading
import time
import transaction

pytestmark = pytest.mark.processes


@pytest.fixture
def zeo(tmp_path: Path) -> Iterator[ZEOProcess]:
    with ZEOProcess(tmp_path) as server:
        yield server


def _put(zeo: ZEOProcess, queue: Any) -> None:
    queue.put(Job(enginejobs.add, 1))
    transaction.commit()


def _start_a_dispatcher(zeo: ZEOProcess, queue: Any) -> None:
    start(queue._p_jar.db(), threads=1).stop()


@pytest.mark.parametrize("begin", [_put, _start_a_dispatcher])
def test_a_client_that_puts_or_runs_jobs_uses_no_oid_that_its_server_gave_away_before_it_was_started_again(
    begin: Callable[[ZEOProcess, Any], None], zeo: ZEOProcess
) -> None:
    with zeo.queue() as queue:
        begin(zeo, queue)
        storage = queue._p_jar.db().storage
        mine = {storage.new_oid()}  # now it has a hundred
        transaction.abort()
        connections = storage._connection_generation
        zeo.server.kill()
        zeo.restart()
        _wait(lambda: storage._connection_generation > connections and storage.is_connected())
        # A transaction that began before may have used what it got then, and go on.
        again = {storage.new_oid() for _number in range(100)}
        other = zeo.database().storage
        given = {other.new_oid() for _number in range(100)}

        assert not again & mine
        assert not again & given
        assert storage.new_oid() not in given


def _wait(what: Callable[[], bool]) -> None:
    end, never = time.monotonic() + PATIENCE, threading.Event()
    while not what():
        assert time.monotonic() < end
        never.wait(0.01)


class Client:
    """Like one of ZEO."""

    def __init__(self) -> None:
        self._oids = [b"3", b"2"]
        self.told: list[Any] = []

    def notify_connected(self, *args: Any) -> None:
        self.told.append((*args, list(self._oids)))


class Around:
    """A storage around another one, and a database."""

    def __init__(self, **inside: Any) -> None:
        self.__dict__.update(inside)


def test_a_client_inside_of_another_storage_is_seen_to_once() -> None:
    client = Client()
    database = Around(storage=Around(base=client))
    freshoids.see_to(database)
    assert client._oids == [], "its server may have been started again before"
    once = client.notify_connected
    freshoids.see_to(database)
    client.notify_connected("connection", "info")

    assert client.notify_connected is once
    assert client.told == [("connection", "info", [])]
    client._oids[:0] = reversed([b"1", b"2", b"3", b"4", b"5"])
    assert client._oids == [b"5", b"4"]


def test_other_storages_are_left_alone() -> None:
    storage = Around()
    freshoids.see_to(Around(storage=storage))
    assert storage.__dict__ == {}
