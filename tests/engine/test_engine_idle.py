"""A dispatcher that has nothing to do: what it writes, and how little it does."""

from collections.abc import Callable
from collective.zcasync.dispatchers import Ping
from collective.zcasync.dispatchers import PING_INTERVAL
from collective.zcasync.job import Job
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from typing import Any

import enginejobs
import pytest
import transaction

#: Bytes by which an idle dispatcher may make the database grow in a day.
A_DAY = 700_000

#: Seconds between polls: what happens before that has another reason.
NEVER = 600


@pytest.fixture
def clients(open_database: Callable[[], Any]) -> Callable[[], Any]:
    return open_database


@pytest.fixture
def idle(queue: Any, dispatch: Any) -> Any:
    """It has worked, and has put all away."""
    dispatcher = dispatch(poll_interval=NEVER).dispatcher
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    wait_for_result(job)
    poll_now(dispatcher)
    dispatcher.heartbeat._ping()
    return dispatcher


def test_a_day_of_pings_makes_the_database_grow_by_less_than_its_bound(db: Any, idle: Any) -> None:
    before, pings = db.storage.getSize(), 10
    for _number in range(pings):
        idle.heartbeat._ping()
        poll_now(idle)

    each = (db.storage.getSize() - before) / pings
    assert 0 < each * 86_400 / PING_INTERVAL.total_seconds() <= A_DAY


def test_pings_of_one_dispatcher_that_meet_are_both_counted(db: Any, queue: Any, idle: Any) -> None:
    transaction.begin()
    ping = queue.dispatchers[idle.UUID].last_ping
    count = ping.count
    ping.count, ping.memory = count + 1, 5
    idle.heartbeat._ping()
    transaction.commit()
    transaction.begin()

    assert ping.count == count + 2
    assert ping.value is not None and ping.value.tzinfo is not None and ping.version and ping.memory


def test_a_ping_of_an_earlier_version_is_read(queue: Any, idle: Any) -> None:
    ping = Ping()
    ping.__setstate__({"value": idle.activated, "count": 3})
    assert (ping.value, ping.count, ping.memory, ping.version, ping.skew) == (idle.activated, 3, 0, "", None)
    again = Ping()
    again.__setstate__(ping.__getstate__())
    assert (again.value, again.count, again.skew) == (idle.activated, 3, None)


def test_polls_that_find_nothing_write_nothing(db: Any, idle: Any) -> None:
    before = db.storage.getSize()
    for _number in range(10):
        poll_now(idle)

    assert db.storage.getSize() == before
