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
import uuid as uuidlib

logger = logging.getLogger("collective.zcasync.events")

#: Seconds that the reactor's thread gets to end.
JOIN = 10


class RunningDispatcher:
    """A dispatcher that works, and the reactor under it. ``stop`` ends both cleanly.

    ``politeness``: the requests that its jobs let go first; None: there are none. ``options``: see Dispatcher. Further
    databases of the process get dispatchers of their own by ``serve``.
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
        self.thread = threading.Thread(
            target=self.reactor.run, kwargs={"installSignalHandlers": False}, name="zcasync-reactor", daemon=True
        )
        self._politeness = politeness
        self._options = options
        self._lock = threading.Lock()
        #: One for each database; the first is the process' own.
        self.dispatchers = [self._make(db, options)]
        self.dispatcher = self.dispatchers[0]
        self.thread.start()
        self.dispatcher.activate()

    def _make(self, db: Any, options: dict[str, Any]) -> Dispatcher:
        made = Dispatcher(db, self.reactor, **options)
        made.thread, made.running = self.thread, self
        made.around.politeness = self._politeness
        return made

    def serve(self, db: Any) -> Dispatcher | None:
        """Run the jobs of another database too, with the same options and as many threads; the dispatcher that does.

        Its UUID follows from that of the first and the name of the database. None once ``stop`` was called.
        """
        with self._lock:
            if self.reactor is None:
                return None
            uuid = uuidlib.uuid5(self.dispatcher.UUID, db.database_name)
            made = self._make(db, {**self._options, "uuid": uuid})
            self.dispatchers.append(made)
            made.activate()
            return made

    @property
    def databases(self) -> list[Any]:
        """The databases whose jobs run here."""
        return [one.db for one in self.dispatchers]

    @property
    def ran(self) -> int:
        """How many runs of jobs have ended here; see Dispatcher."""
        return sum(one.ran for one in self.dispatchers)

    @property
    def failed(self) -> int:
        """How many jobs have failed for good here."""
        return sum(one.failed for one in self.dispatchers)

    @property
    def hung(self) -> str | None:
        """The job that has hung, as text; see Dispatcher."""
        return next((one.hung for one in self.dispatchers if one.hung is not None), None)

    def drain(self) -> None:
        """Take no more jobs, and let what runs take as long as it likes; ``idle`` tells when to ``stop``."""
        for one in self.dispatchers:
            one.drain()

    @property
    def idle(self) -> bool:
        """Whether nothing runs here."""
        return all(one.idle for one in self.dispatchers)

    def stop(self, grace: float | None = None) -> None:
        """Stop cleanly, all at the same time: see Dispatcher.deactivate. ``grace``: seconds. Does nothing the second
        time."""
        with self._lock:
            if self.reactor is None:
                return
            active = [one for one in self.dispatchers if one.activated]
            errors = []
            # Without threads: none may be started any more where this is called at the end of the interpreter.
            for step in (lambda one: one.begin_to_leave(grace), lambda one: one.deactivate()):
                for one in active:
                    try:
                        step(one)
                    except Exception as error:
                        errors.append(error)
            self._stop_reactor()
            for one in self.dispatchers:
                pop(one.UUID)
        if errors:
            raise errors[0]

    def hurry(self) -> None:
        """See Dispatcher.hurry."""
        for one in self.dispatchers:
            one.hurry()

    def crash(self) -> None:
        """For tests: stop without a word to the database, as a killed process does."""
        for one in self.dispatchers:
            one.crash()
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
    conflicts = aways = 0
    try:
        while True:
            try:
                manager.begin()
                _install(connection, tuple(names), factory, db_name)
                manager.commit()
                return
            except Exception as error:
                manager.abort()
                if transactions.is_disconnect(error):
                    transactions.wait_for_database(db, before=aways)
                    aways += 1
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
