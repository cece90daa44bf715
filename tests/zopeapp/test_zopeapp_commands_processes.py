"""The commands of ``zcasync`` as real processes: beside a running server, and running one job in the foreground."""

from collections.abc import Callable
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from pathlib import Path
from serverprocess import SCRIPTS
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zopeinstance import Instance

import instancejobs
import json
import pytest
import subprocess


@pytest.fixture
def put(instance: Instance) -> Callable[..., str]:
    """Put a job while no process runs; its id."""

    def put_job(*call: Any) -> str:
        db = DB(FileStorage(str(instance.folder / "var" / "Data.fs")), database_name="main")
        try:
            with db.transaction() as connection:
                install(connection)
                job = get_queue(connection).put(Job(*call))
                return job.id
        finally:
            db.close()

    return put_job


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "var").iterdir()}


def ask(instance: Instance, *command: str) -> tuple[int, Any]:
    """(exit code, JSON document) of a command."""
    process = instance.start("zcasync", *command, "-C", instance.zope_conf, "--json")
    code = process.wait()
    return code, json.loads(process.output)


def test_beside_a_running_server_on_a_file_looking_works_and_changing_points_elsewhere(
    instance: Instance, put: Callable[..., str]
) -> None:
    instance.write_zope_conf()  # the dispatcher is off, so that the job waits
    first = put(instancejobs.greet, "Anna")
    server = instance.runwsgi()
    id = instance.put(server, "greet", "Berta")
    before = files(instance.folder)

    code, document = ask(instance, "status")
    assert (code, document["counts"]["waiting"]) == (1, 2)
    code, document = ask(instance, "job", id)
    assert (code, document["job"]["row"]["task"], document["details"]["status"]) == (0, "greet", "pending")
    code, findings = ask(instance, "doctor")
    assert code == 1 and {"no-dispatcher", "dispatcher-off"} <= {finding["kind"] for finding in findings}
    table = instance.start("zcasync", "jobs", "-C", instance.zope_conf)
    assert table.wait() == 0
    assert any(id in line and "greet" in line for line in table.lines)
    assert files(instance.folder) == before

    code, document = ask(instance, "cancel", id)
    assert code == 2 and "use Site Setup, or ZEO" in document["error"]
    run = instance.start("zcasync", "run", id, "-C", instance.zope_conf)
    assert run.wait() == 2
    assert "the database is in use by another process" in run.lines[-1]
    assert {job["id"] for job in ask(instance, "jobs", "waiting")[1]["waiting"]["jobs"]} == {first, id}


def test_run_runs_one_waiting_job_in_the_foreground(instance: Instance, put: Callable[..., str]) -> None:
    first, second = put(instancejobs.greet, "Anna"), put(instancejobs.greet, "Berta")
    run = instance.start("zcasync", "run", second, "-C", instance.zope_conf)
    assert run.wait() == 0
    assert run.lines[-1] == f"Job {second} finished"
    assert any("hello Berta" in line for line in run.lines)
    assert not any("hello Anna" in line for line in run.lines)
    document = ask(instance, "jobs", "waiting", "finished")[1]
    found = {state: [job["id"] for job in page["jobs"]] for state, page in document.items()}
    assert found == {"waiting": [first], "finished": [second]}


def test_run_goes_post_mortem_where_the_error_was_raised(instance: Instance, put: Callable[..., str]) -> None:
    id = put(json.loads, "{broken")
    run = instance.start("zcasync", "run", id, "--pdb", "-C", instance.zope_conf, stdin="p 'document', doc\nup\nq\n")
    assert run.wait() == 1
    assert "(Pdb)" in run.output
    assert "JSONDecodeError" in run.lines[-1]
    code, document = ask(instance, "traceback", id)
    assert code == 0 and "JSONDecodeError" in document["traceback"]


def test_run_of_a_job_that_does_not_wait_is_refused(instance: Instance, put: Callable[..., str]) -> None:
    id = put(instancejobs.greet, "Anna")
    assert ask(instance, "cancel", id) == (0, {id: "cancelled"})
    run = instance.start("zcasync", "run", id, "-C", instance.zope_conf)
    assert run.wait() == 2
    assert f"Job {id} does not wait (cancelled)" in run.lines[-1]


def test_a_reader_that_has_seen_enough_is_no_error(instance: Instance, put: Callable[..., str]) -> None:
    put(instancejobs.greet, "x" * 300_000)
    command = f"{SCRIPTS / 'zcasync'} jobs --json -C {instance.zope_conf} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
