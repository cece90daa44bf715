"""The heartbeat: pings from a thread and a connection of their own, so that no long claim or commit delays them."""

from collective.zcasync import instanceuuid
from collective.zcasync import transactions
from collective.zcasync.queue import get_queues
from typing import Any

import logging
import threading
import time
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Seconds between two looks at the processes of the own host; they cost no database access.
LOOK = 1.0


class Heartbeat:
    """Pings for one dispatcher until ``stop``."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        #: (UUID, process) of the active siblings, as the claim thread saw them last.
        self.siblings: list[Any] = []
        self._pinged = time.monotonic()
        self._interval = 30.0
        self._death = 60.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="zcasync-heartbeat", daemon=True)
        self._thread.start()

    def may_claim(self) -> bool:
        """Whether the last ping is recent enough: whoever could not ping may have been buried meanwhile."""
        return time.monotonic() - self._pinged < self._death

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(5)

    def _loop(self) -> None:
        tried = 0.0
        while not self._stopped.wait(min(LOOK, self._interval / 3)):
            now = time.monotonic()
            try:
                if now - max(tried, self._pinged) >= self._interval:
                    tried = now
                    self._ping()
                if any(instanceuuid.process_is_gone(process) is True for _uuid, process in self.siblings if process):
                    self.siblings = []
                    self.dispatcher.poll_soon()
            except Exception:  # a dispatcher without pings claims nothing, and is taken for dead
                logger.critical("dispatcher %s: a look at its siblings failed", self.dispatcher.UUID, exc_info=True)

    def _ping(self) -> None:
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
                    self._write(connection)
                    manager.commit()
                    break
                except Exception as error:
                    if not transactions.is_conflict(error) or transactions.is_disconnect(error):
                        raise
                    manager.abort()
            else:
                return
        except Exception:
            manager.abort()
            logger.warning("dispatcher %s could not ping; it tries again", dispatcher.UUID, exc_info=True)
            dispatcher.observer.forget()
            return
        finally:
            connection.close()
        late = time.monotonic() - self._pinged > self._death
        self._pinged = time.monotonic()
        if late:
            # A gap in the own pings: what others did meanwhile is unknown, so count their silence anew.
            dispatcher.observer.forget()
            dispatcher.poll_soon()

    def _write(self, connection: Any) -> None:
        queues = get_queues(connection)
        for queue in [] if queues is None else queues.values():
            da = queue.dispatchers.get(self.dispatcher.UUID)
            if da is None:
                continue
            self._interval = da.ping_interval.total_seconds()
            self._death = da.ping_death_interval.total_seconds()
            queue.dispatchers.ping(self.dispatcher.UUID)
