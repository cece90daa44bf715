"""The heartbeat: pings from a thread and a connection of their own, so that no long claim or commit delays them."""

from collective.zcasync import clock
from collective.zcasync import instanceuuid
from collective.zcasync import transactions
from collective.zcasync.persistence import written_at
from collective.zcasync.queue import get_queues
from datetime import datetime
from typing import Any

import logging
import threading
import time
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Seconds between two looks at the processes of the own host; they cost no database access.
LOOK = 1.0

#: The same while a sibling is about to be found dead, so that its jobs do not wait for the next look at each step.
GLANCE = 0.1

#: Seconds by which clocks may differ before that is reported, and seconds until it is reported again.
SKEW, SKEW_AGAIN = 2.0, 3600.0

#: Characters of the last error that pings tell.
ERROR_LIMIT = 300


class Heartbeat:
    """Pings for one dispatcher until ``stop``."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        #: (UUID, process, skew) of the active siblings, as the claim thread saw them last.
        self.siblings: list[tuple[Any, dict[str, Any], float | None]] = []
        #: By how many seconds this process' clock is ahead of the storage's; None: not known yet.
        self.skew: float | None = None
        #: When its thread has looked around last, by the monotonic clock, and whether it waits for the database since.
        self.beat, self.pinging = time.monotonic(), False
        self._told: dict[str, float] = {}
        self._pinged = time.monotonic()
        self._error: tuple[datetime, str] | None = None
        #: Whether the registration has to be read before the next claim: others may have taken over since.
        self._unread = False
        self._interval = 30.0
        self._death = 60.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="zcasync-heartbeat", daemon=True)
        self._thread.start()

    def may_claim(self) -> bool:
        """Whether the last ping is recent enough, or the registration was read since: others may have taken over."""
        return not self._unread and time.monotonic() - self._pinged < self._death

    @property
    def beats(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def pace(self, interval: float, death: float) -> None:
        """Seconds between pings, and of silence that mean death: what the registrations say."""
        self._interval, self._death = interval, death

    def registration_was_read(self) -> None:
        """The claim thread knows what the database says of this dispatcher."""
        if time.monotonic() - self._pinged < self._death:
            self._unread = False

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(5)

    def _loop(self) -> None:
        failed, observer = 0.0, self.dispatcher.observer
        while not self._stopped.wait(self._pause()):
            now = self.beat = time.monotonic()
            try:
                due, last = now - self._pinged >= self._interval or observer.wants_ping(), self._pinged
                # After a ping that failed the next one comes soon: siblings wait no longer than for one that is due.
                if due and now - failed >= min(self._interval, max(LOOK, self._interval / 10)):
                    self._ping()
                    failed = time.monotonic() if self._pinged == last else 0.0
                gone = [who for who, process, _s in self.siblings if instanceuuid.process_is_gone(process) is True]
                if gone or observer.due(now):
                    self.siblings = [sibling for sibling in self.siblings if sibling[0] not in gone]
                    self.dispatcher.poll_soon()
            except Exception:  # a dispatcher without pings claims nothing, and is taken for dead
                logger.critical("dispatcher %s: a look at its siblings failed", self.dispatcher.UUID, exc_info=True)

    def _pause(self) -> float:
        """Seconds until the next look."""
        rest = self.dispatcher.observer.rest(time.monotonic(), LOOK)
        return min(LOOK, self._interval / 3, max(GLANCE, rest))

    def _ping(self) -> None:
        self.pinging = True
        try:
            self._try_to_ping()
        finally:
            self.pinging = False

    def _try_to_ping(self) -> None:
        dispatcher = self.dispatcher
        manager = transaction.TransactionManager(explicit=True)
        try:
            connection = dispatcher.db.open(manager)
        except Exception:
            logger.warning("dispatcher %s cannot ping: no connection", dispatcher.UUID, exc_info=True)
            return
        try:
            for _attempt in range(5):
                manager.begin()
                try:
                    before = clock.utcnow()
                    written = self._write(connection)
                    manager.commit()
                    break
                except Exception as error:
                    if not transactions.is_conflict(error) or transactions.is_disconnect(error):
                        raise
                    manager.abort()
            else:
                return
            if written:
                self.measure(before, written[0].last_ping)
            else:
                transactions.ask(dispatcher.db)  # in no queue: the database is asked all the same
        except Exception:
            manager.abort()
            logger.warning("dispatcher %s could not ping; it tries again", dispatcher.UUID, exc_info=True)
            dispatcher.observer.forget()
            return
        finally:
            connection.close()
        now = time.monotonic()
        dispatcher.observer.beat(now, self._interval)
        late = now - self._pinged > self._death
        if late:
            # A gap in the own pings: what others did meanwhile is unknown.
            self._unread = True
            dispatcher.observer.forget()
        self._pinged = now
        if late:
            dispatcher.poll_soon()

    def _write(self, connection: Any) -> list[Any]:
        """Ping in each queue that is this dispatcher's; the registrations."""
        membership, written = self.dispatcher.membership, []
        queues = get_queues(connection)
        for queue in [] if queues is None else queues.values():
            da = queue.dispatchers.get(self.dispatcher.UUID)
            if da is None or not membership.is_own(da):
                continue
            memory, version = instanceuuid.process_memory(), membership.process["version"]
            gave_way, error = self.dispatcher.way.given, self._last_error()
            polite = self.dispatcher.around.politeness
            work = 0.0 if polite is None else polite.much
            queue.dispatchers.beat(da.UUID, memory, version, self.skew, gave_way, error, work)
            written.append(da)
        return written

    def _last_error(self) -> tuple[datetime, str] | None:
        """What went wrong last in the claim thread, and when a ping has noticed it first."""
        error = self.dispatcher.last_error
        if error is not None and (self._error is None or self._error[1] != error[:ERROR_LIMIT]):
            self._error = clock.utcnow(), error[:ERROR_LIMIT]
        return self._error

    # Clocks

    def measure(self, before: datetime, ping: Any) -> None:
        """Compare the clock with the time of a transaction, which lies between two looks at the clock. Any thread.

        ``before``: the look before its commit. ``ping``: a record that it has written.
        """
        stored, after = written_at(ping), clock.utcnow()
        self.dispatcher.membership.ownership.seen(ping._p_serial)
        if stored < before:
            self.skew = (before - stored).total_seconds()
        else:
            self.skew = min((after - stored).total_seconds(), 0.0)
        self._report("the storage", self.skew)
        for who, _process, skew in self.siblings:
            if skew is not None:
                self._report(f"dispatcher {who}", self.skew - skew)

    def _report(self, who: str, skew: float) -> None:
        now, told = time.monotonic(), self._told.get(who)
        if abs(skew) <= SKEW:
            if self._told.pop(who, None) is not None:
                logger.info("The clock of this machine agrees with that of %s again", who)
        elif told is None or now - told > SKEW_AGAIN:
            self._told[who] = now
            logger.warning(
                "The clock of this machine is %.1f s %s that of %s: times that are shown, and the order of jobs, are"
                " wrong by as much. Let it be set by NTP.",
                abs(skew),
                "ahead of" if skew > 0 else "behind",
                who,
            )
