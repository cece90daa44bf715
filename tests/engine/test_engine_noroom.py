"""A database that answers and stores nothing: PostgreSQL without room on its disk, or one that only reads for now."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import transactions
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from contextlib import suppress
from datetime import timedelta
from filejobs import lines
from pathlib import Path
from postgresserver import DISK_FULL
from postgresserver import ONLY_READS
from postgresserver import postgres_server
from postgresserver import PostgresServer
from typing import Any
from workerplace import PostgresPlace

import enginejobs
import filejobs
import psycopg2
import pytest
import time
import transaction

WAIT = 60


@pytest.fixture
def clients(relstorage_database: Callable[[], Any]) -> Callable[[], Any]:
    return relstorage_database


@pytest.fixture
def refusing(postgres: PostgresServer, postgres_database: str, db: Any) -> Iterator[Callable[[str], None]]:
    """Let nothing be stored; without a code all again."""
    postgres.may_refuse(postgres_database)

    def refuse(code: str = "") -> None:
        if code:
            postgres.refuse(postgres_database, code)
        else:
            postgres.accept(postgres_database)

    yield refuse
    refuse()


@pytest.mark.parametrize("code", [DISK_FULL, ONLY_READS])
def test_a_job_that_cannot_be_stored_waits_longer_and_longer_and_is_not_counted(
    code: str, queue: Any, dispatch: Any, refusing: Any, tmp_path: Path
) -> None:
    dispatch(threads=1)
    path = tmp_path / "runs"
    job = queue.put(Job(filejobs.stay, str(path), str(tmp_path / "go")))
    transaction.commit()
    wait_until(queue, lambda: lines(path), WAIT, "that it runs")
    refusing(code)
    began = time.monotonic()
    (tmp_path / "go").touch()
    wait_until(queue, lambda: len(lines(path)) == 8, WAIT, "that it has run four times")
    # The first wait is none, the second is AGAIN, the third twice that.
    assert time.monotonic() - began > 3 * transactions.AGAIN
    refusing()

    assert isinstance(wait_for_result(job, WAIT), int)
    assert (job.attempts, job.outcome, job.deaths) == (1, "succeeded", 0)


def test_claims_that_cannot_be_stored_come_at_longer_and_longer_intervals(
    queue: Any, dispatch: Any, refusing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = dispatch(threads=1)
    job = queue.put(Job(enginejobs.note, "ran"), begin_after=clock.utcnow() + timedelta(seconds=1))
    transaction.commit()
    refusing(DISK_FULL)

    def told() -> list[float]:
        return [record.created for record in caplog.records if "the database is away" in record.getMessage()]

    wait_until(queue, lambda: len(told()) == 5, WAIT, "that claims fail")
    assert told()[4] - told()[0] > 3 * transactions.AGAIN
    assert running.dispatcher.activated
    refusing()

    assert wait_for_result(job, WAIT) == "ran"


@pytest.mark.processes
def test_a_server_that_is_replaced_by_one_that_only_reads_at_first_costs_no_job_an_attempt(tmp_path: Path) -> None:
    with postgres_server("fsync=off") as server:
        with PostgresPlace(tmp_path, server, server.new_database()) as place, place.queue(counted=0) as queue:
            worker = place.worker(threads=1)
            worker.wait_for("^ready")
            path = tmp_path / "runs"
            job = queue.put(Job(filejobs.stay, str(path), str(tmp_path / "go")))
            behind = queue.put(Job(filejobs.count_and_tell, str(tmp_path / "counts")))
            transaction.commit()
            wait_until(queue, lambda: lines(path), WAIT, "that it runs")
            transaction.abort()
            server.stand_by()
            (tmp_path / "go").touch()
            worker.wait_for("The database is away; filejobs.stay waits for it", WAIT)
            worker.wait_for("recovery", WAIT)
            server.take_over()
            with suppress(psycopg2.Error):  # its own connection was cut off, too
                transaction.begin()

            assert [wait_for_result(job, WAIT), wait_for_result(behind, WAIT)] == [worker.pid, 1]
            assert (job.attempts, job.deaths, behind.attempts) == (1, 0, 1)
            assert "failed with traceback" not in worker.output
