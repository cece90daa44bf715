"""Who gets a thread first: no site, priority or queue keeps the others from theirs."""

from collective.zcasync import places
from collective.zcasync.agent import DEFAULT_PREFETCH
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any

import pytest
import threading
import transaction

LONG = 60

#: Jobs of the site that has many, and of the one that comes later with few.
MANY, FEW = 2000, 10

THREADS = 4

order: list[str] = []
first = threading.Event()


@pytest.fixture(autouse=True)
def none_has_run() -> None:
    order.clear()
    first.clear()


def run_for(site: str) -> None:
    """Ten milliseconds of work."""
    order.append(site)
    if len(order) >= 20:
        first.set()
    threading.Event().wait(0.01)


def put(queue: Any, site: str, count: int, **options: Any) -> None:
    transaction.begin()
    for number in range(count):
        if number % 100 == 0:
            places._thread.left = 0  # another inbox: as if put by many threads
        job = Job(run_for, site)
        job.group = site
        for name, value in options.items():
            setattr(job, name, value)
        queue.put(job)
    transaction.commit()


def begun(site: str) -> int:
    return order.count(site)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_few_jobs_of_a_site_run_at_once_behind_the_many_of_another(
    processes: int, queue: Any, dispatch: Any
) -> None:
    put(queue, "many", MANY)
    for _number in range(processes):
        dispatch(threads=THREADS // processes)
    assert first.wait(LONG)
    put(queue, "few", FEW)
    before = begun("many")
    wait_until(queue, lambda: begun("few") == FEW, LONG, "that the few have begun")

    # In turn, one of each: so many of the others; those that were claimed ahead; and, on a busy machine, those that
    # began until the claim that found the few. Out of turn it would be all of them.
    assert begun("many") - before <= MANY // 4


def test_sites_are_served_in_turn_however_many_jobs_each_has(queue: Any, dispatch: Any) -> None:
    sites = ["a", "b", "c"]
    for site, count in zip(sites, (300, 100, 50), strict=True):
        put(queue, site, count)
    dispatch(threads=1)
    wait_until(queue, lambda: begun("c") == 50, LONG, "that the smallest has got through")

    assert abs(begun("a") - begun("b")) <= DEFAULT_PREFETCH + 2 and begun("a") <= 120


def test_a_job_of_low_priority_overtakes_newer_ones_once_it_has_waited_for_it(queue: Any, dispatch: Any) -> None:
    then = utcnow()
    set_now(then - timedelta(minutes=21))
    put(queue, "patient", 1, priority=-2, group="")
    set_now(then)
    put(queue, "urgent", 5, group="")
    dispatch(threads=1)
    wait_until(queue, lambda: len(order) == 6, LONG, "that all have run")

    assert order == ["patient"] + ["urgent"] * 5


def test_queues_of_unequal_weight_get_the_threads_by_it(queue: Any, connection: Any, dispatch: Any) -> None:
    install(connection, ("", "light"))
    light = get_queue(connection, "light")
    queue.set_template("worker", "main", size=1, weight=3)
    light.set_template("worker", "main", size=1, weight=1)
    transaction.commit()
    put(queue, "heavy", 150)
    put(light, "light", 150)
    dispatch(threads=1)
    wait_until(queue, lambda: len(order) >= 120, LONG, "that most have begun")

    assert 20 <= order[:120].count("light") <= 40
