"""What a job writes in its whole life: commits, records, and bytes as a FileStorage keeps them."""

from benchmarks import clients
from benchmarks import rates
from benchmarks.clients import Beside
from benchmarks.clients import Here
from benchmarks.measuring import rounded
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from ZODB.Connection import Connection
from ZODB.serialize import ObjectWriter

import time

#: Bytes that a FileStorage adds to each record and each transaction.
RECORD, TRANSACTION = 42, 31

#: Threads that put under load: more than the dispatcher keeps up with.
PUTTERS = 4


@dataclass
class Written:
    """What this process has written."""

    commits: int = 0
    records: int = 0
    bytes: int = 0
    #: class -> bytes of its records.
    kinds: Counter[str] = field(default_factory=Counter)

    def each(self, count: int) -> dict[str, Any]:
        """What that makes for each of so many jobs. ``bytes_of``: by the class of the record."""
        return {
            "bytes_of": {kind: round(size / count) for kind, size in self.kinds.most_common(6)},
            "bytes_per_job": rounded((self.bytes + RECORD * self.records + TRANSACTION * self.commits) / count),
            "commits_per_job": rounded(self.commits / count),
            "records_per_job": rounded(self.records / count),
        }


@contextmanager
def counted() -> Iterator[Written]:
    """Count what all connections of this process write, on any storage."""
    written = Written()
    serialize, finish = ObjectWriter.serialize, Connection.tpc_finish

    def serialized(self: Any, obj: Any) -> Any:
        pickled = serialize(self, obj)
        written.records, written.bytes = written.records + 1, written.bytes + len(pickled)
        written.kinds[type(obj).__name__] += len(pickled) + RECORD
        return pickled

    def finished(self: Any, transaction: Any) -> Any:
        written.commits += bool(self._modified or self._creating)
        return finish(self, transaction)

    ObjectWriter.serialize, Connection.tpc_finish = serialized, finished
    try:
        yield written
    finally:
        ObjectWriter.serialize, Connection.tpc_finish = serialize, finish


def lives(here: Here, count: int, together: bool) -> dict[str, Any]:
    """What a no-op job writes: put, claim, finish, sweep. ``together``: many at once, else one by one."""
    count = max(count // PUTTERS, 1) * PUTTERS
    clients.fresh_queue(here, size=rates.THREADS)
    clients.start(here, rates.THREADS)
    with counted() as written:
        if together:
            putters = [Beside(here) for _ in range(PUTTERS)]
            for putter in putters:
                putter.begin(rates.fill_singly, count // PUTTERS)
            for putter in putters:
                putter.result()
            rates.wait(here, [here], count, time.monotonic() + 60)
        else:
            _one_by_one(here, count)
        deadline = time.monotonic() + 10
        while clients.outcome(here)["succeeded"] < count and time.monotonic() < deadline:
            time.sleep(0.02)  # until the last are swept
    clients.stop(here)
    return written.each(count)


def _one_by_one(here: Here, count: int) -> None:
    """Put each job when the one before is done."""
    for number in rates.put_singly(here, count):
        rates.wait(here, [here], number, time.monotonic() + 30)
