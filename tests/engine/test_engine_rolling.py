"""A rolling restart of three workers over ZEO, while jobs are put: nothing fails, nothing is interrupted."""

from collections.abc import Iterator
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.testing import wait_until
from itertools import pairwise
from pathlib import Path
from serverprocess import PATIENCE
from typing import Any
from zeoprocess import ZEOProcess

import filejobs
import logging
import pytest
import threading
import transaction

pytestmark = pytest.mark.processes

logger = logging.getLogger("rolling")

#: Jobs that are put at once, and seconds until the next ones.
BATCH, EVERY = 5, 0.1


class Load:
    """Puts jobs from a thread and a connection of its own until it is told to stop."""

    def __init__(self, db: Any) -> None:
        self._db = db
        #: oids of the jobs, in their order.
        self.put: list[bytes] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> list[bytes]:
        """What was put."""
        self._over.set()
        self._thread.join(PATIENCE)
        return self.put

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            with self._db.transaction() as connection:
                jobs = [get_queue(connection).put(Job(filejobs.take_a_moment)) for _number in range(BATCH)]
            self.put += [job._p_oid for job in jobs]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ZEOProcess]:
    with ZEOProcess(tmp_path) as made:
        yield made


def test_three_workers_are_replaced_one_by_one_under_load_and_nothing_fails_or_is_interrupted(
    place: ZEOProcess, record_property: Any
) -> None:
    with place.queue() as queue:
        workers = [place.worker(threads=2) for _number in range(3)]
        for worker in workers:
            worker.wait_for("^ready")
        load = Load(place.database())
        for worker in workers:
            before = len(load.put)
            assert worker.stop() == 0
            place.worker(threads=2).wait_for("^ready")
            wait_until(queue, lambda before=before: len(load.put) > before, PATIENCE, "the load goes on")
        jobs = [queue._p_jar.get(oid) for oid in load.stop()]
        wait_until(queue, lambda: queue.counts()["succeeded"] == len(jobs), 2 * PATIENCE, "all jobs succeed")

        transaction.begin()
        assert {(job.outcome, job.attempts, job.deaths, job.attempt_log) for job in jobs} == {("succeeded", 1, 0, ())}
        ends = sorted(job.finished_at for job in jobs)
        gap = max((later - earlier).total_seconds() for earlier, later in pairwise(ends))
        span = (ends[-1] - ends[0]).total_seconds()
        record_property("longest time between two ends, in seconds", gap)
        logger.info("%d jobs in %.1f s; the longest time between two ends was %.2f s", len(jobs), span, gap)
