"""Values that come from outside as JSON: which of them a type hint allows, what they become, and how to say so."""

from collective.zcasync.readable import text_of
from datetime import date
from datetime import datetime
from datetime import timezone
from types import UnionType
from typing import Annotated
from typing import Any
from typing import get_args
from typing import get_origin
from typing import Literal
from typing import Union

import collections.abc
import inspect
import math

#: Characters of a wrong value that an error shows.
SHOWN = 100

#: Levels of lists and objects in one value.
DEPTH = 20

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_OBJECTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_SETS = (set, frozenset, collections.abc.Set)
_ANYTHING = (Any, object, inspect.Parameter.empty)

#: JSON Schema of what needs no more words.
_PLAIN: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    date: {"type": "string", "format": "date"},
    datetime: {"type": "string", "format": "date-time"},
}

#: What an error says that is wanted.
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
    date: "a date such as 2026-12-31",
    datetime: "a time with its offset, such as 2026-12-31T18:00:00+01:00",
}


class Misfit(Exception):
    """A value does not fit: the message says what is wanted in its place."""


def schema(kind: Any) -> dict[str, Any] | None:
    """The JSON Schema of a type; None for one that JSON cannot say."""
    origin, members = get_origin(kind) or kind, get_args(kind)
    if kind in _ANYTHING:
        return {}
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is Annotated:
        return schema(members[0])
    if origin is Literal:
        return {"enum": list(members)}
    if origin in (Union, UnionType):
        found = [one for one in map(schema, members) if one is not None]
        return ({"anyOf": found} if len(found) > 1 else found[0]) if found else None
    if origin in _OBJECTS:
        inner = schema(members[1]) if members else {}
        return None if inner is None else {"type": "object", "additionalProperties": inner}
    if origin is tuple and members and members[-1] is not Ellipsis:
        several = [schema(member) for member in members]
        if None in several:
            return None
        return {"type": "array", "prefixItems": several, "minItems": len(several), "maxItems": len(several)}
    if origin in (*_LISTS, *_SETS, tuple):
        inner = schema(members[0]) if members else {}
        return None if inner is None else {"type": "array", "items": inner}
    return None


def is_json(value: Any, depth: int = DEPTH) -> bool:
    """Whether the value is one that JSON can say, and that every client can read."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or isinstance(value, bool | int):
        return True
    if depth == 0:
        return False
    if isinstance(value, list):
        return all(is_json(one, depth - 1) for one in value)
    return isinstance(value, dict) and all(
        isinstance(key, str) and is_json(key, 0) and is_json(one, depth - 1) for key, one in value.items()
    )


def fit(kind: Any, value: Any, depth: int = DEPTH) -> Any:
    """The value as the type hint ``kind`` wants it; Misfit if it does not fit.

    Dates and times (with an offset; they become UTC) are ISO texts, sets and tuples are lists.
    """
    origin, members = get_origin(kind) or kind, get_args(kind)
    if origin is Annotated:
        return fit(members[0], value, depth)
    if origin in (Union, UnionType):
        return _fit_any(members, value, depth)
    if origin is Literal:
        return _chosen(members, value)
    if kind in _ANYTHING:
        if not is_json(value, depth):
            raise Misfit(f"{_shown(value)} is no proper JSON value: numbers are finite, texts have whole characters")
        return value
    if kind in _WORDS:
        return _plain(kind, value)
    if depth == 0:
        raise Misfit(f"has more than {DEPTH} levels of lists and objects")
    if origin in _OBJECTS:
        return _object(members, value, depth)
    if origin in (*_LISTS, *_SETS, tuple):
        return _list(origin, members, value, depth)
    raise Misfit(f"is a {_name(kind)}, which cannot be given as JSON: put the job from code")


def _fit_any(kinds: tuple[Any, ...], value: Any, depth: int) -> Any:
    wrong = []
    for kind in kinds:
        try:
            return fit(kind, value, depth)
        except Misfit as misfit:
            wrong.append(str(misfit))
    raise Misfit("; or ".join(wrong))


def _chosen(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise Misfit(f"{_shown(value)} is none of {', '.join(map(repr, choices))}")


def _plain(kind: Any, value: Any) -> Any:
    """A value of one of the types in _PLAIN. JSON's true is no number, and its 1 is a number with a fraction too."""
    if kind in (date, datetime):
        return _moment(kind, value)
    accepted = (int, float) if kind is float else (kind,)
    if type(value) not in accepted or not is_json(value, 0):
        raise Misfit(f"{_shown(value)} is not {_WORDS[kind]}")
    try:
        return float(value) if kind is float else value
    except OverflowError:
        raise Misfit(f"{_shown(value)} is too large for a number with a fraction") from None


def _moment(kind: Any, value: Any) -> Any:
    try:
        found = kind.fromisoformat(value)
        if kind is date:
            return found
        if found.tzinfo is not None:
            return found.astimezone(timezone.utc)
    except (TypeError, ValueError, OverflowError):
        pass
    raise Misfit(f"{_shown(value)} is not {_WORDS[kind]}")


def _object(members: tuple[Any, ...], value: Any, depth: int) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise Misfit(f"{_shown(value)} is not an object")
    key_kind, value_kind = members or (Any, Any)
    return {
        _inside("key", key_kind, key, depth): _inside(_shown(key), value_kind, one, depth) for key, one in value.items()
    }


def _list(origin: Any, members: tuple[Any, ...], value: Any, depth: int) -> Any:
    if not isinstance(value, list):
        raise Misfit(f"{_shown(value)} is not a list")
    kinds: list[Any]
    if origin is tuple and members and members[-1] is not Ellipsis:
        if len(value) != len(members):
            raise Misfit(f"{_shown(value)} has {len(value)} members, not {len(members)}")
        kinds = list(members)
    else:
        kinds = [members[0] if members else Any] * len(value)
    found = [
        _inside(f"member {number}", kind, one, depth)
        for number, (kind, one) in enumerate(zip(kinds, value, strict=True), 1)
    ]
    if origin not in _SETS:
        return tuple(found) if origin is tuple else found
    try:
        return frozenset(found) if origin is frozenset else set(found)
    except TypeError:
        raise Misfit(f"{_shown(value)} holds lists or objects, which cannot stand in a set") from None


def _inside(where: str, kind: Any, value: Any, depth: int) -> Any:
    try:
        return fit(kind, value, depth - 1)
    except Misfit as misfit:
        raise Misfit(f"{where}: {misfit}") from None


def _shown(value: Any) -> str:
    return text_of(value, SHOWN)


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", None) or str(kind)
