"""A dispatcher with a Twisted reactor of its own, in a daemon thread; start and stop as often as wanted."""

from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import transactions
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.dispatcher import pop
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.interfaces import KEY
from collective.zcasync.politeness import Politeness
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import install
from twisted.internet.epollreactor import EPollReactor
from typing import Any

import logging
import threading
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Seconds that the reactor's thread gets to end.
JOIN = 10


class RunningDispatcher:
    """A dispatcher that works, and the reactor under it. ``stop`` ends both cleanly.

    ``politeness``: the requests that its jobs let go first; None: there are none. ``options``: see Dispatcher.
    """

    def __init__(
        self,
        db: Any,
        reactor_factory: Callable[[], Any] = EPollReactor,
        politeness: Politeness | None = None,
        **options: Any,
    ) -> None:
        # A reactor of our own, never twisted.internet.reactor: that one cannot be started twice.
        self.reactor: Any = reactor_factory()
        self.dispatcher = Dispatcher(db, self.reactor, **options)
        self.thread = threading.Thread(
            target=self.reactor.run, kwargs={"installSignalHandlers": False}, name="zcasync-reactor", daemon=True
        )
        self.dispatcher.thread = self.thread
        self.dispatcher.running = self
        self.dispatcher.around.politeness = politeness
        self.thread.start()
        self.dispatcher.activate()

    def stop(self, grace: float | None = None) -> None:
        """Stop cleanly: see Dispatcher.deactivate. ``grace``: seconds. Does nothing the second time."""
        if self.reactor is None:
            return
        if self.dispatcher.activated:
            self.dispatcher.deactivate(grace)
        self._stop_reactor()
        pop(self.dispatcher.UUID)

    def hurry(self) -> None:
        """See Dispatcher.hurry."""
        self.dispatcher.hurry()

    def crash(self) -> None:
        """For tests: stop without a word to the database, as a killed process does."""
        self.dispatcher.crash()
        self._stop_reactor()

    def _stop_reactor(self) -> None:
        self.reactor.callFromThread(self.reactor.stop)
        self.thread.join(JOIN)
        if self.thread.is_alive():
            logger.critical("the reactor of dispatcher %s does not stop", self.dispatcher.UUID)
            return
        reactor, self.reactor = self.reactor, None
        # A stopped reactor keeps its waker and its epoll descriptor: give them back.
        reactor.removeAll()
        for reader in list(reactor._internalReaders):
            reader.connectionLost(None)
        if isinstance(reactor, EPollReactor):
            reactor._poller.close()


def start(db: Any, queues: Any = None, **options: Any) -> RunningDispatcher:
    """Start a dispatcher on a database, whose queues are created if they are missing.

    ``queues``: names of the queues to serve (None: all). ``options``: see RunningDispatcher and Dispatcher.
    """
    prepare(db, tuple(queues or ("",)))
    return RunningDispatcher(db, queues=queues, **options)


def prepare(
    db: Any,
    names: Iterable[str] = ("",),
    factory: Callable[[Any, str], Any] | None = None,
    db_name: str | None = None,
) -> None:
    """Create the queues of a database where they are missing, and commit; other processes may do so at the same time.

    ``factory``: called with a connection and a name, it returns a new queue. ``db_name``: the name of another database
    of the same application that is to hold the queues; the root of ``db`` then refers to them. ConfigurationError if
    there is none of that name, or if the queues are elsewhere already.
    """
    manager = transaction.TransactionManager(explicit=True)
    connection = db.open(manager)
    conflicts = 0
    try:
        while True:
            manager.begin()
            try:
                _install(connection, tuple(names), factory, db_name)
                manager.commit()
                return
            except Exception as error:
                manager.abort()
                if transactions.is_disconnect(error):
                    transactions.wait_for_database(db)
                elif not transactions.is_conflict(error):
                    raise
                conflicts += 1
                transactions.conflict_pause(conflicts, None)
    finally:
        connection.close()


def _install(connection: Any, names: tuple[str, ...], factory: Any, db_name: str | None) -> None:
    db = connection.db()
    home = get_database(db, connection)
    if db_name is not None and db_name not in db.databases:
        raise ConfigurationError(
            f"there is no database {db_name!r} for the queues; there are: {', '.join(sorted(db.databases))}"
        )
    if get_queues(connection) is not None and db_name not in (None, home.database_name):
        raise ConfigurationError(
            f"the queues are in the database {home.database_name!r} already, and cannot be made in {db_name!r}"
        )
    there = connection if db_name is None and home is db else connection.get_connection(db_name or home.database_name)
    queues = install(there, names, factory)
    if there is not connection and get_queues(connection) is None:
        connection.root()[KEY] = queues


def get_database(db: Any, connection: Any = None) -> Any:
    """The database that holds the queues: ``db``, or the one that its root refers to."""
    if connection is None:
        manager = transaction.TransactionManager()
        with_own = db.open(manager)
        try:
            return get_database(db, with_own)
        finally:
            manager.abort()
            with_own.close()
    queues = get_queues(connection)
    return db if queues is None else queues._p_jar.db()
