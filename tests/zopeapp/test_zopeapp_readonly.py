"""A storage that can only be read, as its server or its rights will have it: commands look, and a worker waits."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.queue import install
from collective.zcasync.zopeapp.cli import main
from contextlib import AbstractContextManager
from contextlib import closing
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from postgresserver import postgres_server
from serverprocess import PATIENCE
from serverprocess import server_port
from serverprocess import ServerProcess
from zopeinstance import Instance
from zopeinstance import ZEO_CLIENT

import pytest
import sys
import ZEO
import ZODB

RELSTORAGE = """\
<relstorage>
    keep-history false
    <postgresql>
      driver psycopg2
      dsn {}
    </postgresql>
  </relstorage>"""

ZEO_SERVER = """\
<zeo>
  address 127.0.0.1:{port}
  read-only {only_reads}
</zeo>
<filestorage 1>
  path {path}
</filestorage>
"""

#: What PostgreSQL and ZEO say.
RECOVERY = "FeatureNotSupported: cannot set transaction read-write mode during recovery"
RIGHTS = "InsufficientPrivilege: permission denied for schema public"
READ_ONLY = "the storage is read-only: take read-only out of it in zope.conf, or of its server's configuration"
UNWRITABLE = "the storage is read-only for this process ({}): name one in zope.conf that it may write"


@dataclass
class Place:
    """An instance whose storage only reads. ``mend``: from then on it can be written. ``told``: what commands say."""

    instance: Instance
    told: str
    mend: Callable[[], object] | None = None


@contextmanager
def _instance(folder: Path, storage: str) -> Iterator[Instance]:
    instance = Instance(folder / "instance", storage=storage)
    instance.zope_conf.write_text("%import relstorage\n" + instance.zope_conf.read_text())
    try:
        yield instance
    finally:
        instance.close()


def _with_queues(db: ZODB.DB) -> None:
    with closing(db), db.transaction() as connection:
        install(connection)


@contextmanager
def zeo(folder: Path) -> Iterator[Place]:
    port, conf, path = server_port(), folder / "zeo.conf", folder / "zeo.fs"

    def serve(only_reads: bool) -> ServerProcess:
        conf.write_text(ZEO_SERVER.format(port=port, only_reads=only_reads, path=path))
        return ServerProcess([sys.executable, "-m", "ZEO.runzeo", "-C", conf], folder)

    with serve(False):
        _with_queues(ZEO.DB(("127.0.0.1", port), wait_timeout=PATIENCE))
    servers = [serve(True)]

    def mend() -> None:
        servers.pop().kill()
        servers.append(serve(False))

    try:
        with _instance(folder, ZEO_CLIENT.format(host="127.0.0.1", port=port)) as instance:
            yield Place(instance, READ_ONLY, mend)
    finally:
        servers.pop().kill()


@contextmanager
def standby(folder: Path) -> Iterator[Place]:
    """PostgreSQL that may take over from another server some time."""
    with postgres_server("fsync=off") as server:
        name = server.new_database()
        _with_queues(server.open(name))
        server.stand_by()
        with _instance(folder, RELSTORAGE.format(server.dsn(name))) as instance:
            yield Place(instance, UNWRITABLE.format(RECOVERY), server.take_over)


@contextmanager
def rights(folder: Path) -> Iterator[Place]:
    """PostgreSQL, where the user may only read."""
    with postgres_server("fsync=off") as server:
        name = server.new_database()
        _with_queues(server.open(name))
        server.sql("CREATE ROLE reader LOGIN")
        server.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", name)
        dsn = server.dsn(name).replace("user=postgres", "user=reader")
        with _instance(folder, RELSTORAGE.format(dsn)) as instance:
            yield Place(instance, UNWRITABLE.format(RIGHTS))


@pytest.mark.parametrize("kind", [zeo, standby, rights])
def test_commands_look_or_say_in_one_line_that_they_change_nothing_and_a_worker_waits_until_it_can_be_written(
    kind: Callable[[Path], AbstractContextManager[Place]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with kind(tmp_path) as place:
        conf = str(place.instance.zope_conf)
        assert main(["status", "-C", conf]) == 0
        assert "Queues: default" in capsys.readouterr().out
        assert main(["pause", "default", "-C", conf]) == 2
        assert capsys.readouterr().err.splitlines() == [f"zcasync: {place.told}"]
        assert caplog.messages == [], "the clients of storages say the same in several lines"

        worker = place.instance.start("zcasync", "worker", "-C", conf)
        if place.mend is None:  # waiting does not help
            assert worker.wait() == 2
            assert worker.lines == [f"zcasync: {place.told}"]
        else:
            worker.wait_for(r"The storage can only be read \(.*\); waiting until it can be written$")
            place.mend()
            worker.wait_for("The storage answers")
            worker.wait_for("runs jobs")
            assert worker.output.count("can only be read") == 1
            assert worker.stop() == 0


def test_whoever_only_looks_makes_no_tables_in_an_empty_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with postgres_server("fsync=off") as server:
        name = server.new_database()
        with _instance(tmp_path, RELSTORAGE.format(server.dsn(name))) as instance:
            assert main(["status", "-C", str(instance.zope_conf)]) == 2
        assert capsys.readouterr().err.strip().endswith("is empty: start the server once")
        assert server.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", name) == []
