"""Which waiting jobs a claim takes, in which order, and what it does with those that it does not take."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import filing
from collective.zcasync import letters
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.entries import group_of
from collective.zcasync.entries import Place
from collective.zcasync.entries import place_rows
from collective.zcasync.entries import Row
from collective.zcasync.entries import Taken
from collective.zcasync.lanes import Key
from collective.zcasync.lanes import LaneView
from collective.zcasync.lookup import fetch
from collective.zcasync.lookup import loads
from collective.zcasync.persistence import moment_of
from collective.zcasync.rejections import Rejections
from collective.zcasync.solitude import ALONE_FROM
from collective.zcasync.spilling import SPILL as SPILL
from collective.zcasync.spilling import SPILL_EACH
from collective.zcasync.spilling import SPILL_MORE
from collective.zcasync.spilling import Spilling
from datetime import timedelta
from itertools import islice
from operator import attrgetter
from typing import Any

import heapq
import random

#: Jobs that one claim leaves where they are, as they would have to wait for others that run.
PASS_AT_MOST = 32

#: Rows that one claim looks at beyond those that it wants, before it leaves the rest to the next claim.
LOOK_AT_MOST = 128

#: Keys of others, of which so many were seen, are not taken from the first: their home takes those at this moment.
MANY = 16

_key = attrgetter("key")


class Taker(Spilling):
    """Takes jobs out of one queue, in one transaction. Not persistent.

    ``slot``: where backlogs go and counts are kept; None for a caller without a dispatcher.
    ``shards``: the numbers of the inboxes to take from; None: all. ``only``: keys that may be taken (what was already
    seen in foreign inboxes one look ago); None: all. ``skipped``: what this dispatcher does not take, for now.
    ``everyones``: also from the backlogs of others, and leave inboxes as they are. ``lanes``: what this claim sees of
    the queue's lanes.
    """

    def __init__(
        self,
        queue: Any,
        slot: Any = None,
        shards: Iterable[int] | None = None,
        only: set[int] | None = None,
        skipped: Rejections | None = None,
        everyones: bool = False,
        lanes: LaneView | None = None,
    ) -> None:
        super().__init__(queue, slot, Rejections() if skipped is None else skipped)
        self.shards = range(len(queue.inboxes)) if shards is None else shards
        self.only = only if only is None else _from_anywhere(sorted(only))
        self.everyones = everyones or slot is None or only is not None
        self.lanes = LaneView(queue, None if slot is None else slot.owner) if lanes is None else lanes
        #: What a filter raised, if one did.
        self.trouble: Exception | None = None
        #: Whether the last call of ``take`` ended before all was looked at, and the next one will see more.
        self.more = False

    def take(
        self,
        want: int,
        accepts: Callable[[Any], bool] | None = None,
        needed: Callable[[Any], bool] | None = None,
        ahead: int = 0,
        needed_ahead: Callable[[Any], bool] | None = None,
    ) -> list[Taken]:
        """Up to ``want`` jobs that may start now, and then up to ``ahead`` that may start soon. ``accepts``: the
        agent's filter. ``needed``, ``needed_ahead``: false for a job that may not be taken now (it stays, and is not
        remembered)."""
        taken: list[Taken] = []
        first, want = want, want + ahead
        self.passed, self.more = set(), False
        self.lanes.full, moved = set(), self.moved
        self.skipped.begin()
        budget = SPILL_EACH * want + SPILL_MORE
        if self.queue.paused:
            self.spill(budget, deep=False)
            self.file_ended()
            return taken
        fetch([*(self.queue.inboxes[shard] for shard in self.shards), *self.queue.slots.values()])
        looked, before = 0, len(self.skipped)
        while len(taken) < want and looked < LOOK_AT_MOST and len(self.passed) < PASS_AT_MOST:
            chunk = max(want - len(taken), looked)  # each look begins at the heads again: take fewer, larger ones
            rows = list(islice(self.rows(chunk), chunk))
            if not rows:
                break
            fetch(row.job for row in rows)
            for row in rows:
                if len(taken) == want:
                    break
                looked += 1
                kind = self.consider(row, accepts, needed if len(taken) < first else needed_ahead)
                if kind:
                    taken.append(Taken(row.job, kind))
        self.spill(budget, deep=False)
        self.more = len(taken) < want and looked >= LOOK_AT_MOST
        self.more = self.more and (len(self.skipped) > before or self.moved > moved)
        return taken

    # Looking

    def rows(self, limit: int) -> Iterator[Row]:
        """Waiting jobs: the groups in turn, by key within one. ``limit``: of each place no more are looked at."""
        by_group: dict[str, list[Iterator[Row]]] = {}
        arrived: list[Iterator[Row]] = []
        for place in self.queue.places(self.shards, self.slot, self.now, self.everyones):
            if place.kind in ("backlog", "lane"):
                by_group.setdefault(place.name, []).append(self._rows_of(place, limit))
            elif place.kind in ("inbox", "overflow"):
                arrived.append(self._rows_of(place, limit))
            else:
                self._by_group(sorted(self._rows_of(place, limit), key=_key), by_group)
        # Each row's job is loaded, for its group: no more than a claim may take. What lies behind is spilled.
        first = list(islice(heapq.merge(*arrived, key=_key), max(limit, SPILL)))
        fetch(row.job for row in first)
        self._by_group(first, by_group)
        merged = [heapq.merge(*by_group[group], key=_key) for group in self._in_turn(by_group)]
        while merged:
            going = []
            for rows in merged:
                for row in islice(rows, 1):
                    yield row
                    going.append(rows)
            merged = going

    @staticmethod
    def _by_group(rows: Iterable[Row], groups: dict[str, list[Iterator[Row]]]) -> None:
        found: dict[str, list[Row]] = {}
        for row in rows:
            found.setdefault(group_of(row.job), []).append(row)
        for group, some in found.items():
            groups.setdefault(group, []).append(iter(some))

    def _in_turn(self, groups: Iterable[str]) -> list[str]:
        """The groups, beginning behind the one that was served last."""
        ordered = sorted(groups)
        last = getattr(self.queue, "_v_last_group", "")
        later = [group for group in ordered if group > last]
        return later + [group for group in ordered if group <= last]

    def _rows_of(self, place: Place, limit: int) -> Iterator[Row]:
        rows: Iterator[Row]
        if self.only is not None and (place.kind in ("inbox", "overflow") or not place.mine):
            keys = (key for key in self.only if key in place.tree)
            rows = (Row(key, place, key, place.tree[key]) for key in keys)
        elif place.kind == "backlog":
            rows = (Row(key, place, key, job) for key, job in self.skipped.entries(place))
        else:
            rows = place_rows(place, self.now)
        rows = (row for row in rows if row.key not in self.skipped and row.key not in self.passed)
        if place.lane is not None and (place.lane in self.lanes.full or place.lane in self.lanes.shut):
            limit = 0
        if place.kind == "parked" and place.name.startswith("quota:"):
            quota = self.queue.quotas.get(place.name[6:])
            if quota is not None:
                limit = min(limit, quota.size - len(quota))
        if place.kind in ("inbox", "overflow"):
            limit = max(limit, SPILL)  # of several groups: one must not hide another's first jobs
        return islice(rows, limit)

    # Deciding

    def consider(
        self, row: Row, accepts: Callable[[Any], bool] | None, needed: Callable[[Any], bool] | None
    ) -> str | None:
        """What to do with a waiting job: "run", "expire" or "resume" it; None if it was moved or stays."""
        job = row.job
        if not loads(job):
            self.set_aside(row, f"its class {type(job).__module__}.{type(job).__name__} cannot be loaded")
            return None
        if job.key == row.key:
            letters.collect(self.queue, job)
        if job.key != row.key:
            if row.at in row.place.tree:  # else it left together with the job
                self.leave(row)  # moved or ended meanwhile: the entry is stale
            return None
        self.queue._v_last_group = job.group
        if job._status_id >= 2:
            waiting.forget(self.queue, self.slot, job)
        if job._status_id == 3:
            self.leave(row)
            self._forget_former(job)
            filing.file_away(self.queue, self.slot, job)
            return None
        if job._status_id == 2:
            return self._resume(row, needed)
        deadline = job.deadline()
        if deadline is not None and deadline < self.now and job._status_id == 0:
            self.leave(row)
            return "expire"
        if job._begin_after is not None and job._begin_after > self.now:
            self.postpone(row, job._begin_after)
            return None
        if job.group in self.queue.held_groups:
            filing.leave_quotas(self.queue, job)  # one that was put back has kept its places
            self.park(row, f"group:{job.group}")
            return None
        lane = self.lanes.of(job)
        elsewhere = None if lane is None else self.lanes.elsewhere(lane)
        if elsewhere is not None and row.place.lane != lane:
            self.into_lane(row, elsewhere)
            return None
        for name in job.quota_names:
            quota = self.queue.quotas.get(name)
            if quota is not None and quota.filled and job not in quota:
                self.park(row, f"quota:{name}")
                return None
        if job.callable_name and not callables.known(job.callable_name):
            self._unknown(row)
            return None
        if accepts is not None and not self._accepted(job, accepts):
            self._reject(row)
            return None
        if self._stays(row, lane, needed):
            return None
        self.leave(row)
        if lane is not None:
            self.lanes.hold(lane)
        for name in job.quota_names:
            quota = self.queue.quotas.get(name)
            if quota is not None:
                quota.add(job)
        return "run"

    def _stays(self, row: Row, lane: Key | None, needed: Callable[[Any], bool] | None) -> bool:
        """Whether the job cannot be taken now. One of an own lane goes out of the way of others."""
        if lane is None or lane not in self.lanes.full and lane not in self.lanes.shut:
            if needed is None or needed(row.job):
                return False
        own = None if lane is None else self.lanes.mine(lane)
        if lane is None or own is None:
            self._pass(row)
            return True
        self.lanes.full.add(lane)
        if row.place.lane != lane:
            self.into_lane(row, own)
        return True

    def _accepted(self, job: Any, accepts: Callable[[Any], bool]) -> bool:
        """What the filter says; a job on which it fails is left to others, and does not keep back those behind it."""
        try:
            return bool(accepts(job))
        except Exception as error:
            if transactions.is_disconnect(error) or transactions.is_conflict(error):
                raise
            self.trouble = error
            return False

    def _resume(self, row: Row, needed: Callable[[Any], bool] | None) -> str | None:
        if row.job.resume_at is not None and row.job.resume_at > self.now:
            self.postpone(row, row.job.resume_at)
            return None
        if row.job.deaths >= ALONE_FROM and needed is not None and not needed(row.job):
            self._pass(row)
            return None
        self.leave(row)
        self._forget_former(row.job)
        return "resume"

    def _forget_former(self, job: Any) -> None:
        if job.former_key is not None:
            self.queue.forget_entry(job, self.slot)

    def _unknown(self, row: Row) -> None:
        """This process lacks the code: the job waits for another, for ``code_wait`` at most."""
        job = row.job
        since = max(moment_of(row.key, job.priority), callables.unknown_since(job.callable_name))
        if clock.utcnow() - since >= timedelta(seconds=self.queue.code_wait):
            self.set_aside(row, f"nobody knows its callable {job.callable_name}")
        else:
            self._reject(row)

    def _reject(self, row: Row) -> None:
        """The job is not for this agent, which does not look at it again. It leaves the way in, where others pass."""
        place = None
        if row.place.kind in ("inbox", "overflow") and self.slot is not None and not self.everyones:
            place = self._into_backlog(row)
        if place is None:
            self.skipped.add(row)
        else:
            self.skipped.moved(place.tree, row.key)

    # What is done with more than one

    def file_ended(self) -> None:
        """In a queue that is paused: file away what was cancelled, and note what is late, which no pause keeps from
        its end. Callbacks wait until the queue goes on."""
        for shard in self.shards:
            for kind, tree in (("inbox", self.queue.inboxes[shard]), ("overflow", self.queue.overflows[shard])):
                for row in list(islice(place_rows(Place(kind, tree, str(shard))), SPILL)):
                    if not loads(row.job):
                        continue
                    if row.job._status_id == 3:
                        self._file(row)
                    elif row.job._status_id == 0 and (row.job.deadline() or self.now) < self.now:
                        self._note_deadline(row.job)

    def overdue(self, limit: int) -> list[Taken]:
        """Jobs whose begin_by has passed wherever they wait: a claim ends them, whatever holds them."""
        found = []
        queue = self.queue
        for at, job in list(islice(queue.deadlines.items(None, (clock.to_microseconds(self.now),)), limit)):
            del queue.deadlines[at]
            self.changed = True
            deadline = job.deadline() if loads(job) and job._status_id == 0 else None
            if deadline is not None and deadline > self.now:
                self._note_deadline(job)  # it was moved since
            elif deadline is not None and queue.take_out(job, self.slot):
                letters.collect(queue, job)
                found += [Taken(job, "expire")] if job._status_id == 0 else []
        return found


def _from_anywhere(keys: list[int]) -> list[int]:
    """The keys, and if they are many in an order that begins anywhere among them, and ends there."""
    start = random.randrange(len(keys)) if len(keys) >= MANY else 0
    return keys[start:] + keys[:start]
