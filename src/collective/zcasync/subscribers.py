"""Subscribers that set up queues, dispatcher and agents when a database was opened. The work is done elsewhere."""

from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import reactor
from collective.zcasync.agent import Agent
from collective.zcasync.agent import DEFAULT_SIZE
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.dispatcher import POLL_INTERVAL
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import IUUID
from collective.zcasync.signals import StopSignals
from twisted.internet.epollreactor import EPollReactor
from typing import Any
from zope.component import queryUtility

import logging
import os
import uuid as uuidlib
import zope.component.event  # noqa: F401 (through it zope.event reaches the handlers that are registered)

logger = logging.getLogger("collective.zcasync.events")

#: Environment variable that keeps a process from starting a dispatcher, if it is "off".
VETO = "ZCASYNC_DISPATCHER"

#: What the threaded installer has installed: {id(dispatcher): {signal: (the handler before, the installed one)}}.
signal_handlers: dict[int, dict[int, tuple[Any, Any]]] = {}

_stops: dict[int, StopSignals] = {}


class QueueInstaller:
    """Creates the queues that are missing, at an event that has a ``database``. Calling it again changes nothing.

    ``queues``: names. ``factory``: called with a connection and a name, it returns a new queue. ``db_name``: the name
    of the database that is to hold the queues, if it is another one. Then a crash may lose a put or repeat an effect,
    because two databases commit one after the other, and persistent objects of other databases are no arguments.
    """

    def __init__(
        self,
        queues: Iterable[str] = ("",),
        factory: Callable[[Any, str], Any] | None = None,
        db_name: str | None = None,
    ) -> None:
        self.queues = tuple(queues)
        self.factory = factory
        self.db_name = db_name

    def __call__(self, event: Any) -> None:
        """ConfigurationError if there is no such database, or the queues are in another one already."""
        reactor.prepare(event.database, self.queues, self.factory, self.db_name)


class _DispatcherInstaller:
    """What both installers of dispatchers share: no second dispatcher on the same database, and none at all by veto."""

    def __call__(self, event: Any) -> Any:
        """Start the dispatcher, unless one works on that database in this process; return what was started."""
        if os.environ.get(VETO, "").strip().lower() == "off":
            logger.info("Dispatcher not started: the environment variable %s is off", VETO)
            return None
        database = reactor.get_database(event.database)
        present = dispatchers.serving(database)
        if present is not None:
            tell_of_second(present)
            return None
        return self.start(database)

    def start(self, database: Any) -> Any:
        raise AssertionError("each installer has a start of its own")


def tell_of_second(present: Any) -> None:
    """Log that something would start a second dispatcher on the same database in this process."""
    logger.error(
        "Dispatcher not started: dispatcher %s works on this database in this process already. Two ways of starting are"
        " combined: use either a *_dispatcher_policy.zcml, or collective.zcasync.configure.start, or 'dispatcher on' in"
        " zope.conf.",
        present.UUID,
    )


class ThreadedDispatcherInstaller(_DispatcherInstaller):
    """Starts a dispatcher with a reactor of its own in a daemon thread, at an event that has a ``database``.

    In the main thread it also takes over SIGINT and SIGTERM: the dispatcher stops cleanly, then the handler that was
    there for SIGINT is called, or the process exits. The signals are an optimisation: nothing is lost without them.
    ``uuid``: that of the dispatcher (None: the IUUID utility, else a new one). ``options``: see Dispatcher.
    """

    def __init__(
        self,
        poll_interval: float = POLL_INTERVAL,
        reactor_factory: Callable[[], Any] = EPollReactor,
        uuid: uuidlib.UUID | None = None,
        **options: Any,
    ) -> None:
        self.poll_interval = poll_interval
        self.reactor_factory = reactor_factory
        self.uuid = uuid
        self.options = options

    def start(self, database: Any) -> reactor.RunningDispatcher:
        running = reactor.RunningDispatcher(
            database,
            reactor_factory=self.reactor_factory,
            poll_interval=self.poll_interval,
            uuid=_uuid(self.uuid),
            **self.options,
        )
        stops = StopSignals(running.stop, chain=True, hurry=running.hurry)
        if stops.install():
            signal_handlers[id(running.dispatcher)] = stops.handlers
            _stops[id(running.dispatcher)] = stops
        return running


def restore_signal_handlers(dispatcher: Any) -> None:
    """Put back the handlers that were there before this dispatcher's, where its own are still installed."""
    stops = _stops.pop(id(dispatcher), None)
    signal_handlers.pop(id(dispatcher), None)
    if stops is not None:
        stops.uninstall()


class TwistedDispatcherInstaller(_DispatcherInstaller):
    """Starts a dispatcher on the global Twisted reactor, which the application runs, at an event with a ``database``.

    It polls as soon as the reactor runs, and ends with it. ``options``: see Dispatcher.
    """

    def __init__(self, poll_interval: float = POLL_INTERVAL, **options: Any) -> None:
        self.poll_interval = poll_interval
        self.options = options

    def start(self, database: Any) -> Dispatcher:
        dispatcher = Dispatcher(database, poll_interval=self.poll_interval, uuid=_uuid(None), **self.options)
        dispatcher.activate(threaded=True)
        return dispatcher


def _uuid(uuid: uuidlib.UUID | None) -> uuidlib.UUID | None:
    """The dispatcher's UUID: the given one, else that of the process, unless another dispatcher has it."""
    if uuid is None:
        uuid = queryUtility(IUUID)
        return None if uuid is None or dispatchers.get(uuid) is not None else uuid
    return uuid


class AgentInstaller:
    """Adds an agent to each dispatcher that is activated, if it has none of that name. Agents that exist stay as they
    are: change them in the database, at run time.

    ``chooser``, ``filter``, ``size``: see Agent. ``queue_names``: the queues to do it in (None: all).
    """

    def __init__(
        self,
        agent_name: str,
        chooser: Callable[[Any], Any] | None = None,
        size: int = DEFAULT_SIZE,
        queue_names: Iterable[str] | None = None,
        filter: Callable[[Any], bool] | None = None,
    ) -> None:
        if chooser is not None and filter is not None:
            raise InvalidValueError("cannot set both chooser and filter")
        if isinstance(queue_names, str):
            raise InvalidValueError(f"queue_names must be several, not the text {queue_names!r}: ({queue_names!r},)")
        self.agent_name = agent_name
        self.chooser = chooser
        self.size = size
        self.queue_names = None if queue_names is None else frozenset(queue_names)
        self.filter = filter

    def __call__(self, event: Any) -> None:
        """Subscriber of IDispatcherActivated, in the transaction of the activation."""
        da = event.object
        name = da.queue.name
        if self.queue_names is not None and name not in self.queue_names:
            return
        if self.agent_name in da:
            logger.info("agent %r is already in queue %r", self.agent_name, name)
            return
        da[self.agent_name] = Agent(chooser=self.chooser, filter=self.filter, size=self.size)
        logger.info("agent %r added to queue %r", self.agent_name, name)


queue_installer = QueueInstaller()
multidb_queue_installer = QueueInstaller(db_name="async")
threaded_dispatcher_installer = ThreadedDispatcherInstaller()
twisted_dispatcher_installer = TwistedDispatcherInstaller()
agent_installer = AgentInstaller("main")
