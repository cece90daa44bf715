"""Figures of the database for whoever asks often: read now and then, by a thread and a connection of their own."""

from collective.zcasync import figures
from collective.zcasync.figures import Figure
from typing import Any

import logging
import os
import threading
import time
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Seconds between two readings, at least; and reading may take this part of the time of one thread, at most.
EVERY, SHARE = 15.0, 0.05

#: Seconds that one who asks waits for a reading, and after which what was read is too old to be told.
PATIENCE, KEEP = 2.0, 300.0


class Reading:
    """The figures of the database ``db`` and of those that are open beside it. Whoever asks never reads by himself: a
    database that is slow, or away, costs him PATIENCE, and nobody else anything."""

    def __init__(self, db: Any) -> None:
        self.db = db
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._known: list[Figure] = []
        #: By the monotonic clock: when the known ones were read, and from when on others may be.
        self._read = -KEEP
        self._next = 0.0

    def figures(self) -> list[Figure]:
        """What was read last, and how old that is; nothing if it is too old, or nothing could be read."""
        with self._lock:
            if (self._thread is None or not self._thread.is_alive()) and time.monotonic() >= self._next:
                self._thread = threading.Thread(target=self._run, name="zcasync-figures", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            thread.join(PATIENCE)
        with self._lock:
            age = time.monotonic() - self._read
            if age > KEEP:
                return []
            told = Figure("zcasync_database_age_seconds", figures.GAUGE, "How old the figures of the database are.")
            told.add(age)
            return [*self._known, told]

    def _run(self) -> None:
        began = time.monotonic()
        try:
            known = self._figures()
        except Exception:
            logger.warning("The figures of the database could not be read", exc_info=True)
            known = None
        with self._lock:
            ended = time.monotonic()
            self._next = max(began + EVERY, ended + (ended - began) / SHARE)
            if known is not None:
                self._known, self._read = known, ended
            self._thread = None

    def _figures(self) -> list[Figure]:
        manager = transaction.TransactionManager(explicit=True)
        connection = self.db.open(manager)
        try:
            manager.begin()
            return figures.of_databases(connection)
        finally:
            manager.abort()
            connection.close()
