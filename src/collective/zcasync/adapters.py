"""The adapters that clients need, under the names that zc.async gave them."""

from collective.zcasync.persistence import connection_of
from collective.zcasync.queue import getDefaultQueue
from persistent.interfaces import IPersistent
from transaction.interfaces import ITransactionManager
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


@implementer(ITransactionManager)
@adapter(IPersistent)
def transaction_manager(context: Any) -> Any:
    """The manager of the transactions in which a persistent object, or what a connection holds, is changed."""
    return connection_of(context).transaction_manager
