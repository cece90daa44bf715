"""The one clock of the package: aware UTC, and settable in tests."""

from collective.zcasync.exceptions import InvalidValueError
from datetime import datetime
from datetime import timedelta
from datetime import timezone

import time

UTC = timezone.utc

_START = datetime(1970, 1, 1, tzinfo=UTC)

#: Where tests have frozen the clock; None in production.
_fixed: datetime | None = None

#: Counts the changes by tests: what must not go back in time begins anew with each.
epoch = 0


def utcnow() -> datetime:
    """Now, as an aware datetime in UTC."""
    if _fixed is not None:
        return _fixed
    return datetime.now(UTC)


def set_now(when: datetime | None) -> None:
    """Freeze the clock at an aware datetime; None lets it run again. For tests."""
    global _fixed, epoch
    epoch += 1
    _fixed = None if when is None else aware(when, "when")


def microseconds() -> int:
    """Microseconds since the Unix epoch, by this clock."""
    if _fixed is None:
        return time.time_ns() // 1000
    return to_microseconds(utcnow())


def to_microseconds(when: datetime) -> int:
    """Microseconds from the Unix epoch to an aware datetime, without rounding."""
    delta = when - _START
    return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_microseconds(value: int) -> datetime:
    """The aware UTC datetime of a number of microseconds since the Unix epoch."""
    return _START + timedelta(microseconds=value)


def aware(when: datetime, name: str) -> datetime:
    """``when`` in UTC; InvalidValueError, naming ``name``, for anything but an aware datetime."""
    if not isinstance(when, datetime):
        raise InvalidValueError(f"{name} must be a datetime, not {when!r}")
    if when.tzinfo is None or when.utcoffset() is None:
        raise InvalidValueError(
            f"{name}: {when!r} is timezone-naive; say which zone is meant, for example datetime.now(timezone.utc)"
        )
    return when.astimezone(UTC)
