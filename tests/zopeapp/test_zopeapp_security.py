"""The operator's side: without access to the database nobody sees or changes anything, or has code of his own run."""

from argparse import ArgumentParser
from collections.abc import Iterator
from collective.zcasync import callables
from collective.zcasync.exceptions import UnknownCallableError
from collective.zcasync.job import Job
from collective.zcasync.zopeapp.cli import get_parser
from http.client import HTTPConnection
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import server_port
from serverprocess import ServerProcess
from typing import Any
from zopeinstance import Instance

import enginejobs
import os
import pytest
import re
import time
import ZODB

#: Puts code that lies in the folder of the instance, which is on the path of this script and of no worker; then a job
#: that fails, with secrets in all that is stored of it.
PUT_SCRIPT = """\
import sys
sys.path.insert(0, {folder!r})
import instancejobs, lying, transaction
from collective.zcasync import api
from collective.zcasync.api import job
api.put(lying.run)
failing = job(api.put(instancejobs.fail, "secret argument").id)
failing.group, failing.user, failing.where = "/secret-site", "secret-user", "/secret-site/secret-page"
transaction.commit()
"""

LYING = """\
from pathlib import Path

def run():
    (Path(__file__).parent / "called").touch()
"""


def commands() -> dict[str, ArgumentParser]:
    [found] = [action.choices for action in get_parser()._actions if isinstance(action.choices, dict)]
    return dict(found)


@pytest.mark.parametrize("name", commands())
def test_each_command_works_on_the_database_that_a_zope_conf_names(name: str) -> None:
    required = {action.dest for action in commands()[name]._actions if action.required}
    assert "configuration" in required


@pytest.fixture
def port() -> int:
    return server_port()


@pytest.fixture
def worker(instance: Instance, port: int) -> Iterator[ServerProcess]:
    """A worker in the folder of the instance that has met all jobs of PUT_SCRIPT."""
    section = ("<product-config collective.zcasync>", f"  health-port {port}", "  threads 1", "</product-config>")
    instance.write_zope_conf(*section)
    (instance.folder / "lying.py").write_text(LYING)
    instance.start("zcasync", "worker", "-C", instance.zope_conf, "--once").wait()  # it makes the queue
    script = instance.script(PUT_SCRIPT.format(folder=str(instance.folder)))
    put = instance.start("zconsole", "run", instance.zope_conf, script)
    assert put.wait() == 0, put.output
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    worker.wait_for("LookupError.*secret argument")
    yield worker


def ask(port: int, method: str, path: str) -> tuple[int, str]:
    """Status, and all that is answered: headers and text."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, f"{answer.headers}\n{answer.read().decode()}"
    finally:
        connection.close()


def listening(pid: int) -> set[str]:
    """Where a process waits for others: (kind, address and port) of its sockets, in the kernel's spelling."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(link))
        except FileNotFoundError:
            continue
    own = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    found = set()
    for kind, state, at, inode in (("tcp", 3, 1, 9), ("tcp6", 3, 1, 9), ("unix", 3, 7, 6)):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            waits = fields[state] == ("00010000" if kind == "unix" else "0A")
            if waits and fields[inode] in own:
                found.add(f"{kind} {fields[at] if len(fields) > at else ''}")
    return found


@pytest.mark.processes
def test_a_worker_shows_no_data_takes_no_orders_and_calls_no_code_that_merely_lies_about(
    worker: ServerProcess, port: int, instance: Instance
) -> None:
    assert listening(worker.pid) == {f"tcp 0100007F:{port:04X}"}, "the health port, on localhost, and nothing else"

    deadline = time.monotonic() + PATIENCE
    while 'what="failed"} 1.0' not in ask(port, "GET", "/metrics")[1]:  # it is counted a moment after it is logged
        assert time.monotonic() < deadline
    pages = {path: ask(port, "GET", path) for path in ("/live", "/ready", "/metrics", "/", "/jobs", "/metrics/../etc")}
    assert [status for status, _text in pages.values()] == [200, 200, 200, 404, 404, 404]
    assert 'what="failed"} 1.0' in pages["/metrics"][1], "it tells of the job in numbers"
    for status, text in [*pages.values(), *(ask(port, verb, "/metrics") for verb in ("POST", "PUT", "DELETE"))]:
        assert status in (200, 404, 501)
        assert [
            word for word in ("secret", "Plone", str(instance.folder), worker.process.args[0]) if word in text
        ] == []

    assert not (instance.folder / "called").exists()
    assert worker.stop() == 0


@pytest.mark.parametrize(
    "name", ["lying:run", "/tmp/lying.py:run", "../lying:run", ".lying:run", "os:", ":run", "eval"]
)
def test_what_is_not_the_name_of_something_installed_is_not_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lying.py").write_text(LYING)
    monkeypatch.chdir(tmp_path)
    callables.forget_unknown()
    with pytest.raises(UnknownCallableError):
        callables.resolve(name)
    assert not (tmp_path / "called").exists()
    callables.forget_unknown()


def test_a_job_stores_the_name_of_what_it_calls_and_no_code() -> None:
    database = ZODB.DB(None)
    with database.transaction() as connection:
        connection.root()["job"] = job = Job(enginejobs.add, 1)
        connection.add(job)
    with database.transaction() as connection:
        stored: Any = connection.root()["job"]
        stored._p_activate()
        record, _tid = database.storage.load(stored._p_oid)
    database.close()
    assert b"enginejobs:add" in record
    assert re.findall(rb"\nc?(enginejobs)\n", record) == [], "a pickled function would be a global"
    assert not any(callable(value) for value in vars(stored).values())
