"""What is kept of finished jobs, how it is dropped, and what a pack makes of the database."""

from BTrees.LOBTree import LOBTree
from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import history
from collective.zcasync import upkeep
from collective.zcasync.clock import set_now
from collective.zcasync.clock import UTC
from collective.zcasync.failure import Failure
from collective.zcasync.filing import file_away
from collective.zcasync.job import Job
from collective.zcasync.upkeep import drop_old
from datetime import datetime
from datetime import timedelta
from enginejobs import make_agent
from typing import Any
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError

import enginejobs
import pytest
import random
import transaction

#: How a database is shared makes no difference to what is tested here.
pytestmark = pytest.mark.parametrize("clients", ["filestorage"], indirect=True)

NOON = datetime(2030, 5, 17, 12, tzinfo=UTC)

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def small_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten jobs fill a period."""
    monkeypatch.setattr("collective.zcasync.slot.PERIOD", 10)
    set_now(NOON)


@pytest.fixture
def slot(queue: Any) -> Any:
    return make_agent(queue).slot


def end(queue: Any, slot: Any, number: int, when: datetime | None = None, group: str = "", bad: bool = False) -> Any:
    """A job that has ended at some time and is filed away."""
    job = queue.put(Job(enginejobs.note, number))
    queue.take_out(job)
    job.group = group
    job._finish(Failure.from_exception(ValueError("bad")) if bad else number, when or NOON)
    file_away(queue, slot, job)
    return job


def recount(queue: Any) -> dict[str, int]:
    """How many jobs the history holds; its counts are right."""
    counts = queue.counts()
    found = {outcome: len(list(queue.finished(outcome))) for outcome in history.OUTCOMES}
    assert found == {outcome: counts[outcome] for outcome in history.OUTCOMES}
    assert sum(found.values()) == len(list(queue.finished()))
    return {outcome: number for outcome, number in found.items() if number}


def told(queue: Any, **which: Any) -> list[int]:
    return [job.args[0] for job in queue.finished(**which)]


def test_no_more_jobs_of_an_outcome_are_kept_than_the_queue_says(queue: Any, slot: Any) -> None:
    queue.retention_jobs = 50
    for number in range(203):
        end(queue, slot, number, NOON + number * SECOND)
        if number % 20 == 0:
            drop_old(queue, slot)
    end(queue, slot, 1000, bad=True)
    drop_old(queue, slot)

    assert told(queue, outcome="succeeded") == list(range(202, 159, -1))
    assert recount(queue) == {"succeeded": 43, "failed": 1}
    assert not drop_old(queue, slot)


def test_the_limit_is_a_hundred_thousand_jobs_of_each_outcome_in_steps_of_a_thousand(queue: Any) -> None:
    assert (queue.retention_jobs, history.PERIOD) == (100_000, 1000)


def test_failed_jobs_are_kept_for_longer_and_are_not_pushed_out_by_others(queue: Any, slot: Any) -> None:
    queue.retention_jobs = 20
    for number in range(100):
        end(queue, slot, number, NOON + number * SECOND, bad=number % 10 == 0)
    assert drop_old(queue, slot)
    assert told(queue, outcome="failed") == list(range(90, -1, -10))
    assert recount(queue) == {"succeeded": 20, "failed": 10}

    set_now(NOON + 8 * DAY)
    assert drop_old(queue, slot)
    assert recount(queue) == {"failed": 10}
    set_now(NOON + 31 * DAY)
    assert drop_old(queue, slot)
    assert recount(queue) == {} and len(slot.history.periods) == 0


def test_dispatchers_drop_the_oldest_of_all_and_only_their_own(queue: Any, slot: Any) -> None:
    other = make_agent(queue).slot
    queue.retention_jobs = 30
    for number in range(40):
        end(queue, other, number, NOON + number * SECOND)
        end(queue, slot, 100 + number, NOON + (100 + number) * SECOND)

    assert drop_old(queue, slot) and not drop_old(queue, slot)  # of a day's first periods none is older; then others'
    assert recount(queue) == {"succeeded": 70}
    assert drop_old(queue, other) and not drop_old(queue, other)
    assert drop_old(queue, slot) and not drop_old(queue, slot)
    assert told(queue) == [*range(139, 119, -1), *range(39, 29, -1)]  # what is being filled is never dropped
    assert recount(queue) == {"succeeded": 30}
    other.owner = None
    queue.retention_jobs = 0
    assert drop_old(queue, slot)
    assert recount(queue) == {"succeeded": 20}


def test_one_pass_drops_a_bounded_number_of_periods(queue: Any, slot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "DROP_AT_MOST", 3)
    for number in range(100):
        end(queue, slot, number, NOON + number * SECOND)
    set_now(NOON + 8 * DAY)
    left = []
    while drop_old(queue, slot):
        left.append(recount(queue).get("succeeded", 0))
    assert left == [70, 40, 10, 0]


def test_lists_are_in_order_of_the_ends_whatever_period_and_site_a_job_is_in(queue: Any, slot: Any) -> None:
    numbers = list(range(300))
    draw = random.Random(7)
    for start in range(0, 300, 20):  # they come as sweeps bring them: not quite in order
        some = numbers[start : start + 20]
        draw.shuffle(some)
        numbers[start : start + 20] = some
    jobs = {
        number: end(queue, slot, number, NOON + number * timedelta(minutes=10), f"site{number % 3}", number % 7 == 0)
        for number in numbers
    }

    assert told(queue) == list(range(299, -1, -1))
    assert told(queue, group="site1") == [number for number in range(299, -1, -1) if number % 3 == 1]
    assert told(queue, outcome="failed") == [number for number in range(299, -1, -1) if number % 7 == 0]
    assert told(queue, outcome="failed", group="site2") == [n for n in range(299, -1, -1) if not n % 7 and n % 3 == 2]
    assert all(queue.has_filed(job) for job in jobs.values())
    assert not queue.has_filed(Job(enginejobs.note))
    sizes = [sum(map(len, period.values())) for period in slot.history.periods.values()]
    assert max(sizes) <= 2 * 10 + 20 and sum(sizes) == 300
    assert slot.history.purge("site1") == {"failed": 14, "succeeded": 86}
    assert 100 == len(told(queue, group="site0")) == len(told(queue, group="site2"))


def test_a_history_with_one_period_a_day_goes_on(queue: Any, slot: Any) -> None:
    slot.history = old = history.History()
    for number in range(15):
        old.add(job := Job(enginejobs.note, number), "succeeded", NOON + number * SECOND)
        job._finish(None, NOON + number * SECOND)
    slot.count("succeeded", 15)
    assert "filed" not in vars(slot) and len(old.periods) == 1
    jobs = [end(queue, slot, number, NOON + number * SECOND) for number in range(15, 40)]

    assert told(queue) == list(range(39, -1, -1)) and all(map(queue.has_filed, jobs))
    assert len(old.periods) == 3
    assert recount(queue) == {"succeeded": 40}


def test_dropping_loads_none_of_the_jobs_and_few_records(
    queue: Any, slot: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collective.zcasync.slot.PERIOD", 100)
    for number in range(1000):
        end(queue, slot, number, NOON + number * SECOND)
    transaction.commit()
    connection.cacheMinimize()
    slot.history.periods.keys()
    loaded: list[type] = []
    plain = type(connection).setstate

    def setstate(self: Any, obj: Any) -> None:
        loaded.append(type(obj))
        plain(self, obj)

    monkeypatch.setattr(type(connection), "setstate", setstate)
    set_now(NOON + 8 * DAY)
    assert drop_old(queue, slot)
    transaction.commit()

    assert Job not in loaded and len(loaded) < 100
    monkeypatch.undo()
    assert recount(queue) == {}


#: The places that hold jobs.
HOLDERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "inbox": lambda queue, slot, job: queue.inboxes[5].__setitem__(job.key, job),
    "overflow": lambda queue, slot, job: queue.overflows[3].__setitem__(job.key, job),
    "backlog": lambda queue, slot, job: slot.backlog("site").__setitem__(job.key, job),
    "later": lambda queue, slot, job: queue.later.__setitem__((1, job.key), job),
    "parked": lambda queue, slot, job: queue.parked.__setitem__("quota:one", LOBTree({job.key: job})),
    "awaiting": lambda queue, slot, job: queue.waiting_for.__setitem__(1, (job,)),
    "quarantine": lambda queue, slot, job: queue.quarantine.__setitem__(1, ("why", job)),
    "running": lambda queue, slot, job: setattr(slot, "running", {job._p_oid: (job, "main")}),
    "deferreds": lambda queue, slot, job: setattr(slot, "deferreds", {job._p_oid: (job, "main")}),
    "quota": lambda queue, slot, job: queue.quotas["one"].add(job),
    "mailbox": lambda queue, slot, job: slot.mailbox.__setitem__((job._p_oid, "callback", ""), job),
    "callback": lambda queue, slot, job: queue.put(Job(enginejobs.add)).addCallback(job),
}


def test_a_pack_takes_the_jobs_that_were_dropped_and_leaves_those_that_anything_holds(
    db: Any, connection: Any, queue: Any, slot: Any
) -> None:
    queue.quotas.create("one")
    for number in range(3000):
        dead = end(queue, slot, number)._p_oid
        if number % 500 == 0:
            transaction.commit()
    held = {}
    for name, hold in HOLDERS.items():
        job = Job(enginejobs.note, name)
        job.quota_names = ("one",)
        if name != "callback":
            queue.put(job)
            queue.take_out(job)
        hold(queue, slot, job)
        held[name] = job
    transaction.commit()
    db.pack()
    full = db.storage.getSize()
    assert recount(queue) == {"succeeded": 3000}

    set_now(NOON + 8 * DAY)
    held["history"] = end(queue, slot, 7, NOON + 8 * DAY)
    while drop_old(queue, slot):
        transaction.commit()
    transaction.commit()
    db.pack()
    connection.cacheMinimize()
    assert db.storage.getSize() < full / 10
    assert recount(queue) == {"succeeded": 1}
    assert {name: list(job.args) for name, job in held.items()} == {
        **{name: [name] for name in HOLDERS},
        "history": [7],
    }
    with pytest.raises(POSKeyError):
        connection.get(dead)


def fail_in(queue: Any, slot: Any, number: int, error: Exception, when: datetime, group: str = "") -> Any:
    """A job that has failed with this error, which is raised here, and is filed away."""
    try:
        raise error
    except Exception as raised:
        failure = Failure.from_exception(raised)
    job = queue.put(Job(enginejobs.note, number))
    queue.take_out(job)
    job.group = group
    job._finish(failure, when)
    file_away(queue, slot, job)
    return job


def tallies(queue: Any, group: str | None = None) -> dict[str, tuple[int, datetime, datetime]]:
    """fingerprint -> number, first and last end."""
    moment = clock.from_microseconds
    return {
        fingerprint: (tally.number, moment(tally.first), moment(tally.last))
        for (_group, _task, fingerprint), tally in queue.failures(group).items()
    }


def test_failed_jobs_are_counted_by_what_they_failed_with(queue: Any, slot: Any) -> None:
    for number in range(25):
        fail_in(queue, slot, number, KeyError(number), NOON + number * SECOND)
    fail_in(queue, slot, 25, OSError("full"), NOON, group="site1")
    end(queue, slot, 26)
    known = {
        "KeyError in fail_in": (25, NOON, NOON + 24 * SECOND),
        "OSError in fail_in": (1, NOON, NOON),
    }
    assert tallies(queue) == known
    assert list(tallies(queue, "site1")) == ["OSError in fail_in"]
    slot.history.purge("site1")
    assert list(tallies(queue)) == ["KeyError in fail_in"]


def test_what_is_counted_of_failed_jobs_goes_with_their_period(queue: Any, slot: Any) -> None:
    fail_in(queue, slot, 1, KeyError(), NOON)
    fail_in(queue, slot, 2, KeyError(), NOON + 20 * DAY)
    set_now(NOON + 32 * DAY)
    assert drop_old(queue, slot)
    assert tallies(queue) == {"KeyError in fail_in": (1, NOON + 20 * DAY, NOON + 20 * DAY)}


def test_a_finished_job_is_deleted_and_no_longer_counted(queue: Any, slot: Any) -> None:
    first, second = (fail_in(queue, slot, number, KeyError(), NOON + number * SECOND) for number in (1, 2))
    third = end(queue, slot, 3)
    transaction.commit()
    assert queue.delete(first)
    assert not queue.delete(first)
    assert tallies(queue)["KeyError in fail_in"][0] == 1
    assert recount(queue) == {"failed": 1, "succeeded": 1}
    assert queue.delete(second) and queue.delete(third)
    assert tallies(queue) == {} and recount(queue) == {}
    assert fail_in(queue, slot, 4, KeyError(), NOON) in queue.finished("failed")


def test_who_deletes_a_job_and_who_drops_its_period_do_not_both_count_it(queue: Any, slot: Any) -> None:
    job = end(queue, slot, 1, NOON - 8 * DAY)
    end(queue, slot, 2, NOON - 8 * DAY)
    transaction.commit()
    other = queue._p_jar.db().open(transaction.TransactionManager())
    mine = other.get(queue._p_oid)
    assert mine.delete(other.get(job._p_oid))
    assert drop_old(queue, slot)
    other.transaction_manager.commit()
    with pytest.raises(ConflictError):
        transaction.commit()
    transaction.abort()
    other.close()
    assert recount(queue) == {"succeeded": 1}


def test_the_history_is_read_between_two_moments_and_from_either_end(queue: Any, slot: Any) -> None:
    for number in range(35):
        end(queue, slot, number, NOON + number * SECOND + number // 20 * DAY, group=f"site{number % 2}")
    span = (NOON + 5 * SECOND, NOON + DAY + 21 * SECOND)
    assert told(queue, span=span) == [*range(21, 4, -1)]
    assert told(queue, span=span, oldest=True) == [*range(5, 22)]
    assert told(queue, span=(span[0], None), group="site0", oldest=True) == [*range(6, 35, 2)]
    assert told(queue, span=(None, span[0]), outcome="succeeded") == [*range(5, -1, -1)]
    assert told(queue, outcome="failed", oldest=True) == []
