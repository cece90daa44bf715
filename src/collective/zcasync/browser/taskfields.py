"""The form fields for what a task's function takes, and the JSON values that such a form gives."""

from collections.abc import Callable
from collections.abc import Mapping
from collective.zcasync import jsonvalues
from collective.zcasync import taskarguments
from collective.zcasync.interfaces import _
from collective.zcasync.readable import is_secret
from collective.zcasync.tasks import Task
from datetime import date
from datetime import datetime
from datetime import tzinfo
from types import UnionType
from typing import Annotated
from typing import Any
from typing import get_args
from typing import get_origin
from typing import Literal
from typing import Union
from zope import schema
from zope.interface import Invalid
from zope.schema.vocabulary import SimpleTerm
from zope.schema.vocabulary import SimpleVocabulary

import json

#: The field for a type that a form knows.
SIMPLE: dict[Any, Callable[..., Any]] = {
    bool: schema.Bool,
    int: schema.Int,
    float: schema.Float,
    str: schema.TextLine,
    date: schema.Date,
    datetime: schema.Datetime,
}

#: Characters of the description of a JSON field.
SCHEMA_SHOWN = 300


class Json(schema.Text):
    """A value for which no simple field is known."""


def is_json(text: str) -> bool:
    """Constraint of a JSON field."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(_("json_wrong", default="This is no JSON (${error}).", mapping={"error": str(error)})) from error
    return True


def fields_of(task: Task) -> list[Any]:
    """A field for each argument that can be given from outside."""
    return [field_for(one) for one in taskarguments.parameters(task) if one.possible]


def field_for(parameter: taskarguments.Parameter) -> Any:
    """The field for one argument. One that may be left out is not required: the function then takes its default."""
    kind = _without_none(parameter.annotation)
    options: dict[str, Any] = {
        "title": parameter.name.replace("_", " ").strip().capitalize() or parameter.name,
        "required": parameter.required and kind is parameter.annotation,
    }
    if get_origin(kind) is Literal:
        terms = [SimpleTerm(value, str(number), str(value)) for number, value in enumerate(get_args(kind))]
        default = _default(parameter)
        options["required"] = options["required"] or bool(default)  # else "no value" would stand beside the default
        return _named(schema.Choice(vocabulary=SimpleVocabulary(terms), **options, **default), parameter)
    if kind in SIMPLE:
        factory = schema.Password if kind is str and is_secret(parameter.name) else SIMPLE[kind]
        if kind is bool:
            options["required"] = False
        default = {} if factory is schema.Password or isinstance(parameter.default, datetime) else _default(parameter)
        return _named(factory(**options, **default), parameter)
    said = json.dumps(_shown(parameter.schema), ensure_ascii=False, default=str)[:SCHEMA_SHOWN]
    options["description"] = _(
        "json_help",
        default="As JSON: texts in double quotes, lists in brackets. What is allowed: ${schema}",
        mapping={"schema": said},
    )
    if not parameter.required and parameter.default is not None and jsonvalues.is_json(parameter.default):
        options["default"] = json.dumps(parameter.default, ensure_ascii=False)
    return _named(Json(constraint=is_json, **options), parameter)


def json_value(field: Any, value: Any, zone: tzinfo) -> Any:
    """What a field's value is as JSON; times without an offset are in ``zone``."""
    if isinstance(field, Json):
        return json.loads(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=zone)).isoformat()
    return value.isoformat() if isinstance(value, date) else value


def _without_none(kind: Any) -> Any:
    """``X`` of ``X | None`` and of ``Annotated[X, ...]``; all else as it is."""
    members = get_args(kind)
    if get_origin(kind) is Annotated:
        return _without_none(members[0])
    if get_origin(kind) in (Union, UnionType) and type(None) in members and len(members) == 2:
        return next(member for member in members if member is not type(None))
    return kind


def _shown(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of a parameter's schema tells what is to be typed: the field shows its default, and may be left empty."""
    told = {name: value for name, value in given.items() if name not in ("default", "title")}
    some = [one for one in told.get("anyOf", ()) if one != {"type": "null"}]
    return some[0] if len(told) == len(some) == 1 else told


def _default(parameter: taskarguments.Parameter) -> dict[str, Any]:
    """The default, if a form can show it."""
    if parameter.required or parameter.default in (None, ""):
        return {}
    return {"default": parameter.default}


def _named(field: Any, parameter: taskarguments.Parameter) -> Any:
    field.__name__ = parameter.name
    return field
