"""Lanes between real processes: who holds one, what the others do meanwhile, and what happens when the holder dies."""

from collections.abc import Iterator
from collective.zcasync.job import Job
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import ServerProcess
from typing import Any
from workerplace import Place
from workerplace import PostgresPlace
from zeoprocess import ZEOProcess

import filejobs
import pytest
import transaction

pytestmark = pytest.mark.processes

WAIT = 2 * PATIENCE


@pytest.fixture(params=["zeo", "relstorage"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "zeo":
        made: Place = ZEOProcess(tmp_path)
    else:
        made = PostgresPlace(tmp_path, *(request.getfixturevalue(name) for name in ("postgres", "postgres_database")))
    with made:
        yield made


@pytest.fixture
def queue(place: Place) -> Iterator[Any]:
    with place.queue() as queue:
        yield queue


def workers(place: Place, count: int, **options: Any) -> list[ServerProcess]:
    found = [place.worker(**options) for _number in range(count)]
    for worker in found:
        worker.wait_for("^ready")
    return found


def put_counting(queue: Any, number: int, lane: str) -> list[Any]:
    """Jobs that all change one object."""
    jobs = [queue.put(Job(filejobs.count_in_process)) for _number in range(number)]
    for job in jobs:
        job.lane = lane
        job.retry_policy_factory = RetryCommonForever
    transaction.commit()
    return jobs


def counted(jobs: list[Any]) -> list[int]:
    return sorted(wait_for_result(job, WAIT)[0] for job in jobs)


@pytest.mark.parametrize("lane", ["content", ""], ids=["said", "learned"])
def test_jobs_that_change_one_object_are_done_once_and_quickly_by_two_processes(
    lane: str, place: Place, queue: Any, tmp_path: Path
) -> None:
    pids = {worker.pid for worker in workers(place, 2, threads=2)}
    content = put_counting(queue, 40, lane)
    others = [queue.put(Job(filejobs.stay, str(tmp_path / "stay"), str(tmp_path / "go"))) for _number in range(3)]
    transaction.commit()
    lines = wait_until(queue, lambda: len(found := filejobs.lines(tmp_path / "stay")) >= 3 and found, WAIT, "I/O")
    assert {int(line.split()[1]) for line in lines} == pids, "three of the four threads are theirs, one is the lane's"
    (tmp_path / "go").touch()

    assert counted(content) == list(range(1, 41))
    assert {wait_for_result(job, WAIT) for job in others} == pids
    transaction.begin()
    if lane:
        assert {job.attempts for job in content} == {1}  # the lane may change hands, but is never in two
    else:
        assert sum(job.attempts - 1 for job in content) <= 20, "until the lane was learned"
        more = put_counting(queue, 40, lane)
        assert counted(more) == list(range(41, 81))
        transaction.begin()
        assert sum(job.attempts - 1 for job in more) <= 8, "until one of the two holds it again"


def test_the_other_process_goes_on_with_the_lane_of_one_that_is_killed(
    place: Place, queue: Any, tmp_path: Path
) -> None:
    both = workers(place, 2, threads=2)
    first = queue.put(Job(filejobs.stay, str(tmp_path / "stay"), str(tmp_path / "go")))
    first.lane = "content"
    transaction.commit()
    (line,) = wait_until(queue, lambda: filejobs.lines(tmp_path / "stay"), WAIT, "the first job")
    (holder,) = [worker for worker in both if worker.pid == int(line.split()[1])]
    jobs = put_counting(queue, 20, "content")
    wait_until(queue, lambda: queue.lanes.get(("", "content")).waiting() > 0, WAIT, "what waits in the lane")
    holder.kill()
    (tmp_path / "go").touch()

    assert counted(jobs) == list(range(1, 21))
    assert wait_for_result(first, WAIT) != holder.pid
    transaction.begin()
    assert {job.attempts for job in jobs} == {1}
    wait_until(queue, lambda: list(queue.lanes.items()) == [], WAIT, "the end of the lane")
