"""Which lanes a dispatcher holds, when it lets go of them, and what its conflicts with other processes teach."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.lanes import holder_of
from collective.zcasync.lanes import keep_gone
from collective.zcasync.lanes import Key
from collective.zcasync.lanes import LaneView
from collective.zcasync.lanes import LEARNED_LANE
from collective.zcasync.lookup import loads
from collective.zcasync.neighbours import Neighbour
from typing import Any

import logging
import time

logger = logging.getLogger("collective.zcasync.events")

#: Seconds that others get to take up a lane whose first job no agent of this dispatcher takes.
LEFT_ALONE = 2.0

#: Later than all monotonic times: the lane is left when none of its jobs runs here any more.
UNTIL_THEN = float("inf")


class Laning:
    """The lanes of one dispatcher. Used by the claim thread only."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        dispatcher.neighbours.suspicion = dispatcher.look_soon
        #: queue name -> lane -> monotonic time until which it is left to others; UNTIL_THEN: it will be.
        self._left: dict[str, dict[Key, float]] = {}
        #: queue name -> lane -> key of its first job, if no agent here took that at the last poll.
        self._stuck: dict[str, dict[Key, int]] = {}
        self._elsewhere: dict[str, set[Neighbour]] = {}
        #: What the present claim sees, and those whom it has learned.
        self.view: LaneView | None = None
        self._new: list[Neighbour] = []

    def forget(self, name: str) -> None:
        """A queue is gone."""
        for known in (self._left, self._stuck, self._elsewhere):
            known.pop(name, None)

    def due(self) -> list[float]:
        """Monotonic times at which it may take again from lanes that were left to others."""
        return [until for left in self._left.values() for until in left.values() if until < UNTIL_THEN]

    def queues_due(self, now: float) -> set[str]:
        """The queues in which it may."""
        return {name for name, left in self._left.items() if any(until <= now for until in left.values())}

    def begin(self, queue: Any, slot: Any) -> LaneView:
        """A claim begins."""
        now, name = time.monotonic(), queue.name
        left = {key: until for key, until in self._left.get(name, {}).items() if until > now}
        self._left[name] = left
        self.view = view = LaneView(queue, slot.owner, frozenset(left))
        self._learn(view)
        return view

    def end(self, slot: Any, full: bool, done: set[bytes], refused: Callable[[int], bool]) -> bool:
        """Before the claim's commit, let go of the lanes of which nothing is left here. Of one whose first job waits
        for others nothing more is taken, until it is let go of. Whether anything has changed.

        ``full``: at a poll. ``done``: oids of the jobs that have left their threads. ``refused``: whether no agent
        takes the job of that key.
        """
        view = self.view
        if view is None or view.lanes is None:
            return False
        queue, lanes, name = view.queue, view.lanes, view.queue.name
        left = self._left[name]
        stuck: dict[Key, int] = {}
        gone, held = [], None
        for key, lane in lanes.items():
            first = lane.first() if full else None
            if lane.holder != view.me:
                if full and first is None and holder_of(queue, lane) is None:
                    keep_gone(queue, lane)
                    gone.append(key)  # what waited there was cancelled
                continue
            if held is None:
                rows = slot.running.items()
                held = {lanes.of(job) for oid, (job, _agent) in rows if oid not in done and loads(job)}
            if first is not None and refused(first) and len(queue.dispatchers.active()) > 1:
                stuck[key] = first
            if key in stuck and self._stuck.get(name, {}).get(key) == stuck[key]:
                left[key] = UNTIL_THEN  # it takes no more of the lane, and leaves it with the last that runs here
            if key not in held:
                gone.append(key)
        for key in gone:
            lanes.let_go(key)
            if key in stuck or left.get(key) == UNTIL_THEN:
                left[key] = time.monotonic() + LEFT_ALONE
        if full:
            self._stuck[name] = stuck
            self._left[name] = {key: until for key, until in left.items() if until < UNTIL_THEN or key in stuck}
        return bool(gone) or bool(self._new) or full and lanes.forget_old()

    def committed(self) -> None:
        """The claim was committed."""
        for group, task in self._new:
            logger.info(
                "Jobs of %s%s conflict with those of other dispatchers: they share a lane now, and run in one"
                " dispatcher at a time",
                *(task, f" in {group}" if group else ""),
            )
        self._new = []
        if self.view is not None and self.view.heard:
            heard = {record._p_oid: self.view.queue.name for record in self.view.heard}
            self.dispatcher.news.watch_also(heard)
            self.dispatcher.watcher.watch_also(heard)
            self.dispatcher.look_soon()  # to see what was moved in before that

    def watched(self, queue: Any) -> Iterator[bytes]:
        """The records of a queue's lanes whose commits this dispatcher has to hear of."""
        if queue.lanes is not None:
            yield queue.lanes.bell._p_oid
            me = str(self.dispatcher.UUID)
            yield from (lane.waiting._p_oid for _key, lane in queue.lanes.items() if lane.holder == me)

    # What conflicts teach

    def _learn(self, view: LaneView) -> None:
        """Enter those who conflict with other processes, if that may be siblings; and see who is to run elsewhere."""
        neighbours, lanes = self.dispatcher.neighbours, view.lanes
        self._new = []
        if lanes is None:
            return
        suspects = neighbours.suspects()
        for group, task in suspects if suspects and len(view.queue.dispatchers.active()) > 1 else ():
            if lanes.learn(group, task):
                self._new.append((group, task))
                if view.elsewhere((group, LEARNED_LANE)) is None:
                    view.hold((group, LEARNED_LANE))  # with the jobs that run here
                lanes.bell.change(1)
        found = {who for who in lanes.learned if view.elsewhere((who[0], LEARNED_LANE)) is not None}
        if found != self._elsewhere.get(view.queue.name, set()):
            self._elsewhere[view.queue.name] = found
            neighbours.elsewhere = frozenset().union(*self._elsewhere.values())
            self.dispatcher.poll_soon()  # which gives back what threads have not begun
