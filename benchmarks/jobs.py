"""What the measured jobs do. Every process that runs jobs imports it under this name."""

from collective.zcasync import api

import time

#: number of a job -> monotonic time at which its first line ran; the clock is that of the machine, for all processes.
began: dict[int, float] = {}


def noop(text: str, number: int) -> None:
    """Nothing: what is measured is all that is around it."""


@api.task(name="benchmarks.grouped", groupable=True)
def grouped(text: str, number: int) -> None:
    """The same, for group commit."""


def stamp(number: int) -> None:
    began[number] = time.monotonic()


def last(seconds: float) -> None:
    """A job that waits for something else, as for a mail server."""
    time.sleep(seconds)


def refuses_noop(job: object) -> bool:
    """The filter of an agent that takes anything else."""
    return getattr(job, "task", "") != "benchmarks.jobs.noop"
