"""The job threads of a process that its agents want more of than there may be."""

from collective.zcasync import local
from collective.zcasync.agent import Agent
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.shares import Turns
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from typing import Any

import enginejobs
import pytest
import threading
import transaction

LONG = 20

busy: list[str] = []
peaks: list[int] = []
lock = threading.Lock()


@pytest.fixture(autouse=True)
def none_is_busy() -> None:
    busy.clear()
    peaks.clear()


def occupy(name: str) -> str:
    """Hold a thread until the test lets it go."""
    with lock:
        busy.append(name)
        peaks.append(len(busy))
    assert enginejobs.released["a"].wait(LONG)
    with lock:
        busy.remove(name)
    return name


def tell_agent(number: int) -> str:
    """A job whose result is the name of the agent that runs it."""
    enginejobs.calls.append(local.getAgentName())
    return str(local.getAgentName())


def test_those_who_take_turns_get_their_weight() -> None:
    turns, weights = Turns(), {"light": 1, "heavy": 3}
    order = []
    for _number in range(16):
        who = min(weights, key=turns.of)
        turns.took(who, 1, weights[who])
        order.append(who)
    assert order.count("heavy") == 12 and "light" in order[:5] and "light" in order[-5:]


def test_who_wanted_nothing_for_a_while_comes_first_for_one_turn_only() -> None:
    turns = Turns()
    for _number in range(100):
        turns.took("busy", 1, 1)
    assert turns.of("idle") < turns.of("busy")
    turns.took("idle", 2, 1)
    assert turns.of("busy") < turns.of("idle")


def test_no_more_jobs_run_at_once_than_the_process_may_have_threads(queue: Any, connection: Any, dispatch: Any) -> None:
    install(connection, ("", "other"))
    for name in ("main", "second"):
        queue.set_template("worker", name, size=3)
    transaction.commit()
    other = get_queue(connection, "other")
    running = dispatch(threads=2)
    jobs = [each.put(Job(occupy, f"{each.name}{number}")) for number in range(4) for each in (queue, other)]
    transaction.commit()
    wait_until(queue, lambda: len(busy) == 2, LONG, "two jobs that run")
    for _poll in range(3):
        poll_now(running.dispatcher)
    transaction.begin()

    assert len(busy) == 2 and sum(each.counts()["running"] for each in (queue, other)) == 2
    enginejobs.released["a"].set()
    assert [wait_for_result(job, LONG) for job in jobs] == [job.args[0] for job in jobs]
    assert max(peaks) == 2


def test_a_queue_whose_process_is_busy_with_another_one_gets_its_turn(
    queue: Any, connection: Any, dispatch: Any
) -> None:
    install(connection, ("", "other"))
    jobs = [queue.put(Job(enginejobs.note, number)) for number in range(20)]
    jobs.append(get_queue(connection, "other").put(Job(enginejobs.note, "other")))
    transaction.commit()
    dispatch(threads=1)
    for job in jobs:
        wait_for_result(job, LONG)

    assert enginejobs.calls.index("other") <= 3


def test_threads_that_free_up_go_to_the_agents_by_their_weight(queue: Any, dispatch: Any) -> None:
    queue.set_template("worker", "light", size=1, weight=1)
    queue.set_template("worker", "heavy", size=1, weight=3)
    jobs = [queue.put(Job(tell_agent, number)) for number in range(16)]
    transaction.commit()
    dispatch(threads=1)
    for job in jobs:
        wait_for_result(job, LONG)

    assert 11 <= enginejobs.calls.count("heavy") <= 13


def test_an_agent_of_no_size_gets_no_thread(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=2)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID]["none"] = Agent(size=0)
    transaction.commit()
    poll_now(running.dispatcher)

    assert {name: pool.size for name, pool in running.dispatcher.queues[""].items()} == {"main": 2, "none": 0}
