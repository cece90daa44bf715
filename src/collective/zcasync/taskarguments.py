"""Arguments for a task that come from outside, as JSON: what its function takes, and whether given values fit."""

from collections.abc import Callable
from collections.abc import Mapping
from collective.zcasync import jsonvalues
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.readable import text_of
from collective.zcasync.tasks import Task
from dataclasses import dataclass
from typing import Any
from typing import get_type_hints

import inspect


class WrongArguments(InvalidValueError):
    """Arguments do not fit the task's function. ``faults``: what is wrong, by the name of the argument."""

    def __init__(self, task: str, faults: dict[str, str]) -> None:
        self.faults = faults
        said = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        super().__init__(f"task {task!r} cannot be started with these arguments. {said}")


@dataclass(frozen=True)
class Parameter:
    """One argument that a task's function takes by name. ``annotation``: its type hint, or Any."""

    name: str
    annotation: Any = Any
    required: bool = True
    default: Any = None

    @property
    def possible(self) -> bool:
        """Whether a JSON value can ever be given for it."""
        return jsonvalues.schema(self.annotation) is not None

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its values."""
        found = dict(jsonvalues.schema(self.annotation) or {"not": {}})
        if not self.required and jsonvalues.is_json(self.default):
            found["default"] = self.default
        return found


def parameters(task: Task) -> tuple[Parameter, ...]:
    """What the task's function takes, in its order; none of ``*args`` and ``**kwargs``."""
    hints = _hints(task.handler)
    return tuple(
        Parameter(
            one.name,
            hints.get(one.name, Any),
            one.default is one.empty,
            None if one.default is one.empty else one.default,
        )
        for one in _taken(task.handler)
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    )


def schema(task: Task) -> dict[str, Any]:
    """The JSON Schema of the object that holds a task's arguments by name."""
    found = parameters(task)
    return {
        "type": "object",
        "properties": {one.name: one.schema for one in found},
        "required": [one.name for one in found if one.required],
        "additionalProperties": _extra(task.handler) is not None,
    }


def startable(task: Task) -> bool:
    """Whether JSON can say all that the task needs: no required argument is of a type of its own."""
    return all(one.possible for one in parameters(task) if one.required)


def checked(task: Task, given: Mapping[str, Any], behind: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for ``task.put``, made of JSON values by name.

    Dates and times (with an offset; they become UTC) are given as ISO texts, sets and tuples as lists, numbers with a
    fraction also as whole ones. WrongArguments names all that is missing, unknown or does not fit. ``behind``: so many
    first arguments are not given from outside: the caller puts them before the others.
    """
    faults: dict[str, str] = {}
    values: dict[str, Any] = {}
    known = {one.name: one for one in parameters(task)[behind:]}
    extra = _extra(task.handler)
    for name, value in given.items():
        if name not in known and extra is None:
            faults[text_of(name, jsonvalues.SHOWN)] = (
                f"there is no such argument; there are: {', '.join(known) or 'none'}"
            )
            continue
        try:
            values[name] = jsonvalues.fit(known[name].annotation if name in known else extra, value)
        except jsonvalues.Misfit as misfit:
            faults[name] = str(misfit)
    faults.update((name, "is missing") for name, one in known.items() if one.required and name not in given)
    if faults:
        raise WrongArguments(task.name, faults)
    return _placed(task.handler, values, behind)


def _placed(handler: Callable[..., Any], values: dict[str, Any], behind: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What has to be given by place, up to the last one that is given; and the rest by name."""
    placed = [one for one in _taken(handler) if one.kind is one.POSITIONAL_ONLY][behind:]
    while placed and placed[-1].name not in values:
        placed.pop()
    return tuple(values.pop(one.name, one.default) for one in placed), values


def _taken(handler: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(handler).parameters.values())


def _extra(handler: Callable[..., Any]) -> Any:
    """The type of what ``**kwargs`` takes; None if there is no such thing."""
    for one in _taken(handler):
        if one.kind is one.VAR_KEYWORD:
            return _hints(handler).get(one.name, Any)
    return None


def _hints(handler: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(inspect.unwrap(handler))
    except (NameError, TypeError, AttributeError):  # hints for type checkers only
        return {}
