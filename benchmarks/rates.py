"""How many a second: the storage's own commits, puts, and jobs from the queue to the history."""

from benchmarks import clients
from benchmarks import jobs
from benchmarks.clients import Here
from benchmarks.clients import Progress
from benchmarks.clients import There
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from persistent.mapping import PersistentMapping
from typing import Any
from typing import NamedTuple

import threading
import time

#: Job threads of each process.
THREADS = 4

#: Times that a transaction is tried whose commit conflicts: as often as a request.
TRIES = 4

#: Way of draining -> (what the jobs do, what the agent's template says).
DRAINS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "drain_default": (jobs.noop, {}),
    "drain_no_prefetch": (jobs.noop, {"prefetch": 0}),
    "drain_group": (jobs.grouped, {}),
}


class Rate(NamedTuple):
    """``each_second``: commits or jobs. ``cpu``: milliseconds of the processor that each took in our processes."""

    each_second: float
    cpu: float


def limit(here: Here, seconds: float, threads: int = 1) -> Rate:
    """One-record commits, each thread on a record and a connection of its own: what the storage can do."""
    with here.connection() as connection:
        connection.transaction_manager.begin()
        if "limits" not in connection.root():
            connection.root()["limits"] = tuple(PersistentMapping() for _ in range(16))
        connection.transaction_manager.commit()
    counts = [0] * threads

    def work(number: int) -> None:
        with here.connection() as connection:
            manager = connection.transaction_manager
            while not counts[number] or time.monotonic() < end:  # one at least, on a machine that is busy
                manager.begin()
                connection.root()["limits"][number]["count"] = counts[number]
                manager.commit()
                counts[number] += 1

    began, busy = time.monotonic(), time.process_time()
    end = began + seconds
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return _rate(sum(counts), began, busy)


def _rate(count: int, began: float, busy: float) -> Rate:
    return Rate(count / (time.monotonic() - began), 1000 * (time.process_time() - busy) / count)


def put(here: Here, seconds: float, each: int = 1) -> Rate:
    """Jobs that one thread puts, so many in each transaction; those that conflict are tried again, as requests are.

    Nobody takes what lies in the inbox, so jobs go to its overflow, where those of two processes may meet.
    """
    count = 0
    with here.connection() as connection:
        began, busy = time.monotonic(), time.process_time()
        while not count or time.monotonic() < began + seconds:
            for attempt in connection.transaction_manager.attempts(TRIES):
                with attempt:
                    queue = get_queue(connection)
                    for number in range(each):
                        queue.put(Job(jobs.noop, "some", count + number))
            count += each
        return _rate(count, began, busy)


def put_all(here: Here, processes: Sequence[Here | There], seconds: float, each: int = 1) -> Rate:
    """The same by several processes at once, into an empty queue."""
    clients.fresh_queue(here)
    for process in processes:
        process.begin(put, seconds, each)
    found = [process.result() for process in processes]
    return Rate(sum(rate.each_second for rate in found), sum(rate.cpu for rate in found) / len(found))


def fill(
    here: Here, count: int, call: Callable[..., Any] = jobs.noop, *args: Any, quotas: tuple[str, ...] = ()
) -> None:
    """Put so many jobs. ``args``: what each gets; without them a text and its number."""
    with here.connection() as connection:
        for some in batches(connection, count):
            queue = get_queue(connection)
            for number in some:
                job = Job(call, *(args or ("some", number)))
                job.quota_names = quotas
                queue.put(job)


def batches(connection: Any, count: int) -> Iterator[range]:
    """So many numbers, a thousand in each transaction. What is loaded is forgotten now and then."""
    manager = connection.transaction_manager
    for start in range(0, count, 1000):
        manager.begin()
        yield range(start, min(start + 1000, count))
        manager.commit()
        if start % 20_000 == 0:
            connection.cacheMinimize()


def put_singly(here: Here, count: int) -> Iterator[int]:
    """Put so many no-op jobs, each in a transaction of its own, as requests do; after each, how many there are."""
    with here.connection() as connection:
        manager = connection.transaction_manager
        for number in range(count):
            manager.begin()
            get_queue(connection).put(Job(jobs.noop, "some", number))
            manager.commit()
            yield number + 1


def fill_singly(here: Here, count: int) -> None:
    """Put them without looking up."""
    for _number in put_singly(here, count):
        pass


def drain(here: Here, workers: Sequence[Here | There], count: int, call: Any, template: dict[str, Any]) -> Rate:
    """Jobs from a full queue to its end. The queue is paused until all dispatchers stand ready."""
    clients.fresh_queue(here, **{"size": THREADS, **template})
    pause(here, True)
    fill(here, count, call)
    return run_out(here, workers, count, THREADS)


def run_out(here: Here | There, workers: Sequence[Here | There], count: int, threads: int) -> Rate:
    """Jobs until so many are done, of a queue that is paused."""
    for worker in workers:
        worker.begin(clients.start, threads)
    for worker in workers:
        worker.result()
    busy = sum(worker.call(clients.progress).busy for worker in workers)
    began = time.monotonic()
    here.call(pause, False)
    told = wait(here, workers, count, began + 60 + count / 10)
    for worker in workers:
        worker.call(clients.stop)
    took = max(one.last for one in told) - began
    return Rate(count / took, 1000 * (sum(one.busy for one in told) - busy) / count)


def wait(here: Here | There, workers: Sequence[Here | There], count: int, deadline: float) -> list[Progress]:
    """Wait until the dispatchers are done with so many jobs; what each says of itself."""
    while True:
        told = [worker.call(clients.progress) for worker in workers]
        if sum(one.done for one in told) >= count:
            return told
        if time.monotonic() > deadline:
            raise TimeoutError(f"{told} of {count} jobs are done; the database says {here.call(clients.outcome)}")
        time.sleep(0.002 if len(workers) == 1 else 0.01)


def pause(here: Here, paused: bool) -> None:
    with here.connection() as connection:
        connection.transaction_manager.begin()
        get_queue(connection).paused = paused
        connection.transaction_manager.commit()
