"""A dispatcher with a Twisted reactor of its own, in a daemon thread; start and stop as often as wanted."""

from collective.zcasync import transactions
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.dispatcher import pop
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
    """A dispatcher that works, and the reactor under it. ``stop`` ends both cleanly."""

    def __init__(self, db: Any, **options: Any) -> None:
        # A reactor of our own, never twisted.internet.reactor: that one cannot be started twice.
        self.reactor: Any = EPollReactor()
        self.dispatcher = Dispatcher(db, self.reactor, **options)
        self.thread = threading.Thread(
            target=self.reactor.run, kwargs={"installSignalHandlers": False}, name="zcasync-reactor", daemon=True
        )
        self.dispatcher.thread = self.thread
        self.dispatcher.running = self
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
        reactor._poller.close()


def start(db: Any, queues: Any = None, **options: Any) -> RunningDispatcher:
    """Start a dispatcher on a database, whose queues are created if they are missing.

    ``queues``: names of the queues to serve (None: all). ``options``: see Dispatcher.
    """
    manager = transaction.TransactionManager(explicit=True)
    connection = db.open(manager)

    def call() -> None:
        manager.begin()
        install(connection, tuple(queues or ("",)))

    try:
        transactions.never_fail(call, "the creation of queues", manager)  # others may create them at the same time
    finally:
        connection.close()
    return RunningDispatcher(db, queues=queues, **options)
