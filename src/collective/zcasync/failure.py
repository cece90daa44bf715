"""What went wrong, as plain text data: loadable and writable wherever this package is installed."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import failuredata
from collective.zcasync.failuredata import Data
from twisted.python.failure import NoCurrentExceptionError
from types import TracebackType
from typing import Any
from typing import NoReturn
from typing import TextIO

import builtins
import io
import sys
import twisted.python.failure

_DETAILS = ("default", "brief", "verbose")

_RELATIONS = {
    "cause": "The above exception was the direct cause of the following exception:",
    "context": "During handling of the above exception, another exception occurred:",
}


class Failure(twisted.python.failure.Failure):
    """A Twisted failure that holds no exception, no traceback and no frame, only text about them.

    ``type`` and ``value`` are rebuilt when they are asked for: the value from its pickle, if that was small and
    trustworthy, else as a stand-in that has the type's name and base classes, and the message.
    """

    pickled = 1
    tb = None

    def __init__(
        self,
        exc_value: Any = None,
        exc_type: Any = None,
        exc_tb: TracebackType | None = None,
        captureVars: bool = False,
    ) -> None:
        # BaseException.__new__ has kept the arguments, and with them the exception and all frames of its traceback.
        self.args = ()
        if exc_value is None:
            exc_type, exc_value, exc_tb = sys.exc_info()
            if exc_value is None:
                raise NoCurrentExceptionError
        if isinstance(exc_value, twisted.python.failure.Failure):
            self._data: Data = convert(exc_value).to_data()
        else:
            self._data = failuredata.from_exception(exc_value, exc_tb, captureVars)

    @classmethod
    def from_exception(cls, exc: BaseException, capture_locals: bool = False) -> "Failure":
        """The failure of an exception that was caught. Locals may hold secrets: they are kept only if asked for."""
        return cls(exc, captureVars=capture_locals)

    @classmethod
    def from_data(cls, data: Data) -> "Failure":
        """The failure that ``to_data`` was called on."""
        self = cls.__new__(cls)
        self._data = data
        return self

    @staticmethod
    def convert(obj: Any) -> "Failure":
        """See the function ``convert``."""
        return convert(obj)

    def to_data(self) -> Data:
        """Everything, as nested tuples of None, bool, int, str and bytes."""
        return self._data

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (self._data,)

    # What it was

    @property
    def type_name(self) -> str:
        """Dotted name of the exception's class."""
        return failuredata.dotted(self._data[failuredata.NAMES][0])

    @property
    def message(self) -> str:
        """``str()`` of the exception, bounded."""
        return self._data[failuredata.MESSAGE]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The exception's arguments as text."""
        return self._data[failuredata.ARGUMENTS]

    @property
    def summary(self) -> str:
        """Type and message in one line of at most 200 characters."""
        name = self.type_name.rpartition(".")[2]
        text = f"{name}: {' '.join(self.message.split())}".rstrip(": ")
        return text if len(text) <= 200 else text[:199] + "…"

    @property
    def fingerprint(self) -> str:
        """What failures of one cause have in common: "KeyError in import_member", bare class and innermost function.

        The function is the innermost one outside of installed packages, else the innermost of all.
        """
        name = self.type_name.rpartition(".")[2]
        frames = self._data[failuredata.FRAMES]
        own = [function for function, _file, _line, _text, installed, _locals in frames if not installed]
        found = own or [frame[0] for frame in frames]
        return f"{name} in {found[-1]}" if found else name

    @property
    def type(self) -> type:
        """The exception's class, or a stand-in of the same name."""
        return self._rebuilt()[0]

    @property
    def value(self) -> BaseException:
        """The exception, rebuilt, or a stand-in with the same message."""
        return self._rebuilt()[1]

    @property
    def parents(self) -> list[str]:
        """Dotted names of the class and its bases."""
        return [failuredata.dotted(name) for name in self._data[failuredata.NAMES]]

    @property
    def frames(self) -> list[tuple[str, str, int, Any, Any]]:
        """In Twisted's form: function, file, line, items of the locals, items of the globals (always none)."""
        return [(function, file, line, local, ()) for function, file, line, _, _, local in self._frames]

    @property
    def frames_data(self) -> tuple[tuple[str, str, int, str, bool], ...]:
        """For display: function, file, line, text of the line, whether it is in an installed package or Python."""
        return tuple(frame[:5] for frame in self._frames)

    @property
    def captureVars(self) -> bool:
        """Whether locals were kept."""
        return self._data[failuredata.CAPTURED]

    @property
    def count(self) -> int:
        """Twisted numbers its failures; these are told apart by their jobs."""
        return 0

    def check(self, *errorTypes: Any) -> Any:
        """The first of the classes or dotted names that this failure is an instance of, or None."""
        names = set(self._data[failuredata.NAMES])
        names.update(self.parents)
        for error in errorTypes:
            name = failuredata.name_of(error) if isinstance(error, type) else error
            if name in names:
                return error
        return None

    def trap(self, *errorTypes: Any) -> Any:
        """Like ``check``, but raises the exception if it is none of these."""
        error = self.check(*errorTypes)
        if error is None:
            self.raiseException()
        return error

    def raiseException(self) -> NoReturn:
        """Raise the exception, rebuilt."""
        raise self.value

    def cleanFailure(self) -> None:
        """Nothing to do: there are no references to drop."""

    # How it reads

    def getErrorMessage(self) -> str:
        """The exception's message."""
        return self.message

    def getBriefTraceback(self) -> str:
        """The traceback with one short line a frame."""
        return self.getTraceback(detail="brief")

    def getTraceback(self, elideFrameworkCode: int = 0, detail: str = "default") -> str:
        """The traceback as text. ``elideFrameworkCode``: leave out installed packages and Python itself."""
        out = io.StringIO()
        self.printTraceback(out, elideFrameworkCode, detail)
        return out.getvalue()

    def printTraceback(self, file: TextIO | None = None, elideFrameworkCode: int = 0, detail: str = "default") -> None:
        """Write the traceback to the file, or to standard error."""
        if detail not in _DETAILS:
            raise ValueError(f"detail must be one of {', '.join(_DETAILS)}, not {detail!r}")
        out = sys.stderr if file is None else file
        if detail == "brief":
            _write_brief(out.write, self._data, bool(elideFrameworkCode))
        else:
            _write(out.write, self._data, bool(elideFrameworkCode), detail == "verbose")

    def printBriefTraceback(self, file: TextIO | None = None, elideFrameworkCode: int = 0) -> None:
        """See getBriefTraceback."""
        self.printTraceback(file, elideFrameworkCode, "brief")

    def printDetailedTraceback(self, file: TextIO | None = None, elideFrameworkCode: int = 0) -> None:
        """The traceback with locals, if they were kept."""
        self.printTraceback(file, elideFrameworkCode, "verbose")

    def __repr__(self) -> str:
        return f"<{__name__}.Failure {self.type_name}: {self.message}>"

    @property
    def _frames(self) -> tuple[Any, ...]:
        return self._data[failuredata.FRAMES]

    def _rebuilt(self) -> tuple[builtins.type, BaseException]:
        cached = self.__dict__.get("_v_rebuilt")
        if cached is None:
            cached = self.__dict__["_v_rebuilt"] = failuredata.rebuild(self._data)
        return cached


def restore(data: Data) -> Failure:
    """What pickles of failures call."""
    return Failure.from_data(data)


def convert(obj: Any) -> Failure:
    """The failure of this package for a Twisted failure or an exception; one of this package comes back as it is."""
    if isinstance(obj, Failure):
        return obj
    if not isinstance(obj, twisted.python.failure.Failure):
        return Failure.from_exception(obj)
    # Twisted copies the state of a failure of ours that was raised into one of its own.
    data = obj.__dict__.get("_data")
    if data is None:
        data = failuredata.from_twisted(obj)
    return Failure.from_data(data)


def _write(write: Callable[[str], Any], data: Data, elide: bool, verbose: bool) -> None:
    for relation, other in data[failuredata.CHAIN]:
        if relation in _RELATIONS:
            _write(write, other, elide, verbose)
            write(f"\n{_RELATIONS[relation]}\n\n")
    frames = list(_shown(data, elide))
    write("Traceback (most recent call last):\n" if frames else "Failure: ")
    for frame in frames:
        if isinstance(frame, str):
            write(f"  {frame}\n")
            continue
        function, file, line, source, _, local = frame
        write(f'  File "{file}", line {line}, in {function}\n')
        if source:
            write(f"    {source}\n")
        if verbose and local:
            write("   [ Locals ]\n")
            for name, text in local:
                write(f"    {name} : {text}\n")
    name, message = failuredata.dotted(data[failuredata.NAMES][0]), data[failuredata.MESSAGE]
    write(f"{name}: {message}\n" if message else f"{name}\n")
    for note in data[failuredata.NOTES]:
        write(f"{note}\n")
    members = [other for relation, other in data[failuredata.CHAIN] if relation == "group"]
    for number, other in enumerate(members, 1):
        write(f"---------------- {number} ----------------\n")
        _write(write, other, elide, verbose)


def _write_brief(write: Callable[[str], Any], data: Data, elide: bool) -> None:
    frames = list(_shown(data, elide))
    start = "Traceback" if frames else "Traceback (failure with no frames)"
    name = failuredata.dotted(data[failuredata.NAMES][0]).removeprefix("builtins.")
    write(f"{start}: <class '{name}'>: {data[failuredata.MESSAGE]}\n")
    for frame in frames:
        write(f"{frame}\n" if isinstance(frame, str) else f"{frame[1]}:{frame[2]}:{frame[0]}\n")


def _shown(data: Data, elide: bool) -> Iterator[Any]:
    """The frames to show, and a sentence where some were left out when the failure was made."""
    frames = data[failuredata.FRAMES]
    position, left_out = data[failuredata.LEFT_OUT]
    elide = elide and not all(frame[4] for frame in frames)  # something must be left to see
    for index, frame in enumerate(frames):
        if left_out and index == position:
            yield f"[{left_out} frames left out]"
        if not (elide and frame[4]):
            yield frame
