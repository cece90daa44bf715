"""What has happened in queues lately, in spans of time: read from the rows that the slots keep; see series."""

from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Queues
from collective.zcasync.series import Row
from collective.zcasync.series import row_of
from collective.zcasync.series import this_minute
from collective.zcasync.series import waiting_in
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

_SUMS = ("put", "started", "succeeded", "failed", "cancelled", "waited")


@dataclass(frozen=True)
class Span:
    """What happened from ``begin`` on, for so many ``minutes``. Times in seconds."""

    begin: datetime
    minutes: int
    put: int = 0
    #: Jobs that were given to threads; one that was tried three times counts three times.
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    #: The most that waited as one of the minutes began.
    waiting: int = 0
    #: How long jobs had waited as they were claimed, on average and at most; None if there were none.
    latency: float | None = None
    longest: float | None = None

    @property
    def ended(self) -> int:
        """Jobs that have succeeded or failed."""
        return self.succeeded + self.failed

    @property
    def failing(self) -> float:
        """Which part of those has failed, from 0 to 1."""
        return self.failed / self.ended if self.ended else 0.0


def last_day(source: Any, queue: str | None = None, minutes: int = 30) -> list[Span]:
    """The last 24 hours in spans of so many minutes (a divisor of 1440), which begin at full ones; oldest first.

    ``source``: a ZODB connection, or the Queues. ``queue``: the name of one of them; None: all.
    """
    end = (this_minute() // minutes + 1) * minutes
    return _spans(source, queue, end, minutes, 24 * 60 // minutes)


def last_hour(source: Any, queue: str | None = None) -> Span:
    """The last 60 minutes."""
    return _spans(source, queue, this_minute() + 1, 60, 1)[0]


def _spans(source: Any, name: str | None, end: int, minutes: int, number: int) -> list[Span]:
    queues = source if isinstance(source, Queues) else get_queues(source)
    begin = end - minutes * number
    sums = [dict.fromkeys((*_SUMS, "longest"), 0) for _ in range(number)]
    waiting = [0] * number
    for key, queue in queues.items() if queues is not None else ():
        if name is not None and key != name:
            continue
        now, waits = this_minute(), waiting_in(queue)
        rows: dict[int, int] = {}
        for slot in queue.slots.values():
            rows.setdefault(now, waits)
            for minute, row, later in _differences(slot, begin, now, row_of(slot, waits)):
                rows[minute] = max(rows.get(minute, 0), row.waiting)
                if begin <= minute < end:
                    _add(sums[(minute - begin) // minutes], row, later)
        for at, most in enumerate(_most(rows, begin, minutes, number)):
            waiting[at] += most
    return [_span(begin + at * minutes, minutes, sums[at], waiting[at]) for at in range(number)]


def _differences(slot: Any, begin: int, now: int, newest: Row) -> Iterator[tuple[int, Row, Row]]:
    """(minute, the slot as it began, and as the next one began in which there was a claim, or now).

    From the last row before ``begin`` on, which tells how the slot stood until the next one.
    """
    series = slot.series or OOBTree()
    first = series.maxKey(begin) if series and series.minKey() <= begin else None
    rows = [(minute, Row(*row)) for minute, row in series.items(first, now)]
    for (minute, row), (_minute, later) in pairwise([*rows, (now + 1, newest)]):
        yield minute, row, later


def _add(sums: dict[str, int], row: Row, later: Row) -> None:
    for what in _SUMS:
        sums[what] += getattr(later, what) - getattr(row, what)
    sums["longest"] = max(sums["longest"], later.longest)


def _most(rows: dict[int, int], begin: int, minutes: int, number: int) -> list[int]:
    """The most that waited in each span; in a minute without claims, it is as it was."""
    last = rows[max(before)] if (before := [minute for minute in rows if minute < begin]) else 0
    most = [0] * number
    for minute in range(begin, min(begin + minutes * number, this_minute() + 1)):
        last = rows.get(minute, last)
        at = (minute - begin) // minutes
        most[at] = max(most[at], last)
    return most


def _span(begin: int, minutes: int, sums: dict[str, int], waiting: int) -> Span:
    # A job that goes back to an inbox leaves its slot, and comes as if it were put: at worst in the minute after that.
    numbers = {what: max(0, sums[what]) for what in _SUMS if what != "waited"}
    started = numbers["started"]
    return Span(
        clock.from_microseconds(begin * 60_000_000),
        minutes,
        **numbers,
        waiting=waiting,
        latency=max(0, sums["waited"]) / started / 1000 if started else None,
        longest=sums["longest"] / 1000 if started else None,
    )
