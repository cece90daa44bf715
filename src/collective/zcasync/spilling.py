"""How claims keep the inboxes small, and what lies in them visible: they move it to backlogs, one for each group."""

from collections.abc import Iterable
from collective.zcasync import letters
from collective.zcasync import notify
from collective.zcasync.entries import newest_keys
from collective.zcasync.entries import Place
from collective.zcasync.entries import place_rows
from collective.zcasync.entries import Row
from collective.zcasync.lanes import LaneView
from collective.zcasync.lookup import fetch
from collective.zcasync.lookup import loads
from collective.zcasync.moves import Moves
from collective.zcasync.persistence import SENTINEL
from collective.zcasync.persistence import size
from collective.zcasync.rejections import Rejections
from itertools import islice
from typing import Any

import heapq
import random

#: Claims that find more than this in their inboxes move it to the dispatcher's backlogs.
SPILL = 64

#: Jobs that one call moves to the backlogs at most, that a poll moves, and that are moved of each overflow's newest.
SPILL_AT_MOST, SPILL_AT_POLL, SPILL_TAIL = 2000, 500, 8

#: For each job that a claim wants it moves so many to the backlog, and some more: it must not take much longer by that,
#: and each move writes two or three records, however much it moves.
SPILL_EACH, SPILL_MORE = 1, 32


class Spilling(Moves):
    """The base of Taker that moves what waits deep in inboxes and overflows. Not persistent.

    ``shards``: the numbers of the inboxes. ``everyones``: leave them as they are.
    """

    shards: Iterable[int]
    everyones: bool
    lanes: LaneView
    consider: Any

    def __init__(self, queue: Any, slot: Any, skipped: Rejections) -> None:
        super().__init__(queue, slot, skipped)
        #: What the dispatcher's agents have rejected in this queue: they are told what moves to a backlog.
        self.told: Iterable[Rejections] = ()
        #: oid of an overflow -> its last key when it was looked at last; a dispatcher keeps this for its next claims.
        self.tails: dict[bytes, int] = {}

    def spill(self, budget: int = SPILL_AT_MOST, deep: bool = True) -> None:
        """Move up to ``budget`` jobs that lie deep to the dispatcher's own backlogs, one for each group.

        So inboxes stay small, and nobody's jobs are hidden behind those of others: the newest first, as their group may
        have nothing else. It changes no order, which is that of the keys wherever jobs lie. ``deep``: also what has
        lain in overflows for long, from where claims can take it as well: only its deadlines are not known there.
        """
        if self.slot is None or self.everyones:
            return
        inboxes = [Place("inbox", self.queue.inboxes[shard]) for shard in self.shards]
        inboxes = [place for place in inboxes if size(place.tree) > 1]
        if sum(size(place.tree) - 1 for place in inboxes) > SPILL:
            # Each is a record to be written: what came in last, and by chance what may lie behind a flood of that.
            random.shuffle(inboxes)
            newest = max(inboxes, key=lambda place: place.tree.maxKey())
            left = budget
            for place in [newest, *(place for place in inboxes if place is not newest)]:
                some = place.tree.items(SENTINEL + 1)[-max(left if left < budget else budget // 2, 1) :]
                fetch(job for _key, job in some)
                for key, job in some:
                    self._into_backlog(Row(key, place, key, job))
                left -= len(some)
                if left <= 0:
                    break
        overflows = [Place("overflow", self.queue.overflows[shard], str(shard)) for shard in self.shards]
        overflows = [place for place in overflows if place.tree]
        for place in overflows:
            self._spill_tail(place)
        if deep:
            heads = heapq.merge(*map(place_rows, overflows), key=lambda row: row.key)
            first = list(islice(heads, budget))
            fetch(row.job for row in first)
            for row in first:
                self._into_backlog(row)

    def _spill_tail(self, place: Place) -> None:
        """Of an overflow move what came in last, if it has come in since the last time."""
        tree, oid = place.tree, place.tree._p_oid
        seen, last = self.tails.get(oid, SENTINEL), tree.maxKey()
        if last > seen:
            self.tails[oid] = last
            for key in newest_keys(tree, SPILL_TAIL):
                if key > seen:
                    self._into_backlog(Row(key, place, key, tree[key]))

    def _into_backlog(self, row: Row) -> Place | None:
        """Move the job out of an inbox or overflow; what has become of it may be found at that. Its new place."""
        job, readable = row.job, loads(row.job)
        if readable and job._status_id == 3 and self._file(row):
            return None
        if readable and job.key == row.key and job._status_id == 0 and (job._begin_after or self.now) > self.now:
            self.postpone(row, job._begin_after)
            return None
        if readable and self._deep_in_lane(row):
            return None
        group = job.group if readable else ""
        place = Place("backlog", self.slot.backlog(group), group)
        if row.key in place.tree:
            return None  # keys are unique in a queue but for chance: then the job stays
        self.leave(row)
        place.tree[row.key] = job
        for rejections in self.told:
            rejections.came_in(place.tree, row.key)
        self._count("backlog", 1)
        notify.tell_at_commit(self.queue._p_jar)  # others may have threads for it, and have looked before this
        if readable and job._begin_by is not None:
            self._note_deadline(job)
        return place

    def _file(self, row: Row) -> bool:
        """File away a job that has ended; false if the mail of who had run it brings another callback, for which it
        goes on waiting."""
        if row.job.key == row.key:
            letters.collect(self.queue, row.job)
            self.changed = True
        if row.job._status_id != 3:
            return False
        self.consider(row, None, None)
        return True

    def _deep_in_lane(self, row: Row) -> bool:
        """Move the job to its lane, if somebody holds that."""
        key = self.lanes.of(row.job)
        lane = None if key is None else self.lanes.mine(key) or self.lanes.elsewhere(key)
        if lane is not None:
            self.into_lane(row, lane)
        return lane is not None
