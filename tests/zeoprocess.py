"""A ZEO server in a process of its own, which tests freeze, kill and start again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import server_port
from serverprocess import ServerProcess
from typing import Any
from workerplace import Place

import signal
import sys
import threading
import ZEO
import ZODB


class ZEOProcess(Place):
    """The server of one database."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = server_port()
        self.server = self._start()

    def _start(self) -> ServerProcess:
        command = [sys.executable, "-m", "ZEO.runzeo", "-a", f"127.0.0.1:{self.port}", "-f", self.folder / "Data.fs"]
        return self._stack.enter_context(ServerProcess(command, self.folder))

    def __exit__(self, *exc_info: object) -> None:
        self.server.send(signal.SIGCONT)
        super().__exit__(*exc_info)

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

    def address(self) -> tuple[str, str]:
        return "127.0.0.1", str(self.port)

    def open(self) -> Any:
        storage = ZEO.client(("127.0.0.1", self.port), wait_timeout=PATIENCE, server_sync=True)
        return ZODB.DB(storage, pool_size=20)
