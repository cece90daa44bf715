"""A database that several processes use: this one as a client, and workers."""

from collections.abc import Iterator
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from contextlib import contextmanager
from contextlib import ExitStack
from pathlib import Path
from postgresserver import PostgresServer
from serverprocess import ServerProcess
from typing import Any

import json
import sys
import transaction

WORKER = Path(__file__).parent / "engineworker.py"


class Place:
    """Use it as a context manager: what was opened and started is closed and killed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._number = 0

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def address(self) -> tuple[str, str]:
        """What tells a worker where it is."""
        raise LookupError("each kind of storage has its own")

    def open(self) -> Any:
        """Another client, in this process."""
        raise LookupError("each kind of storage has its own")

    def database(self) -> Any:
        """Another client, in this process, which is closed at the end."""
        db = self.open()
        self._stack.callback(db.close)
        return db

    @contextmanager
    def queue(self, **root: Any) -> Iterator[Any]:
        """A queue in a new database, whose root also holds ``root``; until the end of the block."""
        transaction.abort()
        db = self.database()
        with db.transaction() as connection:
            install(connection)
            connection.root().update(root)
        connection = db.open()
        yield get_queue(connection)
        transaction.abort()
        connection.close()

    def worker(self, environ: dict[str, str] | None = None, elsewhere: bool = False, **options: Any) -> ServerProcess:
        """A worker, which says "ready" once it works. ``elsewhere``: as if on another machine than all others."""
        self._number += 1
        machine = {"ZCASYNC_BOOT_ID": f"machine {self._number}"} if elsewhere else {}
        command = [sys.executable, WORKER, *self.address(), json.dumps({"poll_interval": 0.5, **options})]
        return self._stack.enter_context(ServerProcess(command, self.folder, {**machine, **(environ or {})}))


class PostgresPlace(Place):
    """An empty database on a PostgreSQL server."""

    def __init__(self, folder: Path, server: PostgresServer, name: str) -> None:
        super().__init__(folder)
        self.server, self.name = server, name
        server.empty(name)

    def address(self) -> tuple[str, str]:
        return "", self.server.dsn(self.name)

    def open(self) -> Any:
        return self.server.open(self.name)
