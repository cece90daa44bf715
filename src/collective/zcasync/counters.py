"""How many jobs, and for how long: what this process has done since its start, counted in memory."""

from bisect import bisect_left
from typing import Any
from typing import NamedTuple

import os
import threading

#: Upper bounds of the classes into which seconds are sorted; what lasts longer is in one more.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

#: Tasks that are counted by their names; all further ones together, as whoever collects the numbers keeps each series.
TASKS, OTHERS = 200, "others"


class Spread(NamedTuple):
    """How long things took: how many fell into each class of BOUNDS and beyond, and the sum of seconds."""

    numbers: tuple[int, ...]
    seconds: float


class Counters:
    """Any thread may count, and read: each method holds the lock for a moment."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Nothing is counted yet, and nobody holds the lock."""
        self._lock = threading.Lock()
        self._tasks: set[str] = set()
        self._jobs: dict[tuple[str, str], int] = {}
        self._runs: dict[tuple[str, str], list[float]] = {}
        self._waits: dict[str, list[float]] = {}
        self._shared = 0, 0

    def happened(self, what: str, task: str) -> None:
        """Something happened to a job of that task: ``what`` is the word of its event, as "put" or "failed"."""
        with self._lock:
            key = what, self._name(task)
            self._jobs[key] = self._jobs.get(key, 0) + 1

    def ran(self, queue: str, task: str, seconds: float) -> None:
        """A job has left its thread so long after it began there, with its attempts, commits and callbacks."""
        with self._lock:
            _add(self._runs, (queue, self._name(task)), seconds)

    def waited(self, queue: str, seconds: float) -> None:
        """A thread begins with a job that could have begun so many seconds ago."""
        with self._lock:
            _add(self._waits, queue, seconds)

    def shared(self, jobs: int) -> None:
        """So many jobs have shared one commit."""
        with self._lock:
            commits, before = self._shared
            self._shared = commits + 1, before + jobs

    def _name(self, task: str) -> str:
        if task not in self._tasks:
            if len(self._tasks) >= TASKS:
                return OTHERS
            self._tasks.add(task)
        return task

    @property
    def jobs(self) -> dict[tuple[str, str], int]:
        """(word of the event, task) -> how often."""
        with self._lock:
            return dict(self._jobs)

    @property
    def runs(self) -> dict[tuple[str, str], Spread]:
        """(queue, task) -> how long jobs ran."""
        with self._lock:
            return {key: _spread(found) for key, found in self._runs.items()}

    @property
    def waits(self) -> dict[str, Spread]:
        """queue -> how long jobs waited for a thread."""
        with self._lock:
            return {key: _spread(found) for key, found in self._waits.items()}

    @property
    def shares(self) -> tuple[int, int]:
        """Commits that have stored several jobs, and how many jobs these were."""
        with self._lock:
            return self._shared


def _add(found: dict[Any, list[float]], key: Any, seconds: float) -> None:
    """The sum stands behind the numbers of the classes."""
    spread = found.get(key)
    if spread is None:
        spread = found[key] = [0] * (len(BOUNDS) + 2)
    spread[bisect_left(BOUNDS, seconds)] += 1
    spread[-1] += seconds


def _spread(found: list[float]) -> Spread:
    return Spread(tuple(int(number) for number in found[:-1]), found[-1])


#: Those of this process. A fork begins anew: nobody there would give back the lock that a thread held just then.
counters = Counters()
os.register_at_fork(after_in_child=counters.begin)
