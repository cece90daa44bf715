"""Huey with SQLite: its defaults (write-ahead log, each commit flushed), four threads."""

from huey import SqliteHuey

import counting
import sys

huey = SqliteHuey(filename=sys.argv[2])


@huey.task()
def noop() -> None:
    counting.count()


@huey.task()
def long(number: int) -> None:
    counting.append(number)


def connect(address: str) -> None:
    """The file is opened at its first use."""


def put(number: int | None = None) -> None:
    noop() if number is None else long(number)


def work() -> None:
    huey.create_consumer(workers=counting.THREADS, worker_type="thread", periodic=False).run()


if __name__ == "__main__":
    counting.main(sys.modules["__main__"])
