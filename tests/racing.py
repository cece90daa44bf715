"""Races: threads that put, cancel and add callbacks as fast as they can, and a recount when all is over."""

from collections.abc import Callable
from collective.zcasync import local
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.testing import wait_until
from dataclasses import dataclass
from dataclasses import field
from persistent.mapping import PersistentMapping
from typing import Any
from ZODB.POSException import ConflictError

import random
import threading
import transaction

#: Jobs of the quota that run at this moment in this process, and the most that ever did.
inside = [0, 0]
_lock = threading.Lock()


def effect(cell: Any, *results: Any) -> int:
    """A change of the job's own cell, which is seen once if the job's outcome is stored once."""
    quota = bool(local.getJob().quota_names)
    if quota:
        with _lock:
            inside[0] += 1
            inside[1] = max(inside)
    try:
        if random.random() < 0.1:
            raise ConflictError("now and then")
        if random.random() < 0.1:
            raise ValueError("now and then")
        cell["count"] = cell.get("count", 0) + 1
        return int(cell["count"])
    finally:
        if quota:
            with _lock:
                inside[0] -= 1


@dataclass
class Race:
    """What the racers have committed."""

    #: oid of a job or callback -> oid of its cell.
    cells: dict[bytes, bytes] = field(default_factory=dict)
    mains: list[bytes] = field(default_factory=list)
    conflicts: int = 0

    def put(self, connection: Any, chance: random.Random) -> None:
        queue = get_queue(connection)
        jobs = [self._job(connection)]
        if chance.random() < 0.3:
            jobs[0].quota_names = ("two",)
        if chance.random() < 0.4:
            jobs += [self._job(connection), self._job(connection)]
            jobs[0].addCallback(jobs[1]).addCallback(jobs[2])
        queue.put(jobs[0])
        transaction_of(connection).commit()
        self.mains.append(jobs[0]._p_oid)
        self._learn(jobs)

    def call_back(self, connection: Any, chance: random.Random) -> None:
        job = self._recent(connection, chance)
        if job is not None:
            callback = job.addCallback(self._job(connection))
            transaction_of(connection).commit()
            self._learn([callback])

    def cancel(self, connection: Any, chance: random.Random) -> None:
        job = self._recent(connection, chance)
        if job is not None:
            get_queue(connection).cancel(job)
            transaction_of(connection).commit()

    def _job(self, connection: Any) -> Any:
        cell = PersistentMapping()
        connection.add(cell)
        return Job(effect, cell)

    def _learn(self, jobs: list[Any]) -> None:
        for job in jobs:
            self.cells[job._p_oid] = job.args[0]._p_oid

    def _recent(self, connection: Any, chance: random.Random) -> Any:
        return connection.get(chance.choice(self.mains[-6:])) if self.mains else None


def transaction_of(connection: Any) -> Any:
    return connection.transaction_manager


def run(race: Race, database: Any, racers: int, rounds: int) -> None:
    """Let so many threads race; raises what went wrong in one of them."""
    faults: list[BaseException] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        manager = transaction.TransactionManager()
        transaction.manager.manager = manager  # late callbacks on finished jobs run here
        connection = database.open(manager)
        try:
            for _ in range(rounds):
                step: Callable[[Any, random.Random], None]
                step = chance.choice((race.put, race.put, race.call_back, race.call_back, race.cancel))
                for _try in range(50):
                    manager.begin()
                    try:
                        step(connection, chance)
                        break
                    except ConflictError:
                        race.conflicts += 1
                        manager.abort()
                else:
                    raise AssertionError(f"{step.__name__} conflicts for ever")
        except BaseException as error:
            faults.append(error)
        finally:
            manager.abort()
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if faults:
        raise faults[0]


def recount(race: Race, queue: Any, seconds: float) -> None:
    """When nothing is left to do: each job ended once, each effect is there once, nothing is left over."""
    try:
        wait_until(queue, lambda: _quiet(queue), seconds, "that all has ended")
    except AssertionError as error:
        left = [repr(job) for job in queue] + [f"{job!r} of {owner}" for job, owner, _agent in queue.running()]
        raise AssertionError(f"{error}: {queue.counts()}, {left}") from error
    connection = queue._p_jar
    found = [job._p_oid for job in queue.finished()]
    assert sorted(found) == sorted(race.mains)
    for oid, cell in race.cells.items():
        job = connection.get(oid)
        expected = 1 if job.outcome == "succeeded" else 0
        count = connection.get(cell).get("count", 0)
        assert job._status_id == 3 and count == expected, f"{job!r} {job.status} {job.outcome}: {count} effects"
        assert job.outcome != "failed" or isinstance(job.result, Failure)
    counts = queue.counts()
    ended = {outcome: counts.pop(outcome) for outcome in ("succeeded", "failed", "cancelled")}
    assert sum(ended.values()) == len(race.mains) and not any(counts.values()), (ended, counts)
    assert [len(quota) for quota in queue.quotas.values()] == [0]
    assert [list(slot.mailbox.keys()) for slot in queue.slots.values() if slot.mailbox] == []


def _quiet(queue: Any) -> bool:
    counts = queue.counts()
    return not any(counts[name] for name in ("waiting", "running", "later", "parked", "awaiting"))
