"""What a dispatcher's claims and polls see to in a queue beside taking jobs."""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import sweeping
from collective.zcasync import waiting
from collective.zcasync.history import begin_of
from collective.zcasync.history import OUTCOMES
from collective.zcasync.history import Period
from collective.zcasync.lookup import loads
from datetime import datetime
from typing import Any

import logging
import time

logger = logging.getLogger("collective.zcasync.events")

#: Seconds that a job claimed ahead waits for a thread before it is given back. A claim counts as half of that at most.
STALE_AFTER = 1.0

#: Periods of the history that one poll forgets: to count them, each costs a record for some thirty jobs.
DROP_AT_MOST = 30


class Upkeep:
    """The part of a dispatcher's claims that returns, drops and remembers. Used by the claim thread only."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        #: queue name -> monotonic time at which the next of its jobs for later comes due.
        self.due: dict[str, float] = {}
        #: The inner job at which the last poll has looked last; None: it has seen all.
        self._looked: dict[str, int | None] = {}
        #: queue name -> what was taken away from threads and is not given back yet.
        self.back: dict[str, list[Any]] = {}
        #: Queues whose last claim broke off: nobody knows whether its commit was stored.
        self.doubtful: set[str] = set()

    def forget(self, name: str) -> None:
        """A queue is gone: nothing of it is due any more."""
        for known in (self.due, self._looked, self.back):
            known.pop(name, None)
        self.doubtful.discard(name)

    def see_to(self, name: str, queue: Any, slot: Any, full: bool, told: Callable[[], set[bytes]]) -> bool:
        """Within a claim, do what has to be done; whether that has changed anything. ``told``: answers with the oids of
        the jobs of which threads have reported."""
        changed = self._give_back_lost(name, queue, slot, told) if name in self.doubtful else False
        stale = self.stale_at(name)
        if full or self.back.get(name) or stale is not None and stale <= time.monotonic():
            changed = self._stale(name, queue, slot) or changed
        if full:
            changed = drop_old(queue, slot) or changed
            changed = self._look_at_waiting(name, queue, slot) or changed
        return changed

    def stale_at(self, name: str) -> float | None:
        """The monotonic time at which the first of the jobs claimed ahead will have waited too long for a thread."""
        since = [when for when in (pool.waits_since() for pool in self._pools(name)) if when is not None]
        return min(since) + STALE_AFTER if since else None

    def stored(self, name: str) -> None:
        """The claim was committed."""
        self.doubtful.discard(name)
        self.back.pop(name, None)

    def _pools(self, name: str) -> list[Any]:
        return list(self.dispatcher.queues.get(name, {}).values())

    def _give_back_lost(self, name: str, queue: Any, slot: Any, told: Callable[[], set[bytes]]) -> bool:
        """Give back what a claim took whose commit was stored, but not confirmed: no thread was told of it."""
        known = {oid for pool in self._pools(name) for oid in pool.known()}
        known.update(told())  # asked second: who leaves a pool is told of after that
        tokens = self.dispatcher.claimer.tokens  # what threads know, or have reported, may be of an earlier claim
        rows = [(oid, job) for oid, (job, _agent) in slot.running.items() if loads(job)]
        rows = [(oid, job) for oid, job in rows if sweeping.is_of(job, slot)]
        lost = [job for oid, job in rows if oid not in known or job.token != tokens.get(oid)]
        # What waits in a callback goes on with that; a job whose own code has run must not come to run again.
        lost = [job for job in lost if job._status_id == 2 or job._status_id < 2 and not waiting.has_left(job)]
        for job in lost:
            logger.warning("Job %s was claimed as the database went away; it is given back", job.id)
            sweeping.put_back(queue, slot, job)
        return bool(lost)

    def _look_at_waiting(self, name: str, queue: Any, slot: Any) -> bool:
        """See to jobs that wait for one whose end nobody has told them of."""
        self._looked[name], changed = waiting.look(queue, slot, self._looked.get(name))
        return changed

    def _stale(self, name: str, queue: Any, slot: Any) -> bool:
        """Give back what was claimed ahead and has waited too long: its threads have met long jobs."""
        back = self.back.setdefault(name, [])  # kept until it is committed: no thread has these any more
        for pool in self._pools(name):
            back += pool.take_back(STALE_AFTER)
        for item in back:
            row = slot.running.get(item.oid)
            if row is not None and row[0].token == item.token:
                sweeping.put_back(queue, slot, row[0])
        return bool(back)

    def note_due(self, name: str, queue: Any, now: datetime) -> None:
        """When the next job for later comes due. What was due ``now`` waits for something else: a thread, a resume."""
        self.due.pop(name, None)
        coming = queue.later.keys((clock.to_microseconds(now) + 1,))
        if coming:
            moment = clock.from_microseconds(coming[0][0])
            seconds = (moment - clock.utcnow()).total_seconds()
            self.due[name] = time.monotonic() + max(seconds, 0.005)


def drop_old(queue: Any, own: Any) -> bool:
    """Forget finished jobs after their time, and the oldest where there are too many: in the own slot, and in those
    that nobody owns any more. Whole periods, DROP_AT_MOST in one pass. Whether there were any."""
    mine = [slot for slot in queue.slots.values() if slot is own or slot.owner is None]
    left = DROP_AT_MOST
    for outcome in OUTCOMES:
        while left and (found := _to_drop(queue, mine, outcome)) is not None:
            slot, name = found
            slot.count(outcome, -slot.history.drop(name))
            left -= 1
    return left < DROP_AT_MOST


def _to_drop(queue: Any, mine: list[Any], outcome: str) -> tuple[Any, Period] | None:
    """The next period to forget, and its slot; None if there is none, or another dispatcher has it in its slot."""
    days = queue.failed_days if outcome == "failed" else queue.retention_days
    today = clock.utcnow().toordinal()
    for slot in mine:
        names = slot.history.names(outcome)
        if names and today + names[-1][0] > days:
            return slot, names[-1]
    if queue.number_finished(outcome) <= queue.retention_jobs:
        return None
    # The last period of a slot is still being filled: it stays, however few are to be kept.
    last = [(slot, names[-1]) for slot in queue.slots.values() if len(names := slot.history.names(outcome)) > 1]
    oldest = max(last, key=lambda row: begin_of(row[1]), default=None)
    return oldest if oldest is not None and oldest[0] in mine else None
