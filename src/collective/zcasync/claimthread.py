"""The claim thread of a dispatcher: when it claims, and what it does when the database is away."""

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import transactions
from collective.zcasync.introspection import Introspection
from collective.zcasync.news import News
from collective.zcasync.pollinfo import PollInfo
from transaction.interfaces import NoTransaction
from typing import Any

import logging
import random
import threading
import time
import transaction

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: Seconds after which a second look is taken at what lay in a foreign inbox, before jitter: at least and at most, and
#: in claims between these, as the home's own claim may still be on its way.
SECOND_LOOK, LAST_LOOK, LOOK_CLAIMS = 0.02, 0.1, 3

#: Seconds between two questions at most whether the database is back.
AWAY = 5.0

#: Seconds that anything may take at the end of a dispatcher that was told to hurry.
HURRY = 2.0


class ClaimThread(Introspection):
    """The base of Dispatcher that has its claim thread. All that touches the database runs there."""

    _hurried: bool
    around: Any
    claimer: Any
    membership: Any
    observer: Any
    shares: Any
    watcher: Any
    way: Any
    #: The thread's transaction manager and connection, while it works.
    manager: Any
    connection: Any

    def __init__(self) -> None:
        #: How often the claim thread has looked at its queues, and the last error that it met there.
        self.rounds = 0
        self.last_error: str | None = None
        #: What was told of the queues since the claim thread has looked at them.
        self.news = News()
        self._loop_thread: threading.Thread | None = None
        self._look_again = self._looked = 0.0
        self._wake = threading.Event()
        self._full = threading.Event()
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        #: Whether the claim thread may end. Not when ``activated`` is cleared: the last order comes after that.
        self._over = False
        self._ended = threading.Event()

    def _start_claiming(self) -> None:
        self._over = False
        self._ended.clear()
        self._loop_thread = threading.Thread(target=self._loop, name="zcasync-claims", daemon=True)
        self._loop_thread.start()

    def _join_claiming(self, seconds: float) -> None:
        if self._loop_thread is not None:
            self._loop_thread.join(seconds)

    def _order(self, what: Callable[[], None], seconds: float) -> None:
        """Have the claim thread do something, and wait for it."""
        done = threading.Event()
        self._orders.append((what, done))
        self._wake.set()
        began = time.monotonic()
        while not done.wait(0.1):
            took = time.monotonic() - began
            if took > (HURRY if self._hurried else seconds):
                logger.critical("dispatcher %s: %s takes longer than %.0f s", self.UUID, what.__name__, took)
                return

    def look_soon(self) -> None:
        """Look at all queues at once, without the rest of a poll."""
        self.news.look_at(list(self.claimer.homes))
        self._wake.set()

    def poll_soon(self) -> None:
        """Poll at once instead of waiting for the interval."""
        self._full.set()
        self._wake.set()

    def _loop(self) -> None:
        manager = self.manager = transaction.TransactionManager(explicit=True)
        connection, aways = None, 0
        try:
            while not self._over:
                try:
                    if connection is None:
                        connection = self.connection = self.db.open(manager)
                    self._round()
                    self.rounds += 1
                    aways = 0
                except Exception as error:
                    self.last_error = f"{type(error).__name__}: {error}"
                    self._abort(manager)
                    if not transactions.is_disconnect(error):
                        logger.critical("dispatcher %s: a poll failed; the next tries again", self.UUID, exc_info=True)
                        self._wake.wait(0.5)
                        continue
                    logger.critical("dispatcher %s: the database is away", self.UUID)
                    failed = {name: self.claimer.failed(name, error) for name in self.claimer.homes}
                    self.polls.extend(PollInfo(failed), self.jobs.size)  # the last poll remembers why
                    self.observer.forget()
                    self._close(connection)
                    connection = None
                    if not transactions.wait_for_database(self.db, self.around.stopping, longest=AWAY, before=aways):
                        self._ended.wait(0.5)  # it stops, and the last order needs the database
                    aways += 1
                    self.poll_soon()  # what had woken it, or would have, is forgotten
        finally:
            self._abort(manager)
            self._close(connection)
            self._ended.set()

    @staticmethod
    def _abort(manager: Any) -> None:
        try:
            manager.abort()
        except NoTransaction:
            tracelog.debug("nothing to abort")

    def _close(self, connection: Any) -> None:
        if connection is not None:
            try:
                connection.close()
            except Exception:
                logger.debug("A connection could not be closed", exc_info=True)

    def _round(self) -> None:
        self._wake.wait(self._pause())
        self._wake.clear()
        while self._orders:
            what, done = self._orders.popleft()
            try:
                what()
            finally:
                done.set()
        if not self.activated:
            return
        self.watcher.wait_readable()
        self.way.look(self.manager, self.connection)
        full = self._full.is_set()
        self._full.clear()
        if full:
            self.membership.renew()
        if self.membership.ownership.held is not None:
            if full:
                self._claim((), True, set())  # a poll all the same, in which nothing is claimed
            return
        look = full or bool(self._look_again) and time.monotonic() >= self._look_again
        abroad = self.claimer.looks_abroad() if look else set()
        if look:
            self._look_again, self._looked = 0.0, time.monotonic()
        names = self.claimer.homes if full else (self.claimer.stirring() | abroad).intersection(self.claimer.homes)
        if full or names:
            self._claim(names, full, abroad)
        self._plan_look()

    def _claim(self, names: Iterable[str], full: bool, abroad: set[str]) -> None:
        """Claim in these queues. ``full``: as a poll does. ``abroad``: where also from the inboxes of others."""
        poll = PollInfo()
        newest = poll if full or not self.polls else self.polls.first()
        failed = False
        for name in self.shares.queues_in_turn(names):
            try:
                poll[name] = self.claimer.claim(name, full, full or name in abroad, newest.key)
            except Exception as error:
                self._abort(self.manager)
                if transactions.is_disconnect(error):
                    self.polls.extend(poll, self.jobs.size)  # this poll ends here
                    raise
                poll[name] = self.claimer.failed(name, error)
                failed, self.last_error = True, f"{type(error).__name__}: {error}"
                logger.critical(
                    "dispatcher %s: a claim in queue %r failed; the next one tries again",
                    *(self.UUID, name),
                    exc_info=True,
                )
        for name in self.membership.refused:
            poll[name] = None
        if full:
            self.polls.add(poll)
        else:
            self.polls.extend(poll, self.jobs.size)
        if failed:
            self._ended.wait(0.5)

    def _plan_look(self) -> None:
        """Look at foreign inboxes soon if something may lie there and a thread is free for it."""
        if self._look_again or not self.claimer.looks_abroad():
            return
        if self.shares.room(self._pools()) != 0 and any(sum(pool.wants(0)) for pool in self._pools()):
            pause = min(max(SECOND_LOOK, LOOK_CLAIMS * self.claimer.agents.mean), LAST_LOOK)
            # What was seen then may be taken when that is long enough ago.
            since = self._looked if self.claimer.agents.sees_abroad() else time.monotonic()
            self._look_again = since + pause * (0.75 + random.random() / 2)

    def _pause(self) -> float:
        """Seconds until something is due: a second look, a sweep, a job's time."""
        now = time.monotonic()
        times = [now + self.poll_interval * 2]
        if self._look_again:
            times.append(self._look_again)
        times += self.claimer.due()
        times += self.way.due()
        return max(0.0, min(times) - now)
