"""Read checks: a transaction conflicts with whoever changes before its commit what it has looked at."""

from collections.abc import Iterator
from typing import Any
from ZODB.utils import z64


def records_of(tree: Any) -> Iterator[Any]:
    """The records of a stored BTree, one of which is written by whatever adds an entry or takes one out."""
    record = tree
    while record is not None:
        if record._p_oid is not None:  # the only bucket of a small tree is a part of the tree's record
            record._p_activate()
            yield record
        record = record._firstbucket if record is tree else record._next


def read_current(tree: Any) -> None:
    """Let the present transaction conflict with whoever adds an entry to a stored BTree, or takes one out, before its
    commit. Also if it does that itself, where two such changes would be merged."""
    for record in records_of(tree):
        keep_current(record)


def keep_current(record: Any) -> None:
    """The same for one stored record and whoever writes it, as a Length, which would be merged too."""
    record._p_activate()  # a ghost has no serial
    if record._p_serial != z64:  # else it is new
        _checks_of(record._p_jar).serials[record._p_oid] = record._p_serial


class ReadChecks:
    """A data manager, which joins a transaction beside a connection: what that has read must not have changed.

    The connection's own read checks leave out what the transaction writes: two who write a record conflict anyway. But
    two who write a BTree are merged.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        #: oid -> serial of the records as they were read.
        self.serials: dict[bytes, bytes] = {}

    def sortKey(self) -> str:
        return f"{self.connection.sortKey()} "  # next behind the connection, which stores first

    def commit(self, txn: Any) -> None:
        if self.connection._needs_to_join:
            return  # it stores nothing, so nothing depends on what it has read
        for oid, serial in self.serials.items():
            self.connection._storage.checkCurrentSerialInTransaction(oid, serial, txn.data(self.connection))

    def savepoint(self) -> "ReadChecks":
        return self

    def rollback(self) -> None:
        """What was read before a savepoint stays read, and it harms nobody that what was read since stays so too."""

    def abort(self, txn: Any) -> None:
        """Nothing was done."""

    tpc_begin = tpc_vote = tpc_finish = tpc_abort = abort


def _checks_of(connection: Any) -> ReadChecks:
    """Those of the present transaction."""
    txn = connection.transaction_manager.get()
    for one in txn._resources:
        if isinstance(one, ReadChecks) and one.connection is connection:
            return one
    checks = ReadChecks(connection)
    txn.join(checks)
    return checks
