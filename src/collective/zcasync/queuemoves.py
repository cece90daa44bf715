"""Moving what waits in a queue into another database, so that a crash at any moment loses no job and runs none twice.

Two databases commit one after the other. So each batch takes three commits, each in one database: copies *arrive* in
the other queue, where nobody claims them; the jobs leave the old queue, which remembers their copies; the copies wait.
Whoever is interrupted in between calls it again: what has left is then settled first, and what had but arrived is
copied anew, as is a job that somebody has changed since.
"""

from BTrees.OOBTree import OOBTree
from collections.abc import Callable
from collective.zcasync import actions
from collective.zcasync import callbacks
from collective.zcasync import door
from collective.zcasync import filing
from collective.zcasync import lookup
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IQueue
from collective.zcasync.jobdetail import oid_text
from collective.zcasync.persistence import Payload
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from dataclasses import dataclass
from dataclasses import field
from functools import partial
from itertools import islice
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")

#: Jobs of one batch.
BATCH = 500

#: Why such a job stays, and with it those of its jobs that wait.
GOES_ON = "it is, or belongs to, a serial or parallel job that has begun and goes on in this database"


@dataclass
class Moved:
    """How many jobs were moved, and those that were not: id -> why."""

    number: int = 0
    left: dict[str, str] = field(default_factory=dict)


def move_queue(old: Any, new: Any, name: str = "") -> Moved:
    """Move all jobs that wait in the queue of that name to the queue of that name in another database.

    ``old``, ``new``: connections, each with a transaction manager of its own, on which this begins and ends
    transactions. The other queue is made if it is missing, and its quotas. History stays where it is. BadStatusError
    unless the queue is paused and holds nothing that runs or waits for another job; InvalidValueError for the same
    database. Jobs that hold objects of the old database stay, and so do those that have run but for their callbacks,
    for which others wait, which belong to a serial or parallel job that has begun, whose code is missing, or that were
    set aside.
    """
    if old.db() is new.db():
        raise InvalidValueError(f"the queue {name!r} is in the database {old.db().database_name!r} already")
    return _Move(old, new, name).do()


class _Move:
    def __init__(self, old: Any, new: Any, name: str) -> None:
        self.old, self.new, self.name = old, new, name
        self.moved = Moved()
        #: id of a job that was copied -> (oid, serial) of its records then.
        self.copied: dict[str, list[tuple[bytes, bytes]]] = {}

    def do(self) -> Moved:
        self._in_old(lambda queue: None)
        actions.commit(self.new, self._prepare)
        self._settle()
        while actions.commit(self.new, self._arrive):
            self._settle()
            logger.info("Queue %r: %d jobs were moved so far", self.name, self.moved.number)
        self.old.transaction_manager.begin()
        for row in get_queue(self.old, self.name).waiting_rows():
            if not lookup.loads(row.job):
                self.moved.left[oid_text(row.job)] = "its code is missing here: install it, or discard the job"
            elif row.job.status == CALLBACKS and row.job.key == row.key:
                self.moved.left[row.job.id] = "its code has run, and its callbacks end it in this database"
            elif row.job.status == ACTIVE and row.job.key == row.key:
                self.moved.left[row.job.id] = GOES_ON
        return self.moved

    def _in_old(self, change: Callable[[Any], Any]) -> Any:
        """Change the old queue in a transaction that conflicts with whoever lets its jobs run."""

        def call() -> Any:
            queue = get_queue(self.old, self.name)
            _check_at_rest(queue)
            return change(queue)

        return actions.commit(self.old, call)

    def _prepare(self) -> None:
        queue = install(self.new, (self.name,))[self.name]
        if queue.arriving is None:
            queue.arriving = OOBTree()
        for quota in get_queue(self.old, self.name).quotas.values():
            if quota.name not in queue.quotas:
                queue.quotas.create(quota.name, quota.size)

    def _arrive(self) -> int:
        """Copy the next batch; how many jobs were looked at."""
        self.old.transaction_manager.begin()
        old, new = get_queue(self.old, self.name), get_queue(self.new, self.name)
        batch = list(islice((job for job in old if job.id not in self.moved.left), BATCH))
        trees = waiting.trees(old)
        for job in batch:
            if job.sequence is not None and job.sequence._status_id < 2:
                self.moved.left[job.id] = GOES_ON
                continue
            if waiting.key_in(job._p_oid, trees):
                self.moved.left[job.id] = "a job of this database waits for it"
                continue
            try:
                copier = _Copier(old, new)
                new.arriving[job.id] = copy = copier.of(job)
                self.new.add(copy)
                self.copied[job.id] = copier.copied()
            except Exception as error:
                if transactions.is_conflict(error) or transactions.is_disconnect(error):
                    raise
                new.arriving.pop(job.id, None)
                self.moved.left[job.id] = f"{type(error).__name__}: {error}"
        return len(batch)

    def _settle(self) -> None:
        """Let those leave the old queue that have arrived in the new one, and then wait there."""
        self.new.transaction_manager.begin()
        copies = {id: copy.id for id, copy in get_queue(self.new, self.name).arriving.items()}

        def leave(queue: Any) -> dict[str, str]:
            if queue.departed is None:
                queue.departed = OOBTree()
            for id, new in copies.items():
                if queue.departed.get(id) != new and self._is_as_copied(id) and _leaves(queue, id):
                    queue.departed[id] = new
            return dict(queue.departed)

        def wait(gone: dict[str, str]) -> None:
            queue = get_queue(self.new, self.name)
            for id, new in copies.items():
                copy = queue.arriving.pop(id)
                if gone.get(id) == new:  # else somebody has cancelled or changed it meanwhile
                    queue.give_back(copy)

        gone = self._in_old(leave)
        actions.commit(self.new, partial(wait, gone))
        self._in_old(lambda queue: queue.departed.clear())
        self.moved.number += sum(gone.get(id) == new for id, new in copies.items())

    def _is_as_copied(self, id: str) -> bool:
        """Whether nobody has changed the job since it was copied; the transaction conflicts with who does it now."""
        for oid, serial in self.copied.get(id, ()):
            record = self.old.get(oid)
            record._p_activate()
            if record._p_serial != serial:
                return False
            self.old.readCurrent(record)
        return id in self.copied


def _leaves(queue: Any, id: str) -> bool:
    """Take a job out of its queue; whether it waited there."""
    try:
        job = lookup.find(queue._p_jar, id)
    except JobNotFound:
        return False
    if waiting.key_in(job._p_oid, waiting.trees(queue)):
        return False  # somebody has come to wait for it since it was copied
    if job._status_id != 0 or job.parent is not queue or not queue.take_out(job):
        return False
    filing.leave_quotas(queue, job)
    job.parent = None
    return True


def _check_at_rest(queue: Any) -> None:
    """BadStatusError unless the queue is paused and nothing in it runs, nor waits for another job."""
    queue._p_jar.readCurrent(queue)
    counts = queue.counts()
    busy = {kind: counts[kind] for kind in ("running", "awaiting") if counts[kind]}
    if not queue.paused or busy:
        told = ", ".join(f"{number} {kind}" for kind, number in busy.items()) or "it is not paused"
        raise BadStatusError(
            f"The queue {queue.name!r} cannot be moved ({told}): pause it, and wait until nothing in it runs any more."
        )


class _Copier:
    """Copies the records of one job for another database: those of this package and of BTrees, and no others."""

    def __init__(self, old: Any, new: Any) -> None:
        #: Each with its copy, by its id in memory; it stays there meanwhile.
        self._copies: dict[int, tuple[Any, Any]] = {id(old): (old, new)}

    def copied(self) -> list[tuple[bytes, bytes]]:
        """(oid, serial) of the records that it has copied."""
        return [(one._p_oid, one._p_serial) for one, _copy in self._copies.values() if not IQueue.providedBy(one)]

    def of(self, record: Any) -> Any:
        """The copy of a record, with all that belongs to it; InvalidValueError for what belongs to the database."""
        if id(record) in self._copies:
            return self._copies[id(record)][1]
        if not _moves(record):
            kind = type(record)
            raise InvalidValueError(f"it holds an object of this database ({kind.__module__}.{kind.__qualname__})")
        cls: Any = type(record)
        copy = cls.__new__(cls)
        self._copies[id(record)] = record, copy
        copy.__setstate__(door.rebuilt(record.__getstate__(), self.of))
        return copy


def _moves(record: Any) -> bool:
    """Whether a record belongs to a job, and to nothing else."""
    if IQueue.providedBy(record):
        return False
    own = IJob.providedBy(record) or callbacks.is_proxy(record) or isinstance(record, Payload)
    return own or type(record).__module__.startswith("BTrees.")
