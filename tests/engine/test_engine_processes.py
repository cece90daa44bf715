"""Real processes that die, freeze, leave and meet: who takes over what, and what runs once."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import interfaces
from collective.zcasync import schema
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import InUse
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.retry import NeverRetry
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from engineworker import POINTS
from filejobs import lines
from pathlib import Path
from persistent.mapping import PersistentMapping
from serverprocess import PATIENCE
from serverprocess import ServerProcess
from typing import Any
from uuid import uuid4
from zeoprocess import ZEOProcess

import filejobs
import glob
import os
import pytest
import re
import signal
import threading
import time
import transaction

pytestmark = pytest.mark.processes

#: Seconds between pings, of silence that means death, and of an outage: a twentieth of the product's.
FULL_LENGTH = bool(os.environ.get("ENGINE_FULL_LENGTH"))
PING, DEATH, OUTAGE = (30.0, 60.0, 90.0) if FULL_LENGTH else (1.5, 3.0, 4.5)

WAIT = 20 * DEATH + PATIENCE

FAST = {"ping": PING, "death": DEATH}


@pytest.fixture
def zeo(tmp_path: Path) -> Iterator[ZEOProcess]:
    with ZEOProcess(tmp_path) as server:
        yield server


@pytest.fixture
def queue(zeo: ZEOProcess) -> Iterator[Any]:
    with zeo.queue(counts=PersistentMapping()) as queue:
        yield queue


@pytest.fixture
def put_waiting(queue: Any, tmp_path: Path) -> Callable[[str], Any]:
    """Put a job that runs until the file "go" is there; (job, the file that it writes)."""

    def put(name: str, **options: Any) -> tuple[Job, Path]:
        path = tmp_path / name
        queue._p_jar.root()["counts"][str(path)] = PersistentMapping()
        job = queue.put(Job(filejobs.write_and_wait, str(path), str(tmp_path / "go")), **options)
        transaction.commit()
        return job, path

    return put


def _das(queue: Any, count: int) -> list[Any]:
    return list(
        wait_until(queue, lambda: len(found := queue.dispatchers.active()) == count and found, WAIT, "dispatchers")
    )


def _ping_on(queue: Any, das: list[Any], times: int) -> None:
    """Wait until each has pinged so often again."""
    transaction.begin()
    wanted = {da.UUID: da.last_ping.count + times for da in das}
    wait_until(queue, lambda: all(da.last_ping.count >= wanted[da.UUID] for da in das), WAIT, "pings")


def _assert_nobody_was_buried(workers: list[ServerProcess]) -> None:
    for worker in workers:
        assert not re.search("is dead|taken for dead|reassigned", worker.output), worker.output


@pytest.mark.parametrize("outage", ["frozen", "restarted"])
def test_an_outage_of_one_and_a_half_death_intervals_under_four_busy_dispatchers_buries_nobody(
    outage: str, zeo: ZEOProcess, queue: Any, put_waiting: Any, tmp_path: Path
) -> None:
    workers = [zeo.worker(**FAST, threads=2, elsewhere=True) for _number in range(4)]
    for worker in workers:
        worker.wait_for("^ready")
    jobs = [put_waiting(f"job{number}") for number in range(8)]
    wait_until(queue, lambda: all(lines(path) for _job, path in jobs), WAIT, "that all run")
    das = _das(queue, 4)
    _ping_on(queue, das, 1)
    if outage == "frozen":
        with zeo.frozen(OUTAGE):
            pass
    else:
        zeo.server.kill()
        threading.Event().wait(OUTAGE)
        zeo.restart()
    _ping_on(queue, das, 4)
    (tmp_path / "go").touch()

    assert [wait_for_result(job, WAIT) for job, _path in jobs] == [1] * 8
    assert all(len(lines(path)) == 2 for _job, path in jobs), "each ran once"
    _assert_nobody_was_buried(workers)
    assert {job.deaths for job, _path in jobs} == {0}


def test_a_clock_ten_minutes_off_either_way_buries_nobody_and_is_reported(
    zeo: ZEOProcess, queue: Any, put_waiting: Any, tmp_path: Path
) -> None:
    (library,) = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    clocks = [
        {"LD_PRELOAD": library, "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"} for offset in ("-600", "+600")
    ]
    workers = [zeo.worker(environ, elsewhere=True, **FAST, threads=1) for environ in (*clocks, {})]
    for worker in workers:
        worker.wait_for("^ready")
    jobs = [put_waiting(f"job{number}") for number in range(3)]
    wait_until(queue, lambda: all(lines(path) for _job, path in jobs), WAIT, "that all run")
    das = _das(queue, 3)
    _ping_on(queue, das, 4)
    workers[0].wait_for(r"WARNING The clock of this machine is (59|60)\d\.\d s behind that of the storage")
    workers[1].wait_for(r"WARNING The clock of this machine is (59|60)\d\.\d s ahead of that of the storage")
    workers[2].wait_for(r"The clock of this machine is \d+\.\d s (behind|ahead of) that of dispatcher")
    (tmp_path / "go").touch()

    assert [wait_for_result(job, WAIT) for job, _path in jobs] == [1] * 3
    _assert_nobody_was_buried(workers)
    transaction.begin()
    assert sorted(round(da.last_ping.skew, -1) for da in das) == [-600, 0, 600]
    assert all(da.last_ping.memory > 10**7 and da.last_ping.version for da in das)
    assert not re.search("clock of this machine .* the storage", workers[2].output)


def test_a_second_process_with_the_same_uuid_waits_until_the_first_is_dead(zeo: ZEOProcess, queue: Any) -> None:
    name = str(uuid4())
    first = zeo.worker(**FAST, threads=1, uuid=name, elsewhere=True)
    first.wait_for("^ready")
    second = zeo.worker(**FAST, threads=1, uuid=name, elsewhere=True)
    second.wait_for("ERROR The UUID .* another process")
    job = queue.put(Job(os.getpid))
    transaction.commit()
    assert wait_for_result(job, WAIT) == first.pid
    _ping_on(queue, _das(queue, 1), 3)
    assert "is dead" not in second.output
    assert second.output.count("another process") == 1, "each poll looks, but once is enough to be told"
    first.kill()

    second.wait_for("is that of a process that is dead", WAIT)
    job = queue.put(Job(os.getpid))
    transaction.commit()
    assert wait_for_result(job, WAIT) == second.pid
    assert [str(da.UUID) for da in _das(queue, 1)] == [name]


def test_a_process_that_is_started_again_on_its_host_goes_on_at_once(
    zeo: ZEOProcess, queue: Any, put_waiting: Any, tmp_path: Path
) -> None:
    name = str(uuid4())
    first = zeo.worker(threads=1, uuid=name)
    first.wait_for("^ready")
    job, path = put_waiting("job")
    wait_until(queue, lambda: lines(path), WAIT, "that it runs")
    first.kill()
    (tmp_path / "go").touch()
    second = zeo.worker(threads=1, uuid=name)

    assert wait_for_result(job, 50) == 1, "not after the 60 s of a death"
    assert "another process" not in second.output
    assert [line.split()[0] for line in lines(path)] == ["began", "began", "ended"]
    assert (job.deaths, dict(job.policy_data)["deaths"]) == (1, 1)


def test_siblings_on_the_same_host_see_at_once_that_a_process_is_gone(
    zeo: ZEOProcess, queue: Any, put_waiting: Any, tmp_path: Path
) -> None:
    first = zeo.worker(threads=1)
    first.wait_for("^ready")
    job, path = put_waiting("job")
    wait_until(queue, lambda: lines(path), WAIT, "that it runs")
    second = zeo.worker(threads=1, poll_interval=1000)
    second.wait_for("^ready")
    first.kill()
    (tmp_path / "go").touch()

    second.wait_for("is dead: its process is gone", 50)
    assert wait_for_result(job, 50) == 1
    assert lines(path)[-1] == f"ended in {second.pid}"


@pytest.mark.parametrize("by", ["a sibling", "its successor"])
def test_what_a_process_leaves_on_its_host_is_taken_over_within_two_seconds(
    by: str, zeo: ZEOProcess, queue: Any, put_waiting: Any, tmp_path: Path
) -> None:
    took = []
    for number in range(3):  # the quickest tells what the product needs: all else is the computer
        first = zeo.worker(threads=1)
        first.wait_for("^ready")
        job, path = put_waiting(f"job{number}")
        wait_until(queue, lambda path=path: lines(path), WAIT, "that it runs")
        second = zeo.worker(threads=1, poll_interval=1000) if by == "a sibling" else None
        if second is not None:
            second.wait_for("^ready")
        first.kill()
        began = time.monotonic()
        if second is None:
            second = zeo.worker(threads=1)
            second.wait_for("^ready")
            began = time.monotonic()
        wait_until(queue, lambda path=path: len(lines(path)) == 2, 50, "that it runs again")
        took.append(time.monotonic() - began)
        (tmp_path / "go").touch()
        assert wait_for_result(job, WAIT) == 1
        (tmp_path / "go").unlink()
        assert second.stop() == 0
    assert min(took) < 2


def test_what_a_process_leaves_on_another_host_is_taken_over_soon_after_the_time_that_means_death(
    zeo: ZEOProcess, queue: Any, put_waiting: Any
) -> None:
    # Longer than elsewhere, so that what a busy computer adds is little beside it.
    ping, death, poll = (PING, DEATH, 5.0) if FULL_LENGTH else (6.0, 8.0, 0.7)
    beats = {"ping": ping, "death": death, "poll_interval": poll}
    first = zeo.worker(**beats, threads=1, elsewhere=True)
    first.wait_for("^ready")
    job, path = put_waiting("job")
    wait_until(queue, lambda: lines(path), WAIT, "that it runs")
    das = _das(queue, 1)
    second = zeo.worker(**beats, threads=1, elsewhere=True)
    second.wait_for("^ready")
    _ping_on(queue, das, 1)  # the worst moment: it could not have been alive for longer
    first.kill()
    began = time.monotonic()
    wait_until(queue, lambda: len(lines(path)) == 2, WAIT, "that it runs again")
    took = time.monotonic() - began

    second.wait_for("is dead: it has not pinged for")
    assert lines(path)[-1] == f"began in {second.pid}"
    assert death - 1 < took < (70 if FULL_LENGTH else death + ping)


def test_a_frozen_process_that_wakes_up_abandons_what_others_took_and_works_on(
    zeo: ZEOProcess, queue: Any, put_waiting: Any, tmp_path: Path
) -> None:
    first = zeo.worker(**FAST, threads=1, elsewhere=True)
    first.wait_for("^ready")
    job, path = put_waiting("job")
    wait_until(queue, lambda: lines(path), WAIT, "that it runs")
    second = zeo.worker(**FAST, threads=1, elsewhere=True)
    second.wait_for("^ready")
    first.send(signal.SIGSTOP)
    second.wait_for("is dead: it has not pinged for", WAIT)
    wait_until(queue, lambda: len(lines(path)) == 2, WAIT, "that it runs again")
    first.send(signal.SIGCONT)
    first.wait_for("taken for dead", WAIT)
    (tmp_path / "go").touch()

    assert wait_for_result(job, WAIT) == 1
    first.wait_for("was reassigned while this thread ran it", WAIT)
    transaction.begin()
    assert dict(queue._p_jar.root()["counts"][str(path)]) == {"count": 1}, "only one run counts"
    assert len(_das(queue, 2)) == 2
    second.stop()
    again = queue.put(Job(os.getpid))
    transaction.commit()
    assert wait_for_result(again, WAIT) == first.pid


def test_one_that_hangs_as_it_leaves_is_taken_over_after_its_grace(
    zeo: ZEOProcess, queue: Any, put_waiting: Any, tmp_path: Path
) -> None:
    first = zeo.worker(threads=1, shutdown_grace=2, elsewhere=True)
    first.wait_for("^ready")
    job, path = put_waiting("job")
    wait_until(queue, lambda: lines(path), WAIT, "that it runs")
    second = zeo.worker(threads=1, elsewhere=True)
    second.wait_for("^ready")
    first.send(signal.SIGHUP)
    first.wait_for("it leaves")
    first.send(signal.SIGSTOP)
    (tmp_path / "go").touch()

    second.wait_for("is dead: it was to leave, and is still there after 2 s", 50)
    assert wait_for_result(job, 50) == 1, "not after the 60 s of a death"
    assert lines(path)[-1] == f"ended in {second.pid}"
    assert job.deaths == 0 and dict(job.policy_data)["stops"] == 1, "a stop is no death"


# How many may run at once


def test_processes_together_never_exceed_a_quota_also_when_one_that_holds_a_place_is_killed(
    zeo: ZEOProcess, queue: Any, tmp_path: Path
) -> None:
    queue.quotas.create("two", 2)
    path, jobs = tmp_path / "places", []
    for _number in range(12):
        job = Job(filejobs.stay, str(path), str(tmp_path / "go"))
        job.quota_names = ("two",)
        jobs.append(queue.put(job))
    transaction.commit()
    workers = {worker.pid: worker for worker in (zeo.worker(threads=1) for _number in range(3))}
    for worker in workers.values():
        worker.wait_for("^ready")
    wait_until(queue, lambda: len(lines(path)) == 2, WAIT, "that both places are taken")
    free = [queue.put(Job(os.getpid)) for _number in range(3)]
    transaction.commit()
    (third,) = {wait_for_result(job, WAIT) for job in free}
    holders = [int(line.split()[1]) for line in lines(path)]
    assert sorted([*holders, third]) == sorted(workers), "each place is held by a process of its own, the third is free"
    assert queue.quotas["two"].filled and len(queue.quotas["two"]) == 2

    workers[holders[0]].kill()
    wait_until(queue, lambda: len(lines(path)) == 3, WAIT, "that the job of the killed one runs again")
    assert lines(path) == [f"in {holders[0]}", f"in {holders[1]}", f"in {third}"]
    (tmp_path / "go").touch()
    assert {wait_for_result(job, WAIT) for job in jobs} <= {holders[1], third}
    inside, most = 0, 0
    for line in lines(path)[1:]:
        inside += 1 if line.startswith("in") else -1
        most = max(most, inside)
    assert (inside, most) == (0, 2) and len(lines(path)) == 1 + 2 * len(jobs)


# Work that must not be done twice


@pytest.mark.parametrize(
    ("point", "effects"),
    [
        ("as the claim is committed", 0),
        ("before its first line", 0),
        ("in the job", 1),
        ("before its outcome is stored", 1),
        ("after its commit", 1),
    ],
)
def test_the_effect_of_a_job_that_is_never_retried_shows_at_most_once_wherever_its_process_is_killed(
    point: str, effects: int, zeo: ZEOProcess, queue: Any, tmp_path: Path
) -> None:
    path = tmp_path / "effect"
    first = zeo.worker(threads=1, **({"kill": point} if point in POINTS else {}))
    first.wait_for("^ready")
    call = filejobs.write_and_die if point == "in the job" else filejobs.write
    job = queue.put(Job(call, str(path)), retry_policy_factory=NeverRetry)
    transaction.commit()
    assert first.wait() == -signal.SIGKILL
    second = zeo.worker(threads=1)
    second.wait_for("is dead: its process is gone")
    behind = queue.put(Job(os.getpid))
    transaction.commit()

    result = wait_for_result(job, PATIENCE)
    assert wait_for_result(behind, PATIENCE) == second.pid
    assert lines(path) == ["run"] * effects
    if point == "after its commit":
        assert result == "run"
    else:
        assert result.check(AbortedError)


@pytest.mark.parametrize("point", [name for name in POINTS if name.endswith("of a group")])
def test_jobs_whose_process_is_killed_in_their_common_transaction_change_the_database_once(
    point: str, zeo: ZEOProcess, queue: Any, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    jobs = [queue.put(Job(filejobs.count_and_tell, str(path))) for _number in range(200)]
    for job in jobs:
        job.groupable = True
    transaction.commit()
    first = zeo.worker(threads=1, kill=point)
    assert first.wait() == -signal.SIGKILL
    transaction.begin()
    root = queue._p_jar.root()
    ran, counted = len(lines(path)), root.get("counted", 0)
    assert counted == sum(job.status == COMPLETED for job in jobs)
    if point == "after the commit of a group":
        assert counted == ran > 1
    else:
        assert counted <= ran - 2, "those of the group"
    zeo.worker(threads=1)

    assert sorted(wait_for_result(job, WAIT) for job in jobs) == [*range(1, 201)]
    transaction.begin()
    assert root["counted"] == 200 and len(lines(path)) == 200 + ran - counted
    wait_until(queue, lambda: queue.counts()["succeeded"] == 200 and queue.counts()["running"] == 0, WAIT, "the sweep")


def test_a_job_whose_process_dies_under_it_each_time_is_set_aside_after_the_third(
    zeo: ZEOProcess, queue: Any, tmp_path: Path
) -> None:
    path = tmp_path / "effect"
    job = queue.put(Job(filejobs.write_and_die, str(path)))
    transaction.commit()
    for _life in range(3):
        assert zeo.worker(threads=1).wait() == -signal.SIGKILL
    last = zeo.worker(threads=1)

    last.wait_for("was set aside: its process died 3 times under it")
    behind = queue.put(Job(os.getpid))
    transaction.commit()
    assert wait_for_result(behind, PATIENCE) == last.pid
    assert len(lines(path)) == 3
    assert [found for _reason, found in queue.quarantined()] == [job]


# Code of different ages


def test_a_job_whose_code_one_process_lacks_is_run_by_another_that_has_it(
    zeo: ZEOProcess, queue: Any, tmp_path: Path
) -> None:
    ignorant = zeo.worker(threads=1, hide="filejobs")
    ignorant.wait_for("^ready")
    job = queue.put(Job(filejobs.write, str(tmp_path / "effect")))
    behind = queue.put(Job(os.getpid))
    transaction.commit()
    assert wait_for_result(behind, PATIENCE) == ignorant.pid
    transaction.begin()
    assert job.outcome is None and not list(queue.quarantined())
    knowing = zeo.worker(threads=1)
    knowing.wait_for("^ready")

    assert wait_for_result(job, PATIENCE) == "run"
    assert lines(tmp_path / "effect") == ["run"]


def test_a_rolling_upgrade_runs_all_jobs_and_old_code_that_comes_back_after_it_none(
    zeo: ZEOProcess, queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = zeo.worker(threads=1), zeo.worker(threads=1, schema=2)
    for worker in (old, new):
        worker.wait_for("^ready")
    monkeypatch.setattr(interfaces, "SCHEMA", 2)  # as this process would have it: its code is the new one
    monkeypatch.setitem(schema.STEPS, 1, lambda queues: None)

    def run() -> set[int]:
        jobs = [queue.put(Job(os.getpid)) for _number in range(10)]
        transaction.commit()
        return {wait_for_result(job, PATIENCE) for job in jobs}

    assert run() <= {old.pid, new.pid}
    with pytest.raises(InUse, match=f"schema 2 is not understood by dispatcher .*pid {old.pid} "):
        schema.raise_newest(queue.parent)
    transaction.abort()
    assert old.stop() == 0
    transaction.begin()
    assert schema.raise_newest(queue.parent) == (1, 2)
    transaction.commit()
    assert run() == {new.pid}

    again = zeo.worker(threads=1)
    again.wait_for("takes no jobs: the queues in the database .* have schema 2")
    assert run() == {new.pid}
    transaction.begin()
    assert [da.process["pid"] for da in queue.dispatchers.active()] == [new.pid]
