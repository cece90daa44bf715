"""The loops that commit: what they try again, when, and what they tell."""

from collective.zcasync import transactions
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.failure import Failure
from threading import Event
from transaction.interfaces import TransientError
from ZEO.Exceptions import ClientDisconnected
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError

import logging
import pytest
import transaction
import types
import ZODB


class Script:
    """Raises what it is told to, then returns 42."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 42


class Manager(transaction.TransactionManager):
    commits = aborts = 0

    def commit(self):
        super().commit()
        self.commits += 1

    def abort(self):
        super().abort()
        self.aborts += 1


@pytest.fixture
def tm():
    return Manager()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    waits = []
    monkeypatch.setattr(transactions, "sleep", waits.append)
    return waits


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "collective.zcasync.events")
    return caplog


def levels(log):
    return [record.levelname for record in log.records]


def conflicts(count):
    return [ConflictError() for _ in range(count)]


def driver_error_through(module, *names):
    """An error as psycopg2 raises it, through a function of that module. ``names``: of its class and its bases."""
    scope = {"__name__": module}
    exec("def load(error):\n    raise error", scope)
    kind = Exception
    for name in reversed(names or ("OperationalError", "DatabaseError")):
        kind = type(name, (kind,), {"__module__": "psycopg2"})
    try:
        scope["load"](kind("server closed the connection"))
    except Exception as e:
        return e


def test_a_disconnect_is_told_from_a_conflict_although_it_is_a_transaction_error():
    assert issubclass(ClientDisconnected, TransientError)
    assert transactions.is_disconnect(ClientDisconnected())
    assert not transactions.is_conflict(ClientDisconnected())
    assert transactions.is_conflict(ConflictError())
    assert not transactions.is_disconnect(ConflictError())
    assert not transactions.is_conflict(ValueError())


def test_subclasses_of_disconnects_are_disconnects():
    assert transactions.is_disconnect(type("Special", (ClientDisconnected,), {})())


def test_failures_are_classified_like_their_exceptions():
    assert transactions.is_disconnect(Failure(ClientDisconnected()))
    assert not transactions.is_conflict(Failure(ClientDisconnected()))
    assert transactions.is_conflict(Failure(ConflictError()))


def test_a_drivers_error_is_a_disconnect_only_if_relstorage_was_calling():
    assert transactions.is_disconnect(driver_error_through("relstorage.adapters.connmanager"))
    assert not transactions.is_disconnect(driver_error_through("addon.reports"))


def test_a_server_that_has_cut_the_connection_off_is_told_from_what_it_says_itself():
    cut_off = driver_error_through("relstorage.adapters.connmanager", "DatabaseError")
    said = driver_error_through("relstorage.adapters.connmanager", "DataError", "DatabaseError")
    assert transactions.is_disconnect(cut_off) and not transactions.is_disconnect(said)


@pytest.mark.parametrize("name", ["DiskFull", "ReadOnlySqlTransaction", "FeatureNotSupported"])
def test_a_server_that_answers_and_stores_nothing_is_as_good_as_away(name):
    """PostgreSQL without room; where a setting lets it only read; and as it takes over from another one."""
    base = "OperationalError" if name == "DiskFull" else "DatabaseError"
    assert transactions.is_disconnect(driver_error_through("relstorage.adapters.connmanager", name, base))
    assert not transactions.is_disconnect(driver_error_through("addon.reports", name, base))


def test_what_meets_a_database_again_that_answers_and_stores_nothing_waits_longer_each_time(waits, monkeypatch):
    monkeypatch.setattr(transactions, "ask", lambda db: None)
    assert all(transactions.wait_for_database(None, before=count) for count in range(12))
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_never_fail_commits_and_returns_the_result(tm):
    assert transactions.never_fail(Script(), "work", tm) == 42
    assert (tm.commits, tm.aborts) == (1, 0)


def test_never_fail_tries_conflicts_again_without_backing_off_and_warns_each_fifth_time(tm, waits, log):
    assert transactions.never_fail(Script(*conflicts(11)), "work", tm) == 42
    assert tm.aborts == 11
    assert max(waits) <= 0.2
    assert levels(log) == ["WARNING", "WARNING"]


def test_never_fail_backs_off_when_the_database_is_away(tm, waits, log):
    transactions.never_fail(Script(*[ClientDisconnected()] * 14), "work", tm)
    assert waits == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 60, 60]
    assert levels(log) == ["ERROR", "ERROR"]


def test_never_fail_tells_unexpected_errors_as_critical(tm, waits, log):
    transactions.never_fail(Script(ValueError("x")), "saving the outcome", tm)
    assert waits == [5]
    assert levels(log) == ["CRITICAL"]
    assert "saving the outcome" in log.text


def test_a_missing_record_is_an_error_of_the_system(tm, log):
    transactions.never_fail(Script(POSKeyError(b"\0" * 8)), "work", tm)
    assert levels(log) == ["ERROR"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ReassignedError, StopRequested])
@pytest.mark.parametrize("loop", [transactions.never_fail, transactions.try_five_times])
def test_what_ends_the_thread_or_the_attempt_is_raised_after_an_abort(loop, error, tm):
    with pytest.raises(error):
        loop(Script(error()), "work", tm)
    assert tm.aborts == 1


def test_never_fail_raises_the_next_trouble_once_it_is_told_to_stop(tm):
    stop = Event()
    stop.set()
    with pytest.raises(ValueError):
        transactions.never_fail(Script(ValueError("x")), "work", tm, stop)
    assert transactions.never_fail(Script(), "work", tm, stop) == 42


def test_never_fail_tries_again_when_the_commit_itself_fails(tm, waits):
    script = Script()
    failing = [ConflictError()]

    def work():
        if failing:
            error = failing.pop()
            tm.get().addBeforeCommitHook(lambda: (_ for _ in ()).throw(error))
        return script()

    assert transactions.never_fail(work, "work", tm) == 42
    assert script.calls == 2


def test_try_five_times_tries_conflicts_five_times_and_returns_a_failure(tm, log):
    script = Script(*conflicts(9))
    result = transactions.try_five_times(script, "claiming", tm)
    assert isinstance(result, Failure)
    assert result.check(ConflictError)
    assert script.calls == 5
    assert levels(log) == ["CRITICAL"]
    assert "claiming" in log.text


def test_try_five_times_is_content_with_the_fifth_try(tm, log):
    assert transactions.try_five_times(Script(*conflicts(4)), "claiming", tm) == 42
    assert tm.commits == 1
    assert not log.records


@pytest.mark.parametrize("error", [ValueError("x"), ClientDisconnected()])
def test_try_five_times_does_not_repeat_other_errors(error, tm, waits, log):
    script = Script(error)
    result = transactions.try_five_times(script, "claiming", tm)
    assert result.check(type(error))
    assert script.calls == 1
    assert tm.aborts == 1
    assert waits == []
    assert levels(log) == ["CRITICAL"]


def test_try_five_times_leaves_the_commit_to_the_caller_if_asked(tm):
    assert transactions.try_five_times(Script(), "claiming", tm, commit=False) == 42
    assert (tm.commits, tm.aborts) == (0, 0)


def test_pauses_end_when_they_are_told_to_stop(waits):
    stop = Event()
    stop.set()
    transactions.pause(60, stop)
    assert waits == []


@pytest.fixture
def db(tmp_path):
    db = ZODB.DB(str(tmp_path / "data.fs"))
    yield db
    db.close()


def test_waiting_for_a_database_that_answers_ends_at_once(db, waits):
    assert transactions.wait_for_database(db) is True
    assert waits == []


def test_waiting_for_a_database_asks_with_growing_pauses_until_it_answers(db, waits, log, monkeypatch):
    script = Script(*[ClientDisconnected()] * 8)
    monkeypatch.setattr(transactions, "ask", lambda db: script())
    assert transactions.wait_for_database(db) is True
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert levels(log) == ["ERROR", "INFO"]


def test_waiting_for_a_database_ends_when_it_is_told_to_stop(db, monkeypatch):
    stop = Event()

    def ask(db):
        stop.set()
        raise ClientDisconnected

    monkeypatch.setattr(transactions, "ask", ask)
    assert transactions.wait_for_database(db, stop) is False


def test_asking_reads_from_the_storage_and_leaves_the_threads_own_transaction_alone(db):
    mine = transaction.begin()
    mine.note("mine")
    transactions.ask(db)
    transactions.ask(db)
    assert transaction.get() is mine
    transaction.abort()


def test_a_storage_that_is_not_connected_does_not_answer():
    db = types.SimpleNamespace(storage=types.SimpleNamespace(is_connected=lambda: False))
    with pytest.raises(ConnectionError):
        transactions.ask(db)


def test_asking_fails_when_the_storage_fails_although_the_root_is_in_the_cache(db, monkeypatch):
    transactions.ask(db)

    def load(*args, **kw):
        raise ClientDisconnected

    monkeypatch.setattr(type(db.storage), "loadBefore", load)
    with pytest.raises(ClientDisconnected):
        transactions.ask(db)
