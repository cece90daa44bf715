"""The checker of ``make chaos`` is content with a world in which all went well, and finds what is planted there."""

from chaos import checker
from chaos import clients
from chaos import ledger
from chaos.clients import Client
from chaos.clients import KINDS
from chaos.ledger import KEY
from chaos.ledger import Ledger
from chaos.ledger import QUOTAS
from chaos.roles import drain
from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import dispatcher
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.interfaces import PENDING
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.reactor import start
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4
from ZODB.FileStorage import FileStorage
from zope.component import getGlobalSiteManager

import pytest
import shutil
import transaction
import ZODB

NAME = "client1"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A database with jobs of all kinds, which have run; and the folder of its files."""
    folder = tmp_path_factory.mktemp("storm")
    files = Ledger(folder)
    files.puts.mkdir()
    registry = getGlobalSiteManager()
    aside = [(kind, registry.queryUtility(kind)) for kind in (IJobContext, IConnectionSource)]
    for kind, utility in aside:
        registry.unregisterUtility(utility, kind)
    db = ZODB.DB(FileStorage(str(folder / "Data.fs")), pool_size=20)
    with db.transaction() as connection:
        queue = install(connection)[""]
        for name, size in QUOTAS.items():
            queue.quotas.create(name, size)
        ledger.make_records(connection.root(), folder)
    over = Event()
    client, running = Client(db, NAME, files, over), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "ENOUGH", 10_000)  # what is put does not depend on how quickly it is done
        for number in range(80):
            client.work()
            if number == 40:
                running = start(db, threads=4, poll_interval=0.5)
    drain(db, over)
    running.stop()
    yield db, folder
    db.close()
    dispatcher.clear()
    for kind, utility in aside:
        if utility is not None:
            registry.registerUtility(utility, kind)


@pytest.fixture
def connection(world: tuple[Any, Path]) -> Iterator[Any]:
    """What a test changes is never committed."""
    manager = transaction.TransactionManager()
    connection = world[0].open(manager)
    yield connection
    manager.abort()
    connection.close()


@pytest.fixture
def files(world: tuple[Any, Path], tmp_path: Path) -> Ledger:
    """Copies."""
    for name in ("puts", "effects", "stays"):
        there = world[1] / name
        (shutil.copytree if there.is_dir() else shutil.copy)(there, tmp_path / name)
    return Ledger(tmp_path)


def _job(records: Any, task: str, outcome: str = "succeeded") -> Any:
    """One of the jobs that have been put."""
    found = (job for job in records["puts"][NAME].values() if job.task.endswith(task) and job.outcome == outcome)
    return next(found)


def _slot_of(queue: Any, job: Any) -> Any:
    return next(slot for slot in queue.slots.values() if slot.history.holds(job))


def test_a_world_in_which_all_went_well_has_no_violation_and_jobs_of_all_kinds(connection: Any, files: Ledger) -> None:
    report = checker.check(connection, files)

    assert report.violations == []
    assert report.jobs > 150 and report.outcomes["succeeded"] > 100
    assert report.outcomes["failed"] and report.outcomes["cancelled"]
    assert len(connection.root()[KEY]["late"]) and len(connection.root()[KEY]["children"])
    assert len(ledger.read(files.effects)) and len(ledger.read(files.stays))
    tasks = {job.task.rpartition(".")[2] for job in connection.root()[KEY]["puts"][NAME].values()}
    assert len(KINDS) <= len(tasks) and {"run_serial", "run_parallel", "commit_slowly", "work_in_steps"} <= tasks


# What may have gone wrong: each changes the world


def lose_a_put_job(records: Any, queue: Any, files: Ledger) -> None:
    del records["puts"][NAME][min(records["puts"][NAME])]


def keep_a_put_that_was_refused(records: Any, queue: Any, files: Ledger) -> None:
    ledger.write(files.puts / NAME, "aborted", min(records["puts"][NAME]))


def find_a_job_that_nobody_has_put(records: Any, queue: Any, files: Ledger) -> None:
    del records["children"][min(records["children"])]


def lose_a_finished_job_from_the_history(records: Any, queue: Any, files: Ledger) -> None:
    job = _job(records, "count_slowly")
    _slot_of(queue, job).history.remove(job)


def file_a_job_away_twice(records: Any, queue: Any, files: Ledger) -> None:
    job = _job(records, "count_slowly")
    queue.slots[max(queue.slots) + 1] = slot = type(_slot_of(queue, job))(99)
    slot.file(job, "succeeded", job.active_end)


def lose_an_effect(records: Any, queue: Any, files: Ledger) -> None:
    del records["effects"][_job(records, "count_slowly").args[0]]


def lose_a_step(records: Any, queue: Any, files: Ledger) -> None:
    del records["effects"][f"{_job(records, 'work_in_steps').args[0]}/step1"]


def lose_the_effect_of_a_callback(records: Any, queue: Any, files: Ledger) -> None:
    del records["effects"][next(name for name in records["effects"] if name.endswith("/called"))]


def have_an_effect_twice(records: Any, queue: Any, files: Ledger) -> None:
    name = _job(records, "count_together").args[0]
    records["effects"][name] *= 2


def have_the_effect_of_a_job_that_failed(records: Any, queue: Any, files: Ledger) -> None:
    records["effects"][_job(records, "fail", "failed").args[0]] = ("0",)


def have_an_effect_of_nobody(records: Any, queue: Any, files: Ledger) -> None:
    records["effects"]["nobody"] = ("0",)


def count_one_too_few(records: Any, queue: Any, files: Ledger) -> None:
    records["counters"]["0"]["value"] -= 1


def count_one_too_many(records: Any, queue: Any, files: Ledger) -> None:
    records["total"].change(1)


def have_an_effect_outside_twice(records: Any, queue: Any, files: Ledger) -> None:
    ledger.write(files.effects, _job(records, "tell_outside").args[0])


def lose_an_effect_outside(records: Any, queue: Any, files: Ledger) -> None:
    files.effects.write_text("")


def let_too_many_in(records: Any, queue: Any, files: Ledger) -> None:
    ledger.write(files.stays, "in", "one", "a", 1, "token", 5.0)
    ledger.write(files.stays, "in", "one", "b", 2, "token", 6.0)
    ledger.write(files.stays, "out", "one", "a", 1, "token", 7.0)


def leave_a_job_running(records: Any, queue: Any, files: Ledger) -> None:
    next(iter(queue.slots.values())).hold("main", [_job(records, "count_slowly")])


def leave_a_job_waiting(records: Any, queue: Any, files: Ledger) -> None:
    job = _job(records, "count_slowly")
    job._status_id, job.parent, job.outcome = 0, queue, None
    assert job.status == PENDING
    queue.parked["quota:one"] = parked = type(queue.inboxes[0])()
    parked[job.key] = job


def leave_a_callback_undone(records: Any, queue: Any, files: Ledger) -> None:
    records["late"][min(records["late"])]._status_id = 0


def leave_a_letter_unread(records: Any, queue: Any, files: Ledger) -> None:
    next(iter(queue.slots.values())).mailbox[(b"oid", "stop", "")] = None


def leave_a_place_in_a_quota(records: Any, queue: Any, files: Ledger) -> None:
    queue.quotas["two"].add(_job(records, "stay"))


def leave_a_dispatcher(records: Any, queue: Any, files: Ledger) -> None:
    queue.dispatchers.register(name := uuid4())
    queue.dispatchers[name].activate()


def miscount_the_history(records: Any, queue: Any, files: Ledger) -> None:
    queue.adjust("failed", 1)


PLANTED = {
    lose_a_put_job: (checker.LOST, "was put, and is not there"),
    keep_a_put_that_was_refused: (checker.TWICE, "was not put, and is there"),
    find_a_job_that_nobody_has_put: (checker.TWICE, "nobody has put it"),
    lose_a_finished_job_from_the_history: (checker.LOST, "is not in the history"),
    file_a_job_away_twice: (checker.TWICE, "is in the history 2 times"),
    lose_an_effect: (checker.LOST, "has left no effect"),
    lose_a_step: (checker.LOST, "/step1"),
    lose_the_effect_of_a_callback: (checker.LOST, "/called"),
    have_an_effect_twice: (checker.TWICE, "has left 2 effects"),
    have_the_effect_of_a_job_that_failed: (checker.TWICE, "is failed, and has left 1 effects"),
    have_an_effect_of_nobody: (checker.TWICE, "an effect of nobody"),
    count_one_too_few: (checker.LOST, "the counter 0 tells"),
    count_one_too_many: (checker.TWICE, "the counter all tells"),
    have_an_effect_outside_twice: (checker.TWICE, "happened 2 times outside"),
    lose_an_effect_outside: (checker.LOST, "has not happened outside"),
    let_too_many_in: (checker.TWICE, "quota one of size 1 held a, b at 6.000"),
    leave_a_job_running: (checker.LIMBO, "1 running"),
    leave_a_job_waiting: (checker.LIMBO, "is in the parked quota:one"),
    leave_a_callback_undone: (checker.LIMBO, "the callback"),
    leave_a_letter_unread: (checker.LIMBO, "1 letters"),
    leave_a_place_in_a_quota: (checker.LIMBO, "its place in the quota two"),
    leave_a_dispatcher: (checker.LIMBO, "the dispatcher"),
    miscount_the_history: (checker.LOST, "the queue counts"),
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.replace("_", " "))
def test_a_violation_that_was_put_there_is_found(
    plant: Callable[[Any, Any, Ledger], None], connection: Any, files: Ledger
) -> None:
    plant(connection.root()[KEY], get_queue(connection), files)
    kind, text = PLANTED[plant]

    found = checker.check(connection, files).violations
    assert [other for other, _told in found if other == kind], found
    assert any(text in told for other, told in found if other == kind), found
