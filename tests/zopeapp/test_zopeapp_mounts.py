"""A database beside the main one, as for a site in a mount point: processes serve it, and commands look into it."""

from base64 import b64encode
from collections.abc import Iterator
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.zopeapp.cli import main
from serverprocess import PATIENCE
from typing import Any
from urllib.parse import quote
from urllib.request import Request
from urllib.request import urlopen
from ZODB.FileStorage import FileStorage
from zopeinstance import Instance
from zopeinstance import ON

import html
import instancejobs
import json
import pytest
import re
import transaction
import ZODB

BESIDE = """\
<zodb_db beside>
  mount-point /beside
  <filestorage>
    path {folder}/var/beside.fs
  </filestorage>
</zodb_db>"""


@pytest.fixture
def mounted(instance: Instance) -> Instance:
    """An instance with a second database, which Zope opens only when somebody goes there."""
    instance.write_zope_conf(BESIDE.format(folder=instance.folder), *ON)
    return instance


@pytest.fixture
def job(mounted: Instance) -> str:
    """The id of a job that waits in the database beside."""
    with beside(mounted) as queues:
        job = queues[""].put(Job(instancejobs.greet, "beside"))
        transaction.commit()
        return str(job.id)


class beside:
    """The queues of the database beside, while no process has it open."""

    def __init__(self, instance: Instance) -> None:
        self.path = instance.folder / "var" / "beside.fs"

    def __enter__(self) -> Any:
        self.db = ZODB.DB(FileStorage(str(self.path)), database_name="beside")
        self.connection = self.db.open()
        return install(self.connection)

    def __exit__(self, *exc_info: object) -> None:
        transaction.abort()
        self.connection.close()
        self.db.close()


@pytest.mark.parametrize(("program", "threads"), [("a worker", "3 job threads"), ("a server", "1 job thread")])
def test_a_process_runs_the_jobs_of_all_databases(mounted: Instance, job: str, program: str, threads: str) -> None:
    if program == "a worker":
        process = mounted.start("zcasync", "worker", "-C", mounted.zope_conf)
    else:
        process = mounted.runwsgi()
        mounted.put(process, "greet", "main")
        process.wait_for("hello main from a job in process")
    process.wait_for(f"The jobs of the database 'beside' run here too, in {threads} of their own")
    process.wait_for(f"hello beside from a job in process {process.pid}")
    assert process.stop() == 0
    assert process.output.count("deactivated") == 2
    with beside(mounted) as queues:
        assert (queues[""].counts()["succeeded"], list(queues[""].dispatchers)) == (1, [])


def test_a_worker_that_runs_once_ends_when_all_databases_are_drained(mounted: Instance, job: str) -> None:
    worker = mounted.start("zcasync", "worker", "--once", "-C", mounted.zope_conf)
    assert worker.wait() == 0
    assert "hello beside from a job in process" in worker.output and "1 runs, 0 jobs failed" in worker.output


def test_commands_look_into_the_database_that_they_are_told_or_that_an_id_names(
    mounted: Instance, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*words: str) -> tuple[int, Any]:
        code = main([*words, "-C", str(mounted.zope_conf), "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert job.endswith("@beside")
    assert ask("status", "--database", "beside")[1]["counts"]["waiting"] == 1
    assert ask("job", job)[1]["job"]["row"]["id"] == job
    assert ask("cancel", job) == (0, {job: "cancelled"})
    assert ask("retry", job)[0] == 0
    code, document = ask("status", "--database", "besides")
    assert code == 2 and "no database 'besides' (did you mean 'beside'?)" in document["error"]


def test_run_finds_the_database_by_the_id(mounted: Instance, job: str) -> None:
    run = mounted.start("zcasync", "run", job, "-C", mounted.zope_conf)
    assert run.wait(PATIENCE) == 0
    assert f"Job {job} finished" in run.output and "hello beside" in run.output


def test_a_paused_queue_is_moved_to_another_database(
    mounted: Instance, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, str]:
        code = main([*words, "-C", str(mounted.zope_conf)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    ZODB.DB(FileStorage(str(mounted.folder / "var" / "Data.fs"))).close()
    move = ("move-queue", "default", "--database", "beside", "--to", "main")
    code, said = call(*move)
    assert code == 2 and "it is not paused" in said
    assert call("pause", "default", "--database", "beside")[0] == 0
    assert call(*move) == (0, "Queue default: 1 job waits in the database main now\n")
    assert call(*move) == (0, "Queue default: 0 jobs wait in the database main now\n")
    assert "instancejobs.greet" in call("jobs", "waiting")[1]
    assert "instancejobs.greet" not in call("jobs", "waiting", "--database", "beside")[1]
    code, said = call("move-queue", "default", "--to", "nowhere")
    assert code == 2 and "no database 'nowhere'" in said


@pytest.fixture(autouse=True)
def no_transaction_is_left() -> Iterator[None]:
    yield
    transaction.abort()


def test_the_pages_at_the_root_show_each_database_that_has_queues(mounted: Instance, job: str) -> None:
    mounted.write_zope_conf(
        BESIDE.format(folder=mounted.folder)
    )  # nobody runs the job, nor makes queues in the other one
    server = mounted.runwsgi()
    address = mounted.address(server)

    def visit(page: str) -> str:
        request = Request(
            f"{address}/@@{page}", headers={"Authorization": f"Basic {b64encode(b'admin:admin').decode()}"}
        )
        with urlopen(request, timeout=PATIENCE) as answer:
            return " ".join(answer.read().decode().split())

    first = visit("zcasync-jobs?state=waiting")
    assert ">Databases<" in first and "@@zcasync-jobs?database=beside" in first
    assert "This database has no queues yet" in first
    other = visit("zcasync-jobs?database=beside&state=waiting")
    (page,) = re.findall(r'"[^"]*/@@(zcasync-job\?[^"]*)"', other)
    assert "database=beside" in page and quote(job, safe="") in page
    assert "instancejobs.greet" in visit(html.unescape(page))
    assert "@@zcasync-overview?database=beside" in other, "the other pages stay with the database"
    assert "This database has no queues yet" in visit("zcasync-jobs?database=nowhere&state=waiting")
