"""Set-up without ZCML: adapters, and a dispatcher in one call."""

from collections.abc import Iterable
from collective.zcasync import events
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IQueue
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.reactor import start as start_reactor
from persistent.interfaces import IPersistent
from typing import Any
from zope.component import adapter
from zope.component import provideAdapter
from zope.interface import implementer

import types
import zope.event

#: What becomes a job by itself when it is put.
CALLABLES = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type([].__len__))


@implementer(IQueue)
@adapter(IPersistent)
def getDefaultQueue(context: Any) -> Any:
    """The queue named '' of the database in which a persistent object (or a connection) is."""
    return get_queue(getattr(context, "_p_jar", None) or context)


def minimal() -> None:
    """Adapters for clients that only put jobs: functions and methods become jobs."""
    for kind in CALLABLES:
        provideAdapter(Job, (kind,), IJob)


def base() -> None:
    """``minimal``, and the default queue of persistent objects."""
    minimal()
    provideAdapter(getDefaultQueue)


def start(db: Any, poll_interval: float = 5, queues: Iterable[str] = ("",), **options: Any) -> RunningDispatcher:
    """Register the adapters, create missing queues, and start a dispatcher in a thread. See reactor.start."""
    base()
    zope.event.notify(events.DatabaseOpened(db))
    return start_reactor(db, queues=tuple(queues), poll_interval=poll_interval, **options)
