"""What the engine tells: one event for each fact.

The events about dispatchers and queues are fired inside the transaction that makes the change, as in zc.async. Those
about jobs (``JobEvent``) are fired after the commit, in the process concerned, and no subscriber can break a job.
"""

from collective.zcasync import inprocess
from collective.zcasync.counters import counters
from typing import Any
from zope.interface import Attribute
from zope.interface import implementer
from zope.interface import Interface
from zope.interface.interfaces import IObjectEvent

import logging
import time
import transaction
import zope.event

logger = logging.getLogger("collective.zcasync.events")

#: Seconds between two warnings that nobody serves a queue.
WARN_EVERY = 60.0

_warned: dict[str, float] = {}


class IDispatcherRegistered(IObjectEvent):
    """A dispatcher was registered in a queue."""


class IDispatcherUnregistered(IObjectEvent):
    """A dispatcher was removed from a queue."""


class IDispatcherActivated(IObjectEvent):
    """A dispatcher begins to work for a queue; agents are added here."""


class IDispatcherDeactivated(IObjectEvent):
    """A dispatcher has ended its work for a queue."""


class IDispatcherReactivated(IObjectEvent):
    """A dispatcher that was taken for dead has pinged again."""


class IObjectAdded(IObjectEvent):
    """The queues, or a queue, were created."""

    parent = Attribute("The container")
    name = Attribute("The key in the container")


class IDatabaseOpenedEvent(Interface):
    """A database was opened; for use without an application framework."""

    database = Attribute("The ZODB.DB")


class IJobEvent(IObjectEvent):
    """Something happened to a job, and is committed. ``id`` names the job, ``task`` its task."""

    id = Attribute("The job's id")
    task = Attribute("The name of its task or callable")


class IJobPut(IJobEvent):
    """A job was put, and that is committed."""


class IJobStarted(IJobEvent):
    """A job thread begins with a job."""


class IJobFinished(IJobEvent):
    """A job ended well."""


class IJobFailed(IJobEvent):
    """A job ended with a Failure."""


class IJobHeld(IJobEvent):
    """A job was set aside until a person decides."""


class ObjectEvent:
    """Base of the events: ``object`` is what it is about."""

    def __init__(self, object: Any) -> None:
        self.object = object


@implementer(IDispatcherRegistered)
class DispatcherRegistered(ObjectEvent):
    """See IDispatcherRegistered."""


@implementer(IDispatcherUnregistered)
class DispatcherUnregistered(ObjectEvent):
    """See IDispatcherUnregistered."""


@implementer(IDispatcherActivated)
class DispatcherActivated(ObjectEvent):
    """See IDispatcherActivated."""


@implementer(IDispatcherDeactivated)
class DispatcherDeactivated(ObjectEvent):
    """See IDispatcherDeactivated."""


@implementer(IDispatcherReactivated)
class DispatcherReactivated(ObjectEvent):
    """See IDispatcherReactivated."""


@implementer(IObjectAdded)
class ObjectAdded(ObjectEvent):
    """See IObjectAdded."""

    def __init__(self, object: Any, parent: Any, name: str) -> None:
        super().__init__(object)
        self.parent = parent
        self.name = name


@implementer(IDatabaseOpenedEvent)
class DatabaseOpened:
    """See IDatabaseOpenedEvent."""

    def __init__(self, database: Any) -> None:
        self.database = database


class JobEvent(ObjectEvent):
    """Base of the events about jobs. ``object`` is None: the job may belong to a closed connection by then."""

    #: What has happened, in a word.
    happened = ""

    def __init__(self, id: str | None, task: str) -> None:
        super().__init__(None)
        self.id = id
        self.task = task


@implementer(IJobPut)
class JobPut(JobEvent):
    """See IJobPut."""

    happened = "put"


@implementer(IJobStarted)
class JobStarted(JobEvent):
    """See IJobStarted."""

    happened = "started"


@implementer(IJobFinished)
class JobFinished(JobEvent):
    """See IJobFinished."""

    happened = "finished"


@implementer(IJobFailed)
class JobFailed(JobEvent):
    """See IJobFailed. ``error``: one line, type and message."""

    happened = "failed"

    def __init__(self, id: str | None, task: str, error: str = "") -> None:
        super().__init__(id, task)
        self.error = error


@implementer(IJobHeld)
class JobHeld(JobEvent):
    """See IJobHeld. ``reason``: one line."""

    happened = "held"

    def __init__(self, id: str | None, task: str, reason: str = "") -> None:
        super().__init__(id, task)
        self.reason = reason


def tell(event: JobEvent) -> None:
    """Count a job event, and notify its subscribers; what they raise is logged, never passed on."""
    counters.happened(event.happened, event.task)
    try:
        zope.event.notify(event)
    except Exception:
        logger.exception("A subscriber of %s failed; the job is not affected", type(event).__name__)


def tell_put_at_commit(queue: Any, job: Any) -> None:
    """Tell after the commit of the present transaction that a job was put: one hook for all jobs, as they are many."""
    txn = queue._p_jar.transaction_manager.get()
    try:
        puts = txn.data(tell_puts)
    except KeyError:
        puts = {}
        txn.set_data(tell_puts, puts)
        txn.addAfterCommitHook(tell_puts, (puts,))
    ids = puts.get((queue.name, job.task))
    if ids is None:
        if not queue.dispatchers.serves():
            txn.addAfterCommitHook(_tell_unserved, (job.id, job.task, queue.name, queue._p_jar.db(), queue._p_oid))
        ids = puts[queue.name, job.task] = []
    ids.append(job.id)


def tell_puts(committed: bool, puts: dict[tuple[str, str], list[str]]) -> None:
    """After the commit: each job that it has put. ``puts``: (queue, task) -> ids."""
    for (_queue, task), ids in puts.items() if committed else ():
        for id in ids:
            tell(JobPut(id, task))


def _tell_unserved(committed: bool, id: str, task: str, queue: str, db: Any, oid: bytes) -> None:
    """Now and then: nobody will run what was put."""
    if not committed or time.monotonic() - _warned.get(queue, -WARN_EVERY) < WARN_EVERY:
        return
    if _is_served(db, oid, queue):
        return
    _warned[queue] = time.monotonic()
    logger.warning(
        "Job %s (%s) waits in queue %r, which no dispatcher serves. Switch one on in zope.conf, or run zcasync worker.",
        id,
        task,
        queue,
    )


def _is_served(db: Any, oid: bytes, queue: str) -> bool:
    """Whether a dispatcher is at work there now: the transaction that put may have begun before it came."""
    here = inprocess.serving(db)
    if here is not None and (here.served is None or queue in here.served):
        return True
    manager = transaction.TransactionManager(explicit=True)
    connection = db.open(manager)
    try:
        manager.begin()
        return bool(connection.get(oid).dispatchers.serves())
    finally:
        manager.abort()
        connection.close()
