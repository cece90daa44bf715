"""What the length of a queue costs: each figure with many jobs waiting, as a factor of that with a thousand."""

from benchmarks import clients
from benchmarks import jobs
from benchmarks import rates
from benchmarks.clients import Here
from benchmarks.clients import There
from benchmarks.measuring import rounded
from benchmarks.measuring import Scale
from benchmarks.storages import Place
from collections.abc import Callable
from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync import sweeping
from collective.zcasync.agent import Agent
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.rejections import Rejections
from typing import Any

import random
import statistics
import time
import uuid

#: Objects in the caches here: so few that nothing is fast only because all of it is in memory.
CACHE = 2000

#: Jobs that a measured claim takes.
CLAIM = 8

#: Name of the quota that has no place left.
FULL = "full"


class Hand:
    """A dispatcher without threads: its claims are made by hand, each with the sweep of the jobs of the one before."""

    def __init__(self, connection: Any, accepts: Callable[[Any], bool] | None = None) -> None:
        self.connection, self.accepts = connection, accepts
        self.manager = connection.transaction_manager
        self.skipped = Rejections()
        self.uuid = uuid.uuid4()
        self.manager.begin()
        queue = get_queue(connection)
        queue.dispatchers.register(self.uuid)
        da = queue.dispatchers[self.uuid]
        da.activate()
        da["main"] = Agent(size=CLAIM)
        self.manager.commit()
        self._held: list[Any] = []

    def claim(self, want: int = CLAIM, tidy: bool = False) -> int:
        """One claim's transaction; how many jobs it took. ``tidy``: as in polls, also move what lies deep."""
        self.manager.begin()
        queue = get_queue(self.connection)
        da = queue.dispatchers[self.uuid]
        sweeping.sweep(queue, da.slot, [(job._p_oid, "finished") for job in self._held])
        taker = claims.Taker(queue, da.slot, skipped=self.skipped)
        taker.told = [self.skipped]
        taken = taker.take(want, self.accepts)
        if tidy:
            taker.spill()
        for job, _kind in taken:
            da["main"].hold(job, True)
        self.manager.commit()
        self._held = [job for job, _kind in taken]
        return len(taken)

    def finish(self) -> None:
        """As job threads would: each job ends."""
        for job in self._held:
            self.manager.begin()
            job._finish(None, clock.utcnow())
            self.manager.commit()

    def settle(self, parked: int = 0, rejected: int = 0) -> None:
        """Claim until all lies where claims leave it: in backlogs, so many parked, so many rejected by the filter."""
        while True:
            self.manager.begin()
            queue = get_queue(self.connection)
            left = sum(length() for length in queue.overflow_lengths)  # to go through a million takes seconds
            left += sum(len(inbox) > claims.SPILL for inbox in queue.inboxes)
            left += queue.counts()["parked"] < parked or len(self.skipped) < rejected
            self.manager.abort()
            if not left:
                return
            self.claim(CLAIM if parked or rejected else 0, tidy=True)
            self.connection.cacheGC()

    def leave(self) -> None:
        self.claim(0)
        self.manager.begin()
        queue = get_queue(self.connection)
        queue.dispatchers[self.uuid].deactivate()
        queue.dispatchers.unregister(self.uuid)
        self.manager.commit()


def grow(place: Place, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """Fill the queue step by step, and tell the figures of each length as they come."""
    base: dict[str, float] = {}
    for step, size in enumerate(scale.sizes):
        with clients.clients(place, cache=CACHE, fresh=not step) as (here, _others):
            rates.fill(here, size - clients.outcome(here)["waiting"])
            figures = _figures(here, scale.samples)
        lists_ms = {name: rounded(figures[name]) for name in ("first_page", "counts", "search")}
        rate, memory = worker(place, min(scale.drained, scale.sizes[0] // 4))
        figures["drain"] = 1000 / rate
        base = base or figures
        tell({"memory_mb": {str(size): rounded(memory)}, "lists_ms": {str(size): lists_ms}})
        if step:
            factors = {name: rounded(value / base[name]) for name, value in figures.items()}
            tell({"growth": {str(size): factors}})


def _figures(here: Here, samples: int) -> dict[str, float]:
    """Milliseconds: put, claim, first page, counts, search by id."""
    with here.connection() as connection:
        hand = Hand(connection)
        hand.settle()
        figures = lists(connection, samples)
        figures["put"] = _median(lambda: _put(connection), samples)
        figures["claim"] = _claims(hand, samples)
        hand.leave()
    return figures


def lists(connection: Any, samples: int) -> dict[str, float]:
    """What a person waits for."""
    manager = connection.transaction_manager
    manager.begin()
    some = list(joblists.jobs(connection, joblists.WAITING, limit=100).rows)
    manager.abort()

    def look(what: Callable[[], Any]) -> Callable[[], None]:
        def timed() -> None:
            manager.begin()
            what()
            manager.abort()

        return timed

    return {
        "first_page": _median(look(lambda: joblists.jobs(connection, joblists.WAITING, limit=20)), samples),
        "counts": _median(look(lambda: joblists.counts(connection)), samples),
        "search": _median(look(lambda: joblists.job(connection, random.choice(some).id)), samples),
    }


def _put(connection: Any) -> None:
    connection.transaction_manager.begin()
    get_queue(connection).put(Job(jobs.noop, "some", 1))
    connection.transaction_manager.commit()


def _claims(hand: Hand, samples: int) -> float:
    """Milliseconds of a claim of so many jobs; what they need to finish is not in it."""
    took = []
    for _ in range(samples + 5):
        began = time.perf_counter()
        count = hand.claim()
        took.append(1000 * (time.perf_counter() - began))
        if count < CLAIM:
            raise ValueError(f"a claim took {count} jobs instead of {CLAIM}")
        hand.finish()
    return statistics.median(took[5:])


def _median(function: Callable[[], None], samples: int) -> float:
    """Milliseconds, warm."""
    took = []
    for _ in range(samples + 5):
        began = time.perf_counter()
        function()
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took[5:])


def behind(here: Here, scale: Scale, size: int, quota: bool) -> dict[str, float]:
    """Put and claim while so many jobs at the head are held by a full quota, or are nothing for the agent's filter."""
    clients.fresh_queue(here)
    with here.connection() as connection:
        if quota:
            _fill_quota(connection)
            rates.fill(here, size, quotas=(FULL,))
        else:
            rates.fill(here, size)
        hand = Hand(connection, None if quota else jobs.refuses_noop)
        hand.settle(parked=size if quota else 0, rejected=0 if quota else size)
        others = (scale.samples + 5) * CLAIM
        rates.fill(here, others, jobs.last, 0)
        put = _median(lambda: _put_other(connection), scale.samples)
        return {"put": put, "claim": _claims(hand, scale.samples)}


def _put_other(connection: Any) -> None:
    connection.transaction_manager.begin()
    get_queue(connection).put(Job(jobs.last, 0))
    connection.transaction_manager.commit()


def _fill_quota(connection: Any) -> None:
    """A quota whose only place is taken, by a job that nobody runs."""
    manager = connection.transaction_manager
    manager.begin()
    queue = get_queue(connection)
    queue.quotas.create(FULL, 1)
    holder = Job(jobs.noop, "holds", 0)
    holder.quota_names = (FULL,)
    connection.add(holder)
    queue.quotas[FULL].add(holder)
    manager.commit()


def history(here: Here, count: int) -> None:
    """So many finished jobs."""
    with here.connection() as connection:
        for some in rates.batches(connection, count):
            slot = get_queue(connection).any_slot()
            for number in some:
                file(connection, slot, Job(jobs.noop, "some", number))


def file(connection: Any, slot: Any, job: Any, outcome: str = "succeeded", result: Any = None) -> None:
    """Enter a job into the history as one that has ended just now."""
    connection.add(job)
    job._finish(result, clock.utcnow())
    slot.history.add(job, outcome, job.finished_at)
    slot.count(outcome, 1)


def worker(place: Place, count: int) -> tuple[float, float]:
    """(jobs a second, megabytes) of a worker process that runs so many jobs of the queue, however long that is."""
    there = There(place)
    try:
        there.call(rates.pause, True)
        rate = rates.run_out(there, [there], count, rates.THREADS)
        return rate.each_second, there.call(clients.memory)
    finally:
        there.close()
