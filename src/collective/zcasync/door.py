"""What may be stored as an argument, checked at the put: what cannot work is refused there, not in the job."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.failure import Failure
from datetime import date
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from io import BytesIO
from persistent import Persistent
from persistent.wref import WeakRef
from twisted.internet.defer import Deferred
from typing import Any
from zodbpickle import pickle  # the ZODB's own: it accepts less than the standard library's
from zoneinfo import ZoneInfo

import io
import logging
import socket
import threading
import twisted.python.failure
import types
import ZODB
import ZODB.Connection

logger = logging.getLogger("collective.zcasync.events")

#: Bytes above which a put is worth a warning: the database carries the arguments twice, there and back.
WARN_ABOVE = 100 * 1024

#: Bytes above which a put is refused.
REFUSE_ABOVE = 10 * 1024 * 1024

#: The protocol that the ZODB writes.
PROTOCOL = 3

#: Asked about each object that would be stored. Each returns a sentence that tells why it cannot be and the way out,
#: or None. Outer rings add theirs.
refusals: list[Callable[[Any], str | None]] = []

_PLAIN = (type(None), bool, int, float, str, bytes, date, timedelta)

_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event, threading.Semaphore)


def check(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    owner: Any,
    task: str,
    database: str | None = None,
) -> int:
    """Refuse what cannot be stored with a job; return the size of the rest in bytes.

    ``owner`` is that of a bound method, or None; ``task`` names the job in messages; ``database`` is the name of the
    database that the job will be stored in.
    """
    visit = _Visit(task, database)
    for number, value in enumerate(args, 1):
        visit.dump(f"argument {number}", value)
    for name, value in kwargs.items():
        visit.dump(f"keyword {name!r}", value)
    if owner is not None:
        visit.dump("the owner of the method", owner)
    size = visit.file.size
    if size > WARN_ABOVE:
        logger.warning(
            "The arguments of %s take %d kB in the database; pass large data by a blob or a persistent object",
            task,
            size // 1024,
        )
    return size


def is_plain(value: Any, limit: int = 1024) -> bool:
    """Whether a job's own record may hold the value: plain builtins, loadable everywhere, and small."""
    if value is None or type(value) in (bool, float) or type(value) in (str, bytes) and 4 * len(value) + 16 <= limit:
        return True  # as most results are, whose size nobody has to measure
    return _is_plain(value, 0, limit) and len(pickle.dumps(value, PROTOCOL)) <= limit


def survives(value: Any) -> bool:
    """Whether the value can be stored and loaded again; persistent objects count as references."""
    return stored_size(value) is not None


def stored_size(value: Any) -> int | None:
    """Bytes that the value takes in the database; None if it does not survive that. Of one that is too large nothing
    but the size is known."""
    file = BytesIO()
    references: list[Any] = []
    try:
        _ReferencePickler(file, references).dump(value)
        size = file.tell()
        if size <= REFUSE_ABOVE:
            file.seek(0)
            _ReferenceUnpickler(file, references).load()
    except Exception:
        return None
    return size


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of the value as if it was stored and loaded again, with what ``change`` returns for each persistent object
    and each weak reference in it."""
    file = BytesIO()
    references: list[Any] = []
    _ReferencePickler(file, references).dump(value)
    file.seek(0)
    return _ReferenceUnpickler(file, [change(reference) for reference in references]).load()


def _is_plain(value: Any, depth: int, limit: int) -> bool:
    kind = type(value)
    if kind is tuple:
        return depth < 20 and len(value) <= 1024 and all(_is_plain(item, depth + 1, limit) for item in value)
    if kind in (str, bytes):
        return len(value) <= limit  # large ones are not pickled to find out how large they are
    if kind is datetime:
        return value.tzinfo is None or type(value.tzinfo) is timezone
    return kind in _PLAIN


class _Visit:
    """One pickling pass over all arguments, which remembers where it is."""

    def __init__(self, task: str, database: str | None) -> None:
        self.task = task
        self.database = database
        self.file = _Counter(self)
        self.pickler = _DoorPickler(self)
        self.where = ""
        self.value: Any = None
        self.last: Any = None
        self.try_to_load = False

    def dump(self, where: str, value: Any) -> None:
        self.where, self.value, self.last, self.try_to_load = where, value, value, False
        try:
            self.pickler.dump(value)
        except InvalidArgumentError:
            raise
        except RecursionError as e:
            raise self.refusal(value, "it is nested too deeply; pass it by a blob or a persistent object") from e
        except Exception as e:
            raise self.refusal(
                self.last, f"it cannot be pickled ({e}); pass what it is made from, and make it anew in the job"
            ) from e
        if self.try_to_load and not survives(value):
            raise self.refusal(value, "it would be written but never load again; pass its message as text")

    def refusal(self, obj: Any, why: str) -> InvalidArgumentError:
        kind = type(obj)
        place = self.where if obj is self.value else f"something inside {self.where}"
        return InvalidArgumentError(
            f"{place} of {self.task} ({kind.__module__}.{kind.__qualname__}) cannot be stored: {why}"
        )

    def too_large(self, size: int) -> InvalidArgumentError:
        return self.refusal(
            self.value,
            f"the arguments take {size / 1024 / 1024:.0f} MB or more, and {REFUSE_ABOVE // 1024 // 1024} MB at most are"
            " allowed; store large data in a blob, and pass the persistent object that holds it",
        )

    def reference(self, obj: Any) -> Any:
        """The pickler's question about each object: a reference to store in its place, or None to pickle it."""
        self.last = obj
        kind = type(obj)
        if kind in _PLAIN:
            if kind in (str, bytes) and len(obj) > REFUSE_ABOVE:
                raise self.too_large(len(obj))  # the pickler would copy it first
            return None
        for refuse in refusals:
            why = refuse(obj)
            if why:
                raise self.refusal(obj, why)
        if isinstance(obj, Persistent):
            self.check_database(obj)
            return b"12345678"  # a reference takes an oid, whatever it refers to
        if isinstance(obj, WeakRef):
            return b"12345678"
        why = _why_not(obj)
        if why:
            raise self.refusal(obj, why)
        if isinstance(obj, BaseException):
            self.try_to_load = True  # exceptions with a signature of their own pickle, but do not load
        return None

    def check_database(self, obj: Any) -> None:
        jar = getattr(obj, "_p_jar", None)
        if jar is None or self.database is None:
            return
        name = jar.db().database_name
        if name != self.database:
            raise self.refusal(
                obj,
                f"it belongs to the database {name!r}, and the job to {self.database!r}; put the job into a queue of"
                f" {name!r}, or pass an id or path and look it up in the job",
            )


class _DoorPickler(pickle.Pickler):
    def __init__(self, visit: _Visit) -> None:
        super().__init__(visit.file, PROTOCOL)
        self.persistent_id = visit.reference


class _Counter:
    """A file that only counts, and says when it is too much."""

    def __init__(self, visit: _Visit) -> None:
        self.size = 0
        self.visit = visit

    def write(self, data: bytes) -> int:
        self.size += len(data)
        if self.size > REFUSE_ABOVE:
            raise self.visit.too_large(self.size)
        return len(data)


class _ReferencePickler(pickle.Pickler):
    def __init__(self, file: BytesIO, references: list[Any]) -> None:
        super().__init__(file, PROTOCOL)
        self.references = references

    def persistent_id(self, obj: Any) -> int | None:
        if isinstance(obj, Persistent | WeakRef):
            self.references.append(obj)
            return len(self.references)
        if isinstance(obj, twisted.python.failure.Failure | Deferred) and not isinstance(obj, Failure):
            raise TypeError("the ZODB cannot store this")
        return None


class _ReferenceUnpickler(pickle.Unpickler):
    def __init__(self, file: BytesIO, references: list[Any]) -> None:
        super().__init__(file)
        self.references = references

    def persistent_load(self, number: int) -> Any:
        return self.references[number - 1]


def _why_not(obj: Any) -> str | None:
    """Why the engine itself refuses an object, with the way out; None if it does not."""
    if isinstance(obj, types.FunctionType | type):
        return _why_not_by_name(obj)
    for kinds, why in _REFUSED:
        if isinstance(obj, kinds):
            return why
    if isinstance(obj, twisted.python.failure.Failure) and not isinstance(obj, Failure):
        return "Twisted's failures hold live frames; pass collective.zcasync.failure.convert(failure)"
    return None


def _why_not_by_name(obj: types.FunctionType | type) -> str | None:
    noun = "class" if isinstance(obj, type) else "function"
    name = f"{obj.__module__}.{obj.__qualname__}"
    if obj.__name__ == "<lambda>":
        return "a lambda has no name to find it by; write it as a function with def, at the top of a module"
    if "<locals>" in obj.__qualname__:
        return f"{name} exists only inside a function; move this {noun} to the top of a module"
    if obj.__module__ == "__main__":
        return f"{name} is part of the program that was started here; move this {noun} to a module that workers import"
    if "." in obj.__qualname__ and obj.__module__ != "builtins":
        return f"{name} stands inside a class, where the ZODB does not find it; move this {noun} to the top of a module"
    return None


_REFUSED: tuple[tuple[Any, str], ...] = (
    (io.IOBase, "an open file; pass its path, or its content if it is small, and open it in the job"),
    (socket.socket, "an open connection; pass the address, and connect in the job"),
    (threading.Thread, "a thread belongs to this process; pass the data that it works on"),
    (_LOCKS, "a lock belongs to this process; use a quota to keep jobs apart"),
    (
        (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
        "it is in the middle of its work; pass list(...) of its values, or the function that makes it",
    ),
    (types.ModuleType, "a module; pass its name as text, or import it in the job's function"),
    (
        (ZODB.Connection.Connection, ZODB.DB),
        "a database connection belongs to this thread; pass a persistent object, whose _p_jar is the job's connection",
    ),
    ((types.TracebackType, types.FrameType), "it holds live frames; pass traceback.format_exc() as text"),
    (
        ZoneInfo,
        "the ZODB cannot store time zones of zoneinfo; pass value.astimezone(timezone.utc), and the zone's name as text"
        " if it matters",
    ),
    (Deferred, "a Deferred belongs to this process; return it from a job, which then waits for it"),
)
