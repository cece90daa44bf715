"""Figures: the database's are those of the panels, read seldom and aside; the process counts what its threads do."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import counters as counting
from collective.zcasync import figurereading
from collective.zcasync import figures
from collective.zcasync import joblists
from collective.zcasync.counters import Counters
from collective.zcasync.figurereading import Reading
from collective.zcasync.interfaces import KEY
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage

import enginejobs
import pytest
import subprocess
import sys
import threading
import transaction


@pytest.fixture(autouse=True)
def own_counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    """Nothing is counted yet."""
    fresh = Counters()
    monkeypatch.setattr(counting.counters, "__dict__", fresh.__dict__)
    return counting.counters


def told(found: list[figures.Figure], name: str) -> dict[tuple[str, ...], Any]:
    """The samples of one figure by the values of its labels."""
    [figure] = [figure for figure in found if figure.name == name]
    return dict(figure.samples)


def of_database(connection: Any) -> list[figures.Figure]:
    transaction.begin()
    return figures.of_databases(connection)


@pytest.fixture
def main(db: Any) -> str:
    return str(db.database_name)


def test_the_figures_of_a_queue_are_those_of_the_panels(queue: Any, connection: Any, main: str) -> None:
    agent = enginejobs.make_agent(queue)
    agent.parent.process = {"host": "apple", "pid": 4711}
    agent.parent.ping(clock.utcnow())
    queue.quotas.create("narrow", 2)
    late = queue.put(Job(enginejobs.add))
    late.put_at = clock.utcnow() - timedelta(minutes=10)
    queue.put(Job(enginejobs.add), begin_after=clock.utcnow() + timedelta(hours=1)).needs_attention = True
    queue.paused = True
    transaction.commit()

    found = of_database(connection)

    states = {state: number for (*_where, state), number in told(found, "zcasync_jobs").items()}
    assert states == {state: count.number for state, count in joblists.counts(queue.parent).items()}
    assert sum(states.values()) == 2
    assert told(found, "zcasync_oldest_waiting_seconds")[main, "default"] == pytest.approx(600, abs=30)
    assert told(found, "zcasync_queue_paused") == {(main, "default"): 1}
    assert told(found, "zcasync_queue_dispatchers") == {(main, "default"): 1}
    assert told(found, "zcasync_quota_size") == {(main, "default", "narrow"): 2}
    assert told(found, "zcasync_quota_running") == {(main, "default", "narrow"): 0}
    assert told(found, "zcasync_dispatchers")[main, "active"] == 1
    assert told(found, "zcasync_dispatcher_threads") == {(main,): agent.size}


def test_jobs_that_need_a_person_are_counted_by_what_they_need_him_for(queue: Any, connection: Any, main: str) -> None:
    job = queue.put(Job(enginejobs.add), begin_after=clock.utcnow() - timedelta(hours=1))
    agent = enginejobs.make_agent(queue)
    claimed = agent.claimJob()
    assert claimed is job
    job.needs_attention = True
    transaction.commit()
    reasons = told(of_database(connection), "zcasync_attention_jobs")
    assert reasons == {
        (main, "default", "failing"): 1,
        (main, "default", "overdue"): 0,
        (main, "default", "quarantined"): 0,
    }


def test_dispatchers_that_seem_dead_or_are_held_and_wrong_clocks_are_told(
    queue: Any, connection: Any, main: str
) -> None:
    agents = [enginejobs.make_agent(queue) for _number in range(3)]
    living, silent, held = (agent.parent for agent in agents)
    living.ping(clock.utcnow(), skew=-7.5)
    held.ping(clock.utcnow(), skew=0.0)
    held.held = "copy", "elsewhere"
    silent.ping(clock.utcnow() - timedelta(hours=1), skew=900.0)
    silent.activated = silent.last_ping.value
    transaction.commit()
    found = of_database(connection)
    states = {state: number for (_main, state), number in told(found, "zcasync_dispatchers").items()}
    assert states == {"active": 1, "paused": 0, "held": 1, "leaving": 0, "silent": 1}
    assert told(found, "zcasync_clock_skew_seconds") == {(main,): 7.5}, "that of the dead one is of no interest"
    assert told(found, "zcasync_queue_dispatchers") == {(main, "default"): 1}
    assert told(found, "zcasync_dispatcher_threads") == {(main,): agents[0].size}


def test_what_happened_in_the_last_hour_is_told(queue: Any, connection: Any, dispatch: Any, main: str) -> None:
    dispatch()
    jobs = [queue.put(Job(call)) for call in (enginejobs.add, enginejobs.change_and_raise)]
    transaction.commit()
    for job in jobs:
        wait_for_result(job)
    wait_until(
        connection, lambda: told(of_database(connection), "zcasync_last_hour_jobs")[main, "default", "failed"] == 1
    )
    hour = told(of_database(connection), "zcasync_last_hour_jobs")
    assert hour[main, "default", "succeeded"] == 1
    assert hour[main, "default", "put"] == hour[main, "default", "started"] == 2


def test_a_database_without_queues_has_nothing_to_tell(connection: Any) -> None:
    connection.root().clear()
    transaction.commit()
    assert [figure.samples for figure in of_database(connection) if figure.samples] == []


def test_a_process_counts_its_jobs_by_task_and_how_long_they_wait_and_run(
    queue: Any, dispatch: Any, connection: Any
) -> None:
    queue.put(Job(enginejobs.add)).put_at = clock.utcnow() - timedelta(seconds=20)
    transaction.commit()
    failing = queue.put(Job(enginejobs.change_and_raise))
    transaction.commit()
    dispatch(threads=1)
    wait_for_result(failing)
    wait_until(connection, lambda: len(told(figures.of_process(), "zcasync_process_run_seconds")) == 2)

    found = figures.of_process()

    add, fail = "enginejobs.add", "enginejobs.change_and_raise"
    assert told(found, "zcasync_process_job_events") == {
        ("put", add): 1,
        ("put", fail): 1,
        ("started", add): 1,
        ("started", fail): 1,
        ("finished", add): 1,
        ("failed", fail): 1,
    }
    runs = told(found, "zcasync_process_run_seconds")
    assert {key: sum(spread.numbers) for key, spread in runs.items()} == {("default", add): 1, ("default", fail): 1}
    assert all(spread.seconds > 0 for spread in runs.values())
    [waits] = told(found, "zcasync_process_wait_seconds").values()
    assert sum(waits.numbers) == 2
    assert waits.seconds > 20


def test_commits_that_jobs_share_are_counted_with_their_jobs(
    queue: Any, dispatch: Any, connection: Any, own_counters: Counters
) -> None:
    grouped = [Job(enginejobs.add, number) for number in range(6)]
    for job in grouped:
        job.groupable = True
        queue.put(job)
    transaction.commit()
    dispatch(threads=1)
    for job in grouped:
        wait_for_result(job)
    wait_until(connection, lambda: sum(sum(run.numbers) for run in own_counters.runs.values()) == 6)
    commits, jobs = own_counters.shares
    assert 1 <= commits <= jobs <= 6


def test_threads_are_told_with_those_that_are_busy(queue: Any, dispatch: Any, main: str) -> None:
    dispatch(threads=3)
    job = queue.put(Job(enginejobs.wait))
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    found = figures.of_process()
    assert told(found, "zcasync_process_dispatchers") == {(): 1}
    assert told(found, "zcasync_process_held") == {(main,): 0}
    assert told(found, "zcasync_process_threads_busy") == {(main, "default", "main"): 1}
    assert told(found, "zcasync_process_threads")[main, "default", "main"] >= 1
    enginejobs.release_all()
    wait_for_result(job)


def test_a_dispatcher_that_is_held_and_its_clock_are_told(
    dispatch: Any, main: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = dispatch().dispatcher
    monkeypatch.setattr(dispatcher.membership.ownership, "held", ("copy", "elsewhere"))
    monkeypatch.setattr(dispatcher.heartbeat, "skew", 7.5)
    found = figures.of_process()
    assert told(found, "zcasync_process_held") == {(main,): 1}
    assert told(found, "zcasync_process_clock_skew_seconds") == {(main,): 7.5}


def test_a_process_without_a_dispatcher_says_so() -> None:
    found = figures.of_process()
    assert told(found, "zcasync_process_dispatchers") == {(): 0}
    assert told(found, "zcasync_process_threads") == {}


def test_the_queues_of_each_database_are_told_once_and_by_its_name() -> None:
    databases: dict[str, Any] = {}
    first, second = (DB(MappingStorage(), database_name=name, databases=databases) for name in ("first", "second"))
    third = DB(MappingStorage(), database_name="third", databases=databases)
    try:
        for database in (first, second):
            with database.transaction() as connection:
                install(connection)
        with third.transaction() as connection:  # as with db-name
            connection.root()[KEY] = connection.get_connection("second").root()[KEY]
        with first.transaction() as connection:
            found = figures.of_databases(connection)
        assert set(told(found, "zcasync_queue_paused")) == {("first", "default"), ("second", "default")}
        assert set(told(found, "zcasync_clock_skew_seconds")) == {("first",), ("second",)}
    finally:
        for database in (first, second, third):
            database.close()


def test_further_tasks_are_counted_together_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "TASKS", 2)
    counters = Counters()
    for number in range(5):
        counters.happened("put", f"task {number}")
        counters.ran("", f"task {number}", 1.0)
    assert counters.jobs == {("put", "task 0"): 1, ("put", "task 1"): 1, ("put", counting.OTHERS): 3}
    assert sum(counters.runs["", counting.OTHERS].numbers) == 3


def test_a_spread_counts_each_duration_in_its_class_and_sums_them_up() -> None:
    counters = Counters()
    for seconds in (0.001, 0.005, 0.02, 5000.0):
        counters.waited("", seconds)
    spread = counters.waits[""]
    assert spread.seconds == pytest.approx(5000.026)
    bounds = dict(figures.bounds_of(spread))
    assert (bounds["0.005"], bounds["0.01"], bounds["0.025"], bounds["1800.0"], bounds["+Inf"]) == (2, 2, 3, 3, 4)


def test_threads_that_count_at_once_lose_nothing() -> None:
    counters = Counters()

    def count() -> None:
        for _number in range(2000):
            counters.happened("put", "one")

    threads = [threading.Thread(target=count) for _number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.jobs == {("put", "one"): 8000}


def test_a_fork_counts_anew_whoever_was_counting_at_that_moment() -> None:
    script = """
import os
from collective.zcasync.counters import counters
counters.happened("put", "one")
counters._lock.acquire()
child = os.fork()
if not child:
    counters.happened("put", "two")
    os._exit(0 if counters.jobs == {("put", "two"): 1} else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n", "")


# Reading


@pytest.fixture
def reading(db: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    """One whose reader may take its time."""
    monkeypatch.setattr(figurereading, "PATIENCE", 20.0)
    reading = Reading(db)
    yield reading
    thread = reading._thread
    if thread is not None:
        thread.join(20)


def test_the_database_is_read_once_for_all_who_ask_soon_after_one_another(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = figures.of_databases

    def noted(connection: Any) -> list[figures.Figure]:
        reads.append(threading.current_thread().name)
        return read(connection)

    monkeypatch.setattr(figures, "of_databases", noted)
    first, second = reading.figures(), reading.figures()
    assert reads == ["zcasync-figures"]
    assert first[:-1] == second[:-1] != []
    assert told(second, "zcasync_database_age_seconds")[()] > told(first, "zcasync_database_age_seconds")[()] >= 0
    monkeypatch.setattr(reading, "_next", 0.0)
    reading.figures()
    assert len(reads) == 2


def test_who_asks_does_not_wait_for_a_database_that_does_not_answer(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    reading.figures()
    monkeypatch.setattr(reading, "_next", 0.0)
    monkeypatch.setattr(figurereading, "PATIENCE", 0.05)
    monkeypatch.setattr(figures, "of_databases", lambda connection: answers.wait(20) and [])
    try:
        before = reading.figures()
        assert [figure.name for figure in before][-1] == "zcasync_database_age_seconds"
        assert len(before) > 1, "what was read last is told meanwhile"
        thread = reading._thread
        reading.figures()
        assert reading._thread is thread, "no second one reads"
        monkeypatch.setattr(figurereading, "KEEP", 0.0)
        assert reading.figures() == [], "at last it is too old"
    finally:
        answers.set()


def test_a_reading_that_fails_is_logged_and_tried_again(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(figures, "of_databases", lambda connection: 1 / 0)
        assert reading.figures() == []
    assert "could not be read" in caplog.text
    monkeypatch.setattr(reading, "_next", 0.0)
    assert reading.figures() != []


def test_reading_takes_a_small_part_of_the_time(reading: Reading) -> None:
    reading._run()
    assert reading._next >= reading._read + figurereading.EVERY - 1
