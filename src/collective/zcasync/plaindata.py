"""What monitors tell, as plain data that JSON knows; and how they are told moments: "2H" means two hours ago."""

from collections.abc import Iterator
from collections.abc import Mapping
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import IJob
from collective.zcasync.representation import custom_repr
from datetime import datetime
from datetime import timedelta
from persistent import Persistent
from typing import Any
from ZODB.interfaces import IConnection

import json
import re
import uuid as uuidlib

_INTERVAL = re.compile(r"(?:(\d+)D)?(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?", re.IGNORECASE)


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it.

    Durations become a mapping of what is not zero of ``days``, ``hours``, ``minutes`` and ``seconds`` (a float, with
    its fractions; negative all through if the duration is); datetimes ISO texts in UTC with a Z; UUIDs texts; jobs
    [oid, database name]; mappings, sequences, sets and iterators what they hold; functions and persistent objects
    their names; all else its repr.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)  # a translatable text is a str of a class of its own
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=clock.UTC)
        return aware.astimezone(clock.UTC).replace(tzinfo=None).isoformat() + "Z"
    if isinstance(value, uuidlib.UUID):
        return str(value)
    if IJob.providedBy(value):
        return job_id(value)
    if isinstance(value, Persistent):  # also those that are mappings: their contents may be anything
        return custom_repr(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=repr)
    if isinstance(value, list | tuple | Iterator):
        return [plain(item) for item in value]
    return custom_repr(value)


def dumps(value: Any) -> str:
    """``value`` as JSON: sorted keys, four spaces."""
    return json.dumps(plain(value), sort_keys=True, indent=4, ensure_ascii=False)


def job_id(job: Any) -> list[Any]:
    """[oid as a number, name of the database] of a stored job."""
    return [int.from_bytes(job._p_oid, "big"), job._p_jar.db().database_name]


def _duration(value: timedelta) -> dict[str, float]:
    sign = -1 if value < timedelta(0) else 1
    hours, rest = divmod(abs(value) - timedelta(days=abs(value).days), timedelta(hours=1))
    minutes, rest = divmod(rest, timedelta(minutes=1))
    parts = {"days": abs(value).days, "hours": hours, "minutes": minutes, "seconds": rest.total_seconds()}
    return {name: sign * number for name, number in parts.items() if number} or {"seconds": 0.0}


def interval(text: Any) -> timedelta:
    """The duration that a text like "1D12H", "90M" or "0.5S" means; a timedelta is one already.

    InvalidValueError for anything else.
    """
    if isinstance(text, timedelta):
        return text
    found = _INTERVAL.fullmatch(text) if isinstance(text, str) else None
    if found is None or not any(found.groups()):
        raise InvalidValueError(f"{text!r} is not an interval: write [nD][nH][nM][nS], for example 1D12H or 90M")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def moment(value: Any) -> Any:
    """What ``at``, ``before`` and ``since`` of a monitor mean: a poll's key (also as text), a datetime, or an interval
    (see ``interval``) before now. None stays None."""
    if value is None or isinstance(value, int | datetime):
        return value
    if isinstance(value, str) and value.isdigit():
        return int(value)
    return clock.utcnow() - interval(value)


def whole(value: Any, name: str) -> int | None:
    """A number that may have come as text; None stays None. InvalidValueError, naming it, for anything else."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, str) and value.isdigit():
        return int(value)
    raise InvalidValueError(f"{name} must be a whole number, not {value!r}")


def connection_of(context: Any) -> Any:
    """The ZODB connection of ``context``: one itself, what is adaptable to one, or a stored object.

    InvalidValueError for anything else.
    """
    found = IConnection(context, None)
    if found is None:
        found = getattr(context, "_p_jar", None)
    if found is None:
        raise InvalidValueError(f"{context!r} leads to no database connection: give one, or a stored object")
    return found
