"""Callables as text: what can be found again, and what is refused with a way out."""

from BTrees.OOBTree import OOBTree
from collective.zcasync import callables
from collective.zcasync import direct
from collective.zcasync import execution
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import UnknownCallableError
from persistent import Persistent

import collections
import datetime
import functools
import operator
import pytest
import time


def work(*args):
    return args


def trace(function):
    @functools.wraps(function)
    def traced(*args):
        return function(*args)

    return traced


@trace
def decorated():
    return "decorated"


class Task:
    """As a decorator makes them: an object under the function's name."""

    def __init__(self, function):
        self.__wrapped__ = function

    def __call__(self):
        return self.__wrapped__()


def plain():
    return "plain"


under_its_name = plain
plain = Task(plain)


def replaced():
    return 1


first_version = replaced


def replaced():
    return 2


class Page(Persistent):
    title = ""

    def rename(self, title):
        self.title = title

    alias = rename

    def retitle(self):
        self.title = "again"

    def __secret(self):
        return "secret"

    def secret_method(self):
        return self.__secret

    @classmethod
    def make(cls):
        return cls()

    def __call__(self):
        return "rendered"

    class Part:
        pass


class Child(Page):
    def rename(self, title):
        raise AssertionError("not this one")

    def inherited(self):
        return super().rename

    def retitle(self):
        raise AssertionError("not this one")

    def inherited_only(self):
        return super().retitle


@pytest.fixture(autouse=True)
def nothing_unknown():
    yield
    callables.forget_unknown()


@pytest.mark.parametrize(
    ("callable", "text"),
    [
        (work, f"{__name__}:work"),
        (decorated, f"{__name__}:decorated"),
        (under_its_name, f"{__name__}:plain"),
        (Page, f"{__name__}:Page"),
        (Page.Part, f"{__name__}:Page.Part"),
        (Page.make, f"{__name__}:Page.make"),
        (Page.rename, f"{__name__}:Page.rename"),
        (sum, "builtins:sum"),
        (time.time, "time:time"),
        (operator.mul, "_operator:mul"),
        (str.upper, "builtins:str.upper"),
        (dict.fromkeys, "builtins:dict.fromkeys"),
        (datetime.datetime.fromisoformat, "datetime:datetime.fromisoformat"),
        (collections.OrderedDict, "collections:OrderedDict"),
    ],
)
def test_what_stands_in_a_module_is_stored_by_its_name_and_found_again(callable, text):
    assert callables.describe(callable) == (text, None)
    found = callables.resolve(text)
    assert found == callable or found.__wrapped__ is callable


def test_a_bound_method_is_stored_as_its_owner_and_name():
    page = Page()
    assert callables.describe(page.rename) == ("rename", page)
    assert callables.describe(page.__call__) == ("__call__", page)


def test_methods_of_btrees_and_other_compiled_classes_are_stored_by_owner_and_name():
    tree = OOBTree()
    assert callables.describe(tree.update) == ("update", tree)
    assert callables.describe(tree.__setitem__) == ("__setitem__", tree)


def test_a_method_is_stored_under_the_name_that_leads_to_it():
    page = Page()
    name, owner = callables.describe(page.secret_method())
    assert getattr(owner, name)() == "secret"


def test_a_method_that_its_owner_overrides_is_refused():
    with pytest.raises(InvalidJobError, match="not found as an attribute of its owner.*Child"):
        callables.describe(Child().inherited_only())


def test_an_overridden_method_that_another_name_leads_to_is_stored_under_that_name():
    assert callables.describe(Child().inherited())[0] == "alias"


def inner():
    def nested():
        pass

    return nested


def of_main():
    pass


of_main.__module__ = "__main__"


@pytest.mark.parametrize(
    ("callable", "thing", "way_out"),
    [
        (lambda: 1, "<lambda>", "write it as a function with def"),
        (inner(), "inner.<locals>.nested", "move it to the top of a module"),
        (of_main, "__main__.of_main", "move it to the top of a module"),
        (functools.partial(work, 1), "functools.partial", "its arguments as arguments of the put"),
        (Page(), "instance of .*Page", "__call__"),
        (first_version, "replaced", "by the name that it has now"),
        ("module.function", "module.function", "needs a function or a method"),
        (None, "None", "needs a function or a method"),
    ],
)
def test_what_would_not_be_found_again_is_refused_with_its_name_and_a_way_out(callable, thing, way_out):
    with pytest.raises(InvalidJobError, match=f"(?s){thing}.*{way_out}"):
        callables.describe(callable)


def test_a_function_that_its_module_does_not_hold_any_more_is_refused():
    def lost():
        pass

    lost.__qualname__ = "lost"
    with pytest.raises(InvalidJobError, match=f"not found under its name {__name__}.lost"):
        callables.describe(lost)


@pytest.mark.parametrize(
    "text", ["no_such_module:work", f"{__name__}:no_such", f"{__name__}:Page.no_such", "work", ":work", "os:"]
)
def test_a_name_that_leads_nowhere_is_unknown_and_the_error_names_it(text):
    with pytest.raises(UnknownCallableError) as raised:
        callables.resolve(text)
    assert text in str(raised.value)
    assert not callables.known(text)


def test_a_module_that_fails_while_it_is_imported_makes_its_functions_unknown_and_is_tried_once(tmp_path, monkeypatch):
    (tmp_path / "zcasync_broken.py").write_text("import os\nos.environ['ZCASYNC_TRIED'] += 'x'\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ZCASYNC_TRIED", "")
    assert not callables.known("zcasync_broken:work")
    assert not callables.known("zcasync_broken:work")
    with pytest.raises(UnknownCallableError, match="ZeroDivisionError"):
        callables.resolve("zcasync_broken:work")
    import os

    assert os.environ["ZCASYNC_TRIED"] == "x"


def test_code_that_was_installed_later_is_found_after_forgetting(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert not callables.known("zcasync_later:work")
    (tmp_path / "zcasync_later.py").write_text("def work():\n    return 42\n")
    import importlib

    importlib.invalidate_caches()
    assert not callables.known("zcasync_later:work")
    callables.forget_unknown()
    assert callables.known("zcasync_later:work")
    assert callables.resolve("zcasync_later:work")() == 42


def test_a_put_finds_a_function_again_that_was_unknown_before():
    callables._unknown[f"{__name__}:work"] = "at the start it was not there"
    callables.describe(work)
    assert callables.known(f"{__name__}:work")


def test_people_read_names_with_dots_only():
    assert callables.dotted("collective.addon.jobs:Page.make") == "collective.addon.jobs.Page.make"
    assert callables.dotted("rename") == "rename"


def test_what_old_records_say_of_the_engines_own_callables_is_still_found():
    assert callables.resolve("collective.zcasync.execution:end_waiting") is direct.end_waiting
    assert callables.resolve("collective.zcasync.execution:expire_waiting") is execution.expire_waiting
