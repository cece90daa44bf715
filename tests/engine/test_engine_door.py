"""The door: what can be stored comes in, the rest is refused with argument, type and way out."""

from BTrees.OOBTree import OOBTree
from collective.zcasync import door
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.failure import Failure
from datetime import date
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from persistent import Persistent
from persistent.mapping import PersistentMapping
from persistent.wref import WeakRef
from twisted.internet.defer import Deferred
from zoneinfo import ZoneInfo

import io
import logging
import pytest
import socket
import sys
import threading
import transaction
import twisted.python.failure
import ZODB


class Value:
    def __init__(self, content=None):
        self.content = content


class Nested:
    class Inner:
        pass


class TwoArguments(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code} {reason}")


def function():
    pass


def of_main():
    pass


of_main.__module__ = "__main__"


def generator():
    yield 1


@pytest.fixture
def databases(tmp_path):
    databases = {}
    for name in ("main", "other"):
        ZODB.DB(str(tmp_path / f"{name}.fs"), database_name=name, databases=databases)
    yield databases
    for db in databases.values():
        db.close()


@pytest.fixture
def connection(databases):
    manager = transaction.TransactionManager()
    connection = databases["main"].open(manager)
    yield connection
    manager.abort()
    connection.close()


def check(*args, **kwargs):
    return door.check(args, kwargs, None, "addon.jobs.publish")


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "text",
        [1, {"a": (2, 3)}],
        {1, 2},
        Value(Value()),
        function,
        Value,
        len,
        datetime(2026, 1, 1),  # noqa: DTZ001  (naive ones are the caller's own affair)
        datetime(2026, 1, 1, tzinfo=UTC),
        ValueError("wrong"),
        PersistentMapping(),
    ],
)
def test_ordinary_values_come_in(value):
    assert check(value) > 0


def test_the_size_is_that_of_all_arguments_together():
    small = check("x" * 1000)
    assert 2000 < door.check(("x" * 1000,), {"key": "y" * 1000}, None, "task") < small + 1100


@pytest.mark.parametrize(
    ("make", "way_out"),
    [
        (lambda: lambda: 1, "write it as a function with def"),
        (lambda: of_main, "move this function to a module"),
        (lambda: (lambda: type("Local", (), {"__qualname__": "f.<locals>.Local"}))(), "move this class to the top"),
        (lambda: open("/dev/null"), "pass its path"),
        (lambda: io.BytesIO(b"x"), "pass its path, or its content"),
        (lambda: socket.socket(), "connect in the job"),
        (lambda: threading.Thread(), "pass the data that it works on"),
        (lambda: threading.Lock(), "use a quota"),
        (lambda: threading.RLock(), "use a quota"),
        (lambda: threading.Event(), "use a quota"),
        (lambda: generator(), r"list\(...\)"),
        (lambda: sys, "pass its name as text"),
        (lambda: Deferred(), "return it from a job"),
        (lambda: twisted.python.failure.Failure(ValueError("x")), "collective.zcasync.failure.convert"),
        (lambda: TwoArguments(1, "x"), "pass its message as text"),
        (lambda: Nested.Inner(), "Nested.Inner stands inside a class"),
        (lambda: Nested.Inner, "Nested.Inner stands inside a class"),
        (lambda: datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), r"astimezone\(timezone.utc\)"),
        (lambda: memoryview(b"x"), "cannot be pickled"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [Value({"deep": value})]])
def test_what_cannot_work_is_refused_with_a_way_out(make, wrap, way_out):
    value = make()
    try:
        with pytest.raises(InvalidArgumentError, match=f"(?s)argument 2 of addon.jobs.publish.*{way_out}"):
            check("fine", wrap(value))
    finally:
        if hasattr(value, "close"):
            value.close()


#: Python 3.12 pickles its time zones in a way that the database takes; what 3.11 must read is refused there as well.
NOT_IN_A_DATABASE = [Nested.Inner]
if sys.version_info < (3, 12):
    NOT_IN_A_DATABASE.append(lambda: datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")))


@pytest.mark.parametrize("make", NOT_IN_A_DATABASE)
def test_what_is_refused_for_the_databases_sake_cannot_be_committed_there(make, connection):
    connection.root()["value"] = PersistentMapping(value=make())
    with pytest.raises(Exception, match="[Pp]ickle"):
        connection.transaction_manager.commit()


def test_the_message_names_keyword_and_type():
    with pytest.raises(InvalidArgumentError, match=r"^keyword 'doc' of addon.jobs.publish \(_thread.lock\) cannot be"):
        check(doc=threading.Lock())


def test_the_owner_of_a_method_is_checked_too():
    with pytest.raises(InvalidArgumentError, match="something inside the owner of the method.*a module"):
        door.check((), {}, Value(sys), "task")


def test_a_list_without_end_of_nesting_is_refused():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidArgumentError, match="nested too deeply"):
        check(value)


def test_an_error_of_the_argument_itself_is_told():
    class_with_a_bug = type("Bug", (), {"__reduce__": lambda self: 1 / 0})
    with pytest.raises(InvalidArgumentError, match="division by zero"):
        check(class_with_a_bug())


def test_persistent_objects_are_references_and_not_looked_into(connection):
    root = connection.root()
    root["page"] = PersistentMapping(content="x" * 100_000)
    root["page"]["lock"] = "not stored yet"
    assert check(root["page"], WeakRef(root["page"])) < 200


def test_persistent_objects_of_another_database_are_refused_with_both_names(databases, connection):
    foreign = connection.get_connection("other").root()
    with pytest.raises(InvalidArgumentError, match="'other'.*'main'"):
        door.check((foreign,), {}, None, "task", "main")
    door.check((foreign,), {}, None, "task", "other")
    door.check((PersistentMapping(),), {}, None, "task", "main")


def test_a_database_connection_is_refused(connection):
    with pytest.raises(InvalidArgumentError, match="belongs to this thread"):
        check(connection)


def test_outer_rings_add_refusals(monkeypatch):
    class Request:
        pass

    def no_requests(obj):
        return "a request ends with its page; pass the values that you need" if isinstance(obj, Request) else None

    monkeypatch.setattr(door, "refusals", [no_requests])
    with pytest.raises(InvalidArgumentError, match="something inside argument 1.*Request.*ends with its page"):
        check([Request()])
    check([Value()])


def test_large_arguments_give_a_warning_with_task_and_size(caplog):
    with caplog.at_level(logging.WARNING, "collective.zcasync.events"):
        check("x" * 90 * 1024)
        assert not caplog.records
        check("x" * 150 * 1024)
    assert "addon.jobs.publish take 150 kB" in caplog.text


def test_huge_arguments_are_refused_and_pointed_to_blobs():
    with pytest.raises(InvalidArgumentError, match="argument 1.*10 MB at most.*in a blob"):
        check("x" * (10 * 1024 * 1024 + 1))
    with pytest.raises(InvalidArgumentError, match="argument 1.*10 MB at most.*in a blob"):
        check([str(number) for number in range(2_000_000)])


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1,
        1.5,
        "x",
        b"x",
        date(2026, 1, 1),
        datetime(2026, 1, 1, tzinfo=UTC),
        timedelta(1),
        (),
        (1, ("a", (b"b", None))),
        "x" * 1000,
    ],
)
def test_plain_values_are_small_builtins(value):
    assert door.is_plain(value)


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {1},
        Text("x"),
        (1, Text("x")),
        Value(),
        "x" * 1100,
        (1,) * 2000,
        datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
        Failure(ValueError("x")),
    ],
)
def test_all_other_values_are_not_plain(value):
    assert not door.is_plain(value)


def test_the_limit_of_plain_values_can_be_set():
    assert door.is_plain("x" * 2000, limit=3000)
    assert not door.is_plain("x" * 2000, limit=100)


class Stored(Persistent):
    lock = threading.Lock()


@pytest.mark.parametrize(
    "value", [None, [1, 2], {"a": Value()}, Failure(ValueError("x")), OOBTree(), Stored(), [Stored()], ValueError("x")]
)
def test_what_can_be_stored_and_loaded_survives(value):
    assert door.survives(value)


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1,
        threading.Lock(),
        TwoArguments(1, "x"),
        generator(),
        Nested.Inner(),
        twisted.python.failure.Failure(ValueError("x")),
        Deferred(),
    ],
)
def test_what_would_not_come_back_does_not_survive(value):
    assert not door.survives(value)
    assert not door.survives([value])
