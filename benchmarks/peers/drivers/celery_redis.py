"""Celery: a pool of four threads, no result backend, and all that costs and is not needed for one worker off."""

from celery import Celery

import counting
import sys

app = Celery("bench", broker=sys.argv[2])
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


@app.task(name="noop")
def noop() -> None:
    counting.count()


@app.task(name="long")
def long(number: int) -> None:
    counting.append(number)


def connect(address: str) -> None:
    """The broker is connected at its first use."""


def put(number: int | None = None) -> None:
    noop.delay() if number is None else long.delay(number)


def work() -> None:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR")
    app.worker_main(["worker", "--pool=threads", f"--concurrency={counting.THREADS}", *quiet])


if __name__ == "__main__":
    counting.main(sys.modules["__main__"])
