"""Queues spread over several databases: each has its own dispatcher and limits, and all reach the content."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import dispatcher
from collective.zcasync import joblists
from collective.zcasync import lookup
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.reactor import start
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from pathlib import Path
from persistent.mapping import PersistentMapping
from typing import Any
from ZODB.FileStorage import FileStorage

import enginejobs
import pytest
import threading
import transaction
import ZEO
import ZODB

#: The databases of jobs; content is in "main".
SHARDS = ("jobs0", "jobs1", "jobs2")

PAGES = [f"page-{number}" for number in range(30)]


@pytest.fixture(params=["filestorage", "zeo"])
def application(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """name -> database, of one application; on ZEO each has a server of its own."""
    databases: dict[str, Any] = {}
    stops: list[Callable[[], None]] = []
    for name in ("main", *SHARDS):
        path = str(tmp_path / f"{name}.fs")
        if request.param == "zeo":
            address, stop = ZEO.server(path)
            stops.append(stop)
            storage = ZEO.client(address, wait_timeout=10, server_sync=True)
        else:
            storage = FileStorage(path)
        database = ZODB.DB(storage, database_name=name, databases=databases, pool_size=20)
        with database.transaction() as connection:
            if name == "main":
                # Each job changes one of its own: jobs of different databases know nothing of each other's conflicts.
                connection.root()["pages"] = {name: PersistentMapping() for name in PAGES}
            else:
                install(connection)
    yield databases
    for database in list(databases.values()):
        database.close()
    for stop in stops:
        stop()


@pytest.fixture
def connection(application: dict[str, Any]) -> Iterator[Any]:
    transaction.abort()
    connection = application["main"].open()
    yield connection
    transaction.abort()
    connection.close()


@pytest.fixture
def dispatchers(application: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A dispatcher for each database of jobs, all in this process."""
    running = {name: start(application[name], threads=2) for name in SHARDS}
    for one in running.values():
        one.dispatcher.polls.wait_for(0, 6)
    yield running
    for one in running.values():
        if one.dispatcher.activated:
            one.stop(grace=0)


def queue_for(connection: Any, page: str) -> Any:
    """The queue for a page: always the same one, so that each database gets its share."""
    return get_queue(connection.get_connection(SHARDS[sum(page.encode()) % len(SHARDS)]))


def write_page(page: str) -> str:
    """A job that changes content, which is in another database than the job."""
    pages = enginejobs.local.getJob()._p_jar.get_connection("main").root()["pages"]
    enginejobs.count_in(pages[page])
    return page


def test_jobs_spread_over_databases_all_run_once_and_change_the_content(
    connection: Any, dispatchers: dict[str, Any]
) -> None:
    jobs = [queue_for(connection, page).put(Job(write_page, page)) for page in PAGES]
    transaction.commit()

    assert [wait_for_result(job, 20) for job in jobs] == PAGES
    transaction.begin()
    assert [page["count"] for page in connection.root()["pages"].values()] == [1] * 30
    used = {job._p_jar.db().database_name for job in jobs}
    assert used == set(SHARDS)
    counts = [joblists.counts(connection.get_connection(name)) for name in SHARDS]
    assert sum(count[joblists.FINISHED].number for count in counts) == 30
    assert all(count[joblists.WAITING].number == 0 for count in counts)


def test_one_process_serves_several_databases_and_leaves_all_of_them(
    application: dict[str, Any], connection: Any
) -> None:
    running = start(application[SHARDS[0]], threads=2)
    others = [running.serve(application[name]) for name in SHARDS[1:]]
    try:
        assert running.databases == [application[name] for name in SHARDS]
        uuids = {one.UUID for one in running.dispatchers}
        assert len(uuids) == 3 and {one.reactor for one in others if one is not None} == {running.reactor}
        jobs = [queue_for(connection, page).put(Job(write_page, page)) for page in PAGES]
        transaction.commit()
        assert [wait_for_result(job, 20) for job in jobs] == PAGES
        assert running.hung is None
        running.dispatchers[2].hung = "a job"
        assert running.hung == "a job"
    finally:
        running.stop(grace=0)
    running.stop(grace=0)  # changes nothing
    transaction.begin()
    assert [list(get_queue(connection.get_connection(name)).dispatchers) for name in SHARDS] == [[], [], []]
    assert running.serve(application["main"]) is None
    assert [dispatcher.get(uuid) for uuid in uuids] == [None, None, None]


def test_the_same_process_has_the_same_uuids_again(application: dict[str, Any], tmp_path: Path) -> None:
    seen = []
    for _start in range(2):
        running = start(application["jobs0"], uuid_file=str(tmp_path / "uuid.txt"))
        running.serve(application["jobs1"])
        seen.append([one.UUID for one in running.dispatchers])
        running.stop(grace=0)
    assert seen[0] == seen[1] and len(set(seen[0])) == 2


def test_all_databases_share_the_time_that_running_jobs_get_at_a_stop(
    application: dict[str, Any], connection: Any
) -> None:
    running = start(application["jobs0"], threads=1)
    running.serve(application["jobs1"])
    jobs = [
        get_queue(connection.get_connection(name)).put(Job(enginejobs.wait, which))
        for name, which in zip(SHARDS, "ab", strict=False)
    ]
    transaction.commit()
    assert all(enginejobs.started[which].wait(10) for which in "ab")
    stopping = threading.Thread(target=running.stop, args=(60,))
    stopping.start()
    for one in running.dispatchers:
        wait_until(connection, lambda one=one: one._leaving, what="both that take no more jobs")
    for which in "ab":
        enginejobs.released[which].set()
    stopping.join(30)
    transaction.begin()
    assert not stopping.is_alive() and [job.outcome for job in jobs] == ["succeeded", "succeeded"]


def test_an_abort_leaves_no_job_in_any_database(connection: Any, dispatchers: dict[str, Any]) -> None:
    for number in range(6):
        queue_for(connection, PAGES[number]).put(Job(write_page, PAGES[number]))
    transaction.abort()
    transaction.begin()
    assert [len(get_queue(connection.get_connection(name))) for name in SHARDS] == [0, 0, 0]


def test_a_job_is_found_by_its_id_from_every_database_of_the_application(connection: Any) -> None:
    jobs = [get_queue(connection.get_connection(name)).put(Job(enginejobs.note, name)) for name in SHARDS]
    transaction.commit()
    for name, job in zip(SHARDS, jobs, strict=True):
        assert job.id.endswith(f"@{name}")
        for other in ("main", *SHARDS):
            assert lookup.find(connection.get_connection(other), job.id) is job


def test_what_holds_up_one_database_leaves_the_others_alone(connection: Any, dispatchers: dict[str, Any]) -> None:
    first, *others = (connection.get_connection(name) for name in SHARDS)
    held = [get_queue(first).put(Job(enginejobs.wait, name)) for name in "ab"]
    transaction.commit()
    assert all(enginejobs.started[name].wait(10) for name in "ab")  # both threads of that database are busy
    behind = get_queue(first).put(Job(enginejobs.note, "behind"))
    free = [get_queue(other).put(Job(enginejobs.note, number)) for number, other in enumerate(others)]
    transaction.commit()

    assert [wait_for_result(job) for job in free] == [0, 1]
    transaction.begin()
    assert behind.outcome is None and [job.outcome for job in held] == [None, None]
    for name in "ab":
        enginejobs.released[name].set()
    assert wait_for_result(behind) == "behind"


def test_the_jobs_of_one_database_wait_for_its_own_dispatcher_only(
    connection: Any, dispatchers: dict[str, Any]
) -> None:
    dispatchers["jobs0"].stop(grace=0)
    left, done = (get_queue(connection.get_connection(name)).put(Job(enginejobs.note, name)) for name in SHARDS[:2])
    transaction.commit()
    assert wait_for_result(done) == "jobs1"
    transaction.begin()
    assert left.outcome is None

    again = start(left._p_jar.db(), threads=2)
    try:
        wait_until(connection, lambda: left.outcome == "succeeded", what="the job of the database that was left")
    finally:
        again.stop(grace=0)


def test_a_callback_that_is_added_to_a_put_job_takes_no_object_of_another_database(connection: Any) -> None:
    job = get_queue(connection.get_connection("jobs0")).put(Job(enginejobs.note, 1))
    transaction.commit()
    page = connection.root()["pages"][PAGES[0]]

    with pytest.raises(InvalidArgumentError, match="'main'.*'jobs0'"):
        job.addCallback(Job(enginejobs.note, page))
