"""Values of jobs as text that people can read: bounded, and with secrets masked."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
from typing import Any

import inspect
import sys

#: Characters of one value; more is cut, and the cut is shown.
VALUE_LIMIT = 2000

#: Members shown of one collection.
MEMBER_LIMIT = 50

#: Levels of nesting that are opened.
DEPTH_LIMIT = 4

#: What is shown in place of a secret.
MASK = "********"

#: A name that contains one of these holds a secret.
SECRET_WORDS = (
    *("password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "cookie"),
    *("api_key", "apikey", "private_key", "authorization"),
)

CUT = " …"

BRACKETS = {"list": ("[", "]"), "tuple": ("(", ")")}


def is_secret(name: object) -> bool:
    """Whether the value of this name must not be shown."""
    text = str(name).lower().replace("-", "_")
    return any(word in text for word in SECRET_WORDS)


def text_of(value: Any, limit: int = VALUE_LIMIT) -> str:
    """One value as text. It never raises, whatever the value does."""
    try:
        return shorten(_text(value, DEPTH_LIMIT), limit)
    except Exception as error:
        return f"<{_class_name(value)}: cannot be shown ({type(error).__name__})>"


def shorten(text: str, limit: int = VALUE_LIMIT) -> str:
    """The text, cut at the limit."""
    return text if len(text) <= limit else text[:limit] + CUT


def span_text(seconds: float) -> str:
    """A time span for people: 310 ms, 4.2 s, 3:05 min, 2:10 h."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02} h"


def argument_lines(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and text of each argument of a job; those of secret names are masked."""
    names = parameter_names(task)
    lines = []
    for index, value in enumerate(args):
        name = names[index] if index < len(names) else str(index + 1)
        lines.append((name, MASK if is_secret(name) else text_of(value)))
    for name, value in kwargs.items():
        lines.append((str(name), MASK if is_secret(name) else text_of(value)))
    return lines


def loaded(dotted: str) -> Any:
    """What ``module:qualname`` names, None if its module is not imported here.

    Nothing is imported: the name comes from the database.
    """
    module_name, _, qualname = dotted.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def parameter_names(dotted: str) -> list[str]:
    """Names of the positional parameters of ``module:qualname``; none if its module is not imported here."""
    found = loaded(dotted)
    if found is None:
        return []
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in positional]


def path_of(value: Any) -> str:
    """The path of a content object, or an empty text."""
    get_path = getattr(value, "getPhysicalPath", None)
    if get_path is None:
        return ""
    try:
        return "/".join(get_path())
    except Exception:
        return ""


def _text(value: Any, depth: int) -> str:
    if isinstance(value, str):
        # Cut before repr(): a text of megabytes would be copied twice.
        return repr(value[:VALUE_LIMIT]) + (CUT if len(value) > VALUE_LIMIT else "")
    if isinstance(value, (bytes, bytearray)):
        return f"{bytes(value[:80])!r}{CUT if len(value) > 80 else ''} ({len(value)} bytes)"
    if value is None or isinstance(value, (bool, int, float, complex)):
        return repr(value)
    if path := path_of(value):
        return f"<{_class_name(value)} at {path}>"
    if isinstance(value, Mapping):
        return "{" + _joined(_pairs(value, depth), len(value)) + "}"
    if isinstance(value, (list, tuple, Set)):
        return _collection(value, depth)
    return repr(value)


def _collection(value: Any, depth: int) -> str:
    opened, closed = BRACKETS.get(type(value).__name__, ("{", "}"))
    if depth <= 0:
        return opened + "…" + closed
    members = _joined((_text(member, depth - 1) for member in value), len(value))
    if isinstance(value, tuple) and len(value) == 1:
        members += ","
    return opened + members + closed


def _pairs(value: Mapping[Any, Any], depth: int) -> Iterator[str]:
    if depth <= 0:
        yield "…"
        return
    for key, member in value.items():
        shown = MASK if is_secret(key) else _text(member, depth - 1)
        yield f"{_text(key, 0)}: {shown}"


def _joined(members: Iterator[str], length: int) -> str:
    parts = []
    for number, part in enumerate(members):
        if number == MEMBER_LIMIT:
            parts.append(f"… ({length} in all)")
            break
        parts.append(part)
    return ", ".join(parts)


def _class_name(value: Any) -> str:
    return type(value).__name__
