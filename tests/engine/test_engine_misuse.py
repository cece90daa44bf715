"""What nobody should do, and somebody will: it works, or is refused with numbers, and slows nobody else."""

from collections import Counter
from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync import doctor
from collective.zcasync import door
from collective.zcasync import joblists
from collective.zcasync import monitordb
from collective.zcasync import tasks
from collective.zcasync import waiting
from collective.zcasync.claims import Taker
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.job import Job
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.queue import install
from collective.zcasync.spilling import SPILL_AT_MOST
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from enginejobs import make_agent
from typing import Any

import enginejobs
import logging
import pytest
import re
import threading
import tracemalloc
import transaction
import zope.component

#: How a database is shared makes no difference to what is tested here.
pytestmark = pytest.mark.parametrize("clients", ["filestorage"], indirect=True)

MB = 1024 * 1024


@pytest.fixture(autouse=True)
def source(connection: Any) -> Iterator[None]:
    zope.component.provideUtility(lambda: connection, IConnectionSource)
    yield
    zope.component.getGlobalSiteManager().unregisterUtility(provided=IConnectionSource)


@pytest.mark.parametrize(
    ("value", "least"),
    [(bytes(50 * MB), 50), ("x" * 50 * MB, 50), ([bytes(MB)] * 2 + [bytes(MB + n) for n in range(50)], 10)],
    ids=["bytes", "text", "list"],
)
def test_an_argument_of_fifty_megabytes_is_refused_with_its_size_and_the_way_out(
    value: Any, least: int, queue: Any
) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"argument 1 of enginejobs\.note .* take (\d+) MB or more"
    ) as caught:
        api.put(enginejobs.note, value)
    said = str(caught.value)
    assert f" take {least} MB or more, and 10 MB at most are allowed; store large data in a blob" in said
    assert len(said) < 400
    transaction.commit()
    assert (len(queue), queue.counts()["waiting"]) == (0, 0)


def test_a_large_argument_is_refused_before_it_is_copied(queue: Any) -> None:
    value = bytes(50 * MB)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgumentError):
            queue.put(Job(enginejobs.note, value))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * MB and len(queue) == 0


def test_a_large_argument_within_many_items_is_named_by_its_number(queue: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="item 3 of put_many, .*12582912 bytes.* take 12 MB"):
        api.put_many(enginejobs.note, [(1,), (2,), (3,), (bytes(12 * MB),), (5,)])
    transaction.abort()
    assert (len(queue), queue.counts()["waiting"]) == (0, 0)


def test_what_stays_in_the_record_is_small_and_all_else_is_not_even_pickled_to_find_out() -> None:
    assert door.is_plain(("x" * 900, b"y"), 1024)
    assert not door.is_plain(("x" * 1025,)) and not door.is_plain((b"x" * MB,)) and not door.is_plain((1,) * 1025)


def test_ten_thousand_puts_in_one_transaction_cost_the_same_each_and_are_moved_in_pieces(
    queue: Any, connection: Any
) -> None:
    slot = make_agent(queue).slot
    registered = []
    for number in range(10_000):
        api.put(enginejobs.note, number)
        if number % 1000 == 999:
            registered.append(len(connection._registered_objects) + len(connection._added))
    steps = [after - before for before, after in zip(registered, registered[1:], strict=False)]
    assert max(steps) <= 1000 * 2 + 120  # the jobs, and a few records of where they lie
    assert len(transaction.get()._after_commit) <= 2
    transaction.commit()
    assert queue.counts()["waiting"] == 10_000 == len(list(queue))
    assert max(len(inbox) for inbox in queue.inboxes) <= 257 + 1  # the rest lies in overflows

    moved = []
    while True:
        before = slot.counts.get("backlog", 0)
        taker = Taker(queue, slot)
        taker.spill()
        transaction.commit()
        if slot.counts.get("backlog", 0) == before:
            break
        moved.append(slot.counts["backlog"] - before)
    assert max(moved) <= 2 * SPILL_AT_MOST + 200 and 3 <= len(moved) <= 20
    assert queue.counts()["waiting"] == 10_000
    assert sum(len(inbox) - 1 for inbox in queue.inboxes) <= 16 * 64
    assert [job.args[0] for job in queue] == list(range(10_000))


@pytest.fixture
def many_tasks() -> Iterator[list[Any]]:
    """A task for each of many names; and thousands of which only the names are known."""
    before, handlers = dict(tasks.registry), dict(tasks._by_handler)
    yield [tasks.register(tasks.Task(enginejobs.add, name=f"misuse.task{number}")) for number in range(3000)]
    tasks.registry.clear()
    tasks.registry.update(before)
    tasks._by_handler.clear()
    tasks._by_handler.update(handlers)


def test_any_number_of_task_names_fits_into_a_queue_and_no_list_explodes(
    queue: Any, many_tasks: Any, dispatch: Any
) -> None:
    for number, task in enumerate(many_tasks):
        task.put(number)
    transaction.commit()
    page = joblists.jobs(queue.parent, joblists.WAITING, limit=10)
    assert [row.task for row in page.rows] == [f"misuse.task{number}" for number in range(10)]
    assert {finding.kind for finding in doctor.examine(queue)} == {"no-dispatcher"}
    last = list(queue)[-1]

    running = dispatch()
    assert wait_for_result(last, 60) == 2999
    assert len(running.dispatcher.neighbours._limits) <= 3
    assert monitordb.count(queue, "pending", callable="misuse.task*") == 0


def test_the_doctor_names_some_of_many_tasks_whose_code_is_missing_and_counts_the_rest(queue: Any) -> None:
    for number in range(300):
        job = queue.put(Job(enginejobs.add))
        job._callable = f"nowhere_at_all:task{number}"
    transaction.commit()
    found = [finding for finding in doctor.examine(queue) if finding.kind == "unknown-code"]

    assert len(found) == 11 and found[0].what.startswith("nowhere_at_all.task0,")
    assert found[-1].what.startswith("and 290 more of this kind, among them: nowhere_at_all.task10,")


def test_of_tasks_that_never_conflict_nothing_is_remembered(queue: Any) -> None:
    neighbours = Neighbours(4)
    for number in range(1000):
        who = ("site", f"task{number}")
        assert neighbours.room(who) == 1000
        assert neighbours.enter(who)
        neighbours.learn(who, conflict=number in (7, 8))
        neighbours.leave(who)
    assert neighbours.limits() == {("site", "task7"): 2, ("site", "task8"): 2}
    assert len(neighbours._limits) == 2


def test_hundreds_of_queues_work_and_are_warned_about(queue: Any, connection: Any) -> None:
    names = tuple(f"queue{number:03}" for number in range(299))
    install(connection, names)
    jobs = [api.options(queue=name).put(enginejobs.note, name) for name in names[::20]]
    transaction.commit()

    assert joblists.counts(connection)[joblists.WAITING].number == 15 == len(jobs)
    assert [row.queue for row in joblists.jobs(connection, joblists.WAITING).rows] == list(names[::20])
    assert len(joblists.queues(connection)) == 300 == len(monitordb.status(connection))
    assert len(monitordb.jobs(connection, "pending", count=3)) == 3
    assert joblists.find(connection, jobs[0].id) is jobs[0]
    found = doctor.examine(connection)
    kinds = Counter((finding.kind, finding.problem) for finding in found)
    assert kinds == {("no-dispatcher", True): 11, ("no-dispatcher", False): 11, ("many-queues", False): 1}
    said = [finding.what for finding in found]
    assert [what[: what.index(":")] for what in said if " more of this kind" in what] == [
        "and 5 more of this kind, among them",
        "and 275 more of this kind, among them",
    ]
    assert any(what.startswith("there are 300 queues") for what in said)


def test_a_thread_is_started_when_the_first_job_waits_for_it(queue: Any, connection: Any, dispatch: Any) -> None:
    before = threading.active_count()
    install(connection, tuple(f"queue{number}" for number in range(30)))
    transaction.commit()
    running = dispatch(threads=3)
    transaction.begin()
    pools = [pool for pools in running.dispatcher.queues.values() for pool in pools.values()]
    assert sum(pool.size for pool in pools) >= 31 and threading.active_count() - before < 10

    jobs = [queue.put(Job(enginejobs.wait, name)) for name in ("a", "b", "a")]
    transaction.commit()
    assert enginejobs.started["a"].wait(20) and enginejobs.started["b"].wait(20)
    main = running.dispatcher.queues[""]["main"]
    wait_until(queue, lambda: len(main.active()) == 3, what="that all run")
    assert len(main.threads) == 3 and not any(pool.threads for pool in pools if pool is not main)
    for name in ("a", "b"):
        enginejobs.released[name].set()
    assert [wait_for_result(job) for job in jobs] == ["a", "b", "a"]


def test_a_large_argument_that_is_let_in_is_warned_about(queue: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    api.put(enginejobs.note, bytes(MB))
    assert "The arguments of enginejobs.note take 1024 kB in the database; pass large data by a blob" in caplog.text
    assert queue.counts()["waiting"] == 1


def test_a_large_result_is_warned_about_and_kept(queue: Any, caplog: pytest.LogCaptureFixture) -> None:
    job = queue.put(Job(enginejobs.change_and_return, 1024, 200))
    enginejobs.perform(make_agent(queue))

    assert job.outcome == "succeeded" and len(job.result) == 200
    assert re.search(r"takes 20\d kB in the database; return large data by a blob", caplog.text)


@pytest.mark.parametrize(("size", "pieces"), [(50 * MB, 1), (MB, 11)])
def test_a_result_that_is_too_large_is_kept_as_text_and_the_work_of_its_job_is_kept(
    size: int, pieces: int, queue: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = queue.put(Job(enginejobs.change_and_return, size, pieces))
    enginejobs.perform(make_agent(queue))

    assert job.outcome == "succeeded" and queue._p_jar.root()["changed"] is True
    assert job.result.startswith("['0   ") and len(job.result) < 1010
    assert re.search(rf"takes {size * pieces // MB} MB and is kept as text: .*large data in a blob", caplog.text)


def test_a_result_that_can_neither_be_stored_nor_shown_does_not_end_its_job(queue: Any) -> None:
    job = queue.put(Job(enginejobs.Unspeakable))
    enginejobs.perform(make_agent(queue))

    assert job.outcome == "succeeded" and job.result == "<Unspeakable: cannot be shown (ValueError)>"


def test_the_end_of_a_job_costs_no_look_into_all_queues_until_a_job_has_waited_across_them(
    queue: Any, connection: Any, dispatch: Any
) -> None:
    install(connection, ("a", "b", "c"))
    transaction.commit()
    assert waiting._queues(queue) == [queue]
    dispatch()
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    assert wait_for_result(job) == 1  # so the dispatcher is registered, and the queues are its deployment's
    queues = queue.parent
    queues._p_activate()
    before = queues._p_serial
    inner = queue.put(Job(enginejobs.wait))
    outer = queue.put(Job(enginejobs.note, inner))  # returns it
    transaction.commit()
    assert wait_until(queue, lambda: any(queue.awaiting()))
    assert not queues.crossed and queues._p_serial == before
    enginejobs.released["a"].set()
    assert wait_for_result(outer) == "a"

    there = queues["a"].put(Job(enginejobs.wait, "b"))
    outer = queue.put(Job(enginejobs.note, there))
    transaction.commit()
    assert wait_until(queue, lambda: any(queue.awaiting()))
    assert queues.crossed and waiting._queues(queues["a"]) == queues.values()
    enginejobs.released["b"].set()
    assert wait_for_result(outer) == "b"
