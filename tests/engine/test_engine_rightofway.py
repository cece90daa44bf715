"""The right of way: after a request's conflict, content jobs of its site wait, in all dispatchers."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import rightofway
from collective.zcasync.job import Job
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.persistence import SENTINEL
from collective.zcasync.queue import get_queues
from collective.zcasync.rightofway import Claim
from collective.zcasync.rightofway import new_record
from collective.zcasync.rightofway import RightOfWay
from collective.zcasync.testing import wait_for_result
from collective.zcasync.wakeup import CommitWatcher
from typing import Any

import enginejobs
import pytest
import threading
import transaction

SITE = "1a"


def put(queue: Any, call: Any, *args: Any, group: str = SITE, lane: str = "") -> Job:
    job = Job(call, *args)
    job.group, job.lane = group, lane
    queue.put(job)
    transaction.commit()
    return job


def entries(db: Any) -> list[int]:
    """The sites that have the right of way, as their requests have written it."""
    with db.transaction() as connection:
        return list(get_queues(connection).right_of_way.values(SENTINEL + 1))


def enter(db: Any, number: int, group: str = SITE) -> None:
    """What a request's claim writes whose process dies then."""
    with db.transaction() as connection:
        get_queues(connection).right_of_way[number] = int(group, 16)


def leave(db: Any, number: int) -> None:
    with db.transaction() as connection:
        del get_queues(connection).right_of_way[number]


@pytest.fixture
def written(db: Any) -> Iterator[Callable[[], None]]:
    """Wait for the next commit to the record."""
    commits = threading.Semaphore(0)
    watcher = CommitWatcher(db, lambda oids, tid: commits.release())
    with db.transaction() as connection:
        watcher.watch([get_queues(connection).right_of_way._p_oid])

    def wait() -> None:
        assert commits.acquire(timeout=10)
        watcher.wait_readable()

    yield wait
    watcher.close()


@pytest.fixture
def running(dispatch: Callable[..., Any]) -> Any:
    return dispatch().dispatcher


def until(running: Any, begins: bool, group: str = SITE) -> None:
    """Wait until the dispatcher lets content jobs of the group begin, or does not."""
    with running.neighbours.changed:
        assert running.neighbours.changed.wait_for(lambda: running.way.may_begin(group) == begins, 10)


def test_a_claim_is_written_down_and_taken_back_at_its_end(db: Any, written: Callable[[], None]) -> None:
    claim = Claim(db, SITE)
    written()
    assert entries(db) == [0x1A]
    claim.end()
    claim.thread.join(10)
    assert entries(db) == []


def test_a_claim_that_nobody_ends_is_taken_back(
    db: Any, written: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rightofway, "LONGEST", 0.05)
    claim = Claim(db, SITE)
    claim.thread.join(10)
    written()
    assert entries(db) == []


def test_claims_of_two_requests_at_once_do_not_conflict(db: Any) -> None:
    first, second = (db.open(transaction.TransactionManager()) for _number in range(2))
    for number, connection in enumerate((first, second)):
        get_queues(connection).right_of_way[number] = 0x1A
    for connection in (first, second):
        connection.transaction_manager.commit()
    for number, connection in enumerate((first, second)):
        connection.transaction_manager.begin()
        del get_queues(connection).right_of_way[number]
    for connection in (first, second):
        connection.transaction_manager.commit()
        connection.close()
    assert entries(db) == []


def test_entries_that_were_left_behind_are_removed_by_the_next(db: Any) -> None:
    record = new_record()
    rightofway._enter(record, number := rightofway._number(), 1)
    rightofway._enter(record, number + 1, 2)
    assert dict(record.items(SENTINEL + 1)) == {number: 1, number + 1: 2}
    record[number - (61_000_000 << 8)] = 3
    rightofway._enter(record, number + 2, 4)
    assert sorted(record.values(SENTINEL + 1)) == [1, 2, 4]


def test_without_a_dispatcher_that_knows_of_it_nothing_is_written(db: Any, clients: Callable[[], Any]) -> None:
    with db.transaction() as connection:
        get_queues(connection).right_of_way = None
    claim = Claim(db, SITE)
    claim.thread.join(10)
    with db.transaction() as connection:
        assert get_queues(connection).right_of_way is None


def test_a_dispatcher_makes_the_record_in_a_database_that_is_older(db: Any, dispatch: Callable[..., Any]) -> None:
    with db.transaction() as connection:
        get_queues(connection).right_of_way = None
    dispatch()
    assert entries(db) == []


@pytest.mark.parametrize("how", ["the task names a lane", "they wrote content before"])
def test_content_jobs_of_the_site_wait_until_the_request_is_through_and_others_do_not(
    how: str, queue: Any, db: Any, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rightofway, "LONGEST", 60.0)
    monkeypatch.setattr(rightofway, "AFTERWARDS", 0.0)
    lane = "content" if how == "the task names a lane" else ""
    assert wait_for_result(put(queue, enginejobs.count, lane=lane), 10) == 1
    enter(db, 1)
    until(running, False)

    job = put(queue, enginejobs.count, lane=lane)
    others = [put(queue, enginejobs.add, 1, 2), put(queue, enginejobs.count, "other", group="1b", lane=lane)]
    assert [wait_for_result(other, 10) for other in others] == [3, 1]
    transaction.begin()
    assert job.status in ("pending-status", "assigned-status", "active-status")
    with db.transaction() as connection:
        assert connection.root()["count"] == 1
    assert running.way.given == 1

    leave(db, 1)
    assert wait_for_result(job, 10) == 2


def test_content_jobs_begin_after_a_while_though_nobody_says_that_the_request_is_through(
    queue: Any, db: Any, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rightofway, "LONGEST", 0.3)
    assert wait_for_result(put(queue, enginejobs.count), 10) == 1
    enter(db, 1)
    until(running, False)
    assert wait_for_result(put(queue, enginejobs.count), 10) == 2
    assert entries(db) == [0x1A]


def test_some_time_is_left_free_when_the_request_is_through(db: Any, running: Any) -> None:
    enter(db, 1)
    until(running, False)
    before = running.way._until[SITE]
    leave(db, 1)
    with running.neighbours.changed:
        assert running.neighbours.changed.wait_for(lambda: running.way._until.get(SITE) != before, 10)
        assert not running.way.may_begin(SITE)


def test_a_second_request_keeps_the_right_of_way_when_the_first_is_through(
    db: Any, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rightofway, "LONGEST", 60.0)
    monkeypatch.setattr(rightofway, "AFTERWARDS", 0.0)
    enter(db, 1)
    until(running, False)
    enter(db, 2)
    leave(db, 1)
    with running.neighbours.changed:
        assert running.neighbours.changed.wait_for(lambda: list(running.way._entries) == [2], 10)
        assert not running.way.may_begin(SITE)
    leave(db, 2)
    until(running, True)


def test_an_attempt_after_a_conflict_gives_way_too() -> None:
    neighbours = Neighbours(2)
    way = RightOfWay(neighbours)
    neighbours.write_content((SITE, "task"))
    way._until[SITE] = float("inf")
    order: list[str] = []

    def again() -> None:
        neighbours.give_way((SITE, "task"))
        order.append("job")

    thread = threading.Thread(target=again)
    thread.start()
    neighbours.give_way((SITE, "another task"))
    with neighbours.changed:
        order.append("request")
        way._until.clear()
        neighbours.changed.notify_all()
    thread.join(10)
    assert order == ["request", "job"]


def test_a_job_that_only_puts_another_one_writes_no_content(queue: Any, running: Any) -> None:
    put_another = put(queue, enginejobs.put_one)
    wait_for_result(put_another, 10)
    assert not running.neighbours.writes_content(SITE)
    wait_for_result(put(queue, enginejobs.count), 10)
    assert running.neighbours.writes_content(SITE)


def test_the_more_requests_conflict_the_more_jobs_share_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    way = RightOfWay(Neighbours(2))
    now = rightofway.time.monotonic()
    seconds = [way.bundle((SITE, "task"))]
    for number in range(5):
        way._learn({number: SITE}, now)
        seconds.append(round(way.bundle((SITE, "task")), 3))
    assert seconds == [0.2, 0.3, 0.4, 0.5, 0.5, 0.5]
    assert way.bundle(("1b", "task")) == 0.2
    monkeypatch.setattr(rightofway.time, "monotonic", lambda: now + 31)
    assert way.bundle((SITE, "task")) == 0.2


def test_a_ping_tells_how_often_jobs_gave_way(queue: Any, db: Any, running: Any) -> None:
    running.way.given = 3
    running.heartbeat._ping()
    transaction.begin()
    (da,) = queue.dispatchers.active()
    assert da.last_ping.gave_way == 3
