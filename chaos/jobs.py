"""What the jobs of a storm do. Each has a name, and leaves exactly one effect of it in the database if it succeeds."""

from chaos.ledger import KEY
from chaos.ledger import Ledger
from chaos.ledger import moment
from chaos.ledger import write
from collective.zcasync import api
from collective.zcasync import local
from collective.zcasync.job import Job
from pathlib import Path
from typing import Any

import os
import threading
import transaction

#: In place of a counter, where none is changed: a job that must not run twice is not tried again after a conflict.
OUTSIDE = "outside"

#: Pieces of a job with checkpoints.
STEPS = 3


class Planned(Exception):
    """A job that is to fail."""


def data() -> Any:
    """The storm's records, in the job's connection."""
    return local.getJob()._p_jar.root()[KEY]


def ledger() -> Ledger:
    return Ledger(Path(data()["folder"]))


def leave_effect(name: str, counter: str) -> None:
    """The effect: an entry in a tree that all share, one more in a counter that many share, one more in all."""
    records = data()
    effects = records["effects"]
    effects[name] = (*effects.get(name, ()), counter)
    records["counters"][counter]["value"] += 1
    records["total"].change(1)


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def count(name: str, counter: str) -> str:
    """The plain one."""
    leave_effect(name, counter)
    return name


@api.task(name="chaos.count_together", groupable=True)
def count_together(name: str, counter: str) -> str:
    """It may share a transaction with others."""
    leave_effect(name, counter)
    return name


def count_slowly(name: str, counter: str, seconds: float) -> str:
    """It is still at work when its process dies."""
    leave_effect(name, counter)
    pause(seconds)
    return name


def fail(name: str, counter: str) -> None:
    """What it changes must never be seen."""
    leave_effect(name, counter)
    raise Planned(name)


def put_another(name: str, counter: str) -> str:
    """The job that it puts is there if and only if it has succeeded itself."""
    leave_effect(name, counter)
    child = local.getQueue().put(Job(count, f"{name}/child", counter))
    data()["children"][f"{name}/child"] = child
    return name


def return_another(name: str, counter: str) -> Job:
    """It waits for a job, whose result is its own."""
    leave_effect(name, counter)
    child = Job(count, f"{name}/inner", counter)
    data()["children"][f"{name}/inner"] = child
    return child


def called(name: str, counter: str, result: Any) -> str:
    """A callback."""
    leave_effect(name, counter)
    return name


def last(name: str, counter: str, *jobs: Job) -> str:
    """The last one of several that run one after the other, or side by side."""
    leave_effect(name, counter)
    return name


def stay(name: str, counter: str, quota: str, seconds: float) -> str:
    """Begin and end are written down, so that it can be seen how many there were at once."""
    path, run = ledger().stays, (quota, name, os.getpid(), local.getJob().token)
    write(path, "in", *run, moment())
    try:
        leave_effect(name, counter)
        pause(seconds)
    finally:
        write(path, "out", *run, moment())
    return name


def tell_outside(name: str, counter: str) -> str:
    """An effect that no abort takes back: it must never happen twice."""
    write(ledger().effects, name, durably=True)
    effects = data()["effects"]
    effects[name] = (*effects.get(name, ()), OUTSIDE)
    return name


class Slow:
    """It votes late, and the storage, which has voted, holds up all other commits meanwhile."""

    transaction_manager = transaction.manager

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def sortKey(self) -> str:
        return "~~~"

    def tpc_vote(self, txn: Any) -> None:
        pause(self.seconds)

    def abort(self, txn: Any) -> None: ...

    tpc_begin = commit = tpc_finish = tpc_abort = abort


def commit_slowly(name: str, counter: str, seconds: float, size: int) -> str:
    """Much to store, and long to store it."""
    leave_effect(name, counter)
    data()["bulk"][counter]["text"] = "x" * size
    transaction.get().join(Slow(seconds))
    return name


def work_in_steps(name: str, counter: str) -> str:
    """It commits by itself, and goes on after an interruption where it was."""
    for step in range(api.cursor(0), STEPS):
        leave_effect(f"{name}/step{step}", counter)
        pause(0.02)
        api.checkpoint(step + 1)
    leave_effect(name, counter)
    return name
