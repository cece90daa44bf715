"""zopeapp.worker: how real workers begin and end, and what they say meanwhile."""

from instance import free_port
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import server_port
from serverprocess import ServerProcess
from urllib.error import HTTPError
from urllib.request import urlopen
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zopeinstance import Instance
from zopeinstance import ZEO_CLIENT

import json
import pytest
import signal
import socket
import sys
import threading
import time

PUT = """\
import transaction
from collective.zcasync import api
for task, argument in {jobs!r}:
    api.put(task, argument)
transaction.commit()
"""

RELSTORAGE = """\
<relstorage>
    <postgresql>
      dsn host=127.0.0.1 port={port} dbname=nothing user=nobody
    </postgresql>
  </relstorage>"""


def put(instance: Instance, *jobs: tuple[str, str]) -> None:
    """Put these tasks, in a process that ends."""
    assert instance.start("zconsole", "run", instance.zope_conf, instance.script(PUT.format(jobs=jobs))).wait() == 0


def worker(instance: Instance, *options: str | Path, **environ: str) -> ServerProcess:
    return instance.start("zcasync", "worker", "-C", instance.zope_conf, *options, environ=environ)


def ask(port: int, path: str) -> tuple[int, str]:
    """Status and text of a page of the health port."""
    try:
        answer = urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.read().decode().strip()


@pytest.fixture
def ready(instance: Instance) -> Instance:
    """An instance whose database holds queues."""
    assert worker(instance, "--once").wait() == 0
    return instance


def test_once_runs_what_is_due_and_tells_by_its_exit_code_whether_all_went_well(ready: Instance) -> None:
    put(ready, ("greet", "one"), ("greet", "two"), ("fail", "three"))
    once = worker(ready, "--once", "--log-format", "json")
    assert once.wait() == 1
    records = [json.loads(line) for line in once.lines if line.startswith("{")]
    assert records[-1]["message"] == "Dispatcher stopped"
    (hello,) = [record for record in records if record["message"].startswith("hello two")]
    assert (hello["task"], hello["attempt"], hello["site"]) == ("greet", 1, "")
    assert hello["job"]
    assert any(record["message"] == "Nothing more is due: 3 runs, 1 jobs failed" for record in records)


def test_the_collector_does_not_look_again_at_what_a_worker_has_loaded_at_its_start(ready: Instance) -> None:
    put(ready, ("count_kept", ""))
    once = worker(ready, "--once")
    assert once.wait() == 0
    once.wait_for("most are kept: True")


def test_once_fails_where_it_may_take_no_jobs(ready: Instance) -> None:
    once = worker(ready, "--once", "--queues", "nowhere")
    assert once.wait() == 1
    once.wait_for("No jobs are taken here: unregistered")


def test_a_worker_that_has_run_its_share_ends_and_asks_for_a_new_one(ready: Instance) -> None:
    put(ready, ("greet", "one"))
    ended = worker(ready, "--max-jobs", "1")
    assert ended.wait() == 4
    ended.wait_for("This worker ends because it has run 1 jobs; start a new one")
    assert "Dispatcher stopped" in ended.output


@pytest.mark.parametrize("told_to_stop", [False, True])
def test_a_worker_that_has_run_its_share_lets_what_runs_end_unless_it_is_told_to_stop(
    told_to_stop: bool, ready: Instance, tmp_path: Path
) -> None:
    put(ready, ("wait_for_file", str(tmp_path / "go")), ("greet", "one"))
    options = ("--max-jobs", "1", "--threads", "2", "--drain-timeout", "1", "--health-file", tmp_path / "health")
    ended = worker(ready, *options)
    ended.wait_for("takes no more jobs because it has run 1 jobs; those that run may end")
    text = ""
    deadline = time.monotonic() + PATIENCE
    while text != "draining\n" and time.monotonic() < deadline:
        text = (tmp_path / "health").read_text()
        threading.Event().wait(0.1)
    assert text == "draining\n"
    assert ended.process.poll() is None, "it waits for longer than the grace of a stop"
    if told_to_stop:
        assert ended.stop() == 0
        assert "found" not in ended.output
    else:
        (tmp_path / "go").touch()
        assert ended.wait() == 4
        ended.wait_for("found .*go")
        ended.wait_for("This worker ends because it has run 1 jobs; start a new one")
    db = DB(FileStorage(str(ready.folder / "var" / "Data.fs"), read_only=True))
    with db.transaction() as connection:
        assert connection.root()["collective.zcasync"][""].counts()["succeeded"] == 2 - told_to_stop
    db.close()


def test_a_second_signal_gives_the_running_job_back_at_once(ready: Instance, tmp_path: Path) -> None:
    put(ready, ("wait_for_file", str(tmp_path / "never")))
    stopped = worker(ready, "--drain-timeout", "3600")
    stopped.wait_for("waiting for")
    stopped.send(signal.SIGTERM)
    stopped.wait_for("Got SIGTERM")
    assert stopped.stop() == 0
    db = DB(FileStorage(str(ready.folder / "var" / "Data.fs"), read_only=True))
    with db.transaction() as connection:
        (job,) = connection.root()["collective.zcasync"][""]
        assert (job.attempts, job.status) == (0, "pending-status")
    db.close()


def test_a_worker_waits_for_its_storage_and_lives_meanwhile(tmp_path: Path) -> None:
    storage = server_port()
    health = free_port(storage + 1)
    instance = Instance(tmp_path / "instance", storage=ZEO_CLIENT.format(host="127.0.0.1", port=storage))
    instance.write_zope_conf()
    file = tmp_path / "health"
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "systemd"))
    systemd.settimeout(PATIENCE)
    options = ("--health-port", str(health), "--health-file", file)
    waiting = worker(instance, *options, NOTIFY_SOCKET=str(tmp_path / "systemd"))
    try:
        waiting.wait_for(rf"The storage does not answer .*127\.0\.0\.1:{storage}.*; waiting until it does")
        assert ask(health, "/live") == (200, "ok")
        assert ask(health, "/ready") == (503, "not ok: starting")
        assert file.read_text() == "starting\n"
        server = [sys.executable, "-m", "ZEO.runzeo", "-a", f"127.0.0.1:{storage}", "-f", str(tmp_path / "zeo.fs")]
        with ServerProcess(server, tmp_path):
            waiting.wait_for("The storage answers")
            line = waiting.wait_for("runs jobs .*").string
            assert "zope.conf has no <product-config collective.zcasync>: all settings have their defaults" in line
            assert waiting.output.count("does not answer") == 1
            assert "failed" not in waiting.output, "the client of the storage tells nothing beside it"
            assert systemd.recv(100) == b"READY=1"
            assert waiting.stop() == 0
        assert systemd.recv(100) == b"STOPPING=1"
        assert not file.exists()
    finally:
        instance.close()
        systemd.close()


def test_a_storage_that_cannot_be_written_is_told_with_the_way_out(ready: Instance) -> None:
    text = ready.zope_conf.read_text()
    ready.zope_conf.write_text(text.replace("<filestorage>", "<filestorage>\n    read-only on"))
    refused = worker(ready)
    assert refused.wait() == 2
    assert refused.lines[-1].startswith("zcasync: the database 'main' is read-only")
    assert "Traceback" not in refused.output
    command = ready.start("zcasync", "pause", "default", "-C", ready.zope_conf)
    assert command.wait() == 2
    assert command.lines == [
        "zcasync: the storage is read-only: take read-only out of it in zope.conf, or of its server's configuration"
    ]


def test_a_signal_that_something_swallows_at_the_start_ends_the_worker_all_the_same(ready: Instance) -> None:
    site = ready.folder / "etc" / "site.zcml"
    handler = '<subscriber for="zope.processlifetime.IProcessStarting" handler="instancejobs.swallow_a_signal" />'
    site.write_text(site.read_text().replace("</configure>", f"{handler}</configure>"))
    stopped = worker(ready)
    assert stopped.wait() == 0
    assert "Dispatcher stopped" in stopped.output


def test_a_signal_while_it_waits_for_postgresql_ends_a_worker_well(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "instance", storage=RELSTORAGE.format(port=server_port()))
    instance.zope_conf.write_text("%import relstorage\n" + instance.zope_conf.read_text())
    try:
        waiting = worker(instance)
        # One line, whatever the driver says.
        waiting.wait_for(r"The storage does not answer \(OperationalError: .*\); waiting until it does$")
        assert waiting.stop() == 0
        assert "Unable to connect" not in waiting.output
    finally:
        instance.close()


def test_the_second_of_two_workers_with_one_uuid_says_so_in_one_line_and_takes_over_when_the_first_is_gone(
    tmp_path: Path,
) -> None:
    storage = server_port()
    health = free_port(storage + 1)
    instance = Instance(tmp_path / "instance", storage=ZEO_CLIENT.format(host="127.0.0.1", port=storage))
    lines = (f"  uuid-file {tmp_path}/uuid.txt", "  poll-interval 0.5")
    instance.write_zope_conf("<product-config collective.zcasync>", *lines, "</product-config>")
    server = [sys.executable, "-m", "ZEO.runzeo", "-a", f"127.0.0.1:{storage}", "-f", str(tmp_path / "zeo.fs")]
    with ServerProcess(server, tmp_path):
        try:
            first = worker(instance)
            first.wait_for("runs jobs")
            once = worker(instance, "--once")
            assert once.wait() == 1
            once.wait_for("No jobs are taken here: unregistered")
            second = worker(instance, "--health-port", str(health))
            told = second.wait_for(r"ERROR .*The UUID (\S+) is active in queue '': another process\? pid (\d+) on .*")
            assert int(told[2]) == first.pid
            assert "give each one of its own" in told.string
            second.wait_for("runs jobs")
            assert ask(health, "/live") == (200, "ok")
            answer, deadline = (503, "not ok: starting"), time.monotonic() + PATIENCE
            while answer == (503, "not ok: starting") and time.monotonic() < deadline:
                answer = ask(health, "/ready")
            assert answer == (503, "not ok: unregistered")
            assert first.stop() == 0
            put(instance, ("greet", "heir"))
            second.wait_for("hello heir")
            assert second.output.count("is active in queue") == 1
            assert ask(health, "/ready") == (200, "ok")
            assert second.stop() == 0
        finally:
            instance.close()
