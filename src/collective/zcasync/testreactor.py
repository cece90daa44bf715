"""A reactor for tests that a test moves by hand: it drives a real dispatcher on the frozen clock."""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import testtime
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.testwait import dispatcher_story
from collective.zcasync.testwait import GLANCE
from collective.zcasync.testwait import story
from datetime import datetime
from datetime import timedelta
from typing import Any

import heapq
import itertools
import sys
import threading
import time

#: Seconds that job threads get, at each step of the clock, to do what they can do without more time.
BREATH = 0.5

#: Seconds that the claim thread of a dispatcher may take for a look at its queues.
ANSWER = 30.0


class DelayedCall:
    """One call to come. Ordered by its time, then by when it was asked for."""

    def __init__(self, when: datetime, number: int, call: Callable[[], Any]) -> None:
        self.when = when
        self.number = number
        self.call: Callable[[], Any] | None = call

    def __lt__(self, other: "DelayedCall") -> bool:
        return (self.when, self.number) < (other.when, other.number)

    def active(self) -> bool:
        """Whether it is still to come."""
        return self.call is not None

    def cancel(self) -> None:
        """Do not call. InvalidValueError if it was called, or cancelled before."""
        if self.call is None:
            raise InvalidValueError("this call was made or cancelled already")
        self.call = None


class Reactor:
    """See IReactor. ``time_flies`` and ``time_passes`` make the calls, in the thread that calls them.

    reactor = Reactor()
    reactor.start()                  # freezes the clock
    dispatcher = Dispatcher(db, reactor)
    dispatcher.activate()
    reactor.time_flies(5)            # polls, as after five seconds
    reactor.stop()                   # the dispatcher ends, the clock runs again
    """

    def __init__(self) -> None:
        self.started = False
        self._calls: list[DelayedCall] = []
        self._when_running: list[Callable[[], Any]] = []
        self._triggers: list[tuple[str, str, Callable[[], Any]]] = []
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._froze = False

    # What a dispatcher needs

    def callLater(self, seconds: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> DelayedCall:
        """Make the call when so many seconds have passed by the frozen clock."""
        if not self.started:
            raise InvalidValueError("callLater: this reactor was not started; call start() first")
        return self._add(seconds, lambda: callable(*args, **kw))

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Make the call at the next step of the clock, however small. From any thread."""
        if not self.started:
            raise InvalidValueError("callFromThread: this reactor was not started; call start() first")
        self._add(0, lambda: callable(*args, **kw))

    def callInThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Make the call at once, in a thread of its own."""
        threading.Thread(target=callable, args=args, kwargs=kw, name="zcasync-test-reactor", daemon=True).start()

    def callWhenRunning(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Make the call at the first step of the clock after the start."""
        if self.started:
            self._add(0, lambda: callable(*args, **kw))
        else:
            self._when_running.append(lambda: callable(*args, **kw))

    def addSystemEventTrigger(
        self, phase: str, event: str, callable: Callable[..., Any], *args: Any, **kw: Any
    ) -> tuple[str, str, Callable[[], Any]]:
        """Make the call at ``stop``. InvalidValueError for another event than ("before", "shutdown")."""
        if (phase, event) != ("before", "shutdown"):
            raise InvalidValueError(f"this reactor knows ('before', 'shutdown') only, not {(phase, event)!r}")
        self._triggers.append((phase, event, lambda: callable(*args, **kw)))
        return self._triggers[-1]

    def _add(self, seconds: float, call: Callable[[], Any]) -> DelayedCall:
        if not seconds >= 0:
            raise InvalidValueError(f"seconds must be a number of zero or more, not {seconds!r}")
        with self._lock:
            delayed = DelayedCall(clock.utcnow() + timedelta(seconds=seconds), next(self._numbers), call)
            heapq.heappush(self._calls, delayed)
        return delayed

    # What a test does with it

    def start(self) -> None:
        """Freeze the clock, unless it is, and take calls. InvalidValueError if it is started."""
        if self.started:
            raise InvalidValueError("this reactor is started already")
        self._froze = not testtime.is_frozen()
        if self._froze:
            testtime.setUpDatetime()
        self.started = True
        waiting, self._when_running = self._when_running, []
        for call in waiting:
            self._add(0, call)

    def stop(self) -> None:
        """End the dispatchers, and let the clock run again if ``start`` froze it. Does nothing if it is not started."""
        if not self.started:
            return
        triggers, self._triggers = self._triggers, []
        try:
            for _phase, _event, call in triggers:
                call()
        finally:
            self.started = False
            self._calls = []
            if self._froze:
                testtime.tearDownDatetime()

    def time_passes(self) -> bool:
        """Make one call that is due now; whether there was one."""
        call = self._next(clock.utcnow())
        if call is not None:
            self._make(call)
        self._settle()
        return call is not None

    def time_flies(self, seconds: float) -> int:
        """Let so many seconds pass by the frozen clock; how many calls were made in them.

        At each of them the dispatchers look at their queues, and the job threads get half a second of real time.
        """
        if not seconds >= 0:
            raise InvalidValueError(f"seconds must be a number of zero or more, not {seconds!r}")
        if not self.started:
            raise InvalidValueError("time_flies: this reactor was not started; call start() first")
        end, count = clock.utcnow() + timedelta(seconds=seconds), 0
        self._settle()
        while True:
            call = self._next(end)
            if call is None and clock.utcnow() == end:
                return count
            if call is None:
                testtime.set_now(end)
            else:
                testtime.set_now(max(call.when, clock.utcnow()))
                self._make(call)
                count += 1
            self._settle()

    def wait_for(self, *jobs: Any, attempts: int = 10, poll_interval: float = 5) -> bool:
        """Let time fly, ``poll_interval`` seconds at a time and ``attempts`` times at most, until all are COMPLETED.

        Prints "TIME OUT", and where the others stand, if they are not; whether they are.
        """
        for _ in range(attempts):
            self.time_flies(poll_interval)
            open_jobs = []
            for job in jobs:
                job._p_jar.transaction_manager.begin()
                if job._status_id != 3:
                    open_jobs.append(job)
            if not open_jobs:
                return True
        sys.stdout.write("TIME OUT\n" + "".join(f"{story(job)}\n" for job in open_jobs))
        return False

    def _next(self, end: datetime) -> DelayedCall | None:
        """The next call, if it is due then."""
        with self._lock:
            while self._calls and self._calls[0].when <= end:
                delayed = heapq.heappop(self._calls)
                if delayed.call is not None:
                    return delayed
        return None

    @staticmethod
    def _make(delayed: DelayedCall) -> None:
        call, delayed.call = delayed.call, None
        if call is not None:
            call()

    def _settle(self) -> None:
        """Return when each dispatcher has looked at its queues since, and its threads are idle or have had a breath."""
        mine = [one for one in list(dispatchers._dispatchers.values()) if one.reactor is self and one.activated]
        end = time.monotonic() + BREATH
        for dispatcher in mine:
            while True:
                self._look(dispatcher)
                if _idle(dispatcher):
                    break  # nothing was found, and nothing runs that could put more
                with dispatcher.neighbours.changed:
                    while not _idle(dispatcher) and time.monotonic() < end:
                        dispatcher.neighbours.changed.wait(0.05)
                if time.monotonic() >= end:
                    break

    @staticmethod
    def _look(dispatcher: Any) -> None:
        """Have the claim thread look at its queues, and wait until it has: a round that began after this call."""
        rounds, end = dispatcher.rounds + 2, time.monotonic() + ANSWER
        while dispatcher.activated and dispatcher.rounds < rounds:
            if time.monotonic() > end:
                raise AssertionError(f"no look at the queues in {ANSWER} s: {dispatcher_story(dispatcher)}")
            dispatcher.look_soon()
            time.sleep(GLANCE / 10)


def _idle(dispatcher: Any) -> bool:
    return all(pool.idle() for pool in dispatcher._pools())
