"""Finds the queues: from a connection, a persistent object, or by name."""

from collective.zcasync.exceptions import QueueNotFound
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import KEY
from collective.zcasync.persistence import connection_of
from persistent.interfaces import IPersistent
from typing import Any
from zope.component import adapter
from zope.interface import implementer


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
