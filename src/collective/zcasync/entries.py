"""The places where jobs wait in a queue, and the entries in them."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.lookup import loads
from collective.zcasync.persistence import SENTINEL
from datetime import datetime
from typing import Any
from typing import NamedTuple

import itertools


class Place(NamedTuple):
    """Somewhere that jobs wait. ``kind``: inbox, overflow, backlog, lane, later or parked; ``name``: group, quota or
    hold. ``mine``: false for the backlog of another dispatcher that lives. ``lane``: of a lane, its group and name."""

    kind: str
    tree: Any
    name: str = ""
    mine: bool = True
    lane: tuple[str, str] | None = None

    def offers(self, group: str | None) -> bool:
        """Whether claims take from here as soon as a thread is free; of backlogs and lanes only the group's, if given.

        Inboxes and overflows hold the jobs of all groups.
        """
        if self.kind in ("backlog", "lane"):
            return group is None or self.name == group
        return self.kind in ("inbox", "overflow")


class Row(NamedTuple):
    """A waiting job: its key in the queue's order, where it lies, and its key there."""

    key: int
    place: Place
    at: Any
    job: Any


class Taken(NamedTuple):
    """A job that a claim has taken out, and what its thread has to do: run, expire or resume."""

    job: Any
    kind: str


class Item(NamedTuple):
    """A claimed job for a thread. ``active``: whether the claim wrote ACTIVE. ``since``: when the pool got it, by the
    monotonic clock. ``bundle``: what it has in common with the jobs whose transaction it may share; None: with none.
    ``conflicts``: whether it has met a conflict in such a transaction. ``cls``: the class of the job. ``ahead``:
    whether the claim has seen that it would be run again after an interruption."""

    oid: bytes
    kind: str
    token: str
    who: tuple[str, str]
    active: bool
    since: float
    info: JobInfo
    task: str = ""
    bundle: Any = None
    conflicts: int = 0
    cls: Any = None
    ahead: bool = False


def group_of(job: Any) -> str:
    """The job's group; "" for a record that cannot be loaded (it is set aside when its turn comes)."""
    return job.group if loads(job) else ""


def newest_keys(tree: Any, number: int) -> list[int]:
    """The last keys of an inbox or overflow, newest first."""
    return list(itertools.islice(newest_first(tree), number))


def newest_first(tree: Any) -> Iterator[int]:
    """The keys of a tree from its end, lazily. A slice from the end of a BTree would load all of it."""
    try:
        key = tree.maxKey()
        while key > SENTINEL:
            yield key
            key = tree.maxKey(key - 1)
    except ValueError:
        return  # there is no other


def place_rows(place: Place, now: datetime | None = None) -> Iterator[Row]:
    """The entries of one place in their order. ``now``: of the jobs for later only those that are due."""
    if place.kind == "later":
        end = None if now is None else (clock.to_microseconds(now), 1 << 63)
        for at, job in place.tree.items(None, end):
            yield Row(at[1], place, at, job)
    else:
        for key, job in place.tree.items(SENTINEL + 1):
            yield Row(key, place, key, job)
