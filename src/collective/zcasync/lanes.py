"""Lanes, as stored: jobs of one group that conflict with each other run in one dispatcher at a time.

A dispatcher holds a lane from the claim that takes the first of its jobs until none of those that it took is left.
Meanwhile all claims move the lane's jobs into its tree, and only the holder takes from there. Then the lane is closed,
or left to whoever has a thread for what still waits in it.
"""

from BTrees.Length import Length
from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.persistence import SENTINEL
from collective.zcasync.readchecks import keep_current
from collective.zcasync.readchecks import read_current
from persistent import Persistent
from typing import Any

#: The lane of those whose jobs were seen to conflict with those of other dispatchers, and that name no other.
LEARNED_LANE = "content"

#: Seconds for which those are remembered whose jobs conflicted, after which this is written anew if they conflict
#: again, and how many are remembered at most.
REMEMBERED, RENEWED_AFTER, MOST_REMEMBERED = 3600, 600, 1000

Key = tuple[str, str]  # group and name of the lane

#: Before all keys of lanes, and never removed, so that the tree is never emptied: then claims that open and close
#: lanes at once can be merged.
_FIRST: Key = ("", "")


class Lane(Persistent):
    """The jobs of one lane that wait for its holder. Written by claims only; write conflicts are not resolved.

    Who moves a job in declares a read check on this record, and writes ``waiting``; who closes the lane or leaves it
    to others writes this record, and declares a read check on ``waiting``. So no job is ever moved into a lane that
    nobody looks after. What claims do to the tree and to ``waiting`` at once is merged.
    """

    def __init__(self, holder: str) -> None:
        #: UUID of the dispatcher that takes from it, as text; None: whoever can.
        self.holder: str | None = holder
        #: key -> job, with a sentinel; see persistence.SENTINEL.
        self.tree: Any = LOBTree({SENTINEL: None})
        #: How many jobs are in the tree; the holder hears of each change of this record.
        self.waiting = Length()

    def first(self) -> int | None:
        """The key of the first job, or None."""
        return next(iter(self.tree.keys(SENTINEL + 1)), None)


class Lanes(Persistent):
    """``queue.lanes``: the lanes that are held, or in which jobs wait. This record itself is never written again."""

    def __init__(self) -> None:
        self._lanes: Any = OOBTree({_FIRST: None})
        #: (group, task) -> when they were seen to conflict last, in microseconds.
        self.learned: Any = OOBTree()
        #: Changed when a lane is left to others, with jobs, or a new one is learned: all dispatchers hear of that.
        self.bell = Length()

    def get(self, key: Key) -> Any:
        """The lane, or None."""
        return self._lanes.get(key)

    def items(self) -> Iterator[tuple[Key, Lane]]:
        yield from self._lanes.items(_FIRST, excludemin=True)

    def of(self, job: Any) -> Key | None:
        """The key of the lane that the job belongs to, or None."""
        if job.lane:
            return job.group, job.lane
        return (job.group, LEARNED_LANE) if self.learned and (job.group, job.task) in self.learned else None

    # For claims

    def hold(self, key: Key, holder: str) -> Lane:
        """Make this dispatcher the holder of the lane."""
        lane: Lane | None = self.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(holder)
        elif lane.holder != holder:
            lane.holder = holder
        return lane

    def let_go(self, key: Key) -> None:
        """Close the lane, or leave what waits in it to others."""
        lane = self.get(key)
        keep_current(lane.waiting)  # also if jobs were taken out just now, with which others' would be merged
        lane.holder = None
        if lane.first() is None:
            del self._lanes[key]
        else:
            self.bell.change(1)

    def learn(self, group: str, task: str) -> bool:
        """Have jobs of this group and task run in a lane for a while; whether that is new."""
        now, since = clock.microseconds(), self.learned.get((group, task))
        full = since is None and len(self.learned) >= MOST_REMEMBERED
        if not full and (since is None or now - since > RENEWED_AFTER * 1_000_000):
            self.learned[(group, task)] = now
        return since is None and not full

    def forget_old(self) -> bool:
        """Let those go that were not seen to conflict for long; whether there were any."""
        oldest = clock.microseconds() - REMEMBERED * 1_000_000
        old = [who for who, when in self.learned.items() if when < oldest]
        for who in old:
            del self.learned[who]
        return bool(old)


def holder_of(queue: Any, lane: Lane | None) -> str | None:
    """Who holds the lane, and lives; a dispatcher that dies or leaves lets go of all its lanes by that."""
    da = None if lane is None or lane.holder is None else queue.dispatchers.get(lane.holder)
    return da.name if da is not None and da.activated is not None and da.leaving is None else None


def keep_gone(queue: Any, lane: Lane | None) -> None:
    """Let the present transaction, which takes a lane from a holder that is gone, conflict if that comes back before
    its commit: it goes on taking from the lane, and does not write it."""
    if lane is None or lane.holder is None:
        return
    da = queue.dispatchers.get(lane.holder)
    if da is None:
        read_current(queue.dispatchers._data)
    else:
        keep_current(da)


class LaneView:
    """What one claim sees of the lanes of its queue. Not persistent.

    ``me``: UUID of the dispatcher as text; None: a caller without one, who takes from all lanes and holds none.
    ``shut``: lanes from which nothing is taken now.
    """

    def __init__(self, queue: Any, me: str | None, shut: frozenset[Key] = frozenset()) -> None:
        self.queue = queue
        self.me = me
        self.lanes: Lanes | None = queue.lanes if me is not None else None
        self.shut = shut
        #: Lanes of which no more jobs may begin now.
        self.full: set[Key] = set()
        #: Records of lanes that it has come to hold: it has to hear of commits to these.
        self.heard: list[Any] = []

    def of(self, job: Any) -> Key | None:
        """The key of the job's lane, or None."""
        return None if self.lanes is None else self.lanes.of(job)

    def elsewhere(self, key: Key) -> Lane | None:
        """The lane, if another dispatcher holds it."""
        lane = None if self.lanes is None else self.lanes.get(key)
        return lane if holder_of(self.queue, lane) not in (None, self.me) else None

    def mine(self, key: Key) -> Lane | None:
        """The lane, if this dispatcher holds it."""
        lane = None if self.lanes is None else self.lanes.get(key)
        return lane if lane is not None and lane.holder == self.me else None

    def hold(self, key: Key) -> None:
        """A job of that lane is taken: from now on the dispatcher holds it."""
        if self.lanes is None or self.me is None or self.mine(key) is not None:
            return
        keep_gone(self.queue, self.lanes.get(key))
        self.heard.append(self.lanes.hold(key, self.me).waiting)
