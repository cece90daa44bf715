"""Servers that fork: each process that asks for a dispatcher has one of its own, and none is inherited."""

from collections.abc import Iterator
from collective.zcasync.interfaces import KEY
from collective.zcasync.testing import wait_until
from docblocks import blocks
from docblocks import DOCS
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import ServerProcess
from typing import Any
from zopeinstance import Instance
from zopeinstance import ZEO_CLIENT

import os
import pytest
import re
import signal
import transaction
import ZEO
import ZODB

STARTED = r"Dispatcher (\S+) started \(role embedded"
STOPPED = "Dispatcher stopped"

HOOK = """\
from uwsgidecorators import postfork

@postfork
def start_dispatcher():
    from collective.zcasync import zopeapp

    zopeapp.start()
"""


@pytest.fixture
def zeo(tmp_path: Path) -> Iterator[tuple[str, int]]:
    address, stop = ZEO.server(str(tmp_path / "zeo.fs"), port=("127.0.0.1", 0))
    yield address
    stop()


@pytest.fixture
def shared(zeo: tuple[str, int], tmp_path: Path) -> Iterator[Instance]:
    """An instance whose processes share their database, with Zope's objects in it: two that make them collide."""
    host, port = zeo
    made = Instance(tmp_path / "instance", storage=ZEO_CLIENT.format(host=host, port=port))
    assert made.start("zconsole", "run", made.zope_conf, made.script("")).wait() == 0
    yield made
    made.close()


def uwsgi(instance: Instance, *changes: tuple[str, str]) -> ServerProcess:
    """Start uWSGI with the configuration of the guide, for this instance."""
    text = blocks(DOCS / "how-to-guides" / "servers-that-fork.md", "ini")[0].text
    for old, new in (("/srv/plone/instance", str(instance.folder)), ("127.0.0.1:8080", "127.0.0.1:0"), *changes):
        assert old in text
        text = text.replace(old, new)
    path = instance.folder / "etc" / "uwsgi.ini"
    path.write_text(text)
    return instance.start("uwsgi", "--ini", path)


def started(server: ServerProcess, number: int) -> list[str]:
    """The UUIDs of so many dispatchers that have started, once they have."""
    server.wait_for_times(STARTED, number)
    return re.findall(STARTED, server.output)


def at_work(zeo: tuple[str, int], uuids: list[str]) -> dict[str, int]:
    """UUID -> process id of the dispatchers that are at work, once they are these."""
    database = ZODB.DB(ZEO.client(zeo, wait_timeout=30, server_sync=True))
    manager = transaction.TransactionManager()
    connection = database.open(manager)

    def registered() -> dict[str, int]:
        queues = connection.root().get(KEY)
        active: list[Any] = [] if queues is None else queues[""].dispatchers.active()
        return {da.name: da.process["pid"] for da in active}

    try:
        wait_until(connection, lambda: set(registered()) == set(uuids), PATIENCE, f"the dispatchers {uuids}")
        return registered()
    finally:
        manager.abort()
        connection.close()
        database.close()


def test_uwsgi_has_a_dispatcher_in_each_process_that_loads_zope(shared: Instance, zeo: tuple[str, int]) -> None:
    shared.write_zope_ini(filters="dispatcher")
    server = uwsgi(shared)
    first = started(server, 2)
    processes = at_work(zeo, first)
    assert len(set(processes.values())) == 2 and server.pid not in processes.values()

    shared.put(server, "greet", "one of both")
    server.wait_for(rf"hello one of both from a job in process ({'|'.join(map(str, processes.values()))})")

    os.kill(processes[first[0]], signal.SIGKILL)
    uuids = started(server, 3)
    server.wait_for(f"dispatcher {first[0]} in queue '' is dead: its process is gone")
    assert processes[first[0]] not in at_work(zeo, uuids[1:]).values()

    assert server.stop() == 0
    assert server.output.count(STOPPED) == 2 and at_work(zeo, []) == {}


def test_uwsgi_has_a_dispatcher_where_the_hook_starts_one_after_the_fork(instance: Instance) -> None:
    (instance.folder / "etc" / "zcasync_hook.py").write_text(HOOK)
    etc = instance.folder / "etc"
    server = uwsgi(
        instance,
        ("processes = 2", "processes = 1"),
        ("lazy-apps = true", f"pythonpath = {etc}\nimport = zcasync_hook"),
    )
    server.wait_for("Dispatcher not started: uWSGI forks its processes. Say lazy-apps .* uwsgidecorators.postfork")
    started(server, 1)
    process = server.wait_for(r"spawned uWSGI worker 1 \(pid: (\d+)")[1]
    instance.put(server, "greet", "the hook")
    server.wait_for(f"hello the hook from a job in process {process}")
    assert server.stop() == 0
    assert (server.output.count(STOPPED), len(re.findall(STARTED, server.output))) == (1, 1)


def test_gunicorn_has_a_dispatcher_in_each_worker_and_in_those_that_follow(
    shared: Instance, zeo: tuple[str, int]
) -> None:
    server = shared.start("gunicorn", "--paste", shared.zope_ini, "--bind", "127.0.0.1:0", "--workers=2")
    first = started(server, 2)
    processes = at_work(zeo, first)
    assert len(set(processes.values())) == 2 and server.pid not in processes.values()

    server.send(signal.SIGHUP)  # new workers, then the old ones end
    uuids = started(server, 4)
    server.wait_for_times(STOPPED, 2)
    at_work(zeo, uuids[2:])

    assert server.stop() == 0
    assert server.output.count(STOPPED) == 4 and at_work(zeo, []) == {}
