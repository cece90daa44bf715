"""Finds the queues: from a connection, a persistent object, or by name."""

from collective.zcasync.exceptions import QueueNotFound
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import KEY
from collective.zcasync.persistence import connection_of
from persistent.interfaces import IPersistent
from typing import Any
from zope.component import adapter
from zope.interface import implementer

#: What people and programs outside call the queue without a name.
DEFAULT_QUEUE = "default"


def shown_queue(name: str) -> str:
    """A queue's name as people write it."""
    return name or DEFAULT_QUEUE


def stored_queue(shown: str) -> str:
    """A queue's name as it is stored, for what people write."""
    return "" if shown == DEFAULT_QUEUE else shown


def get_queues(connection: Any) -> Any:
    """The queues of the connection's database, or None if none were installed."""
    return connection.root().get(KEY)


def get_queue(connection: Any, name: str = "") -> Any:
    """A queue by name; QueueNotFound, naming those that exist, if there is none."""
    queues = get_queues(connection)
    if queues is None:
        raise QueueNotFound("this database has no queues yet: import the add-on's profile, or start a dispatcher on it")
    if name not in queues:
        raise QueueNotFound(f"no queue is named {name!r}; there are: {', '.join(map(repr, queues.keys()))}")
    return queues[name]


@implementer(IQueue)
@adapter(IPersistent)
def getDefaultQueue(context: Any) -> Any:
    """The queue named '' for a persistent object (looked for at its parents, if it is new), or for a connection."""
    return get_queue(connection_of(context))
