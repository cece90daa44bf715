"""The job threads of one agent, and the jobs that were claimed for them."""

from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import execution
from collective.zcasync import groups
from collective.zcasync.entries import Item
from collective.zcasync.threadlocal import local
from typing import Any

import itertools
import logging
import threading
import time

logger = logging.getLogger("collective.zcasync.events")

#: Seconds of work that may be claimed ahead, and the same in claims: where commits are slow, the time of a short job is
#: that of its commit, and its threads would wait for the next claim's. Seconds at most, however slow claims are: what
#: no thread has begun after twice that goes back to the queue.
AHEAD, AHEAD_CLAIMS, AHEAD_MOST = 0.05, 4, 0.5

#: Where nothing is claimed ahead, a claim of what was left waits until so many times as many threads are free as will
#: be soon: it costs as much as several short jobs.
GATHER = 3

#: Jobs of one kind that are claimed while their neighbours keep them from running, at most.
MOST_HELD = 32

#: Seconds of work that jobs wait for a thread whose transaction they can share, rather than begin one of their own:
#: a commit costs as much as several short jobs.
SHORT = 0.01

_numbers = itertools.count(1)


class AgentThreadPool:
    """Threads of one (queue, agent). ``dispatcher``: where to report, and what surrounds the runs."""

    def __init__(self, dispatcher: Any, queue: str, name: str, size: int) -> None:
        self.dispatcher = dispatcher
        self.queue_name = queue
        self.name = name
        self.weight = 1
        self.prefetch = 0
        self.size = 0
        self.threads: list[threading.Thread] = []
        #: thread -> oid of the job it runs, or None.
        self.jobids: dict[threading.Thread, bytes | None] = {}
        #: thread -> oids of all the jobs that share a transaction with it.
        self._sharing: dict[threading.Thread, set[bytes]] = {}
        #: thread -> the open transaction that others may share: its bundle, when it began, how many more it takes up.
        self._open: dict[threading.Thread, tuple[Any, float, int]] = {}
        #: thread -> monotonic time at which it began its last job.
        self._began: dict[threading.Thread, float] = {}
        self.waiting: deque[Item] = deque()
        self.mean: float | None = None
        self._started: set[bytes] = set()
        self._noted: set[bytes] = set()
        self._sizes = groups.Sizes()
        #: With no more jobs than that a claim has to bring others.
        self._refill_at = 0
        #: Whether it was asked for since the last ones came.
        self._asked = False
        #: Held by the neighbours' limits, so that choosing a job and taking its place is one step.
        self._changed = dispatcher.neighbours.changed
        self.setSize(size)

    def getSize(self) -> int:
        return self.size

    def setSize(self, size: int) -> int:
        """Have so many threads once there is work for them; return the difference. Those beyond end after their job."""
        with self._changed:
            difference = size - self.size
            self.size = size
            self._start_for_waiting()
            self._changed.notify_all()
        if difference > 0:
            self.dispatcher.claim_soon()
        return difference

    def _start_for_waiting(self) -> None:
        """Hundreds of queues may have nothing to do: a thread is started when the first job waits for it."""
        for _number in range(len(self.threads), min(self.size, len(self.active()) + len(self.waiting))):
            self._start()

    def _start(self) -> None:
        name = f"zcasync-{self.name}-{next(_numbers)}"
        thread = threading.Thread(target=self._perform, name=name, daemon=True)
        self.threads.append(thread)
        self.jobids[thread] = None
        thread.start()

    def close(self, seconds: float) -> None:
        """End the threads, and wait for those that run no job. One that does is left alone: the fence keeps it out."""
        with self._changed:
            idle = [thread for thread, oid in self.jobids.items() if oid is None]
        self.setSize(0)
        end = time.monotonic() + seconds
        for thread in idle:
            if thread is not threading.current_thread():
                thread.join(max(end - time.monotonic(), 0))

    # For the dispatcher's claims

    def wants(self, prefetch: int, claim: float = 0.0) -> tuple[int, int]:
        """(free, ahead): for how many jobs there is a thread, and how many more may be claimed ahead.

        ``claim``: seconds that a claim takes. A thread that has met a long job counts for nothing ahead.
        """
        horizon, now = min(max(AHEAD, AHEAD_CLAIMS * claim), AHEAD_MOST), time.monotonic()
        with self._changed:
            began = [when for when, _oid in self.active()]
            waiting = self.startable() if self.waiting else 0
        busy = len(began)
        free = self.size - busy - waiting
        ahead, self._refill_at = 0, self._refill_at if prefetch == 0 else 0
        quick = self.size - sum(1 for when in began if now - when > horizon)
        if prefetch and self.mean is not None and self.mean < horizon and quick > 0:
            ahead = min(prefetch, int(horizon / max(self.mean, 1e-5) * quick))
            self._refill_at = ahead // 2
            if waiting > self._refill_at:
                return 0, 0
            ahead = min(ahead, self.size + ahead - busy - waiting - max(free, 0))
        return max(free, 0), max(ahead, 0)

    def gathers(self, claim: float) -> float | None:
        """The monotonic time until which it is better to wait for threads that will be free soon; None: claim now."""
        longest, now = min(2 * claim, AHEAD), time.monotonic()
        if self.prefetch or self.mean is None or self.mean > longest:
            return None
        with self._changed:
            began = [when for when, _oid in self.active()]
            soon = [when for when in began if now - when < longest] + [now] * len(self.waiting)
            free = self.size - len(began) - len(self.waiting)
        return min(soon) + longest if 0 < free < GATHER * len(soon) else None

    def startable(self) -> int:
        """How many of the claimed jobs a thread could begin; what its neighbours hold up must not hold up others."""
        with self._changed:
            held = Counter(item.who for item in self.waiting)
            return sum(min(count, max(self.dispatcher.neighbours.room(who), 0)) for who, count in held.items())

    def admits(self) -> Callable[[Any], bool]:
        """For one claim: whether to take a job. Of those that run one after the other only the next ones are taken."""
        with self._changed:
            held = Counter(item.who for item in self.waiting)
        around = self.dispatcher.around

        def more(seconds: float) -> int:
            return 1 if self.mean is None else min(max(int(seconds / max(self.mean, 1e-5)), 1), MOST_HELD)

        def admit(job: Any) -> bool:
            who = job.neighbours
            if job.lane:
                self.dispatcher.neighbours.narrow(who)
            ahead = more(around.bundle(who) if job.groupable else AHEAD)  # the next ones share a transaction
            if held[who] >= max(self.dispatcher.neighbours.room(who), 0) + ahead:
                return False
            held[who] += 1
            return True

        return admit

    def give(self, items: list[Item]) -> None:
        now = time.monotonic()
        with self._changed:
            self.waiting.extend(item._replace(since=now) for item in items)
            self._start_for_waiting()
            self._asked = False
            self._changed.notify_all()

    def take_back(self, older_than: float = 0.0) -> list[Item]:
        """Take away what no thread has begun; ``older_than`` seconds since its claim, or what is to run elsewhere."""
        now = time.monotonic()
        with self._changed:
            elsewhere = self.dispatcher.neighbours.elsewhere
            back = [item for item in self.waiting if now - item.since >= older_than or item.who in elsewhere]
            self.waiting = deque(item for item in self.waiting if item not in back)
        return back

    def waits_since(self) -> float | None:
        """When the oldest of the claimed jobs that only lack a thread was claimed."""
        oldest: dict[tuple[str, str], float] = {}
        with self._changed:
            for item in self.waiting:
                if item.since < oldest.get(item.who, item.since + 1):
                    oldest[item.who] = item.since
            return min(
                (since for who, since in oldest.items() if self.dispatcher.neighbours.room(who) > 0), default=None
            )

    def started(self) -> set[bytes]:
        """oids of the jobs claimed ahead that have begun since the last claim."""
        with self._changed:
            self._noted = set(self._started)
            return self._noted

    def forget_started(self) -> None:
        """A claim has stored what ``started`` said last."""
        with self._changed:
            self._started -= self._noted
            self._noted = set()

    def known(self) -> set[bytes]:
        """oids of the jobs that run or wait for a thread."""
        with self._changed:
            running = {oid for oid in self.jobids.values() if oid is not None}
            return running.union((item.oid for item in self.waiting), *self._sharing.values())

    def idle(self) -> bool:
        with self._changed:
            return not self.waiting and all(oid is None for oid in self.jobids.values())

    def active(self) -> list[tuple[float, bytes]]:
        """(monotonic time of the start, oid) of the jobs that run now."""
        with self._changed:
            return [(self._began[thread], oid) for thread, oid in self.jobids.items() if oid is not None]

    # In the threads

    def _take(self) -> Item | None:
        """The first job whose neighbours allow it; None: this thread ends."""
        me = threading.current_thread()
        asked = False
        with self._changed:
            while True:
                if len(self.threads) > self.size:
                    self._forget(me)
                    return None
                own, promised = self._without_promised()
                for item in own:
                    if self.dispatcher.neighbours.enter(item.who):
                        self._begin(me, item)
                        if item.bundle is not None:
                            self._open[me] = item.bundle, self._began[me], self._sizes.most(item) - 1
                        if self.prefetch and not self._asked and len(self.waiting) <= self._refill_at:
                            self._asked = True
                            self.dispatcher.claim_soon()
                        return item
                if not asked:
                    self.dispatcher.claim_soon()
                    asked = True
                self._changed.wait(SHORT if promised else None)

    def _without_promised(self) -> tuple[Iterable[Item], bool]:
        """The jobs that wait, but for those that other threads will soon take up; whether there are such."""
        soon = time.monotonic() - SHORT
        open = [[*told] for thread, told in self._open.items() if told[2] > 0 and self._began[thread] > soon]
        if not open or self.mean is None or self.mean * groups.MOST > SHORT:
            return self.waiting, False
        own: list[Item] = []
        for item in self.waiting:
            for one in open:
                bundle, began, more = one
                if more and item.since < began and item.bundle is not None and item.bundle == bundle:
                    one[2] = more - 1
                    break
            else:
                own.append(item)
        return own, len(own) < len(self.waiting)

    def _begin(self, thread: threading.Thread, item: Item) -> None:
        self.waiting.remove(item)
        self.jobids[thread] = item.oid
        self._began[thread] = time.monotonic()
        if not item.active:
            self._started.add(item.oid)

    def _forget(self, thread: threading.Thread) -> None:
        if thread in self.threads:
            self.threads.remove(thread)
        self.jobids.pop(thread, None)
        self._began.pop(thread, None)
        self._open.pop(thread, None)
        self._changed.notify_all()

    def _perform(self) -> None:
        local.dispatcher = self.dispatcher
        local.name = self.name
        item = self._take()
        while item is not None:
            if self._shares(item):
                self._run_group(item)
            elif not self._run(item):
                return
            item = self._take()

    def _shares(self, item: Item) -> bool:
        """Whether there is another job with which this one can share a transaction."""
        if self._sizes.most(item) < 2:
            return False
        with self._changed:
            return any(other.bundle == item.bundle for other in self.waiting)

    def _run_group(self, first: Item) -> None:
        """Run jobs that share a transaction. Those that have to run by themselves are the next that wait."""
        me = threading.current_thread()
        began, items, places = self._began[me], [first], {first.who}

        def more() -> Item | None:
            item = self._join(me, first, places)
            if item is not None:
                items.append(item)
            return item

        group = groups.Group(self.dispatcher.db, self.dispatcher.around, more, self._sizes.most(first))
        try:
            done = group.perform(first)
        except BaseException:
            if not self.dispatcher.around.stopping.is_set():
                logger.critical("Jobs that shared a transaction run one by one: unexpected error", exc_info=True)
            done = groups.Done([], items)
        self._sizes.learn(first.who, done)
        if done.ended:
            took = (time.monotonic() - began) / len(done.ended)
            self.mean = took if self.mean is None else 0.9 * self.mean + 0.1 * took
        for who in places:
            self.dispatcher.neighbours.leave(who, beside=who != first.who)
        now = time.monotonic()
        with self._changed:
            self.jobids[me] = None
            self._sharing.pop(me, None)
            self._open.pop(me, None)
            if done.alone:
                self.waiting.extendleft(item._replace(bundle=None, since=now) for item in reversed(done.alone))
                self._start_for_waiting()
                self._changed.notify_all()
        for item, report in done.ended:
            self._report(item, report)

    def _join(self, thread: threading.Thread, first: Item, places: set[tuple[str, str]]) -> Item | None:
        """The next job that may share the transaction of this thread, which sees only what was claimed before."""
        with self._changed:
            bundle, began, more = self._open.pop(thread)
            for item in self.waiting if self.dispatcher.around.goes_on else ():
                if item.bundle != bundle or item.since >= began or self._sizes.most(item) < 2:
                    continue
                neighbours, known = self.dispatcher.neighbours, item.who in places
                if not (neighbours.follows(item.who) if known else neighbours.enter(item.who, beside=True)):
                    continue
                places.add(item.who)
                self._sharing.setdefault(thread, {first.oid}).add(item.oid)
                self._begin(thread, item)
                self._open[thread] = bundle, began, more - 1
                return item
        return None

    def _run(self, item: Item) -> bool:
        """Run one job; whether the thread can go on."""
        me, began = threading.current_thread(), time.perf_counter()
        around, database = self.dispatcher.around, self.dispatcher.db
        goes_on = True
        try:
            report = execution.perform(
                *(database, item.oid, item.kind, item.token, around, item.info, item.conflicts, item.cls, item.ahead)
            )
        except BaseException as error:
            goes_on = False
            if not around.stopping.is_set():
                explosive = isinstance(error, SystemExit | KeyboardInterrupt)
                log = logger.error if explosive else logger.critical
                log(
                    "A job thread ends: unexpected error in job %s; it counts as interrupted",
                    item.oid.hex(),
                    exc_info=True,
                )
            report = self._interrupted(item)
        took = time.perf_counter() - began
        self.mean = took if self.mean is None else 0.9 * self.mean + 0.1 * took
        self.dispatcher.neighbours.leave(item.who)
        with self._changed:
            if goes_on:
                self.jobids[me] = None
                self._open.pop(me, None)
            else:
                self._forget(me)
                if self.dispatcher.activated and len(self.threads) < self.size:
                    self._start()
        self._report(item, report)
        return goes_on

    def _report(self, item: Item, report: str) -> None:
        item.info.leave(report == execution.REASSIGNED)
        self.dispatcher.count(item.info["failed"])
        frees, end = bool(item.info["quota names"]), item.info.end_of_job
        self.dispatcher.report(self.queue_name, item.oid, report, frees, end)

    def _interrupted(self, item: Item) -> str:
        """The thread dies under its job: an interruption, dealt with at once."""
        try:
            return execution.surely_interrupted(self.dispatcher.db, item.oid, item.token, self.dispatcher.around)
        except BaseException:
            # Still ACTIVE in the database: the end or death of this dispatcher will interrupt it.
            logger.critical("Job %s could not be given back by its dying thread", item.oid.hex(), exc_info=True)
            return execution.REASSIGNED
