"""Where a storm writes down what happens: the names of its files and of its records in the database."""

from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from pathlib import Path
from persistent.mapping import PersistentMapping
from typing import Any
from typing import NamedTuple

import os
import time

#: Name of the quotas, and how many of their jobs may run at once.
QUOTAS = {"one": 1, "two": 2}

#: How many counters the jobs change.
COUNTERS = 5

KEY = "chaos"


class Ledger(NamedTuple):
    """The files of one storm. Each line is one write at the end of a file, so that no death leaves half of one."""

    folder: Path

    @property
    def puts(self) -> Path:
        """A file for each thread of a client: what it is about to commit, and what was committed."""
        return self.folder / "puts"

    @property
    def effects(self) -> Path:
        """The names of jobs that must not run twice, written when they run."""
        return self.folder / "effects"

    @property
    def stays(self) -> Path:
        """Begins and ends of jobs with a quota."""
        return self.folder / "stays"

    @property
    def ends(self) -> Path:
        """When a process was killed or cut off."""
        return self.folder / "ends"

    @property
    def faults(self) -> Path:
        """What went wrong, and when: for whoever looks into a storm."""
        return self.folder / "faults"


def write(path: Path, *words: object, durably: bool = False) -> None:
    """A line at the end of a file; ``durably``: it is on the disk before this returns."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, (" ".join(map(str, words)) + "\n").encode())
        if durably:
            os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> list[list[str]]:
    """The words of all lines."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def moment() -> float:
    """Seconds of a clock that all processes here share, and that nobody puts forward or back."""
    return time.monotonic()


def make_records(root: Any, folder: Path) -> None:
    """What a storm keeps in the database."""
    data = root[KEY] = PersistentMapping()
    data["folder"] = str(folder)
    #: name of a job or callback -> the counters that it has changed: one, or it ran twice.
    data["effects"] = OOBTree()
    data["counters"] = OOBTree({str(number): PersistentMapping(value=0) for number in range(COUNTERS)})
    data["total"] = Length()
    data["bulk"] = OOBTree({str(number): PersistentMapping() for number in range(COUNTERS)})
    #: client -> number -> job: stored by the transaction that puts the job.
    data["puts"] = OOBTree()
    #: name -> job, of those that jobs have put, and name -> callback, of those that came late.
    data["children"] = OOBTree()
    data["late"] = OOBTree()


def new_client(data: Any, name: str) -> None:
    """A client that puts jobs."""
    data["puts"][name] = IOBTree()
