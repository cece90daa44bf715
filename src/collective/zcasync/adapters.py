"""The adapters that clients need, under the names that zc.async gave them."""

from collective.zcasync.persistence import connection_of
from collective.zcasync.queue import getDefaultQueue
from persistent.interfaces import IPersistent
from typing import Any
from ZODB.interfaces import IConnection
from zope.component import adapter
from zope.interface import implementer

#: IPersistent -> IQueue, and IConnection -> IQueue.
defaultQueueAdapter = getDefaultQueue


@implementer(IConnection)
@adapter(IPersistent)
def connection(context: Any) -> Any:
    """The connection of a persistent object or of its parents. Zope applications have an adapter of their own."""
    return connection_of(context)
