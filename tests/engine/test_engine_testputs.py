"""What was put: listed and asserted without running it."""

from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.queue import install
from collective.zcasync.testing import assert_put
from collective.zcasync.testing import assert_put_count
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import set_now
from collective.zcasync.testing import setUpDatetime
from collective.zcasync.testing import tearDownDatetime
from datetime import timedelta
from typing import Any
from unittest.mock import ANY
from zope.component import getGlobalSiteManager

import enginejobs
import pytest
import transaction


@api.task(name="kit.send", title="Send a letter")
def send(address: str, text: str = "", **more: Any) -> str:
    return f"{address}: {text}"


@pytest.fixture(autouse=True)
def source(connection: Any) -> Iterator[None]:
    """The puts of a test go to its connection."""
    registry = getGlobalSiteManager()

    def find() -> Any:
        return connection

    registry.registerUtility(find, IConnectionSource)
    install(connection, ("", "mail"))
    transaction.commit()
    yield
    registry.unregisterUtility(find, IConnectionSource)


def test_an_assertion_is_written_as_the_put(connection: Any) -> None:
    job = send.put("ann", text="hello")
    assert assert_put(connection, send, "ann", text="hello") is job
    assert assert_put(connection, "kit.send", "ann", text="hello") is job
    assert assert_put(connection, send.handler, "ann", text="hello") is job


def test_functions_and_methods_without_a_task_are_asserted_too(connection: Any) -> None:
    counter = connection.root()["counter"] = enginejobs.Counter()
    connection.add(counter)
    first = api.put(enginejobs.add, 1, 2)
    second = api.put(counter.increase, by=5)
    assert assert_put(connection, enginejobs.add, 1, 2) is first
    assert assert_put(connection, counter.increase, by=5) is second
    other = connection.root()["other"] = enginejobs.Counter()
    assert_put_count(connection, 0, other.increase, by=5)


def test_arguments_may_be_left_open(connection: Any) -> None:
    job = send.put("ann", "hello", copy=True)
    assert assert_put(connection, send, ANY, "hello", copy=True) is job
    assert assert_put(connection, send, "ann", ...) is job
    assert assert_put(connection, send, ..., copy=True) is job
    for args, kwargs in (
        (("bob", ...), {}),
        (("ann",), {}),
        (("ann", "hello"), {}),
        ((...,), {"copy": False}),
        ((...,), {"blind": True}),
    ):
        assert_put_count(connection, 0, send, *args, **kwargs)


def test_persistent_arguments_are_the_very_same_objects(connection: Any) -> None:
    one, two = enginejobs.mapping(), enginejobs.mapping()
    connection.root()["one"], connection.root()["two"] = one, two
    job = api.put(enginejobs.count_in, one)
    assert assert_put(connection, enginejobs.count_in, one) is job
    one["changed"] = True
    transaction.commit()
    assert assert_put(connection, enginejobs.count_in, one) is job
    assert_put_count(connection, 0, enginejobs.count_in, two)


def test_of_the_options_those_that_are_given_are_compared(connection: Any) -> None:
    options = {
        "queue": "mail",
        "begin_after": timedelta(hours=1),
        "begin_by": timedelta(hours=2),
        "priority": 3,
        "policy": "NeverRetry",
    }
    job = send.options(**options).put("ann")
    assert assert_put(connection, send, "ann") is job
    for name, value in options.items():
        assert assert_put(connection, send.options(**{name: value}), "ann") is job
    assert assert_put(connection, send.options(begin_after=job.begin_after), "ann") is job
    others = {
        "queue": "",
        "begin_after": timedelta(hours=2),
        "begin_by": timedelta(hours=1),
        "priority": -3,
        "policy": "RetryCommonForever",
        "quotas": ("one",),
        "run_as": "ann",
    }
    for name, value in others.items():
        assert_put_count(connection, 0, send.options(**{name: value}), "ann")
    assert_put_count(connection, 0, send.options(begin_after=job.begin_after + timedelta(seconds=1)), "ann")


def test_options_of_a_function_stand_before_it_as_in_the_put(connection: Any) -> None:
    connection.root()  # the quota is made in the queue of that name
    mail = install(connection)["mail"]
    mail.quotas.create("one")
    job = api.options(queue="mail", quotas=("one",)).put(enginejobs.add, 1)
    assert assert_put(connection, api.options(quotas=("one",)), enginejobs.add, 1) is job
    assert_put_count(connection, 0, api.options(queue=""), enginejobs.add, 1)
    with pytest.raises(InvalidJobError, match="options need something"):
        assert_put(connection, api.options(queue="mail"))


def test_the_delay_of_a_job_is_compared_also_with_a_frozen_clock(connection: Any) -> None:
    setUpDatetime()
    try:
        job = send.options(begin_after=timedelta(days=1)).put("ann")
        set_now(clock.utcnow() + timedelta(hours=5))
        assert assert_put(connection, send.options(begin_after=timedelta(days=1)), "ann") is job
    finally:
        tearDownDatetime()


def test_what_was_put_instead_is_told(connection: Any) -> None:
    send.options(priority=2, queue="mail").put("ann", text="hello")
    api.put(enginejobs.add, 4)
    with pytest.raises(AssertionError) as caught:
        assert_put(connection, send.options(priority=1), "bob", ..., text="hi")
    told = str(caught.value).splitlines()
    assert told[0] == ("1 of kit.send('bob', text='hi', ...) with priority=1 should wait, 0 do; what was put:")
    assert "``enginejobs.add(4)``>" in told[1]
    assert told[2].endswith("``kit.send('ann', text='hello')``> with queue='mail', priority=2")


def test_nothing_put_is_told_too(connection: Any) -> None:
    with pytest.raises(AssertionError, match=r"1 of kit\.send\(\) should wait, 0 do; what was put:\n  nothing"):
        assert_put(connection, send)


def test_two_of_a_kind_are_not_one(connection: Any) -> None:
    jobs = [send.put("ann"), send.put("ann")]
    with pytest.raises(AssertionError, match="1 of .* should wait, 2 do"):
        assert_put(connection, send, "ann")
    assert assert_put_count(connection, 2, send, "ann") == jobs
    with pytest.raises(AssertionError, match="0 of .* should wait, 2 do"):
        assert_put_count(connection, 0, send, ...)


def test_what_waits_is_listed_all_or_by_its_call(connection: Any) -> None:
    first, second = send.put("ann"), api.put(enginejobs.add, 1)
    assert put_jobs(connection) == [first, second]
    assert put_jobs(connection, send, ...) == [first]
    assert put_jobs(connection, enginejobs.add, 2) == []
    assert put_jobs(connection.root()) == [first, second]


def test_what_cannot_be_put_cannot_be_asserted(connection: Any) -> None:
    with pytest.raises(InvalidJobError, match="lambda|def"):
        assert_put(connection, lambda: None)


def test_an_assertion_leaves_the_queue_as_it_is(connection: Any) -> None:
    send.put("ann")
    transaction.commit()
    assert_put(connection, send, "ann")
    assert not connection._registered_objects
    assert len(put_jobs(connection)) == 1
