"""A ZEO server in a process of its own, which tests freeze, kill and start again; and workers on it."""

from collections.abc import Iterator
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from contextlib import contextmanager
from contextlib import ExitStack
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import server_port
from serverprocess import ServerProcess
from typing import Any

import json
import signal
import sys
import threading
import transaction
import ZEO
import ZODB

WORKER = Path(__file__).parent / "engineworker.py"


class ZEOProcess:
    """The server of one database. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = server_port()
        self._stack = ExitStack()
        self._number = 0
        self.server = self._start()

    def _start(self) -> ServerProcess:
        command = [sys.executable, "-m", "ZEO.runzeo", "-a", f"127.0.0.1:{self.port}", "-f", self.folder / "Data.fs"]
        return self._stack.enter_context(ServerProcess(command, self.folder))

    def __enter__(self) -> "ZEOProcess":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.send(signal.SIGCONT)
        self._stack.close()

    def restart(self) -> None:
        """Start it again after it was killed."""
        self.server = self._start()

    @contextmanager
    def frozen(self, seconds: float) -> Iterator[None]:
        """For so long the server takes connections and answers nothing."""
        self.server.send(signal.SIGSTOP)
        try:
            threading.Event().wait(seconds)
            yield
        finally:
            self.server.send(signal.SIGCONT)

    def database(self) -> Any:
        """Another client, in this process."""
        storage = ZEO.client(("127.0.0.1", self.port), wait_timeout=PATIENCE, server_sync=True)
        db = ZODB.DB(storage, pool_size=20)
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
        command = [sys.executable, WORKER, "127.0.0.1", str(self.port), json.dumps({"poll_interval": 0.5, **options})]
        return self._stack.enter_context(ServerProcess(command, self.folder, {**machine, **(environ or {})}))
