"""Jobs in real processes: embedded in a server, in a worker, over ZEO, and across stops."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import queue
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zopeinstance import Instance
from zopeinstance import ON
from zopeinstance import ZEO_CLIENT

import pytest
import signal
import ZEO

PUT_SCRIPT = """\
import transaction
from collective.zcasync import api
for number in range(3):
    api.put("greet", f"number {number}")
transaction.commit()
"""


HANG_SCRIPT = """\
import transaction
from instancejobs import hang
hang.put({path!r})
transaction.commit()
"""


@contextmanager
def queues_of(folder: Path) -> Iterator[Any]:
    """The queues of an instance whose processes have ended."""
    db = DB(FileStorage(str(folder / "var" / "Data.fs"), read_only=True))
    connection = db.open()
    yield queue.get_queues(connection)
    connection.close()
    db.close()


@pytest.fixture
def zeo(tmp_path: Path) -> Iterator[str]:
    """A ZEO server; the lines in zope.conf with which a client finds it."""
    (host, port), stop = ZEO.server(str(tmp_path / "zeo.fs"), port=("127.0.0.1", 0))
    yield ZEO_CLIENT.format(host=host, port=port)
    stop()


@pytest.fixture
def client_and_worker(zeo: str, tmp_path: Path) -> Iterator[Callable[[str], Instance]]:
    """Makes instances that share one database."""
    made: list[Instance] = []

    def make(name: str) -> Instance:
        made.append(Instance(tmp_path / name, storage=zeo))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_server_runs_what_its_requests_put(instance: Instance) -> None:
    server = instance.runwsgi()
    instance.put(server, "greet", "request")
    server.wait_for(f"hello request from a job in process {server.pid}")
    assert server.stop() == 0
    with queues_of(instance.folder) as queues:
        assert queues[""].counts()["succeeded"] == 1


def test_a_worker_runs_what_a_script_put_before(instance: Instance) -> None:
    instance.start("zcasync", "worker", "-C", instance.zope_conf).wait_for_and_stop("runs jobs")
    assert instance.start("zconsole", "run", instance.zope_conf, instance.script(PUT_SCRIPT)).wait() == 0
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    for number in range(3):
        worker.wait_for(f"hello number {number} from a job in process {worker.pid}")
    assert worker.stop() == 0
    with queues_of(instance.folder) as queues:
        assert queues[""].counts()["succeeded"] == 3


def test_a_worker_in_which_a_job_hangs_ends_with_a_code_of_its_own(instance: Instance, tmp_path: Path) -> None:
    never = tmp_path / "never"
    instance.start("zcasync", "worker", "-C", instance.zope_conf).wait_for_and_stop("runs jobs")
    script = instance.script(HANG_SCRIPT.format(path=str(never)))
    assert instance.start("zconsole", "run", instance.zope_conf, script).wait() == 0
    instance.write_zope_conf("<product-config collective.zcasync>", "  shutdown-grace 0", "</product-config>")
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    worker.wait_for(r"Job \w+ \(hang\) is overdue")
    worker.wait_for(r"Job \w+ \(hang\) hangs")
    assert worker.wait() == 3
    assert "Dispatcher stopped" in worker.output
    with queues_of(instance.folder) as queues:
        (job,) = queues[""]
        assert (job.deaths, job.attempts) == (1, 0)
    never.touch()
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    worker.wait_for("found")
    assert worker.stop() == 0


def test_a_worker_on_zeo_runs_what_the_requests_of_a_client_put(client_and_worker: Callable[[str], Instance]) -> None:
    web, jobs = client_and_worker("web"), client_and_worker("jobs")
    web.write_zope_conf()  # the dispatcher is off there: this process only puts
    worker = jobs.start("zcasync", "worker", "-C", jobs.zope_conf)
    worker.wait_for("runs jobs")
    server = web.runwsgi()
    web.put(server, "greet", "client")
    worker.wait_for(f"hello client from a job in process {worker.pid}")
    assert worker.stop() == 0
    assert server.stop(signal.SIGINT) == 0


def test_a_stopping_server_answers_requests_until_its_job_is_done(instance: Instance, tmp_path: Path) -> None:
    server, file = instance.runwsgi(), tmp_path / "go"
    instance.put(server, "wait_for_file", file)
    server.wait_for("waiting for")
    server.send(signal.SIGTERM)
    server.wait_for("Got SIGTERM")
    assert instance.put(server, "greet", "late")
    file.touch()
    assert server.wait() == 0
    assert not instance.pid_file.exists()
    with queues_of(instance.folder) as queues:
        counts = queues[""].counts()
        assert (counts["succeeded"], counts["running"], counts["waiting"]) == (1, 0, 1)


def test_a_job_that_outlasts_the_grace_goes_back_to_the_queue(instance: Instance, tmp_path: Path) -> None:
    instance.write_zope_conf(
        "<product-config collective.zcasync>", "  dispatcher on", "  shutdown-grace 0", "</product-config>"
    )
    server = instance.runwsgi()
    instance.put(server, "wait_for_file", tmp_path / "never")
    server.wait_for("waiting for")
    assert server.stop() == 0
    assert not instance.pid_file.exists()
    with queues_of(instance.folder) as queues:
        (job,) = queues[""]
        assert job.attempts == 0
    (tmp_path / "never").touch()
    server = instance.runwsgi()
    server.wait_for("found")
    assert server.stop() == 0
    with queues_of(instance.folder) as queues:
        assert queues[""].counts()["succeeded"] == 1


def test_a_second_signal_to_a_server_gives_the_running_job_back_at_once(instance: Instance, tmp_path: Path) -> None:
    instance.write_zope_conf(ON[0], "  dispatcher on", "  shutdown-grace 3600", ON[-1])
    server = instance.runwsgi()
    instance.put(server, "wait_for_file", tmp_path / "never")
    server.wait_for("waiting for")
    server.send(signal.SIGINT)
    server.wait_for("Got SIGINT")
    assert server.stop(signal.SIGINT) == 0
    assert not instance.pid_file.exists()
    with queues_of(instance.folder) as queues:
        (job,) = queues[""]
        assert job.attempts == 0


def test_gunicorn_waits_for_the_job_of_its_worker(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "go"
    server = instance.start("gunicorn", "--paste", instance.zope_ini, "--bind", "127.0.0.1:0", "--workers=1")
    instance.put(server, "wait_for_file", file)
    server.wait_for("waiting for")
    server.send(signal.SIGTERM)
    server.wait_for("Worker exiting")
    file.touch()
    assert server.wait() == 0
    with queues_of(instance.folder) as queues:
        assert queues[""].counts()["succeeded"] == 1


def test_a_killed_server_leaves_a_job_that_the_next_one_runs(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "go"
    server = instance.runwsgi()
    instance.put(server, "wait_for_file", file)
    server.wait_for("waiting for")
    server.stop(signal.SIGKILL)
    file.touch()
    server = instance.runwsgi()
    server.wait_for("found")
    assert server.stop() == 0
    with queues_of(instance.folder) as queues:
        assert queues[""].counts()["succeeded"] == 1
