"""How an exception becomes plain data of bounded size, and how it is rebuilt from them."""

from collections.abc import Iterator
from persistent import Persistent
from persistent.wref import WeakRef
from types import TracebackType
from typing import Any
from typing import cast

import importlib
import io
import linecache
import os
import pickle
import re
import reprlib
import sysconfig
import twisted.python.failure
import types

#: ``(version, names, message, arguments, notes, frames, left out, chain, value's pickle, locals captured)``, made of
#: None, bool, int, str, bytes and tuples of these only.
Data = tuple[Any, ...]

NAMES = 1  #: "module:qualname" of the class and its bases
MESSAGE = 2
ARGUMENTS = 3  #: reprs
NOTES = 4
FRAMES = 5  #: (function, file, line, text of the line, whether installed code, ((name, repr of a local), ...))
LEFT_OUT = 6  #: (index, how many frames are missing before it)
CHAIN = 7  #: (("cause" | "context" | "group", data), ...)
PICKLE = 8
CAPTURED = 9

_VERSION = 1

# Bounds in characters, items and bytes. A failure is read in lists and written with each retry, so it stays small
# even where the exception carries a page of text or a deep recursion.
_MESSAGE_LENGTH = 2000
_TEXT_LENGTH = 200
_PATH_LENGTH = 300
_LOCAL_LENGTH = 21
_ARGUMENT_COUNT = 20
_LOCAL_COUNT = 20
_FIRST_FRAMES = 10
_LAST_FRAMES = 20
_STACK = 40
_CHAIN_DEPTH = 4
_GROUP_SIZE = 8
_VALUE_BYTES = 4096
_TOTAL_BYTES = 32 * 1024

_SECRET = re.compile(r"passw|secret|token|credential|api_?key|private_?key|auth|cookie|session|pwd", re.IGNORECASE)

#: Packages installed by pip or buildout, sources of compiled modules, and Python's frozen ones.
_INSTALLED = re.compile(
    r"[\\/](site-packages|dist-packages)[\\/]|\.egg[\\/]|[\\/]eggs[\\/]v\d+[\\/]|\.(pyx|pxi|pxd)$|^<frozen "
)

_STDLIB = tuple(
    os.path.join(form(sysconfig.get_path(key)), "")
    for key in ("stdlib", "platstdlib")
    for form in (os.path.abspath, os.path.realpath)
)

#: This package's own frames, but not those of its demo, which is an add-on as users write them.
_OWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_DEMO = os.path.join(_OWN, "demo", "")


class _Repr(reprlib.Repr):
    """Bounded reprs, made without the whole one: a value of 100 MB must not become a text of 400 MB first."""

    def repr_bytes(self, value: Any, level: int) -> str:
        return repr(bytes(value[:_TEXT_LENGTH])) + (f"... ({len(value)} bytes)" if len(value) > _TEXT_LENGTH else "")

    repr_bytearray = repr_memoryview = repr_bytes


_repr = _Repr()
_repr.maxstring = _repr.maxother = _TEXT_LENGTH


def from_exception(exc: Any, tb: TracebackType | None, capture_locals: bool) -> Data:
    """The data of an exception; ``tb`` holds if it is not None, else the exception's own traceback."""
    return _bounded(_exception(exc, tb, capture_locals, _CHAIN_DEPTH, set()))


def from_twisted(failure: twisted.python.failure.Failure) -> Data:
    """The data of a failure of Twisted's, which may have lost its traceback."""
    value = failure.value
    if isinstance(value, twisted.python.failure.Failure):
        return from_twisted(value)
    if failure.tb is not None:
        return from_exception(value, failure.tb, bool(failure.captureVars))
    data = list(_exception(value, None, False, _CHAIN_DEPTH, set()))
    if isinstance(failure.type, type):
        data[NAMES] = tuple(name_of(cls) for cls in failure.type.__mro__ if cls is not object)
    if not data[FRAMES]:
        frames = [
            (_text(function), _text(file, _PATH_LENGTH), line, _line(file, line, None), _is_installed(file), ())
            for function, file, line, _, _ in failure.frames
        ]
        data[FRAMES], data[LEFT_OUT] = _ends(frames)
    return _bounded(tuple(data))


def stack_of(frame: types.FrameType | None) -> tuple[tuple[str, str, int, str, bool], ...]:
    """Where a thread is: function, file, line, text of the line, whether installed code; the innermost call last."""
    found: list[tuple[str, str, int, str, bool]] = []
    while frame is not None and len(found) < _STACK:
        found.append(_frame(frame, frame.f_lineno, False)[:5])
        frame = frame.f_back
    return tuple(reversed(found))


def name_of(cls: type) -> str:
    """The class as text."""
    return f"{cls.__module__}:{cls.__qualname__}"


def dotted(name: str) -> str:
    """The class as people write it."""
    return name.replace(":", ".", 1)


def rebuild(data: Data) -> tuple[type, BaseException]:
    """Class and instance of what the data tell of; stand-ins where they are not to be had."""
    value = None
    if data[PICKLE] is not None:
        try:
            value = pickle.loads(data[PICKLE])
        except Exception:  # its code is gone or has changed
            value = None
    if isinstance(value, BaseException):
        return type(value), value
    found = [_class(name) for name in data[NAMES]]
    bases = [cls for cls in found if cls is not None]
    made = (_stand_in(base, data) for base in [*bases, Exception])
    stand_in = next((each for each in made if each is not None), Exception(data[MESSAGE]))
    return found[0] or type(stand_in), stand_in


def _exception(exc: Any, tb: TracebackType | None, capture: bool, depth: int, seen: set[int]) -> Data:
    seen.add(id(exc))
    frames, left_out = _ends(list(_frames(tb or getattr(exc, "__traceback__", None))))
    frames = tuple(_frame(frame, line, capture) for frame, line in frames)
    names = tuple(name_of(cls) for cls in type(exc).__mro__ if cls is not object)
    return (
        _VERSION,
        tuple(_text(name) for name in names[:30]),
        _text(_safely(str, exc), _MESSAGE_LENGTH),
        tuple(_text(_safely(_repr.repr, arg)) for arg in _arguments(exc)[:_ARGUMENT_COUNT]),
        tuple(_text(_safely(str, note)) for note in _notes(exc)[:_ARGUMENT_COUNT]),
        frames,
        left_out,
        tuple(_chain(exc, capture, depth - 1, seen)) if depth else (),
        _value(exc),
        capture,
    )


def _chain(exc: Any, capture: bool, depth: int, seen: set[int]) -> Iterator[tuple[str, Data]]:
    cause, context = getattr(exc, "__cause__", None), getattr(exc, "__context__", None)
    if cause is not None:
        if id(cause) not in seen:
            yield "cause", _without_value(_exception(cause, None, capture, depth, seen))
    elif context is not None and not getattr(exc, "__suppress_context__", False) and id(context) not in seen:
        yield "context", _without_value(_exception(context, None, capture, depth, seen))
    if isinstance(exc, BaseExceptionGroup):
        for member in exc.exceptions[:_GROUP_SIZE]:
            if id(member) not in seen:
                yield "group", _without_value(_exception(member, None, capture, depth, seen))


def _frames(tb: TracebackType | None) -> Iterator[tuple[types.FrameType, int]]:
    while tb is not None:
        yield tb.tb_frame, tb.tb_lineno
        tb = tb.tb_next


def _ends(frames: list[Any]) -> tuple[Any, tuple[int, int]]:
    """The first and last frames: where it began, and where it broke."""
    missing = len(frames) - _FIRST_FRAMES - _LAST_FRAMES
    if missing <= 0:
        return tuple(frames), (0, 0)
    return tuple(frames[:_FIRST_FRAMES] + frames[-_LAST_FRAMES:]), (_FIRST_FRAMES, missing)


def _frame(frame: types.FrameType, line: int, capture: bool) -> tuple[Any, ...]:
    file = frame.f_code.co_filename
    return (
        _text(frame.f_code.co_name),
        _text(file, _PATH_LENGTH),
        line,
        _line(file, line, frame.f_globals),
        _is_installed(file),
        _locals(frame) if capture else (),
    )


def _line(file: str, line: int, module: dict[str, Any] | None) -> str:
    """The text of the line, read now: the file may be another one when somebody reads the traceback."""
    return _text(linecache.getline(file, line, module).strip())


def _is_installed(file: str) -> bool:
    path = os.path.abspath(file) if not file.startswith("<") else file
    if path.startswith(_OWN):
        return not path.startswith(_DEMO)
    return bool(_INSTALLED.search(path)) or path.startswith(_STDLIB)


def _locals(frame: types.FrameType) -> tuple[tuple[str, str], ...]:
    found = []
    named = [(name, value) for name, value in frame.f_locals.items() if not name.startswith("__")]
    for name, value in named[:_LOCAL_COUNT]:
        text = "[hidden]" if _SECRET.search(name) else _text(_safely(_repr.repr, value), _LOCAL_LENGTH, "[...]")
        found.append((_text(name), text))
    return tuple(found)


def _arguments(exc: Any) -> tuple[Any, ...]:
    arguments = getattr(exc, "args", ())
    return arguments if isinstance(arguments, tuple) else ()


def _notes(exc: Any) -> list[Any]:
    notes = getattr(exc, "__notes__", ())
    return list(notes) if isinstance(notes, list | tuple) else []


def _value(exc: Any) -> bytes | None:
    """The pickle of the exception, if it is small and comes back the same."""
    if not isinstance(exc, BaseException):
        return None
    file = _Small()
    try:
        _SmallPickler(file, 4).dump(exc)
        data = file.getvalue()
        again = pickle.loads(data)
        same = type(again) is type(exc) and _safely(str, again) == _safely(str, exc)
    except Exception:  # whatever user code does when it is pickled; the text tells enough
        return None
    return data if same else None


def _without_value(data: Data) -> Data:
    """Causes are read, never rebuilt."""
    return (*data[:PICKLE], None, *data[PICKLE + 1 :])


def _bounded(data: Data) -> Data:
    """Drop what is least missed until the data fit."""
    for bound in (16, 8, 4, 2):
        if len(pickle.dumps(data, 4)) <= _TOTAL_BYTES:
            return data
        data = _shortened(data, bound)
    # What is left is text that was written to be long.
    return (*data[:ARGUMENTS], (), (), *data[FRAMES:CHAIN], (), *data[CHAIN + 1 :])


def _shortened(data: Data, bound: int) -> Data:
    frames, (position, missing) = data[FRAMES], data[LEFT_OUT]
    first, last = bound // 3, bound - bound // 3
    if len(frames) > bound:
        missing += len(frames) - bound
        position = first
        frames = frames[:first] + frames[-last:]
    chain = data[CHAIN][:bound] if bound > 2 else ()
    chain = tuple((relation, _shortened(other, bound // 2)) for relation, other in chain)
    return (*data[:FRAMES], frames, (position, missing), chain, *data[PICKLE:])


def _class(name: str) -> type[BaseException] | None:
    module, _, qualname = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # gone, or broken in this process
        return None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _stand_in(base: type[BaseException], data: Data) -> BaseException | None:
    """An exception that is caught as ``base`` and reads like the one that was lost."""
    module, _, qualname = data[NAMES][0].partition(":")
    message = data[MESSAGE]
    body = {
        "__module__": module,
        "__qualname__": qualname,
        "__init__": lambda self, *args: None,
        "__str__": lambda self: message,
        "__repr__": lambda self: f"{self.__class__.__name__}({message!r})",
    }
    try:
        cls = type(qualname.rpartition(".")[2], (base,), body)
        value = cast(BaseException, cls.__new__(cls, message))
        value.args = (message,)
        str(value), repr(value), getattr(value, "__notes__", None)
    except Exception:  # the base has a mind of its own; one of its own bases will do
        return None
    return value


def _safely(call: Any, obj: Any) -> str:
    try:
        return call(obj)
    except Exception as e:
        return f"<{type(obj).__qualname__}, whose text cannot be made: {type(e).__name__}>"


def _text(text: Any, length: int = _TEXT_LENGTH, more: str = "…") -> str:
    """Bounded text without lone surrogates, which could be stored but not shown."""
    text = str(text)
    if len(text) > length:
        text = text[:length] + more
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Small(io.BytesIO):
    """A file that takes no more than a small pickle."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _VALUE_BYTES:
            raise ValueError("too large")
        return super().write(data)


class _SmallPickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> None:
        # A stored object would be copied into the failure; a live one would not come back.
        if isinstance(obj, Persistent | WeakRef | types.TracebackType | types.FrameType):
            raise TypeError("not part of a value")
