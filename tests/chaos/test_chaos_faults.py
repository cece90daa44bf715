"""The network, the clock and the disk of a storm fail as they are told to."""

from chaos import proxy
from chaos import storages
from chaos import wrongclock
from chaos.machine import same_modules
from chaos.proxy import Network
from collections.abc import Iterator
from collective.zcasync import clock
from contextlib import closing
from pathlib import Path
from threading import Thread
from ZEO.Exceptions import ClientDisconnected
from ZEO.Exceptions import ServerException

import os
import psycopg2
import pytest
import socket
import time

#: Seconds that an answer may take on a busy computer, and after which it is plain that there is none.
PATIENCE, SILENCE = 30.0, 0.5


@pytest.fixture
def network() -> Iterator[Network]:
    """The lines of two machines to a server that sends back whatever it gets."""
    server = socket.create_server(("127.0.0.1", 0))
    connections = []

    def answer(connection: socket.socket) -> None:
        try:
            while data := connection.recv(1000):
                connection.sendall(data)
        except OSError:
            pass

    def serve() -> None:
        try:
            while True:
                connections.append(server.accept()[0])
                Thread(target=answer, args=(connections[-1],), daemon=True).start()
        except OSError:
            pass

    Thread(target=serve, daemon=True).start()
    made = Network(f"tcp:127.0.0.1:{server.getsockname()[1]}", ["one", "two"], same_modules())
    yield made
    made.close()
    server.shutdown(socket.SHUT_RDWR)
    for connection in (server, *connections):
        connection.close()


def _connect(network: Network, name: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", network.ports[name]), PATIENCE)


def _first_answer(network: Network, name: str) -> bytes | None:
    """What comes over a new connection, see _answer. One that is reset may be so before it is made."""
    try:
        with closing(_connect(network, name)) as connection:
            return _answer(connection)
    except ConnectionError:
        return b""


def _answer(connection: socket.socket, seconds: float = PATIENCE) -> bytes | None:
    """What comes; None if nothing does, b"" if the connection is over."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1000)
    except TimeoutError:
        return None
    except ConnectionError:
        return b""


def _ask(connection: socket.socket) -> None:
    """Something was sent and came back: the line works."""
    connection.sendall(b"a")
    assert _answer(connection) == b"a"


@pytest.mark.parametrize("mode", [proxy.PASS, proxy.DELAY])
def test_what_passes_a_line_comes_in_order_also_if_it_is_slow(network: Network, mode: str) -> None:
    network.become("one", mode)
    with closing(_connect(network, "one")) as connection:
        pieces = b""
        for number in range(20):
            connection.sendall(b"%02d" % number)
        while len(pieces) < 40:
            pieces += _answer(connection) or b""
    assert pieces == b"".join(b"%02d" % number for number in range(20))


def test_what_a_line_holds_comes_when_it_passes_again_and_the_other_line_knows_nothing_of_it(network: Network) -> None:
    with closing(_connect(network, "one")) as connection, closing(_connect(network, "two")) as other:
        _ask(connection)
        network.become("one", proxy.HOLD)
        _ask(other)  # the order was sent before
        connection.sendall(b"b")
        assert _answer(connection, SILENCE) is None
        network.become("one", proxy.PASS)
        assert _answer(connection) == b"b"


def test_what_a_line_drops_never_comes_and_its_connection_breaks_in_the_end(network: Network) -> None:
    with closing(_connect(network, "one")) as connection, closing(_connect(network, "two")) as other:
        _ask(connection)
        network.become("one", proxy.DROP)
        _ask(other)
        connection.sendall(b"b")
        assert _answer(connection, SILENCE) is None
        network.become("one", proxy.PASS)
        assert _answer(connection) == b""
    with closing(_connect(network, "one")) as connection:
        _ask(connection)


def test_a_line_that_is_reset_breaks_what_there_is_and_takes_nothing_new_until_it_passes_again(
    network: Network,
) -> None:
    with closing(_connect(network, "one")) as connection:
        _ask(connection)
        network.become("one", proxy.RESET)
        assert _answer(connection) == b""
    assert _first_answer(network, "one") == b""
    network.become("one", proxy.PASS)
    with closing(_connect(network, "two")) as other:
        _ask(other)
    with closing(_connect(network, "one")) as connection:
        _ask(connection)


def test_the_clock_of_a_machine_jumps_and_that_of_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, monotonic = time.time, time.monotonic()
    for owner, name in ((time, "time"), (time, "time_ns"), (clock, "utcnow")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is put back
    monkeypatch.setattr(wrongclock, "BELIEVED", 0.0)
    wrongclock.put(tmp_path, "one", 0)
    wrongclock.follow(tmp_path, "two")
    assert time.time is right
    wrongclock.follow(tmp_path, "one")
    for skew in (0, 300, -300):
        wrongclock.put(tmp_path, "one", skew)
        times = (time.time(), time.time_ns() / 1e9, clock.utcnow().timestamp(), clock.microseconds() / 1e6)
        assert [round((when - right()) / 60) for when in times] == [skew / 60] * 4
    assert 0 <= time.monotonic() - monotonic < 60


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["zeo", "relstorage"])
def test_a_full_disk_lets_nothing_be_stored_until_there_is_room_again(kind: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with storages.running(kind, tmp_path) as storage, closing(storages.open_database(kind, storage.address)) as db:

        def store() -> None:
            with db.transaction() as connection:
                connection.root()["data"] = os.urandom(100_000)

        store()
        for room in (0, 1):
            storage.fill_disk(room)
            with pytest.raises((ClientDisconnected, ServerException, psycopg2.Error)):
                store()
            storage.free_disk()
            store()
