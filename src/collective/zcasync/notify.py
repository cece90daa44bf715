"""Wake-up by PostgreSQL: who has put something says so with NOTIFY, and dispatchers LISTEN, where RelStorage is used.

RelStorage does not tell of commits. Where a process has switched a database's channel on, each transaction that enters
jobs is told after its commit, and its dispatchers listen. A notification names the inboxes that have changed, so that
nobody has to ask for that; without a name it says "look at what has changed".
"""

from collections.abc import Callable
from collections.abc import Collection
from typing import Any

import logging
import os
import select
import threading
import time
import weakref

logger = logging.getLogger("collective.zcasync.events")

#: Name of the channel in PostgreSQL. Channels belong to one of the server's databases, as the queues do.
CHANNEL = "collective_zcasync"

#: RelStorage's drivers whose connections can be waited for with ``poll``.
DRIVERS = ("psycopg2", "psycopg2cffi")

#: Seconds after a connection could not be opened, until the next try.
RETRY = 1.0

#: database -> its channel; None: it was to be switched on, and cannot be.
_channels: weakref.WeakKeyDictionary[Any, "Channel | None"] = weakref.WeakKeyDictionary()

#: Inboxes that one notification names at most.
MOST_NAMED = 16

#: Connections of a parent process, kept from being closed: that would end the parent's session.
_inherited: list[Any] = []


def switch_on(db: Any) -> bool:
    """Tell and hear of commits to this database with NOTIFY, in this process; whether its storage can do that."""
    if db not in _channels:
        adapter = getattr(db.storage, "_adapter", None)
        driver = str(getattr(getattr(adapter, "driver", None), "__name__", None))
        if driver in DRIVERS:
            _channels[db] = Channel(adapter)
        else:
            _channels[db] = None
            logger.warning(
                "NOTIFY is switched on, and changes nothing: it needs RelStorage on PostgreSQL with the driver %s, and"
                " the storage of the database %r is %s%s. Take 'notify on' out, or change the storage.",
                " or ".join(DRIVERS),
                db.database_name,
                type(db.storage).__name__,
                "" if adapter is None else f" with the driver {driver}",
            )
    return _channels[db] is not None


def switch_off(db: Any) -> None:
    """Undo ``switch_on``. Dispatchers that run go on listening."""
    channel = _channels.pop(db, None)
    if channel is not None:
        channel.rest()


def channel_of(db: Any) -> "Channel | None":
    """The channel of a database; None if it is not switched on."""
    return _channels.get(db)


def tell_at_commit(connection: Any, inbox: Any = None) -> None:
    """Have the dispatchers told after the commit of the present transaction: once, however often this is called.

    ``inbox``: what has changed, if it is that alone; its oid never changes, and names it.
    """
    channel = None if connection is None else _channels.get(connection.db())
    if channel is None:
        return
    txn = connection.transaction_manager.get()
    try:
        changed: set[bytes | None] = txn.data(channel)
    except KeyError:
        changed = set()
        txn.set_data(channel, changed)
        txn.addAfterCommitHook(channel.send, (changed,))
    changed.add(None if inbox is None else inbox._p_oid)


class Channel:
    """Sends through a connection of its own, which it opens when it is needed. Any thread may call."""

    def __init__(self, adapter: Any) -> None:
        self._manager = adapter.connmanager
        self._lock = threading.Lock()
        self._connection: Any = None
        self._pid = 0
        self._not_before = 0.0

    def open(self, what: str) -> Any:
        """A new connection to the server of the storage, with the storage's own settings, in autocommit."""
        connection, cursor = self._manager.open(application_name=f"zcasync: {what}")
        cursor.close()
        connection.autocommit = True
        return connection

    def send(self, committed: bool = True, changed: Collection[bytes | None] = (None,)) -> None:
        """Wake whoever listens. ``changed``: the oids of inboxes, with None if other things have changed too. Never
        raises: without it, the dispatchers find the jobs a second later."""
        payload = ",".join(oid.hex() for oid in changed if oid) if None not in changed else ""
        payload = payload if len(changed) <= MOST_NAMED else ""
        with self._lock:
            if not committed or time.monotonic() < self._not_before:
                return
            try:
                try:
                    self._execute(payload)
                except Exception:
                    if self._connection is None:
                        raise
                    # It may have been cut off long ago, say by a restart of the server: the next one is new.
                    self._drop()
                    self._execute(payload)
            except Exception as error:
                self._drop()
                self._not_before = time.monotonic() + RETRY
                logger.warning("NOTIFY could not be sent (%s); dispatchers look a second later", _line(error))

    def _execute(self, payload: str) -> None:
        if self._pid != os.getpid():
            self._drop()
        if self._connection is None:
            self._connection, self._pid = self.open("notify"), os.getpid()
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            connection.close()
        elif connection is not None:
            _inherited.append(connection)

    def rest(self) -> None:
        """Give the connection back; the next ``send`` opens another."""
        with self._lock:
            self._drop()


class Listener:
    """Calls ``callback(oids)`` with what notifications name, and ``callback(None)`` for one that names nothing and when
    the connection comes or goes, in a thread of its own."""

    def __init__(self, channel: Channel, callback: Callable[[set[bytes] | None], None]) -> None:
        self.channel, self.callback = channel, callback
        #: Whether notifications arrive. While they do not, ask the storage often.
        self.connected = False
        self._closed = threading.Event()
        self._end, self._begin = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="zcasync-listener", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        away = False
        while not self._closed.is_set():
            connection = None
            try:
                connection = self.channel.open("listen")
                with connection.cursor() as cursor:
                    cursor.execute(f"LISTEN {CHANNEL}")
                self.connected = True
                if away:
                    logger.info("PostgreSQL tells of commits again")
                away = False
                self._hear(connection)
            except Exception as error:
                if not away:
                    logger.warning("PostgreSQL does not tell of commits (%s); asking it often meanwhile", _line(error))
                away = True
            finally:
                self.connected = False
                if connection is not None:
                    connection.close()
            self.callback(None)
            self._closed.wait(RETRY)

    def _hear(self, connection: Any) -> None:
        """Listen until ``close``; raises when the connection breaks."""
        poll = select.poll()  # has no limit on descriptors, and none of its own
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._end, select.POLLIN)
        self.callback(None)  # what came before LISTEN was not told
        while not self._closed.is_set():
            poll.poll()
            connection.poll()
            told = [_named(one.payload) for one in connection.notifies]
            del connection.notifies[:]
            if told:
                self.callback(None if None in told else set().union(*filter(None, told)))

    def close(self) -> None:
        """End the thread, and give its connection back, and the channel's."""
        self._closed.set()
        os.write(self._begin, b".")
        self._thread.join(5)
        if not self._thread.is_alive():  # else it may wait for the server, and needs them
            os.close(self._begin)
            os.close(self._end)
        self.channel.rest()


def _named(payload: str) -> set[bytes] | None:
    """The oids in a notification, which anybody may send; None: it names nothing."""
    try:
        return {bytes.fromhex(name) for name in payload.split(",")} if payload else None
    except ValueError:
        return None


def _line(error: Exception) -> str:
    """What PostgreSQL says, which it likes to spread over lines."""
    return " ".join(str(error).split()) or type(error).__name__
