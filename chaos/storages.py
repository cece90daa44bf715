"""The storages of a storm: each with its server, which can be killed and started again, if it has one."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import ExitStack
from pathlib import Path
from postgresserver import open_at
from postgresserver import postgres_server
from serverprocess import server_port
from serverprocess import ServerProcess
from typing import Any
from ZODB.FileStorage import FileStorage

import signal
import sys
import ZEO
import ZODB

#: Seconds that a client waits for a server that is not there.
PATIENCE = 60


def open_database(kind: str, address: Any) -> Any:
    """The database, as each process opens it. ``address``: path of the file, port of the server, or dsn."""
    if kind == "relstorage":
        return open_at(address)
    if kind == "filestorage":
        return ZODB.DB(FileStorage(address), pool_size=20)
    return ZODB.DB(ZEO.client(("127.0.0.1", address), wait_timeout=PATIENCE), pool_size=20)


class File:
    """FileStorage: one process has it, and there is no server."""

    kind = "filestorage"
    #: Whether several processes can work on it.
    shared = False

    def __init__(self, folder: Path) -> None:
        self.address: Any = str(folder / "Data.fs")


class ZEOServer:
    """A FileStorage behind a server process."""

    kind = "zeo"
    shared = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address: Any = server_port()
        self._process: Any = None

    def start(self) -> None:
        """Return once it takes connections."""
        path = self.folder / "Data.fs"
        command = [sys.executable, "-m", "ZEO.runzeo", "-a", f"127.0.0.1:{self.address}", "-f", path]
        self._process = ServerProcess(command, self.folder)
        self._process.wait_for("listening on")

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.stop(signal.SIGTERM)


class PostgresServer:
    """RelStorage on a PostgreSQL server."""

    kind = "relstorage"
    shared = True

    def __init__(self, server: Any) -> None:
        self.server = server
        self.address: Any = server.dsn(server.new_database())

    def start(self) -> None:
        """Return once it answers."""
        self.server.start()

    def kill(self) -> None:
        self.server.kill()

    def stop(self) -> None:
        """It goes on: it serves other storms too, and ends with the last."""


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Any]:
    """A new storage, whose server runs."""
    with ExitStack() as stack:
        if kind == "filestorage":
            yield File(folder)
        elif kind == "zeo":
            server = ZEOServer(folder)
            server.start()
            stack.callback(server.kill)
            yield server
        else:
            yield PostgresServer(stack.enter_context(postgres_server()))
