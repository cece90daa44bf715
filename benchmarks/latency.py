"""How long a job waits for its start on an idle dispatcher: from the call of commit() to its first line."""

from benchmarks import clients
from benchmarks import jobs
from benchmarks.clients import Here
from benchmarks.clients import There
from benchmarks.measuring import quantiles
from benchmarks.rates import THREADS
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue

import random
import time


def put_spaced(here: Here, count: int) -> dict[int, float]:
    """Put jobs that stamp the time, 15 to 45 ms apart; number -> when commit() was called."""
    called = {}
    with here.connection() as connection:
        manager = connection.transaction_manager
        for number in range(count):
            time.sleep(0.015 + 0.03 * random.random())
            manager.begin()
            get_queue(connection).put(Job(jobs.stamp, number))
            called[number] = time.monotonic()
            manager.commit()
    return called


def take_stamps(here: Here) -> dict[int, float]:
    """number -> when the job began; they are forgotten."""
    found, jobs.began = jobs.began, {}
    return found


def starts(here: Here, worker: Here | There, count: int) -> dict[str, float]:
    """Milliseconds from commit() to the first line, of jobs put here and run by the worker."""
    clients.fresh_queue(here, size=THREADS)
    worker.call(clients.start, THREADS)
    take_stamps(here)
    called = put_spaced(here, count)
    deadline = time.monotonic() + 30
    while worker.call(clients.progress).done < count and time.monotonic() < deadline:
        time.sleep(0.01)
    began = worker.call(take_stamps)
    worker.call(clients.stop)
    lost = set(called) - set(began)
    if lost:
        raise TimeoutError(f"{len(lost)} of {count} jobs did not start in time")
    return quantiles([1000 * (began[number] - called[number]) for number in called])
