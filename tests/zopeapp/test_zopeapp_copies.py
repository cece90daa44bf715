"""A copied instance, as real processes: it runs nothing until a person decides, and then all of it."""

from collections.abc import Iterator
from collective.zcasync import copies
from collective.zcasync.deployment import Deployment
from collective.zcasync.interfaces import KEY
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.reactor import start
from collective.zcasync.testwait import wait_until
from collective.zcasync.zopeapp import health
from collective.zcasync.zopeapp import watching
from collective.zcasync.zopeapp.config import SEEN_FILE
from collective.zcasync.zopeapp.interfaces import IWatch
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component import getGlobalSiteManager
from zope.component import provideUtility
from zopeinstance import Instance

import instancejobs
import json
import pytest
import shutil

#: A zope.conf with short polls: a worker takes the section whether it says dispatcher on or not.
SECTION = ("<product-config collective.zcasync>", "  poll-interval 0.5", "</product-config>")


@pytest.fixture
def copied(instance: Instance, tmp_path: Path) -> Iterator[Instance]:
    """A copy of an instance in which a worker has been at work, and a job waits."""
    instance.write_zope_conf(*SECTION)
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    worker.wait_for_and_stop("Worker .* runs jobs")
    seen = json.loads((instance.folder / "var" / SEEN_FILE).read_text())
    assert [len(tid) for tid in seen.values()] == [16]
    db = DB(FileStorage(str(instance.folder / "var" / "Data.fs")))
    with db.transaction() as connection:
        connection.root()[KEY][""].put(Job(instancejobs.greet, "Anna"))
    db.close()
    made = Instance(tmp_path / "copy")
    made.write_zope_conf(*SECTION)
    shutil.copy(instance.folder / "var" / "Data.fs", made.folder / "var")
    yield made
    made.close()


def run(instance: Instance, *command: str) -> tuple[int, str]:
    process = instance.start("zcasync", *command, "-C", instance.zope_conf)
    return process.wait(), process.output


@pytest.mark.parametrize(("command", "greets"), [(("release",), True), (("discard", "--yes"), False)])
def test_a_copied_instance_runs_nothing_until_a_person_decides(
    command: tuple[str, ...], greets: bool, copied: Instance
) -> None:
    code, output = run(copied, "worker", "--once")
    assert code == 1 and "hello" not in output
    assert "is HELD, and takes no jobs: the database belongs to the deployment" in output
    assert "No jobs are taken here: the database belongs to the deployment" in output

    code, output = run(copied, *command, "--deployment")
    assert code == 0 and "is released" in output
    code, output = run(copied, "worker", "--once")
    assert code == 0 and ("hello Anna" in output) == greets and "HELD" not in output


def test_a_held_dispatcher_lives_and_is_not_ready_and_sends_no_mails(tmp_path: Path) -> None:
    db = DB(FileStorage(str(tmp_path / "Data.fs")))
    with db.transaction() as connection:
        queues: Any = install(connection)
        queues.deployment = Deployment("production", "")
        queues[""].put(Job(instancejobs.greet, "Anna"))
    running = start(db)
    running.dispatcher.polls.wait_for(0, 20)
    assert (health.live(running.dispatcher), health.ready(running.dispatcher)) == ("", "held")
    looks: list[Any] = []
    watch = looks.append
    provideUtility(watch, IWatch, "test")
    watching.look(db)
    assert looks == []
    with db.transaction() as connection:
        copies.release(connection.root()[KEY])
        assert running.dispatcher.held is not None
    with db.transaction() as connection:
        wait_until(connection, lambda: running.dispatcher.held is None, 20, "a release")
    watching.look(db)
    assert looks == [db]
    getGlobalSiteManager().unregisterUtility(watch, IWatch, "test")
    running.stop(grace=0)
    db.close()
