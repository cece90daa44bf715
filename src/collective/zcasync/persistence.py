"""Building blocks of what is stored: keys, payloads, and views that look like collections."""

from BTrees.LOBTree import LOBucket
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import MutableMapping
from collections.abc import MutableSequence
from collections.abc import Sequence
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import OutOfRange
from datetime import datetime
from persistent import Persistent
from persistent.timestamp import TimeStamp
from typing import Any
from ZODB.interfaces import IConnection

import pickle
import random
import threading

#: The protocol of the plain values in a record: with the newest that all know they are smallest.
PROTOCOL = 4

#: First key of each bucket that putters and claims share. It is never removed, so that such a bucket is never emptied
#: and never loses its first key: then all that putters and claims do to it at once can be merged (also by a ZEO
#: server that does not know this package).
SENTINEL = -(2**63)

#: 2023-01-01 in microseconds since 1970: 56 bits count from here for 2,283 years.
EPOCH = 1_672_531_200_000_000

#: The bit of a key that says "was not put back": what was put back comes first.
NOT_PUT_BACK = 1 << 62

#: Microseconds that one step of priority is worth: ten minutes. Waiting makes up for priority, so nothing starves.
PRIORITY_STEP = 600_000_000

PRIORITIES = range(-16, 16)

_last = 0
_epoch = 0
_lock = threading.Lock()


def make_key(when: datetime | None = None, priority: int = 0, put_back: bool = False) -> int:
    """A key for one waiting job: smaller is earlier.

    ``when``: the job's begin_after; the key holds the later of it and now. In one process no moment is used twice,
    so jobs keep the order in which they were put; six random bits keep processes apart.
    """
    global _last, _epoch
    with _lock:
        if _epoch != clock.epoch:
            _epoch, _last = clock.epoch, 0
        now = max(clock.microseconds(), _last + 1)
        _last = now
    moment = now if when is None else max(clock.to_microseconds(when), now)
    since = EPOCH if now >= EPOCH else 0  # tests may set the clock to a year before this package
    moment = max(moment - since - priority * PRIORITY_STEP, 0) & ((1 << 56) - 1)
    return (0 if put_back else NOT_PUT_BACK) | (moment << 6) | random.getrandbits(6)


def moment_of(key: int, priority: int = 0) -> datetime:
    """Since when a job of that key and priority waits: the latest of its begin_after, its put and a put back."""
    moment = ((key & ~NOT_PUT_BACK) >> 6) + EPOCH + priority * PRIORITY_STEP
    return clock.from_microseconds(moment)


def is_put_back(key: int) -> bool:
    """Whether the key was given by a put back."""
    return not key & NOT_PUT_BACK


def lowest_like(key: int) -> int:
    """The first of all keys that were given by a put back, or of all others, as this one was."""
    return key & NOT_PUT_BACK


def make_inbox() -> LOBucket:
    """A bare bucket with its sentinel; see SENTINEL."""
    bucket = LOBucket()
    bucket[SENTINEL] = None
    return bucket


def size(inbox: LOBucket) -> int:
    """How many entries it has, its sentinel among them.

    Not len() alone: where the bucket has to be loaded and that fails, BTrees make a large number of the failure, and
    the error comes up at whatever is done next, as another one.
    """
    inbox._p_activate()
    return len(inbox)


def insert(place: Any, key: int, job: Any) -> int:
    """Enter the job under the next free key of ``place``, and return that key."""
    key = free_key(key, place.__contains__)
    place[key] = job
    return key


def free_key(key: int, taken: Callable[[int], bool]) -> int:
    """The key, or one close behind it. Jobs for one moment all want the same 64 keys: grow the steps, do not crawl."""
    step = 1
    while taken(key):
        key += random.randint(1, step)
        step *= 2
    return key


def item_at(items: Any, index: Any) -> Any:
    """``items[index]`` for one index; InvalidTypeError for slices and all else, OutOfRange where nothing is."""
    if type(index) is not int:
        raise InvalidTypeError(f"an index is a whole number, not {index!r}; for several jobs use list(...)")
    try:
        return items[index]
    except IndexError:
        raise OutOfRange(f"there is no job at place {index}; there are {len(items)}") from None


class Checked:
    """An attribute of a persistent object whose values are checked when they are set.

    ``check(value, name)`` returns what to store, or raises. It is stored under its own name, as without a check.
    """

    def __init__(self, check: Callable[[Any, str], Any], default: Any = None) -> None:
        self.check = check
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self.default if obj is None else obj.__dict__.get(self.name, self.default)

    def __set__(self, obj: Any, value: Any) -> None:
        obj.__dict__[self.name] = self.check(value, self.name)
        obj._p_changed = True


class Moment:
    """An aware datetime in UTC, or None, of a persistent object, as a number of microseconds in its record.

    A datetime takes ten times as long to load and to write. Records from before this have datetimes.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        value = None if obj is None else obj.__dict__.get(self.name)
        return clock.from_microseconds(value) if type(value) is int else value

    def __set__(self, obj: Any, value: datetime | None) -> None:
        obj.__dict__[self.name] = None if value is None else clock.to_microseconds(value)
        obj._p_changed = True


def whole(least: int) -> Callable[[Any, str], int]:
    """A check for whole numbers from ``least``; InvalidValueError for all else."""

    def check(value: Any, name: str) -> int:
        if type(value) is not int or value < least:
            raise InvalidValueError(f"{name} must be a whole number from {least}, not {value!r}")
        return value

    return check


def name_or_none(value: Any, name: str) -> str | None:
    """A check for names that may be left out; InvalidTypeError for all else."""
    if value is not None and not isinstance(value, str):
        raise InvalidTypeError(f"{name} must be a name (a text) or None, not {value!r}")
    return value


def level_or_none(value: Any, name: str) -> int | None:
    """A check for levels of logging that may be left out; InvalidValueError for all else."""
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidValueError(f"{name} must be a level such as logging.WARNING or None, not {value!r}")
    return value


class Sparse(Persistent):
    """A record without the attributes whose values are the defaults of its class: each costs at all loads and writes.

    So a default is never changed: it is what old records say. That of a class of the application may be; what such a
    class knows for itself is written whatever it is. What is plain stands in one text of bytes, which takes half as
    long to load and to write; the rest, with all references, beside it. Records from before this are one dict. Write
    conflicts are not resolved.
    """

    _own_defaults: dict[str, Any] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith("collective.zcasync."):
            names = {name for base in cls.__mro__ for name in vars(base) if not name.startswith("__")}
            cls._own_defaults = {name: value for name in names if _is_value(value := getattr(cls, name, cls))}

    def __getstate__(self) -> Any:
        state, defaults, cls = super().__getstate__(), self._own_defaults, type(self)
        if not isinstance(state, dict):
            return state  # a subclass has slots
        plain, rest = {}, {}
        for name, value in state.items():
            if value is defaults.get(name, self) and value is getattr(cls, name):
                continue
            if type(value) in _PLAIN or type(value) is tuple and _is_plain_tuple(value):
                plain[name] = value
            else:
                rest[name] = value
        return pickle.dumps(plain, PROTOCOL), rest

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(values_in(state))


def values_in(state: Any) -> Any:
    """The state of a Sparse record as one dict, also of one whose class is gone. Other states are returned as they
    are."""
    if type(state) is tuple and type(state[0]) is bytes:
        return {**pickle.loads(state[0]), **state[1]}
    return state


_PLAIN = frozenset((type(None), bool, int, float, str, bytes))


def _is_plain_tuple(value: tuple[Any, ...]) -> bool:
    return all(type(item) in _PLAIN or type(item) is tuple and _is_plain_tuple(item) for item in value)


def _is_value(value: Any) -> bool:
    """Whether a class attribute is a default that cannot change, of which there is only one."""
    return value is None or value is True or value is False or type(value) in (int, str, tuple) and not value


class Base(Persistent):
    """Something with a parent. Write conflicts are not resolved."""

    parent: Any = None
    _explicit_parent: Any = None

    @property
    def __parent__(self) -> Any:
        """What security code climbs: the parent, unless another one was set here."""
        return self.parent if self._explicit_parent is None else self._explicit_parent

    @__parent__.setter
    def __parent__(self, value: Any) -> None:
        self._explicit_parent = value


class Payload(Persistent):
    """What is not plain in a job: arguments, owner of a method, result. Written once; write conflicts not resolved.

    Only the thread that runs the job loads it (and whoever asks for ``job.args`` or ``job.result``), so that a class
    that is gone harms nobody else.
    """

    owner: Any = None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    result: Any = None

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


def connection_of(context: Any) -> Any:
    """The connection of a persistent object, or of the nearest of its parents that has one; a connection itself."""
    if IConnection.providedBy(context):
        return context
    seen: set[int] = set()
    while context is not None and id(context) not in seen:
        jar = getattr(context, "_p_jar", None)
        if jar is not None:
            return jar
        seen.add(id(context))
        context = getattr(context, "__parent__", None)
    raise InvalidValueError("this object is in no database yet: add it to its container first, or pass a connection")


class SequenceView(MutableSequence):
    """A list that reads from and writes to a place of its own, without being a record."""

    def __init__(self, get: Callable[[], Sequence[Any]], set: Callable[[list[Any]], None]) -> None:
        self._get = get
        self._set = set

    def __getitem__(self, index: Any) -> Any:
        return list(self._get())[index]

    def __len__(self) -> int:
        return len(self._get())

    def _change(self, change: Callable[[list[Any]], None]) -> None:
        values = list(self._get())
        change(values)
        self._set(values)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._change(lambda values: values.__setitem__(index, value))

    def __delitem__(self, index: Any) -> None:
        self._change(lambda values: values.__delitem__(index))

    def insert(self, index: int, value: Any) -> None:
        self._change(lambda values: values.insert(index, value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self._get()) == list(other)

    def __repr__(self) -> str:
        return repr(list(self._get()))


class MappingView(MutableMapping):
    """A mapping that reads from and writes to a place of its own, without being a record."""

    def __init__(self, get: Callable[[], Mapping[Any, Any]], set: Callable[[dict[Any, Any]], None]) -> None:
        self._get = get
        self._set = set

    def __getitem__(self, key: Any) -> Any:
        return self._get()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        values = dict(self._get())
        values[key] = value
        self._set(values)

    def __delitem__(self, key: Any) -> None:
        values = dict(self._get())
        del values[key]
        self._set(values)

    def __iter__(self) -> Iterator[Any]:
        return iter(dict(self._get()))

    def __len__(self) -> int:
        return len(self._get())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self._get()) == dict(other)

    def __repr__(self) -> str:
        return repr(dict(self._get()))


def written_at(record: Persistent) -> datetime:
    """When a record was written last, by the storage's clock; now, if it never was."""
    record._p_activate()  # a ghost does not know
    if record._p_serial in (None, bytes(8)):
        return clock.utcnow()
    return datetime.fromtimestamp(TimeStamp(record._p_serial).timeTime(), clock.UTC)


def walk(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with ``change`` applied to it and to all that plain lists, tuples, sets and dicts in it hold."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return kind(walk(item, change) for item in value)
    if kind is dict:
        return {key: walk(item, change) for key, item in value.items()}
    return change(value)
