"""What a dispatcher remembers of its polls and jobs: rolling, in memory, for looking in."""

from collections import OrderedDict
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.utils import dt_to_long
from collective.zcasync.utils import long_to_dt
from datetime import datetime
from typing import Any

import logging
import threading

tracelog = logging.getLogger("collective.zcasync.trace")


class PollInfo(dict):
    """One poll: queue name -> None, or agent name -> {"size", "len", "error", "new jobs", "active jobs"}.

    ``len`` and ``active jobs`` are what the database said before this poll's claims. ``new jobs`` are what was claimed
    by the poll, and after it until the next one: nothing waits for a poll here.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.utc_timestamp = clock.utcnow()
        #: (queue, agent) -> how many of the older new jobs are counted only.
        self.omitted: dict[tuple[str, str], int] = {}

    @property
    def key(self) -> int:
        """The poll's moment as a number; later ones are smaller, see utils.dt_to_long."""
        return dt_to_long(self.utc_timestamp)


class Rolling(OrderedDict):
    """A mapping that keeps the newest entries only. Written by one thread; iterating others see it as it was."""

    def __init__(self, size: int) -> None:
        super().__init__()
        if type(size) is not int or size < 1:
            raise InvalidValueError(f"the size must be a whole number of at least 1, not {size!r}")
        self.size = size

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self.size:
            self.popitem(last=False)


class Polls:
    """The newest polls, newest first. Written by the dispatcher, read by anybody, also while it is written."""

    #: Polls since the dispatcher was activated.
    count = 0

    def __init__(self, size: int) -> None:
        if type(size) is not int or size < 1:
            raise InvalidValueError(f"the size must be a whole number of at least 1, not {size!r}")
        self.size = size
        #: Never changed, always replaced: whoever iterates goes on with what was there when he began.
        self._polls: list[PollInfo] = []
        self._lock = threading.Condition()

    def add(self, poll: PollInfo) -> None:
        """The newest poll. What it holds is logged if it is not the same as the last time."""
        with self._lock:
            if not self._polls or dict(self._polls[0]) != dict(poll):
                tracelog.debug("poll %s: %r", poll.key, dict(poll))
            self._polls = [poll, *self._polls[: self.size - 1]]
            self.count = self.count + 1
            self._lock.notify_all()

    def extend(self, claimed: PollInfo, keep: int) -> None:
        """Count what was claimed between two polls among the new jobs of the newest; name ``keep`` of them at most."""
        entries = [
            (queue, agent, entry)
            for queue, agents in claimed.items()
            for agent, entry in (agents or {}).items()
            if entry["new jobs"] or entry["error"]
        ]
        if not entries:
            return
        with self._lock:
            if not self._polls:
                return
            poll = PollInfo(self._polls[0])
            poll.utc_timestamp, poll.omitted = self._polls[0].utc_timestamp, dict(self._polls[0].omitted)
            for queue, agent, entry in entries:
                known = (poll.get(queue) or {}).get(agent, {**entry, "new jobs": []})
                new = [*known["new jobs"], *entry["new jobs"]]
                more = max(len(new) - keep, 0)
                if more:
                    poll.omitted[queue, agent] = poll.omitted.get((queue, agent), 0) + more
                known = {**known, "new jobs": new[more:], "error": entry["error"] or known["error"]}
                poll[queue] = {**(poll.get(queue) or {}), agent: known}
            self._polls = [poll, *self._polls[1:]]

    def clear(self) -> None:
        with self._lock:
            self._polls = []
            self.count = 0

    def wait_for(self, count: int, seconds: float) -> PollInfo | None:
        """The newest poll as soon as there were more than ``count``; None if that takes longer than ``seconds``."""
        with self._lock:
            self._lock.wait_for(lambda: self.count > count, seconds)
            return self._polls[0] if self.count > count and self._polls else None

    def first(self) -> PollInfo:
        """The newest; ValueError if there is none."""
        if not self._polls:
            raise InvalidValueError("the dispatcher has not polled yet")
        return self._polls[0]

    def __iter__(self) -> Iterator[PollInfo]:
        return iter(self._polls)

    def __len__(self) -> int:
        return len(self._polls)

    def __bool__(self) -> bool:
        return bool(self._polls)

    def between(self, at: Any = None, before: Any = None, since: Any = None) -> Iterator[PollInfo]:
        """The polls at or before ``at``, or before ``before``, back to ``since`` (included), newest first.

        Each a poll's key, an aware datetime, or a naive one in UTC. InvalidValueError for anything else, and for both
        ``at`` and ``before``.
        """
        if at is not None and before is not None:
            raise InvalidValueError("give at or before, not both")
        last, limit, oldest = moment(at, "at"), moment(before, "before"), moment(since, "since")
        polls = self._polls
        return (
            poll
            for poll in polls
            if (last is None or poll.utc_timestamp <= last)
            and (limit is None or poll.utc_timestamp < limit)
            and (oldest is None or poll.utc_timestamp >= oldest)
        )


def moment(value: Any, name: str) -> datetime | None:
    """The moment that is meant: by a poll's key, an aware datetime, or a naive one in UTC."""
    if value is None:
        return None
    if type(value) is int:
        return long_to_dt(value).replace(tzinfo=clock.UTC)
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=clock.UTC)
    return clock.aware(value, name)
