"""A PostgreSQL server of the tests' own: made in a new folder, reached by a socket in it, gone at the end."""

from collections.abc import Iterator
from contextlib import closing
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path
from relstorage.adapters.postgresql import PostgreSQLAdapter
from relstorage.options import Options
from relstorage.storage import RelStorage
from typing import Any

import os
import psycopg2
import shutil
import signal
import subprocess
import tempfile
import time
import ZODB

#: Who owns the server's files where the tests run as root, as whom PostgreSQL refuses to run.
OWNER = "postgres"

#: What the server says where its disk is full, and where it only reads: codes of errors.
DISK_FULL, ONLY_READS = "53100", "25006"

#: Lets each commit of RelStorage fail with the code that a table holds. The setting default_transaction_read_only would
#: change nothing: RelStorage begins its transactions as such that write.
REFUSALS = """\
CREATE TABLE refusals (code text);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  told text;
BEGIN
  SELECT code INTO told FROM refusals LIMIT 1;
  IF told IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = told, MESSAGE = 'nothing can be stored';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON object_state FOR EACH STATEMENT EXECUTE FUNCTION refuse();
"""

#: Seconds that the server gets to answer, and to end.
PATIENCE = 30


def _program(name: str) -> str:
    """A server program: Debian has it in a folder of its version, others on the path."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = str(versions[-1]) if versions else shutil.which(name)
    assert found, f"no {name} here; install the package postgresql"
    return found


class PostgresServer:
    """Makes databases on a running server, and opens them as a ZODB. ``options``: of the server's process."""

    def __init__(self, folder: str, command: list[str], options: dict[str, Any]) -> None:
        self.folder = folder
        self.made = 0
        self._command, self._options = command, options
        self._process: Any = None

    def start(self) -> None:
        """Return as soon as the server answers."""
        log = Path(self.folder, "log")
        with log.open("a") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output, **self._options)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                self.sql("SELECT 1")
            except psycopg2.OperationalError:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
                    break
            else:
                return
        raise AssertionError(log.read_text())

    def stop(self) -> None:
        """At once: it cuts the sessions that are left, and recovers what was committed at the next start."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(PATIENCE)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, in the midst of whatever they do."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(one, number)

    def kill(self) -> None:
        """End it without a word."""
        self.send(signal.SIGKILL)
        self._process.wait(PATIENCE)

    def stand_by(self) -> None:
        """Begin anew as one that could take over from another server, and only reads until ``take_over``."""
        self.stop()
        sign = Path(self.folder, "data", "standby.signal")
        sign.touch()
        if "user" in self._options:
            shutil.chown(sign, OWNER, OWNER)
        self.start()

    def take_over(self) -> None:
        """Return when it can be written."""
        self.sql("SELECT pg_promote()")

    def dsn(self, database: str) -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def sql(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run one statement; its rows."""
        with closing(psycopg2.connect(self.dsn(database))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def may_refuse(self, database: str) -> None:
        """Make what ``refuse`` needs, in a database that RelStorage has opened before."""
        if not self.sql("SELECT 1 FROM pg_tables WHERE tablename = 'refusals'", database):
            self.sql(REFUSALS, database)

    def refuse(self, database: str, code: str) -> None:
        """From now on no commit of RelStorage there is stored: it fails with this error."""
        self.sql(f"INSERT INTO refusals VALUES ('{code}')", database)

    def accept(self, database: str) -> None:
        """From now on commits are stored again."""
        self.sql("DELETE FROM refusals", database)

    def new_database(self) -> str:
        """An empty database; its name."""
        self.made += 1
        self.sql(f"CREATE DATABASE test{self.made}")
        return f"test{self.made}"

    def empty(self, database: str) -> None:
        """Make it as new, whoever still works on it."""
        sessions = f"pg_stat_activity WHERE datname = '{database}'"
        self.sql(f"SELECT pg_terminate_backend(pid) FROM {sessions}")
        db = self.open(database)
        db.storage.zap_all()
        db.close()

    def open(self, database: str) -> Any:
        """The ZODB in a database, as another process would open it."""
        return open_at(self.dsn(database))


def open_at(dsn: str) -> Any:
    """The ZODB in a database of a running server."""
    options = Options(keep_history=False, cache_local_mb=10, driver="psycopg2")
    adapter = PostgreSQLAdapter(dsn=dsn, options=options)
    return ZODB.DB(RelStorage(adapter, options=options), pool_size=20)


@contextmanager
def postgres_server(*settings: str) -> Iterator[PostgresServer]:
    """Run a server until the end of the block, with these settings ("fsync=off")."""
    folder = tempfile.mkdtemp(prefix="zcasync-postgres-")
    who: dict[str, Any] = {"cwd": folder}
    if os.getuid() == 0:
        shutil.chown(folder, OWNER, OWNER)
        who.update(user=OWNER, group=OWNER, extra_groups=[])
    data = f"{folder}/data"
    try:
        make = [_program("initdb"), "--no-sync", "--auth=trust", "--username=postgres", "--locale=C", data]
        made = subprocess.run(make, capture_output=True, text=True, **who)
        assert made.returncode == 0, made.stdout + made.stderr
        run = [_program("postgres"), "-D", data, "-k", folder, "-c", "listen_addresses="]
        run += [part for setting in settings for part in ("-c", setting)]
        server = PostgresServer(folder, run, who)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
