"""What monitors tell, as JSON: durations, moments, jobs, functions; and the intervals that they understand."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import plaindata
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from persistent.mapping import PersistentMapping
from typing import Any

import enginejobs
import json
import pytest
import transaction
import uuid
import ZODB

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def connection() -> Iterator[Any]:
    db = ZODB.DB(None)
    connection = db.open()
    install(connection)
    transaction.commit()
    yield connection
    transaction.abort()
    connection.close()
    db.close()


@pytest.fixture
def noon() -> datetime:
    clock.set_now(NOON)
    return NOON


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (timedelta(0), {"seconds": 0.0}),
        (timedelta(microseconds=1500), {"seconds": 0.0015}),
        (timedelta(seconds=5), {"seconds": 5.0}),
        (timedelta(minutes=2), {"minutes": 2}),
        (timedelta(days=3, hours=4, minutes=5, seconds=6.25), {"days": 3, "hours": 4, "minutes": 5, "seconds": 6.25}),
        (timedelta(days=3, seconds=1), {"days": 3, "seconds": 1.0}),
        (timedelta(seconds=-90.5), {"minutes": -1, "seconds": -30.5}),
    ],
)
def test_a_duration_is_told_in_what_is_not_zero_with_its_fractions(value: timedelta, expected: Any) -> None:
    told = plaindata.plain(value)
    assert told == expected
    assert isinstance(told.get("seconds", 0.0), float)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 2, 3, 4, 5, 6, 7, timezone.utc), "2026-02-03T04:05:06.000007Z"),
        (datetime(2026, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1))), "2026-02-03T03:05:00Z"),
        (datetime(2026, 2, 3, 4, 5), "2026-02-03T04:05:00Z"),  # noqa: DTZ001
    ],
)
def test_a_moment_is_told_in_utc_with_a_z(value: datetime, expected: str) -> None:
    assert plaindata.plain(value) == expected


def test_a_uuid_is_told_as_text() -> None:
    key = uuid.UUID("12345678-1234-5678-1234-567812345678")
    assert plaindata.plain({key: key}) == {str(key): str(key)}


def test_a_job_is_told_by_its_oid_and_database(connection: Any) -> None:
    job = Job(enginejobs.add, 1)
    connection.add(job)
    oid = int.from_bytes(job._p_oid, "big")
    assert plaindata.plain([job]) == [[oid, "unnamed"]]


def test_iterators_sets_and_tuples_are_told_as_lists() -> None:
    assert plaindata.plain(iter([1, (2, 3), {"b", "a"}])) == [1, [2, 3], ["a", "b"]]


def test_functions_and_persistent_objects_are_told_by_name_and_all_else_by_repr() -> None:
    assert plaindata.plain(enginejobs.add) == "enginejobs.add"
    assert plaindata.plain(PersistentMapping()) == "persistent.mapping.PersistentMapping (oid ?, db ?)"
    assert plaindata.plain(1j) == "1j"
    assert plaindata.plain(b"bytes") == "b'bytes'"


def test_a_translatable_text_is_told_as_a_text() -> None:
    assert type(plaindata.plain(PENDING)) is str
    assert [plaindata.plain(value) for value in (None, True, 1, 1.5, "x")] == [None, True, 1, 1.5, "x"]


def test_json_has_sorted_keys_four_spaces_and_readable_letters() -> None:
    text = plaindata.dumps({"b": timedelta(seconds=1), "a": "Grüße"})
    assert text == '{\n    "a": "Grüße",\n    "b": {\n        "seconds": 1.0\n    }\n}'
    assert json.loads(text) == {"a": "Grüße", "b": {"seconds": 1.0}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1D", timedelta(days=1)),
        ("2h", timedelta(hours=2)),
        ("1D2H3M4S", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        ("90M", timedelta(minutes=90)),
        ("0.5s", timedelta(seconds=0.5)),
        (timedelta(seconds=3), timedelta(seconds=3)),
    ],
)
def test_an_interval_is_days_hours_minutes_and_seconds(text: Any, expected: timedelta) -> None:
    assert plaindata.interval(text) == expected


@pytest.mark.parametrize("text", ["", "5", "M5", "1H1D", "1X", "-1H", None, 5])
def test_what_is_no_interval_is_a_value_error_with_the_way_to_write_it(text: Any) -> None:
    with pytest.raises(ValueError, match=r"write \[nD\]\[nH\]\[nM\]\[nS\]") as raised:
        plaindata.interval(text)
    assert isinstance(raised.value, ZCAsyncError)


def test_an_interval_means_before_now_and_a_number_is_a_key(noon: datetime) -> None:
    assert plaindata.moment("1H30M") == noon - timedelta(minutes=90)
    assert plaindata.moment(timedelta(hours=1)) == noon - timedelta(hours=1)
    assert plaindata.moment("123") == plaindata.moment(123) == 123
    assert plaindata.moment(noon) == noon
    assert plaindata.moment(None) is None


def test_a_number_may_come_as_text() -> None:
    assert [plaindata.whole(value, "count") for value in (None, 3, "3")] == [None, 3, 3]
    for wrong in ("x", "-1", 1.5, True):
        with pytest.raises(ValueError, match="count must be a whole number"):
            plaindata.whole(wrong, "count")


def test_a_connection_is_found_from_itself_and_from_what_it_stores(connection: Any) -> None:
    assert plaindata.connection_of(connection) is connection
    assert plaindata.connection_of(connection.root()) is connection


@pytest.mark.parametrize("wrong", [None, "text", PersistentMapping()])
def test_what_leads_to_no_connection_is_a_value_error(wrong: Any) -> None:
    with pytest.raises(ValueError, match="leads to no database connection"):
        plaindata.connection_of(wrong)
