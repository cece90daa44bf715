"""Arguments that come from outside as JSON: checked against what the task's function takes."""

from collections.abc import Mapping
from collections.abc import Sequence
from collective.zcasync import jsonvalues
from collective.zcasync import taskarguments
from collective.zcasync import tasks
from collective.zcasync.taskarguments import WrongArguments
from datetime import date
from datetime import datetime
from datetime import timezone
from typing import Annotated
from typing import Any
from typing import Literal

import json
import pytest


class Page:
    """A type that JSON knows nothing of."""


def task(handler: Any) -> tasks.Task:
    """A task that is not registered."""
    return tasks.Task(handler, name="a.task")


def fault(kind: Any, value: Any) -> str:
    with pytest.raises(jsonvalues.Misfit) as caught:
        jsonvalues.fit(kind, value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        (str, "é", "é"),
        (int, 10**30, 10**30),
        (float, 2, 2.0),
        (float, 0.5, 0.5),
        (bool, True, True),
        (int | None, None, None),
        (Any, {"a": [1, None]}, {"a": [1, None]}),
        (list[int], [1, 2], [1, 2]),
        (list, [1, "a"], [1, "a"]),
        (Sequence[str], ["a"], ["a"]),
        (set[str], ["a", "a"], {"a"}),
        (frozenset[int], [1], frozenset({1})),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Mapping[str, list[bool]], {"a": [True]}, {"a": [True]}),
        (Literal["a", 1], 1, 1),
        (Annotated[int, "a number"], 3, 3),
        (date, "2026-02-28", date(2026, 2, 28)),
        (datetime, "2026-02-28T12:00:00+02:00", datetime(2026, 2, 28, 10, tzinfo=timezone.utc)),
        (datetime, "2026-02-28T12:00:00Z", datetime(2026, 2, 28, 12, tzinfo=timezone.utc)),
    ],
)
def test_what_fits_becomes_what_the_function_wants(kind: Any, given: Any, wanted: Any) -> None:
    found = jsonvalues.fit(kind, json.loads(json.dumps(given)))
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (str, 1, "1 is not a text"),
        (str, "\ud800", "is not a text"),
        (int, True, "True is not a whole number"),
        (int, 1.0, "1.0 is not a whole number"),
        (float, True, "True is not a number"),
        (float, float("nan"), "nan is not a number"),
        (float, 10**400, "too large"),
        (bool, 1, "1 is not true or false"),
        (int | None, "a", "'a' is not a whole number; or 'a' is not null"),
        (list[int], "ab", "'ab' is not a list"),
        (list[int], [1, "a"], "member 2: 'a' is not a whole number"),
        (set[Any], [[1]], "cannot stand in a set"),
        (tuple[int, str], [1], "has 1 members, not 2"),
        (dict[str, int], {"a": "b"}, "'a': 'b' is not a whole number"),
        (dict, [], "is not an object"),
        (Literal["a", 1], True, "True is none of 'a', 1"),
        (date, "31.12.2026", "is not a date such as 2026-12-31"),
        (datetime, "2026-02-28T12:00:00", "is not a time with its offset"),
        (datetime, "0001-01-01T00:00:00+23:00", "is not a time with its offset"),
        (datetime, 5, "is not a time with its offset"),
        (Page, {}, "is a Page, which cannot be given as JSON"),
        (list[Page], [{}], "member 1: is a Page"),
        (Any, [float("inf")], "is no proper JSON value"),
        (Any, {"\udfff": 1}, "is no proper JSON value"),
    ],
)
def test_what_does_not_fit_is_told_with_what_is_wanted(kind: Any, given: Any, said: str) -> None:
    assert said in fault(kind, given)


def test_a_value_is_not_followed_without_end_and_not_shown_whole() -> None:
    deep: Any = 0
    for _number in range(500):
        deep = [deep]
    assert "is no proper JSON value" in fault(Any, deep)
    recursive: Any = list[int]
    for _number in range(jsonvalues.DEPTH):
        recursive = list[recursive]
    shallow: Any = []
    for _number in range(jsonvalues.DEPTH):
        shallow = [shallow]
    assert "more than 20 levels" in fault(recursive, shallow)
    assert len(fault(int, "x" * 100_000)) < 200


def test_arguments_are_put_where_the_function_wants_them() -> None:
    def work(first, second=2, /, third: int = 3, *rest, fourth, **more: bool):
        """A signature with everything."""

    assert taskarguments.checked(task(work), {"first": 1, "fourth": 4}) == ((1,), {"fourth": 4})
    given = {"first": 1, "second": 0, "third": 9, "fourth": 4, "fifth": True}
    assert taskarguments.checked(task(work), given) == ((1, 0), {"third": 9, "fourth": 4, "fifth": True})
    with pytest.raises(WrongArguments, match="fifth: 1 is not true or false"):
        taskarguments.checked(task(work), {"first": 1, "fourth": 4, "fifth": 1})


def test_a_place_that_was_left_out_before_one_that_is_given_gets_its_default() -> None:
    def work(first=1, second=2, /):
        """Both by place."""

    assert taskarguments.checked(task(work), {"second": 5}) == ((1, 5), {})
    assert taskarguments.checked(task(work), {}) == ((), {})


def test_all_faults_are_told_at_once() -> None:
    def work(number: int, text: str, flag=False):
        """Two are needed."""

    with pytest.raises(WrongArguments) as caught:
        taskarguments.checked(task(work), {"number": "one", "colour": "red"})
    assert caught.value.faults == {
        "number": "'one' is not a whole number",
        "'colour'": "there is no such argument; there are: number, text, flag",
        "text": "is missing",
    }
    assert str(caught.value).startswith("task 'a.task' cannot be started with these arguments. number: 'one' is not")


def test_the_parameters_say_how_they_are_to_be_given() -> None:
    def work(
        name: str, size: int | None = None, *, kind: Literal["a", "b"] = "a", since: datetime | None = None, **any
    ):
        """Four of them."""

    found = taskarguments.parameters(task(work))
    assert [(one.name, one.required, one.default, one.possible) for one in found] == [
        ("name", True, None, True),
        ("size", False, None, True),
        ("kind", False, "a", True),
        ("since", False, None, True),
    ]
    assert taskarguments.schema(task(work)) == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "size": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "kind": {"enum": ["a", "b"], "default": "a"},
            "since": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}], "default": None},
        },
        "required": ["name"],
        "additionalProperties": True,
    }


def test_schemas_of_lists_and_objects_say_what_is_in_them() -> None:
    assert jsonvalues.schema(dict[str, list[int]]) == {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "integer"}},
    }
    assert jsonvalues.schema(tuple[int, str]) == {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string"}],
        "minItems": 2,
        "maxItems": 2,
    }
    assert jsonvalues.schema(Any) == {}
    assert jsonvalues.schema(Page) is jsonvalues.schema(list[Page]) is jsonvalues.schema(tuple[int, Page]) is None
    assert jsonvalues.schema(Page | str) == {"type": "string"}


def test_a_task_that_needs_what_json_cannot_say_cannot_be_started() -> None:
    def needs(page: Page):
        """Needs one."""

    def takes(page: Page | None = None, other: Page = Page()):  # noqa: B008 (a default that JSON cannot say)
        """Does without."""

    assert not taskarguments.startable(task(needs))
    assert taskarguments.startable(task(takes))
    assert taskarguments.schema(task(takes))["properties"] == {
        "page": {"type": "null", "default": None},
        "other": {"not": {}},
    }


def test_type_hints_that_cannot_be_read_are_none() -> None:
    def work(page: "Unknown"):  # noqa: F821 (for type checkers only)
        """Its hint is imported elsewhere."""

    assert taskarguments.checked(task(work), {"page": 5}) == ((), {"page": 5})
