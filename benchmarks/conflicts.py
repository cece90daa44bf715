"""Who gets in whose way: processes that put in the midst of their requests, and dispatchers that claim meanwhile."""

from benchmarks import clients
from benchmarks import jobs
from benchmarks import latency
from benchmarks import rates
from benchmarks.clients import Beside
from benchmarks.clients import Here
from benchmarks.measuring import quantiles
from benchmarks.measuring import rounded
from benchmarks.measuring import Scale
from benchmarks.storages import Place
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from persistent.mapping import PersistentMapping
from typing import Any
from typing import NamedTuple
from ZODB.POSException import ConflictError

import random
import time

#: Seconds that a request takes beside its commit, on average; and those between two of them.
REQUEST, PAUSE = 0.05, 0.03

#: Seconds of a job in the full queue.
BUSY = 0.02

#: Numbers of jobs that one putter may give.
EACH = 1_000_000


class Put(NamedTuple):
    """What a putter has done: commits tried, those that conflicted, and job number -> when its commit had returned."""

    tries: int
    conflicts: int
    committed: dict[int, float]


def requests(here: Here, number: int, seconds: float) -> Put:
    """Requests, one after the other: each changes an object of its own, puts a job, and takes its time."""
    tries = conflicts = 0
    committed: dict[int, float] = {}
    with here.connection() as connection:
        manager = connection.transaction_manager
        end = time.monotonic() + seconds
        while not committed or time.monotonic() < end:
            job = number * EACH + len(committed)
            while True:  # as the publisher does: all of the request again
                manager.begin()
                connection.root()["own"][number]["count"] = job
                get_queue(connection).put(Job(jobs.stamp, job))
                time.sleep(REQUEST * (0.5 + random.random()))
                tries += 1
                try:
                    manager.commit()
                except ConflictError:
                    conflicts += 1
                    manager.abort()
                    continue
                break
            committed[job] = time.monotonic()
            time.sleep(2 * PAUSE * random.random())
    return Put(tries, conflicts, committed)


def meet(place: Place, scale: Scale, full: bool) -> dict[str, Any]:
    """Let them meet for some seconds. ``full``: behind a backlog; else each job is claimed at once.

    On a storage of one process the putters are threads beside one dispatcher.
    """
    others = scale.putters + scale.dispatchers if place.shared else 0
    with clients.clients(place, others) as (here, there):
        dispatchers: list[Any] = there[: scale.dispatchers] if place.shared else [here]
        putters: list[Any] = there[scale.dispatchers :] or [Beside(here) for _ in range(scale.putters)]
        _prepare(here, scale.putters)
        waiting = scale.backlog if full else 0
        rates.pause(here, True)
        rates.fill(here, waiting, jobs.last, BUSY)
        for dispatcher in dispatchers:
            dispatcher.begin(clients.start, rates.THREADS)
        for dispatcher in dispatchers:
            dispatcher.result()
        latency.take_stamps(here)
        rates.pause(here, False)
        for number, putter in enumerate(putters):
            putter.begin(requests, number, scale.conflicts)
        puts = [putter.result() for putter in putters]
        committed = {job: when for put in puts for job, when in put.committed.items()}
        if not full:
            rates.wait(here, dispatchers, len(committed), time.monotonic() + 30)
        told = [dispatcher.call(clients.progress) for dispatcher in dispatchers]
        stamps = [(job, when) for one in dispatchers for job, when in one.call(latency.take_stamps).items()]
        for dispatcher in dispatchers:
            dispatcher.call(clients.stop)
        counts = clients.outcome(here)
        present = counts["waiting"] + counts["later"] + counts["succeeded"] + counts["running"]
        found: dict[str, Any] = {
            "putters": _share(sum(put.conflicts for put in puts), sum(put.tries for put in puts)),
            "claims": _share(sum(one.conflicts for one in told), sum(one.claims for one in told)),
            "puts": len(committed),
            "jobs_done": sum(one.done for one in told),
            "lost": waiting + len(committed) - present,
            "run_twice": len(stamps) - len({job for job, _when in stamps}),
        }
        if not full:
            # What is claimed before commit() returns has not waited at all.
            waits = [max(0, 1000 * (when - committed[job])) for job, when in stamps if job in committed]
            found["wait_ms"] = {**quantiles(waits), "most": rounded(max(waits))}
        return found


def _prepare(here: Here, putters: int) -> None:
    clients.fresh_queue(here, size=rates.THREADS)
    with here.connection() as connection:
        connection.transaction_manager.begin()
        connection.root()["own"] = tuple(PersistentMapping() for _ in range(putters))
        connection.transaction_manager.commit()


def _share(part: int, whole: int) -> float:
    return rounded(part / whole) if whole else 0.0
