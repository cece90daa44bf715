"""RQ: it has no threads, so four processes that run one job at a time, without a fork for each (SimpleWorker)."""

from redis import Redis
from rq import Queue
from rq import SimpleWorker

import counting
import multiprocessing
import os
import sys
import time

queue: Queue


def connect(address: str) -> None:
    global queue
    queue = Queue("bench", connection=Redis.from_url(address))


def put(number: int | None = None) -> None:
    queue.enqueue("rq_jobs.noop") if number is None else queue.enqueue("rq_jobs.long", number)


def _worker(address: str, burst: bool, start: object, told: object) -> None:
    connection = Redis.from_url(address)
    worker = SimpleWorker([Queue("bench", connection=connection)], connection=connection)
    start.wait()
    began = time.perf_counter()  # one clock for all processes of a machine
    worker.work(burst=burst, logging_level="ERROR")
    told.put((began, time.perf_counter()))


def work() -> None:
    context = multiprocessing.get_context("fork")
    start, told = context.Barrier(counting.THREADS), context.Queue()
    args = (sys.argv[2], sys.argv[1] == "drain", start, told)
    processes = [context.Process(target=_worker, args=args) for _ in range(counting.THREADS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    times = [told.get() for _ in processes]
    left = len(queue)
    assert not left, f"{left} jobs were not run"
    counting.say(seconds=max(end for _, end in times) - min(start for start, _ in times))


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    counting.main(sys.modules["__main__"])
