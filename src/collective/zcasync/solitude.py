"""A job under which its process has died twice runs alone, in a worker if there is one: it may take others with it."""

from collections.abc import Callable
from typing import Any

import time

#: Deaths of processes under a job after which it runs alone.
ALONE_FROM = 2

#: Seconds that a dispatcher claims nothing else at most, until its threads are free for such a job; and seconds until
#: it tries that again. Jobs that run for hours must not keep all others from running.
DRAIN, REST = 60.0, 60.0


class Solitude:
    """What one dispatcher's claims know of such jobs. Used by the claim thread only."""

    def __init__(self, role: str) -> None:
        self.role = role
        #: oids of those that were claimed here.
        self._mine: set[bytes] = set()
        self._draining: float | None = None
        self._rested = 0.0
        self._busy = self._alone = self._found = False

    def begin(self, known: set[bytes]) -> None:
        """A claim begins. ``known``: the oids of the jobs that threads run, or wait for a thread."""
        self._mine &= known
        self._busy, self._alone, self._found = bool(known), bool(self._mine), False
        now = time.monotonic()
        if self._draining is not None and now - self._draining > DRAIN:
            self._draining, self._rested = None, now + REST

    @property
    def closed(self) -> bool:
        """Whether nothing is claimed now: such a job runs, or waits until nothing else runs."""
        return self._alone or self._found or self._draining is not None and self._busy

    def admits(self, queue: Any, home: bool, others: Callable[[Any], bool]) -> Callable[[Any], bool]:
        """For one claim of an agent: whether to take a job. ``home``: whether the job is this dispatcher's to take, or
        only one that its home has left. ``others``: what decides about all other jobs."""

        def admit(job: Any) -> bool:
            if job.deaths < ALONE_FROM:
                admitted = self._draining is None and not self._found and others(job)
                self._busy = self._busy or admitted
                return admitted
            if self._found or self.role != "worker" and _has_worker(queue):
                return False
            if self._busy:
                if home and self._draining is None and time.monotonic() >= self._rested:
                    self._draining = time.monotonic()
                return False
            self._found = True
            self._mine.add(job._p_oid)
            return True

        return admit

    def chosen(self, job: Any) -> None:
        """A chooser has taken a job, and nobody was asked: nothing else begins beside such a one from now on."""
        self._busy = True
        if job.deaths >= ALONE_FROM:
            self._found = True
            self._mine.add(job._p_oid)

    def end(self) -> bool:
        """A claim ends; whether to claim again at once, as nothing has to be waited for any more."""
        if self._draining is None or self._busy and not self._found:
            return False
        self._draining = None
        return not self._found


def _has_worker(queue: Any) -> bool:
    return any(da.process.get("role") == "worker" for da in queue.dispatchers.active())
