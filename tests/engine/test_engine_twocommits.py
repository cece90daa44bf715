"""What may happen where the jobs are in another database than the content: documented, and just that."""

from collective.zcasync.queue import get_queue
from collective.zcasync.reactor import start
from collective.zcasync.testing import wait_until
from pathlib import Path
from serverprocess import ServerProcess
from typing import Any

import os
import pytest
import signal
import sys
import transaction
import twodatabases

LONG = 30

pytestmark = pytest.mark.processes


def killed(folder: Path, order: str, when: str) -> tuple[Any, Any]:
    """The databases as the process has left them that was killed between the two commits."""
    call = f"import twodatabases; twodatabases.main({str(folder)!r}, {order!r}, {when!r})"
    with ServerProcess([sys.executable, "-c", call], folder, {"PYTHONPATH": os.pathsep.join(sys.path)}) as process:
        assert process.wait(LONG) == -signal.SIGKILL, process.output
    return twodatabases.opened(str(folder), order)


def state(content: Any) -> tuple[Any, Any, dict[str, int]]:
    """Whether content says that a job was put, how often the job has changed it, and where jobs are."""
    transaction.abort()
    connection = content.open()
    root = connection.root()
    counts = get_queue(connection.get_connection("async")).counts()
    found = root.get("asked"), root.get("changes"), {kind: number for kind, number in counts.items() if number}
    connection.close()
    return found


def run(content: Any, jobs: Any) -> None:
    """Let a dispatcher do what is left."""
    running = start(jobs, threads=1)
    connection = content.open()
    try:
        queue = get_queue(connection.get_connection("async"))
        wait_until(connection, lambda: queue.counts()["succeeded"] == 1, LONG, "the job that is filed away")
    finally:
        transaction.abort()
        connection.close()
        running.stop(grace=0)


@pytest.mark.parametrize(
    ("order", "left"),
    [("jobs first", (None, None, {"waiting": 1})), ("content first", (True, None, {}))],
    ids=["the job waits and its content is missing", "the put is lost"],
)
def test_a_process_that_dies_between_the_commits_of_a_put_leaves_half_of_it(
    tmp_path: Path, order: str, left: Any
) -> None:
    content, jobs = killed(tmp_path, order, "put")
    assert state(content) == left
    content.close()
    jobs.close()


@pytest.mark.parametrize(
    ("order", "changes"),
    [("jobs first", None), ("content first", 2)],
    ids=["its changes are missing", "it changes the content twice"],
)
def test_a_process_that_dies_between_the_commits_of_a_job_loses_its_effect_or_repeats_it(
    tmp_path: Path, order: str, changes: Any
) -> None:
    content, jobs = killed(tmp_path, order, "job")
    assert state(content) == (True, None if order == "jobs first" else 1, {"running": 1})
    run(content, jobs)
    assert state(content) == (True, changes, {"succeeded": 1})
    content.close()
    jobs.close()
