"""The storages of a storm: each with its server, which can be killed and started again, if it has one."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import ExitStack
from contextlib import suppress
from pathlib import Path
from postgresserver import DISK_FULL
from postgresserver import ONLY_READS
from postgresserver import open_at
from postgresserver import postgres_server
from serverprocess import server_port
from serverprocess import ServerProcess
from typing import Any
from ZODB.FileStorage import FileStorage

import os
import resource
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

    def fill_disk(self, pid: int, room: int) -> None:
        """The process with this id can make no file larger than the storage is now, and so many bytes."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (os.path.getsize(self.address) + room, resource.RLIM_INFINITY))

    def free_disk(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


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

    def send(self, number: signal.Signals) -> None:
        """Freeze it, or let it go on."""
        self._process.send(number)

    @property
    def endpoint(self) -> str:
        """Where a proxy finds it."""
        return f"tcp:127.0.0.1:{self.address}"

    def through(self, port: int) -> Any:
        """Its address behind a proxy on that port."""
        return port

    def fill_disk(self, room: int) -> None:
        """Its file can grow by so many bytes."""
        File(self.folder).fill_disk(self._process.pid, room)

    def free_disk(self) -> None:
        File(self.folder).free_disk(self._process.pid)


class PostgresServer:
    """RelStorage on a PostgreSQL server."""

    kind = "relstorage"
    shared = True

    def __init__(self, server: Any) -> None:
        self.server = server
        self.name = server.new_database()
        self.address: Any = server.dsn(self.name)
        open_at(self.address).close()  # makes the tables
        server.may_refuse(self.name)

    def start(self) -> None:
        """Return once it answers."""
        self.server.start()

    def kill(self) -> None:
        self.server.kill()

    def send(self, number: signal.Signals) -> None:
        """Freeze it, or let it go on."""
        self.server.send(number)

    @property
    def endpoint(self) -> str:
        """Where a proxy finds it."""
        return f"unix:{self.server.folder}/.s.PGSQL.5432"

    def through(self, port: int) -> Any:
        """Its address behind a proxy on that port."""
        return f"host=127.0.0.1 port={port} user=postgres dbname={self.name}"

    def fill_disk(self, room: int) -> None:
        """It says what it says without room on its disk, or where it only reads; it has no disk of its own."""
        self.server.refuse(self.name, DISK_FULL if room % 2 else ONLY_READS)

    def free_disk(self) -> None:
        self.server.accept(self.name)


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
