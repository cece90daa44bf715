"""The storages to measure on: each with its server, in a folder that is gone afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import ExitStack
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from postgresserver import postgres_server
from relstorage.adapters.postgresql import PostgreSQLAdapter
from relstorage.options import Options
from relstorage.storage import RelStorage
from serverprocess import server_port
from serverprocess import ServerProcess
from tempfile import TemporaryDirectory
from typing import Any
from ZODB.FileStorage import FileStorage

import signal
import sys
import ZEO
import ZODB

KINDS = ("filestorage", "zeo", "relstorage")

#: Objects that the cache of a connection holds; Plone's own default is higher.
CACHE = 20_000

#: A ZEO server that cannot import this package, as one that another team runs.
RUNZEO = "import sys; sys.modules['collective.zcasync'] = None; from ZEO.runzeo import main; main()"

PATIENCE = 30


@dataclass(frozen=True)
class Place:
    """A storage that runs. Other processes get it by pickle."""

    kind: str
    #: Path of the file, port of the ZEO server, or dsn of the PostgreSQL database.
    address: Any

    @property
    def shared(self) -> bool:
        """Whether several processes can work on it."""
        return self.kind != "filestorage"

    def open(self, cache: int = CACHE) -> Any:
        """The database, as a process of its own would open it."""
        return ZODB.DB(self._storage(), pool_size=20, cache_size=cache)

    def _storage(self) -> Any:
        if self.kind == "filestorage":
            return FileStorage(self.address)
        if self.kind == "zeo":
            return ZEO.client(("127.0.0.1", self.address), wait_timeout=PATIENCE)
        options = Options(keep_history=False, cache_local_mb=50, driver="psycopg2")
        return RelStorage(PostgreSQLAdapter(dsn=self.address, options=options), options=options)


class Servers:
    """Makes places. Use it as a context manager. PostgreSQL starts when it is wanted first, and stays till the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._postgres: Any = None

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @contextmanager
    def place(self, kind: str, folder: Path | None = None) -> Iterator[Place]:
        """A new, empty storage. ``folder``: where the file of FileStorage and ZEO is to be, which may be there."""
        if kind == "relstorage":
            if self._postgres is None:
                self._postgres = self._stack.enter_context(postgres_server())
            yield Place(kind, self._postgres.dsn(self._postgres.new_database()))
            return
        with TemporaryDirectory(prefix="zcasync-bench-") if folder is None else nullcontext(folder) as made:
            path = Path(made) / "Data.fs"
            if kind == "filestorage":
                yield Place(kind, str(path))
                return
            port = server_port()
            command = [sys.executable, "-c", RUNZEO, "-a", f"127.0.0.1:{port}", "-f", path]
            with ServerProcess(command, Path(made)) as server:
                yield Place(kind, port)
                server.send(signal.SIGTERM)
                server.wait()
