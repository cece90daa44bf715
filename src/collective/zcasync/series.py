"""What happens in a queue, minute by minute: each slot keeps its part for a day, and claims write it."""

from BTrees.OOBTree import OOBTree
from collections.abc import Iterable
from collective.zcasync import clock
from collective.zcasync.history import OUTCOMES
from typing import Any
from typing import NamedTuple

#: Minutes that are kept at least, and after how many more the oldest are forgotten together.
KEPT, MORE = 24 * 60, 60

#: Counts of a slot that are of jobs which have come and not ended.
_HELD = ("backlog", "later", "parked", "awaiting", "quarantined")


class Row(NamedTuple):
    """How a slot stood as a minute began: what happened in that minute is the difference to the next row.

    ``waiting``: jobs that waited in the whole queue, also for a quota. All others are sums since the slot was made, so
    that nothing is lost if a process dies, or a claim conflicts; but ``longest``, which is of the time since the row
    before. ``waited`` and ``longest``: milliseconds that jobs had waited as they were claimed.
    """

    waiting: int
    put: int
    started: int
    succeeded: int
    failed: int
    cancelled: int
    waited: int
    longest: int


def this_minute() -> int:
    """Minutes since the Unix epoch."""
    return clock.microseconds() // 60_000_000


def begin(queue: Any, slot: Any) -> tuple[int, Row] | None:
    """Before a claim changes anything: the minute and its row, if this may become the first claim in it."""
    minute = this_minute()
    series = slot.series
    if series and minute <= series.maxKey():
        return None
    return minute, row_of(slot, waiting_in(queue))


def end(slot: Any, row: tuple[int, Row] | None, given: Iterable[tuple[Any, list[Any]]] = ()) -> None:
    """The claim will be committed. ``row``: what ``begin`` has answered. ``given``: what it gives to threads."""
    if row is not None:
        _write(slot, *row)
    started, waited, longest = slot.tally
    first = None
    for _pool, items in given:
        started += len(items)
        first = first or items[0]
    if first is not None:
        # One look a claim: the first of its jobs stands for the others.
        lasted = _waited(slot._p_jar.get(first.oid))
        number = started - slot.tally[0]
        slot.tally = started, waited + lasted * number, max(longest, lasted)


def close(queue: Any, slot: Any) -> None:
    """Before the slot's dispatcher leaves it, or is taken over: what that changes is of this minute."""
    end(slot, begin(queue, slot))


def waiting_in(queue: Any) -> int:
    """Jobs that wait in the whole queue now, also for a quota."""
    counts = queue.counts()
    return int(counts["waiting"] + counts["parked"])


def row_of(slot: Any, waiting: int) -> Row:
    """How the slot stands now. ``waiting``: see waiting_in, which asks all slots of the queue."""
    counts, dropped = slot.counts, slot.dropped
    ended = [counts.get(outcome, 0) + dropped.get(outcome, 0) for outcome in OUTCOMES]
    put = sum(counts.get(kind, 0) for kind in _HELD) + len(slot.running) + len(slot.deferreds) + sum(ended)
    started, waited, longest = slot.tally
    succeeded, failed, cancelled = ended
    return Row(waiting, put, started, succeeded, failed, cancelled, waited, longest)


def _write(slot: Any, minute: int, row: Row) -> None:
    """A bucket of the tree is the one record that this costs: some 30 minutes of a slot that is busy all the time."""
    if slot.series is None:
        slot.series = OOBTree()
    slot.series[minute] = tuple(row)
    slot.tally = (*slot.tally[:2], 0)
    if slot.series.minKey() < minute - KEPT - MORE:
        for old in list(slot.series.keys(None, minute - KEPT)):
            del slot.series[old]


def _waited(job: Any) -> int:
    """Milliseconds since the job could have begun."""
    since = job.ready_since()
    if since is None:
        return 0
    return max(0, (clock.microseconds() - clock.to_microseconds(since)) // 1000)
