"""Wake-up by commit: a dispatcher hears of each commit to the records that it watches, in whatever process."""

from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import notify
from collective.zcasync import transactions
from typing import Any

import logging
import threading
import time

logger = logging.getLogger("collective.zcasync.events")

#: Seconds between two looks at a storage that does not tell of commits (RelStorage).
POLL = 0.01

#: The same while PostgreSQL tells of puts: the safety net, and what people's changes of settings wait for.
SLOW_POLL = 1.0


class CommitWatcher:
    """Calls ``callback(oids, tid)`` for each commit that touches a watched oid. ``oids`` is None if any may have
    changed, ``tid`` is None where it is not known.

    Storages that push (FileStorage, DemoStorage, ZEO) call with locks held, in the committing thread or in ZEO's
    networking thread: the callback may set an event, and nothing else. Others are polled by a thread of this object.
    Where PostgreSQL tells of puts (see notify), it is polled then, and slowly otherwise.
    Pushing wraps two private methods of ZODB's MVCC adapter; the dispatcher's poll remains as the safety net.
    """

    def __init__(self, db: Any, callback: Callable[[set[bytes] | None, bytes | None], None]) -> None:
        self.db = db
        self.oids: frozenset[bytes] = frozenset()
        self.callback = callback
        self._newest: bytes | None = None
        self._closed = threading.Event()
        self._look = threading.Event()
        self._listener: notify.Listener | None = None
        self._thread: threading.Thread | None = None
        self._instance = db._mvcc_storage.new_instance()
        self._begin()
        self.pushes = hasattr(self._instance, "_invalidate")
        if self.pushes:
            self._wrap()
        else:
            self._thread = threading.Thread(target=self._poll, name="zcasync-wakeup", daemon=True)
            self._thread.start()
            channel = notify.channel_of(db)
            if channel is not None:
                self._listener = notify.Listener(channel, self._told)

    def _begin(self) -> None:
        """What was committed before is no news."""
        try:
            self._instance.poll_invalidations()
        except Exception as error:
            if not transactions.is_disconnect(error):
                raise
            logger.debug("The storage is away; it is asked again", exc_info=True)

    def watch(self, oids: Iterable[bytes]) -> None:
        """Watch these oids from now on, and no others."""
        self.oids = frozenset(oids)

    def watch_also(self, oids: Iterable[bytes]) -> None:
        """Watch these oids as well, until ``watch`` says otherwise. From the thread that calls ``watch``."""
        self.oids |= frozenset(oids)

    def _wrap(self) -> None:
        instance = self._instance
        invalidate, invalidate_cache = instance._invalidate, instance._invalidateCache

        def _invalidate(tid: bytes, oids: Any) -> None:
            invalidate(tid, oids)
            hit = self.oids.intersection(oids)
            if hit:
                self._newest = tid
                self.callback(set(hit), tid)

        def _invalidate_cache() -> None:
            invalidate_cache()
            self.callback(None, None)

        instance._invalidate = _invalidate
        instance._invalidateCache = _invalidate_cache

    def _told(self, oids: set[bytes] | None) -> None:
        """PostgreSQL tells of these inboxes, or of something that has to be asked for."""
        if oids is None:
            self._look.set()
        elif hit := self.oids.intersection(oids):
            self.callback(set(hit), None)

    def _poll(self) -> None:
        done = getattr(self._instance, "afterCompletion", lambda: None)
        while not self._pause():
            try:
                changed = self._instance.poll_invalidations()
                done()  # else the connection to PostgreSQL stays "idle in transaction"
            except Exception:
                logger.debug("The storage cannot be asked for changes; it is asked again", exc_info=True)
                self._closed.wait(1)
                changed = None
            hit = None if changed is None else self.oids.intersection(changed)
            if hit is None or hit:
                self.callback(None if hit is None else set(hit), None)

    def _pause(self) -> bool:
        """Wait for the next look at the storage; whether the end has come instead."""
        self._look.wait(SLOW_POLL if self._listener is not None and self._listener.connected else POLL)
        self._look.clear()
        return self._closed.is_set()

    def wait_readable(self, timeout: float = 1.0) -> None:
        """Wait until a new transaction sees what was told: ZEO calls back before other connections know of it."""
        newest, end = self._newest, time.monotonic() + timeout
        while newest is not None and self.db.lastTransaction() < newest and time.monotonic() < end:
            time.sleep(0.0002)

    def close(self) -> None:
        """Give the storage instance back."""
        self._closed.set()
        self._look.set()
        if self._listener is not None:
            self._listener.close()
        if self._thread is not None:
            self._thread.join(5)
        self.oids = frozenset()
        self._instance.release()
