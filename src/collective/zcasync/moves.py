"""How claims move waiting jobs from one place of their queue to another, and count them."""

from BTrees.LOBTree import LOBTree
from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import events
from collective.zcasync import notify
from collective.zcasync import waiting
from collective.zcasync.entries import Row
from collective.zcasync.lanes import Lane
from collective.zcasync.persistence import free_key
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.rejections import Rejections
from datetime import datetime
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")


class Moves:
    """The base of Taker that writes the places of one queue, in one transaction. Not persistent.

    ``slot``: where counts are kept; None for a caller without a dispatcher. ``skipped``: what this dispatcher does not
    take, for now.
    """

    def __init__(self, queue: Any, slot: Any, skipped: Rejections) -> None:
        self.queue = queue
        self.slot = slot
        self.skipped = skipped
        #: Keys that this call of ``take`` has looked at, and that stay where they are.
        self.passed: set[int] = set()
        self.now = clock.utcnow()
        self.changed = False
        #: Jobs that were moved into lanes.
        self.moved = 0

    def _count(self, kind: str, change: int) -> None:
        self.changed = True
        if self.slot is not None:
            self.slot.count(kind, change)
        else:
            self.queue.adjust(kind, change)

    def leave(self, row: Row) -> None:
        """Take the entry out of its place."""
        del row.place.tree[row.at]
        self.changed = True
        if row.place.kind in ("backlog", "later", "parked"):
            self._count(row.place.kind, -1)
        elif row.place.kind == "overflow":
            self.queue.count_overflow(int(row.place.name), -1)
        elif row.place.lane is not None:
            self.queue.lanes.get(row.place.lane).waiting.change(-1)
            self._count("backlog", -1)

    def postpone(self, row: Row, until: datetime) -> None:
        """Move the job to the tree of jobs for later."""
        self.leave(row)
        moment, later = clock.to_microseconds(until), self.queue.later
        later[(moment, self._rekey(row, lambda key: (moment, key) in later))] = row.job
        self._count("later", 1)
        self._note_deadline(row.job)

    def park(self, row: Row, name: str) -> None:
        """Move the job to those that wait for a quota or a release."""
        if row.place.kind == "parked" and row.place.name == name:
            self._pass(row)  # another took the place a moment ago; the next claim looks again
            return
        self.leave(row)
        tree = self.queue.parked.get(name)
        if tree is None:
            tree = self.queue.parked[name] = LOBTree()
        tree[self._rekey(row, tree.__contains__)] = row.job
        self._count("parked", 1)
        self._note_deadline(row.job)

    def into_lane(self, row: Row, lane: Lane) -> None:
        """Move the job to those that wait for the holder of their lane."""
        if lane._p_jar is not None:
            lane._p_jar.readCurrent(lane)
        self.leave(row)
        lane.tree[self._rekey(row, lane.tree.__contains__)] = row.job
        lane.waiting.change(1)
        self._count("backlog", 1)
        self._note_deadline(row.job)
        self.moved += 1
        notify.tell_at_commit(self.queue._p_jar)

    @staticmethod
    def _rekey(row: Row, taken: Callable[[int], bool]) -> int:
        """The job's key in the tree that it moves to. Two inboxes can have given the same key: then it gets another."""
        key = free_key(row.key, taken)
        if key != row.key:
            row.job.key = key
        return key

    def _note_deadline(self, job: Any) -> None:
        deadline, deadlines = job.deadline(), self.queue.deadlines
        if deadline is not None:
            moment = clock.to_microseconds(deadline)
            key = free_key(job.key, lambda key: deadlines.get((moment, key), job) is not job)
            if (moment, key) not in deadlines:
                deadlines[(moment, key)] = job
                self.changed = True

    def set_aside(self, row: Row, reason: str) -> None:
        """Quarantine: move the reference, without writing the job (its class may be gone). Whoever ends it meanwhile
        does not write the place where it lies, but the job."""
        self.leave(row)
        if row.job._p_changed is not None:  # a ghost has no serial
            row.job._p_jar.readCurrent(row.job)
        for quota in self.queue.quotas.values():
            quota.discard(row.job)
        if self.queue.quarantine_key(row.job) is not None:
            return  # it had another entry: without its record nobody can tell which of them is stale
        insert(self.queue.quarantine, make_key(), (reason, row.job))
        self._count("quarantined", 1)
        waiting.ended(self.queue, self.slot, row.job, aside=True)
        oid = int.from_bytes(row.job._p_oid, "big")
        logger.error(
            "Job %x was set aside: %s. See it in the panel or with zcasync; release or discard it.", oid, reason
        )
        events.tell(events.JobHeld(f"{oid:x}", "", reason))

    def _pass(self, row: Row) -> None:
        """Leave the job where it is; the next claim looks at it again."""
        self.passed.add(row.key)
        self.skipped.halt(row)
