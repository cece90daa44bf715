"""Many puts in one call: batches, memory, and what is left where an item is wrong."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync import events
from collective.zcasync import tasks
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.queue import install
from collective.zcasync.testing import put_jobs
from datetime import timedelta
from typing import Any
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError

import enginejobs
import pytest
import threading
import transaction
import ZODB
import zope.component
import zope.event

#: How a database is shared makes no difference to what is tested here.
pytestmark = pytest.mark.parametrize("clients", ["filestorage"], indirect=True)


@tasks.task(name="putmany.greet", policy="NeverRetry")
def greet(self: str, task: str = "", items: str = "") -> str:
    """A task whose parameters are called as those of put_many are."""
    return f"{self} {task} {items}"


@pytest.fixture(autouse=True)
def source(connection: Any) -> Iterator[None]:
    zope.component.provideUtility(lambda: connection, IConnectionSource)
    yield
    zope.component.getGlobalSiteManager().unregisterUtility(provided=IConnectionSource)


@pytest.fixture
def stored(clients: Callable[[], Any], queue: Any) -> Callable[[], list[Any]]:
    """The arguments of the jobs that wait, as another connection sees them; their counts are right."""

    def look() -> list[Any]:
        with clients().transaction() as fresh:
            found = fresh.get(queue._p_oid)
            assert found.counts()["waiting"] == len(list(found)) == len(found)
            return [job.args[0] for job in found]

    return look


def numbers(count: int) -> Iterator[tuple[int]]:
    return ((number,) for number in range(count))


def faulty(count: int) -> Iterator[tuple[int]]:
    yield from numbers(count)
    raise LookupError("no more of these")


def test_options_hold_for_all_jobs_of_a_call(queue: Any) -> None:
    queue.parent["mail"] = mail = type(queue)()
    mail.quotas.create("one")
    options = {"queue": "mail", "begin_after": timedelta(hours=1), "priority": 3, "quotas": ("one",), "policy": "slow"}
    assert api.options(**options).put_many(enginejobs.note, numbers(3)) == 3
    assert greet.options(**options).put_many([{"self": "you"}]) == 1

    assert len(queue) == 0
    assert {(job.priority, job.quota_names, job.policy) for job in mail} == {(3, ("one",), "slow")}
    assert len({job.begin_after > job.put_at for job in mail}) == 1 and len(mail) == 4


def test_a_task_puts_its_own_jobs_with_its_own_defaults(queue: Any) -> None:
    assert greet.put_many([("a",), {"self": "b", "task": "c", "items": "d"}]) == 2
    assert greet.put(self="e", task="f").args == []

    assert {(job.task, job.policy) for job in queue} == {("putmany.greet", "NeverRetry")}
    assert [job.kwargs.get("self") or job.args[0] for job in queue] == ["a", "b", "e"]
    assert greet(self="e", task="f", items="g") == "e f g"


def test_no_item_is_read_before_those_ahead_of_it_are_put(queue: Any) -> None:
    seen = []

    def items() -> Iterator[tuple[int]]:
        for number in range(7):
            seen.append(len(put_jobs(queue)))
            yield (number,)

    assert api.put_many(enginejobs.note, items(), batch=3) == 7
    assert seen == list(range(7))


def test_each_batch_is_committed_and_leaves_the_memory(queue: Any, connection: Any, clients: Any) -> None:
    seen, live = [], []

    def items() -> Iterator[tuple[int]]:
        for number in range(2000):
            if number % 500 == 0:
                with clients().transaction() as fresh:
                    seen.append(len(fresh.get(queue._p_oid)))
                live.append(connection._cache.cache_non_ghost_count)
            yield (number,)

    assert api.put_many(enginejobs.note, items(), batch=500, commit=True) == 2000
    assert seen == [0, 500, 1000, 1500]
    assert max(live) <= connection.db().getCacheSize()
    assert connection._registered_objects == []
    transaction.abort()
    assert len(queue) == 2000


def test_in_one_transaction_each_batch_leaves_the_memory_too(queue: Any, connection: Any, stored: Any) -> None:
    live, registered = [], []

    def items() -> Iterator[tuple[int]]:
        for number in range(2000):
            if number and number % 500 == 0:
                live.append(connection._cache.cache_non_ghost_count)
                registered.append(len(connection._registered_objects))
            yield (number,)

    assert api.put_many(enginejobs.note, items(), batch=500) == 2000
    assert max(live) <= connection.db().getCacheSize() and registered == [0, 0, 0]
    assert len(transaction.get()._after_commit) == 2  # nothing is kept for each job but its id
    assert stored() == []
    transaction.commit()
    assert len(stored()) == 2000


def test_a_put_of_many_writes_one_record_a_job_and_a_few_for_a_batch(queue: Any, tmp_path: Any) -> None:
    db = ZODB.DB(FileStorage(str(tmp_path / "Own.fs")))
    with db.transaction() as connection:
        install(connection)
    before = db.lastTransaction()
    connection = db.open()
    zope.component.provideUtility(lambda: connection, IConnectionSource)
    api.put_many(enginejobs.note, numbers(1000), batch=100, commit=True)
    batches = [len(list(txn)) for txn in db.storage.iterator(before)][1:]
    connection.close()
    db.close()

    assert len(batches) == 10
    # A thread draws its inbox anew every 100 puts, so a batch may write two of them: for each the inbox or its overflow
    # (a bucket, and as it splits another and the tree) and the count of that.
    assert max(batches) <= 100 + 2 * 4
    assert sum(batches) <= 1000 + 10 * 6


def test_no_commit_happens_where_there_is_nothing_to_put(queue: Any, connection: Any) -> None:
    connection.root()["changed"] = True
    assert api.put_many(enginejobs.note, [], commit=True) == 0
    assert api.put_many(enginejobs.note, numbers(4), batch=4) == 4
    transaction.abort()
    assert "changed" not in connection.root() and len(queue) == 0


def test_jobs_of_a_transaction_are_told_after_its_commit_only(queue: Any, connection: Any) -> None:
    told: list[Any] = []

    def subscriber(event: Any) -> None:
        if isinstance(event, events.JobPut):
            told.append((event.id, event.task))

    zope.event.subscribers.append(subscriber)
    try:
        api.put_many(enginejobs.note, numbers(3), batch=2)
        transaction.abort()
        assert told == []
        api.put_many(enginejobs.note, numbers(3), batch=2)
        other = api.put(enginejobs.add, 1)
        ids = [job.id for job in put_jobs(queue)]
        assert told == []
        transaction.commit()
    finally:
        zope.event.subscribers.remove(subscriber)
    assert told == [*((id, "enginejobs.note") for id in ids[:3]), (other.id, "enginejobs.add")]


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ("text", InvalidJobError, "item 17 of put_many, 'text': it must be a tuple"),
        ([1], InvalidJobError, r"item 17 of put_many, \[1\]: it must be a tuple"),
        (None, InvalidJobError, "item 17 of put_many, None"),
        ({1: 2}, InvalidJobError, r"item 17 of put_many, \{1: 2\}: keywords are texts, not 1"),
        ((lambda: 1,), InvalidArgumentError, "item 17 of put_many, .*lambda.*: argument 1 of enginejobs.note"),
        ({"value": {"password": object}, "x": threading.Lock()}, InvalidArgumentError, r"\*\*\*\*.* keyword 'x'"),
        (("x" * 1000, threading.Lock()), InvalidArgumentError, "item 17 of put_many, .{0,402}: argument 2"),
    ],
)
@pytest.mark.parametrize("commit", [True, False])
def test_an_item_that_is_refused_is_named_with_its_number(
    commit: bool, item: Any, error: type, words: str, stored: Any
) -> None:
    items: list[Any] = [*numbers(17), item, *numbers(10)]
    with pytest.raises(error, match=words) as caught:
        api.put_many(enginejobs.note, items, batch=10, commit=commit)
    assert isinstance(caught.value, ZCAsyncError)
    if commit:
        assert caught.value.__notes__ == ["put_many: 10 jobs are committed, and no others are put"]
        transaction.commit()  # the rest of the batch is gone already
        assert stored() == list(range(10))
    else:
        assert "17 jobs are put, unless" in caught.value.__notes__[0]
        transaction.abort()
        assert stored() == []


def test_without_a_commit_the_items_before_a_refused_one_are_put_if_the_caller_goes_on(stored: Any) -> None:
    with pytest.raises(InvalidJobError, match="item 12"):
        api.put_many(enginejobs.note, [*numbers(12), 7], batch=5)
    transaction.commit()
    assert stored() == list(range(12))


@pytest.mark.parametrize(("commit", "left"), [(True, list(range(10))), (False, [])])
def test_what_the_items_raise_comes_out_with_a_note_of_what_is_stored(commit: bool, left: Any, stored: Any) -> None:
    with pytest.raises(LookupError, match="^'?no more of these") as caught:
        api.put_many(enginejobs.note, faulty(13), batch=5, commit=commit)
    assert caught.value.__notes__[0].startswith(f"put_many: {10 if commit else 13} jobs are")
    transaction.abort()
    assert stored() == left


def test_a_commit_that_conflicts_leaves_the_batches_before(
    connection: Any, stored: Any, clients: Callable[[], Any]
) -> None:
    connection.root()["counter"] = counter = enginejobs.Counter()
    transaction.commit()

    def items() -> Iterator[tuple[int]]:
        for number in range(10):
            if number == 7:
                with clients().transaction() as other:
                    other.get(counter._p_oid).increase()
                counter.increase()
            yield (number,)

    with pytest.raises(ConflictError) as caught:
        api.put_many(enginejobs.note, items(), batch=3, commit=True)
    assert caught.value.__notes__ == ["put_many: 6 jobs are committed, and no others are put"]
    assert stored() == list(range(6))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: api.put_many(enginejobs.note, [(1,)], batch=0), InvalidValueError, "at least 1, not 0"),
        (lambda: api.put_many(enginejobs.note, [(1,)], batch=-5), InvalidValueError, "not -5"),
        (lambda: api.put_many(enginejobs.note, [(1,)], batch="10"), InvalidValueError, "not '10'"),  # type: ignore[arg-type]
        (lambda: api.put_many(enginejobs.note, [(1,)], batch=1.5), InvalidValueError, "not 1.5"),  # type: ignore[arg-type]
        (lambda: api.put_many(enginejobs.note, [(1,)], batch=True), InvalidValueError, "not True"),
        (lambda: api.put_many(enginejobs.note, [(1,)], commit="no"), InvalidTypeError, "True or False, not 'no'"),  # type: ignore[arg-type]
        (lambda: api.put_many(enginejobs.note, [(1,)], commit=1), InvalidTypeError, "True or False, not 1"),  # type: ignore[arg-type]
        (lambda: api.put_many(enginejobs.note, 7), InvalidTypeError, "another iterable, not 7"),  # type: ignore[arg-type]
        (lambda: api.put_many(enginejobs.note, None), InvalidTypeError, "not None"),  # type: ignore[arg-type]
        (lambda: api.options().put_many([(1,)]), InvalidTypeError, r"put_many\(task, items\)"),
        (lambda: greet.options().put_many(greet, [(1,)]), InvalidTypeError, r"put_many\(items\)"),
        (lambda: api.put_many("nothing", [(1,)]), LookupError, "item 0 .*no task is registered as 'nothing'"),
        (lambda: api.options(queue="x").put_many(greet, [(1,)]), LookupError, "item 0 .*no queue is named 'x'"),
        (lambda: api.options(quotas=("q",)).put_many(greet, [(1,)]), QuotaNotFound, "item 0 .*quota name q"),
        (lambda: api.options(priority=16).put_many(greet, [(1,)]), InvalidValueError, "item 0 .*not 16"),
    ],
)
def test_wrong_calls_are_refused_and_put_nothing(call: Any, error: type, words: str, stored: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        call()
    assert isinstance(caught.value, ZCAsyncError)
    transaction.commit()
    assert stored() == []


def test_an_explicit_transaction_manager_is_left_in_a_transaction(db: Any, queue: Any) -> None:
    manager = transaction.TransactionManager(explicit=True)
    own = db.open(manager)
    manager.begin()
    zope.component.provideUtility(lambda: own, IConnectionSource)
    assert api.put_many(enginejobs.note, numbers(5), batch=2, commit=True) == 5
    manager.commit()
    manager.begin()
    with pytest.raises(InvalidJobError):
        api.put_many(enginejobs.note, [*numbers(3), "wrong"], batch=2, commit=True)
    manager.commit()
    own.close()
    transaction.abort()
    assert len(queue) == 7
