"""What a dispatcher remembers of its polls and jobs: rolling, in memory, for looking in."""

from collections import OrderedDict
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidValueError
from datetime import datetime
from typing import Any

import threading


class PollInfo(dict):
    """One poll: queue name -> None, or agent name -> {"size", "len", "error", "new jobs", "active jobs"}."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.utc_timestamp = clock.utcnow()

    @property
    def key(self) -> int:
        """Microseconds of the poll."""
        return clock.to_microseconds(self.utc_timestamp)


class Rolling(OrderedDict):
    """A mapping that keeps the newest entries only."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self.size:
            self.popitem(last=False)


class Polls:
    """The newest polls, newest first. Written by the dispatcher, read by anybody."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._polls: list[PollInfo] = []
        self._lock = threading.Condition()

    def add(self, poll: PollInfo) -> None:
        with self._lock:
            self._polls = [poll, *self._polls[: self.size - 1]]
            self.count = self.count + 1
            self._lock.notify_all()

    #: Polls since the dispatcher was made.
    count = 0

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
        return iter(list(self._polls))

    def __len__(self) -> int:
        return len(self._polls)

    def __bool__(self) -> bool:
        return bool(self._polls)

    def before(self, at: datetime | None = None, before: datetime | None = None) -> PollInfo:
        """The newest at or before ``at``, or before ``before``; ValueError if there is none, or both are given."""
        if at is not None and before is not None:
            raise InvalidValueError("give at or before, not both")
        for poll in self:
            if at is not None and poll.utc_timestamp > at or before is not None and poll.utc_timestamp >= before:
                continue
            return poll
        raise InvalidValueError("no poll at that time is remembered", at or before)
