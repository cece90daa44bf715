"""Frozen time for tests: the package's clock stands still; the class ``datetime`` stays what it is."""

from collective.zcasync import clock
from datetime import datetime
from datetime import tzinfo

import time

#: Where the clock stands after ``setUpDatetime``.
START = datetime(2006, 8, 10, 15, 44, 22, 211, tzinfo=clock.UTC)

#: Really wait so many seconds, whatever the frozen clock says.
time_sleep = time.sleep


def setUpDatetime(when: datetime = START) -> None:
    """Freeze the package's clock at an aware datetime; InvalidValueError for anything else.

    Everything in this package asks that clock: when a job was put, whether it is due, when it has waited too long.
    ``datetime.now`` and ``time.time`` go on, so what they give can be pickled and compared as always.
    """
    clock.set_now(when)


def set_now(when: datetime) -> None:
    """Let the frozen clock stand at another aware datetime; InvalidValueError for anything else."""
    clock.set_now(clock.aware(when, "when"))


def tearDownDatetime() -> None:
    """Let the package's clock run again. Does nothing if it runs."""
    clock.set_now(None)


def now(tz: tzinfo | None = None) -> datetime:
    """Now by the package's clock, as an aware datetime in that zone (None: UTC)."""
    return clock.utcnow() if tz is None else clock.utcnow().astimezone(tz)


def is_frozen() -> bool:
    """Whether the package's clock stands still."""
    return clock._fixed is not None
