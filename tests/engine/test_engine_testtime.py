"""Frozen time: the package's clock stands where a test says, and nothing else changes."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import testing
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.testtime import START
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from typing import Any
from zoneinfo import ZoneInfo

import datetime as module
import enginejobs
import pickle
import pytest
import transaction


@pytest.fixture(autouse=True)
def running_again() -> Iterator[None]:
    yield
    testing.tearDownDatetime()


def test_the_clock_stands_where_zc_async_froze_it() -> None:
    testing.setUpDatetime()
    assert clock.utcnow() == datetime(2006, 8, 10, 15, 44, 22, 211, tzinfo=timezone.utc)
    assert clock.utcnow() == clock.utcnow()


def test_the_clock_is_set_to_any_aware_time_and_told_in_any_zone() -> None:
    testing.setUpDatetime()
    berlin = timezone(timedelta(hours=2))
    testing.set_now(datetime(2006, 12, 1, 10, 0, tzinfo=berlin))
    assert testing.now() == datetime(2006, 12, 1, 8, 0, tzinfo=timezone.utc)
    assert testing.now(tz=berlin).hour == 10
    assert testing.now().astimezone(tz=ZoneInfo("America/New_York")).hour == 3
    assert testing.now().replace(day=2) - testing.now() == timedelta(days=1)


def test_the_class_datetime_is_left_alone_and_its_objects_can_be_pickled() -> None:
    testing.setUpDatetime()
    assert module.datetime is datetime
    assert type(clock.utcnow()) is datetime
    assert pickle.loads(pickle.dumps((clock.utcnow(), "text"))) == (clock.utcnow(), "text")
    assert datetime.now(timezone.utc).year > 2006


def test_the_clock_runs_again_after_the_test() -> None:
    testing.setUpDatetime()
    testing.tearDownDatetime()
    testing.tearDownDatetime()
    assert abs(datetime.now(timezone.utc) - clock.utcnow()) < timedelta(minutes=5)


@pytest.mark.parametrize("value", [datetime(2006, 8, 10), "2006-08-10", None])  # noqa: DTZ001
def test_only_an_aware_time_can_be_set_and_a_wrong_one_changes_nothing(value: Any) -> None:
    testing.setUpDatetime()
    with pytest.raises(InvalidValueError, match="when"):
        testing.set_now(value)
    assert clock.utcnow() == START


def test_jobs_keep_their_order_in_a_year_before_this_package(connection: Any, queue: Any) -> None:
    testing.setUpDatetime()
    later = queue.put(enginejobs.note, begin_after=clock.utcnow() + timedelta(seconds=10))
    jobs = [queue.put(enginejobs.note) for _ in range(5)]
    transaction.commit()
    assert list(queue) == [*jobs, later]
    assert [queue.claim() for _ in range(6)] == [*jobs, None]
    testing.set_now(testing.now() + timedelta(seconds=10))
    assert queue.claim() is later
