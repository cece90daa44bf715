"""The places of a queue: where jobs wait, run and are kept, and how to look at them."""

from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import entries
from collective.zcasync import letters
from collective.zcasync import lookup
from collective.zcasync.history import ALWAYS
from collective.zcasync.history import joined
from collective.zcasync.history import Kind
from collective.zcasync.history import merged
from collective.zcasync.history import Span
from collective.zcasync.history import Tally
from collective.zcasync.lanes import holder_of
from collective.zcasync.lanes import Lanes
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import item_at
from collective.zcasync.persistence import make_inbox
from collective.zcasync.persistence import size
from collective.zcasync.slot import COUNTS
from collective.zcasync.slot import Slot
from datetime import datetime
from typing import Any

import heapq
import itertools
import random
import threading

#: Inboxes of a queue. Two threads on one do no harm; 16 keep the records small.
SHARDS = 16

#: Puts after which a thread draws its inbox anew.
SAME_SHARD = 100

_thread = threading.local()


def my_shard(count: int) -> int:
    """The number of the inbox that this thread puts into, for now."""
    left = getattr(_thread, "left", 0)
    if left <= 0 or _thread.shard >= count:
        _thread.shard, left = random.randrange(count), SAME_SHARD
    _thread.left = left - 1
    return _thread.shard


class Places(Base):
    """What a queue is made of, and its lists. The base of Queue, which says who writes what.

    Lists are lazy and load no payloads; a list that is read while claims work may show a job twice or not at all.
    """

    #: Groups whose jobs are kept from running until a person releases them.
    held_groups: tuple[str, ...] = ()
    #: How many jobs lie in each overflow, where they may be a million; they merge. None in an older queue.
    overflow_lengths: tuple[Any, ...] | None = None
    #: What is held in lanes; None: no dispatcher has come to the queue since lanes are known.
    lanes: Lanes | None = None
    quotas: Any
    dispatchers: Any

    def __init__(self) -> None:
        self.inboxes = tuple(make_inbox() for _ in range(SHARDS))
        self.overflows = tuple(LOBTree() for _ in range(SHARDS))
        self.overflow_lengths = tuple(Length() for _ in range(SHARDS))
        self.slots: Any = IOBTree()
        #: (microseconds, key) -> job: jobs whose begin_after has not come.
        self.later: Any = OOBTree()
        #: (microseconds, key) -> job: jobs with a begin_by, wherever they wait.
        self.deadlines: Any = OOBTree()
        #: "quota:NAME" or "group:GROUP" -> key -> job: jobs that wait for a quota or for a release.
        self.parked: Any = OOBTree()
        #: oid of an inner job -> the jobs that have returned it, and end when it does; see ``waiting``.
        self.waiting_for: Any = LOBTree()
        #: key -> (reason, job)
        self.quarantine: Any = LOBTree()
        self.lanes = Lanes()
        #: Corrections of the slots' counts by those who are no dispatchers; they merge.
        self.adjustments = {kind: Length() for kind in COUNTS}

    # Looking

    def places(self, shards: Any, slot: Any, now: datetime | None, everyones: bool = False) -> Iterator[entries.Place]:
        """Where jobs wait that may be taken: the given inboxes, the slot's backlogs and those of free slots, the lanes
        that no other dispatcher holds, what is due, and what is parked for a quota that has room or a group that was
        released. ``now`` None: all places. ``everyones``: also the backlogs of other dispatchers."""
        for shard in shards:
            if size(self.inboxes[shard]) > 1:
                yield entries.Place("inbox", self.inboxes[shard])
            if self.overflows[shard]:
                yield entries.Place("overflow", self.overflows[shard], str(shard))
        for other in self.slots.values():
            mine = other is slot or other.owner is None
            if now is None or everyones or mine:
                for group, tree in other.backlogs.items():
                    if tree:
                        yield entries.Place("backlog", tree, group, mine)
        for key, lane in self.lanes.items() if self.lanes is not None else ():
            if now is None or slot is None or holder_of(self, lane) in (None, slot.owner):
                yield entries.Place("lane", lane.tree, key[0], lane=key)
        if self.later:
            yield entries.Place("later", self.later)
        for name, tree in self.parked.items():
            if tree and (now is None or self._open(name)):
                yield entries.Place("parked", tree, name)

    def all_places(self) -> Iterator[entries.Place]:
        """Wherever jobs wait, whoever may take them."""
        return self.places(range(len(self.inboxes)), None, None)

    def _open(self, name: str) -> bool:
        """Whether what is parked under ``name`` may go on."""
        kind, _, value = name.partition(":")
        if kind == "group":
            return value not in self.held_groups
        quota = self.quotas.get(value)
        return quota is None or not quota.filled

    def _all_rows(self) -> Iterator[entries.Row]:
        rows = [
            sorted(entries.place_rows(place), key=lambda row: row.key)
            if place.kind == "later"
            else entries.place_rows(place)
            for place in self.all_places()
        ]
        return heapq.merge(*rows, key=lambda row: row.key)

    def waiting(self, after: int | None = None, group: str | None = None) -> Iterator[tuple[int, Any]]:
        """(key, job) of the jobs that may be claimed as soon as a thread is free, in the order offered.

        ``group``: without what lies in the backlogs and lanes of other groups.
        """
        for row in self.waiting_rows(group):
            if after is None or row.key > after:
                yield row.key, row.job

    def waiting_rows(self, group: str | None = None) -> Iterator[entries.Row]:
        """The same, each with the place where it lies."""
        rows = [entries.place_rows(place) for place in self.all_places() if place.offers(group)]
        yield from heapq.merge(*rows, key=lambda row: row.key)

    def later_jobs(self, span: Span = ALWAYS) -> Iterator[tuple[datetime, Any]]:
        """(time, job) of the jobs that wait for a time in that span, the soonest first."""
        first, last = (None if when is None else clock.to_microseconds(when) for when in span)
        rows = self.later.items(None if first is None else (first,), None if last is None else (last + 1,))
        for (moment, _key), job in rows:
            yield clock.from_microseconds(moment), job

    def parked_jobs(self) -> Iterator[tuple[str, Any]]:
        """(why, job) of the jobs that wait for a quota ("quota:NAME") or for the release of a group ("group:GROUP")."""
        for name, tree in self.parked.items():
            for job in tree.values():
                yield name, job

    def running(self) -> Iterator[tuple[Any, str, str]]:
        """(job, UUID of the dispatcher, agent name) of what is claimed; also what finished a moment ago."""
        for slot in self.slots.values():
            for job, agent in (*slot.running.values(), *slot.deferreds.values()):
                yield job, slot.owner or "", agent

    def awaiting(self) -> Iterator[tuple[Any, Any]]:
        """(job, inner job) of the jobs whose code has run, and that end when the inner job does."""
        for outers in self.waiting_for.values():
            for outer in outers:
                yield lookup.main_of(outer), outer.waiting_for

    def quarantined(self) -> Iterator[tuple[str, Any]]:
        """(reason, job) of the jobs that were set aside."""
        yield from self.quarantine.values()

    def finished(
        self, outcome: str | None = None, group: str | None = None, span: Span = ALWAYS, oldest: bool = False
    ) -> Iterator[Any]:
        """Finished jobs, newest first. ``outcome``: succeeded, failed or cancelled. ``span``: when they ended."""
        return merged([slot.history for slot in self.slots.values()], outcome, group, span, oldest)

    def failures(self, group: str | None = None) -> dict[Kind, Tally]:
        """How many jobs in the history failed in which way, and when."""
        return joined(pair for slot in self.slots.values() for pair in slot.history.failures(group))

    def delete(self, job: Any) -> bool:
        """Forget a finished job, for good; whether it was in the history, and no late callback of it is to run."""
        if job._status_id != 3 or not any(slot.history.remove(job) for slot in self.slots.values()):
            return False
        self.adjust(job.outcome or "failed", -1)
        return True

    def number_finished(self, outcome: str) -> int:
        """How many jobs of one outcome are in the history."""
        return self.adjustments[outcome].value + sum(slot.counts.get(outcome, 0) for slot in self.slots.values())

    def has_filed(self, job: Any) -> bool:
        """Whether the job is in history already: callbacks can be added to finished jobs."""
        return any(slot.history.holds(job) for slot in self.slots.values())

    def counts(self) -> dict[str, int]:
        """How many jobs are where: waiting, later, parked, awaiting (another job), running, quarantined, succeeded,
        failed, cancelled."""
        totals = {kind: self.adjustments[kind].value if kind in self.adjustments else 0 for kind in COUNTS}
        running = 0
        for slot in self.slots.values():
            running += len(slot.running) + len(slot.deferreds)
            for kind, number in slot.counts.items():
                totals[kind] += number
        counted = self.overflow_lengths is not None
        lengths = (length() for length in self.overflow_lengths or ()) if counted else map(len, self.overflows)
        waiting = sum(size(inbox) - 1 for inbox in self.inboxes) + sum(lengths)
        waiting += totals.pop("backlog")
        return {"waiting": waiting, "running": running, **totals}

    def __len__(self) -> int:
        counts = self.counts()
        return counts["waiting"] + counts["later"] + counts["parked"]

    def __bool__(self) -> bool:
        return len(self) > 0

    def __iter__(self) -> Iterator[Any]:
        rows = (row for row in self._all_rows() if lookup.loads(row.job))
        return (row.job for row in rows if row.job.key == row.key and row.job._status_id == 0)

    def __getitem__(self, index: int) -> Any:
        if type(index) is not int or index < 0:
            return item_at(list(self), index)
        for job in itertools.islice(self, index, None):
            return job
        return item_at([], index)

    def quarantine_key(self, job: Any) -> int | None:
        """Under which key the job was set aside, or None. Loads no job."""
        return next((key for key, (_reason, other) in self.quarantine.items() if other is job), None)

    # Finding and taking out

    def take_out(self, job: Any, slot: Any = None) -> bool:
        """Take the job's entry out of wherever it waits; whether it was there."""
        row = self._find(job)
        if row is None:
            return False
        claims.Taker(self, slot).leave(row)
        return True

    def forget_entry(self, job: Any, slot: Any = None) -> None:
        """Take out the entry that a cancelled job left where it had waited."""
        row = self._find(job, job.former_key)
        if row is not None:
            claims.Taker(self, slot).leave(row)

    def _find(self, job: Any, key: int | None = None) -> entries.Row | None:
        key = job.key if key is None else key
        if key is None:
            return None
        for place in self.all_places():
            if place.kind == "later":
                # One that was cancelled lies at its begin, one whose callbacks waited at their time.
                for until in {job.not_before(), job._begin_after, job.resume_at} - {None}:
                    at = (clock.to_microseconds(until), key)
                    if place.tree.get(at) is job:
                        return entries.Row(key, place, at, job)
            elif place.tree.get(key) is job:
                return entries.Row(key, place, key, job)
        return None

    def leave_quarantine(self, key: int) -> None:
        """Take a job out of those that were set aside. Who set it aside could perhaps not give it its letters."""
        _reason, job = self.quarantine.pop(key)
        self.adjust("quarantined", -1)
        if lookup.loads(job):
            for slot in self.slots.values():
                if letters.has_mail(job, slot) and "callback" in letters.deliver(job, slot) and job._status_id == 3:
                    job._reopen()

    def count_overflow(self, shard: int, change: int) -> None:
        """So many jobs were entered into an overflow, or taken out."""
        if self.overflow_lengths is not None:
            self.overflow_lengths[shard].change(change)

    def adjust(self, kind: str, change: int) -> None:
        """Correct a count from outside a dispatcher."""
        if kind not in self.adjustments:  # the queue is older than what is counted here
            self.adjustments = {**self.adjustments, kind: Length()}
        self.adjustments[kind].change(change)

    # Slots

    def free_slot(self) -> Slot:
        """A slot that nobody owns, with what lies in it, or a new one."""
        for slot in self.slots.values():
            if slot.owner is None:
                return slot
        number = self.slots.maxKey() + 1 if self.slots else 0
        slot = self.slots[number] = Slot(number)
        return slot

    def any_slot(self) -> Slot:
        """A slot to file something away in, for callers without a dispatcher."""
        return next(iter(self.slots.values()), None) or self.free_slot()
