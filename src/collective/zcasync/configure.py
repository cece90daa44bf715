"""Set-up without ZCML: adapters, and queues with a dispatcher in one call."""

from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import adapters
from collective.zcasync import events
from collective.zcasync import instanceuuid
from collective.zcasync import subscribers
from collective.zcasync.agent import DEFAULT_SIZE
from collective.zcasync.dispatcher import POLL_INTERVAL
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IUUID
from collective.zcasync.job import Job
from collective.zcasync.queue import getDefaultQueue
from typing import Any
from ZODB.interfaces import IConnection
from zope.component import getGlobalSiteManager
from zope.component import provideAdapter
from zope.component import provideUtility
from zope.component import queryUtility

import types
import zope.event

__all__ = ("base", "getDefaultQueue", "minimal", "start")

#: What becomes a job by itself when it is put.
CALLABLES = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type([].__len__))

#: The agents of the last ``start``.
_agents: subscribers.AgentInstaller | None = None


def minimal() -> None:
    """What clients need that only put jobs: functions and methods become jobs, ITransactionManager(job) is the
    manager of its transactions, and the process has a UUID.

    The UUID is drawn here (or read from the file that ZCASYNC_UUID or ZC_ASYNC_UUID names), not at import.
    """
    for kind in CALLABLES:
        provideAdapter(Job, (kind,), IJob)
    provideAdapter(adapters.transaction_manager)
    provideAdapter(adapters.transaction_manager, (IConnection,))
    if queryUtility(IUUID) is None:
        provideUtility(instanceuuid.getUUID(), IUUID)


def base() -> None:
    """``minimal``; connections of persistent objects; and the default queue of both."""
    minimal()
    provideAdapter(adapters.connection)
    provideAdapter(getDefaultQueue)
    provideAdapter(getDefaultQueue, (IConnection,))


def start(
    db: Any,
    poll_interval: float = POLL_INTERVAL,
    db_name: str | None = None,
    agent_chooser: Callable[[Any], Any] | None = None,
    agent_size: int = DEFAULT_SIZE,
    twisted: bool = False,
    queues: Iterable[str] = ("",),
    **options: Any,
) -> Any:
    """Register the adapters, create missing queues, and start a dispatcher with one agent, "main", in each queue.

    Returns the RunningDispatcher, whose ``stop`` ends it; with ``twisted`` the Dispatcher, which polls and ends with
    the global Twisted reactor. None, with a log line, if one works on the database already, or ZCASYNC_DISPATCHER is
    off. ``db_name``: see QueueInstaller. ``agent_chooser``, ``agent_size``: see Agent. ``queues``: names of those to
    create. ``options``: see Dispatcher. An alternative to ZCML, not to be combined with it.
    """
    global _agents
    base()
    registry = getGlobalSiteManager()
    if _agents is not None:
        registry.unregisterHandler(_agents, (events.IDispatcherActivated,))
    _agents = subscribers.AgentInstaller("main", chooser=agent_chooser, size=agent_size)
    registry.registerHandler(_agents, (events.IDispatcherActivated,))
    opened = events.DatabaseOpened(db)
    subscribers.QueueInstaller(queues, db_name=db_name)(opened)
    zope.event.notify(opened)
    if twisted:
        return subscribers.TwistedDispatcherInstaller(poll_interval, **options)(opened)
    return subscribers.ThreadedDispatcherInstaller(poll_interval, **options)(opened)
