"""Small helpers under the path that zc.async's users know: times as keys, texts, iterators, and the commit loops."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync.clock import UTC
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.representation import custom_repr
from collective.zcasync.transactions import never_fail
from collective.zcasync.transactions import try_five_times
from datetime import datetime
from datetime import timedelta
from itertools import islice
from typing import Any

import heapq
import logging

__all__ = (
    "custom_repr",
    "dt_to_long",
    "log",
    "long_to_dt",
    "never_fail",
    "sortedmerge",
    "takecount",
    "tracelog",
    "try_five_times",
)

#: The two loggers of the engine; one handler on "collective.zcasync" catches both.
log = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

_FIRST = datetime.min  # noqa: DTZ901
_MICROSECOND = timedelta(microseconds=1)
_ALL = (datetime.max - _FIRST) // _MICROSECOND  # noqa: DTZ901


def dt_to_long(when: datetime) -> int:
    """A whole number for a datetime: the later, the smaller, so that sorted keys give the newest first.

    An aware datetime is read as its moment in UTC, a naive one as UTC. The low four bits are zero, for whoever has to
    tell things of one moment apart. It fits into 63 bits. InvalidValueError for anything else.
    """
    if not isinstance(when, datetime):
        raise InvalidValueError(f"a datetime is wanted, not {when!r}")
    if when.tzinfo is not None:
        when = when.astimezone(UTC).replace(tzinfo=None)
    return (_ALL - (when - _FIRST) // _MICROSECOND) << 4


def long_to_dt(key: int) -> datetime:
    """The naive datetime (in UTC) that ``dt_to_long`` made ``key`` of; the low four bits do not matter.

    InvalidValueError for what is no such number.
    """
    if type(key) is not int or not 0 <= key >> 4 <= _ALL:
        raise InvalidValueError(f"{key!r} is not a key that dt_to_long makes")
    return _FIRST + (_ALL - (key >> 4)) * _MICROSECOND


def sortedmerge(sources: Iterable[Iterable[Any]], key: Callable[[Any], Any] | None = None) -> Iterator[Any]:
    """What several sorted iterables hold, as one sorted iterator that reads them as it goes.

    Of equal things that of the earlier source comes first.
    """
    return heapq.merge(*sources, key=key)


def takecount(source: Iterable[Any], count: int | None) -> Iterator[Any]:
    """The first ``count`` of an iterable (all if it is None), lazily; InvalidValueError for less than zero."""
    if count is not None and (type(count) is not int or count < 0):
        raise InvalidValueError(f"count must be a whole number of at least 0, not {count!r}")
    return islice(source, count)
