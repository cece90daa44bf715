"""Jobs whose effects other processes can see: lines of files, which no abort takes back."""

from collective.zcasync import local
from pathlib import Path
from typing import Any

import os
import signal
import threading


def write(path: str, line: str = "run") -> str:
    """A line at the end of a file, in one write."""
    with open(path, "a") as file:
        file.write(f"{line}\n")
    return line


def write_and_wait(path: str, until: str) -> int:
    """Count in the database; a line at the begin, and one at the end, for which another file has to appear."""
    counts = local.getJob()._p_jar.root()["counts"][path]
    counts["count"] = counts.get("count", 0) + 1
    write(path, f"began in {os.getpid()}")
    never = threading.Event()
    while not Path(until).exists():
        never.wait(0.05)
    write(path, f"ended in {os.getpid()}")
    return int(counts["count"])


def stay(path: str, until: str) -> int:
    """A line as it comes in and one as it goes out, between which another file has to appear."""
    write(path, f"in {os.getpid()}")
    never = threading.Event()
    while not Path(until).exists():
        never.wait(0.05)
    never.wait(0.05)
    write(path, f"out {os.getpid()}")
    return os.getpid()


def count_in_process() -> tuple[int, int]:
    """A change that conflicts with that of any other such job that runs meanwhile; (the count, the process)."""
    data = local.getJob()._p_jar.root()
    data["counted"] = data.get("counted", 0) + 1
    threading.Event().wait(0.02)
    return int(data["counted"]), os.getpid()


def count_and_tell(path: str) -> int:
    """Count in the database, and a line for each time that it runs."""
    data = local.getJob()._p_jar.root()
    data["counted"] = data.get("counted", 0) + 1
    write(path)
    return int(data["counted"])


def write_and_die(path: str) -> None:
    write(path)
    os.kill(os.getpid(), signal.SIGKILL)


def lines(path: Any) -> list[str]:
    """What was written so far."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def take_a_moment() -> int:
    """Work of some milliseconds; the process."""
    threading.Event().wait(0.02)
    return os.getpid()
