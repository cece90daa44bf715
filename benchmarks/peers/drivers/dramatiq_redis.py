"""Dramatiq: a worker of four threads, no results."""

from dramatiq.brokers.redis import RedisBroker

import counting
import dramatiq
import sys
import threading

dramatiq.set_broker(RedisBroker(url=sys.argv[2]))


@dramatiq.actor
def noop() -> None:
    counting.count()


@dramatiq.actor
def long(number: int) -> None:
    counting.append(number)


def connect(address: str) -> None:
    """The broker is connected at its first use."""


def put(number: int | None = None) -> None:
    noop.send() if number is None else long.send(number)


def work() -> None:
    dramatiq.Worker(dramatiq.get_broker(), worker_threads=counting.THREADS).start()
    threading.Event().wait()


if __name__ == "__main__":
    counting.main(sys.modules["__main__"])
