"""A polite dispatcher: its jobs begin while the process serves no request, since a busy thread makes pages slow."""

from collections.abc import Iterator
from contextlib import contextmanager

import logging
import threading
import time
import weakref

logger = logging.getLogger("collective.zcasync.events")

#: Seconds that a job waits for requests at most: where there is always one, jobs have to get on as well.
PATIENCE = 0.5

#: Seconds over which the work of jobs is summed up, the share of one processor that is much beside requests, and
#: seconds until that is said again.
WINDOW, MUCH, SAY_AGAIN = 300.0, 0.25, 3600.0


class Request:
    """Stands for a request that is being served. Whoever serves it holds it so long: it counts only while it lives."""

    __slots__ = ("__weakref__",)


class Politeness:
    """The requests that a process serves now, and what its jobs do beside them. Any thread may call any method."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: thread -> the request that it serves. One whose end nobody tells of is gone when its server lets go of it.
        self._served: weakref.WeakValueDictionary[int, Request] = weakref.WeakValueDictionary()
        self._requests = 0
        self._worked = 0.0
        self._since = time.monotonic()
        self._said: float | None = None
        #: When that was much last, and how much.
        self._much = self._since - 2 * WINDOW, 0.0

    def begin(self) -> Request:
        """This thread serves a request from now on, until ``end`` or until nobody holds what is returned."""
        request = self._served[threading.get_ident()] = Request()
        self._requests += 1
        return request

    def end(self) -> None:
        """This thread is done with its request. May be called more than once."""
        if self._served.pop(threading.get_ident(), None) is not None:
            with self._changed:
                self._changed.notify_all()

    @property
    def serving(self) -> int:
        """How many requests are being served."""
        return len(self._served)

    def wait(self) -> bool:
        """Return when no request is being served, or after PATIENCE seconds; whether there was one."""
        if not self._served:
            return False
        with self._changed:
            self._changed.wait_for(lambda: not self._served, PATIENCE)
        return True

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Around the work of a job: it begins when no request is in its way. Yields whether there was one."""
        waited = self.wait()
        began = time.thread_time()
        try:
            yield waited
        finally:
            self._sum_up(time.thread_time() - began)

    @property
    def much(self) -> float:
        """The share of one processor that the jobs have taken beside requests lately, if that is much; else 0."""
        when, share = self._much
        return share if time.monotonic() - when < 2 * WINDOW else 0.0

    def _sum_up(self, seconds: float) -> None:
        now = time.monotonic()
        with self._changed:
            self._worked += seconds
            if now - self._since < WINDOW:
                return
            share, requests = self._worked / (now - self._since), self._requests
            self._since, self._worked, self._requests = now, 0.0, 0
            much = share >= MUCH and requests > 0
            self._much = now, share if much else 0.0
            says = much and (self._said is None or now - self._said >= SAY_AGAIN)
            if says:
                self._said = now
        if says:
            logger.warning(
                "The jobs of this process use %.0f %% of a processor, and pages wait for that: run them in a process of"
                " their own, with 'zcasync worker'",
                100 * share,
            )
