"""The loops that commit until it works, and what kinds of trouble a commit can meet."""

from collections.abc import Callable
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.failure import Failure
from threading import Event
from transaction.interfaces import DoomedTransaction
from transaction.interfaces import TransactionError
from typing import Any
from ZODB.POSException import POSKeyError
from ZODB.POSException import ReadOnlyError

import logging
import random
import time
import transaction
import twisted.python.failure

logger = logging.getLogger("collective.zcasync.events")

#: What waits; tests put their own in its place.
sleep: Callable[[float], Any] = time.sleep

#: Seconds: the first wait, what each further one adds, and the longest.
BACKOFF = (5.0, 5.0, 60.0)

#: Never part of a job's outcome.
EXPLOSIVE = (SystemExit, KeyboardInterrupt, ReassignedError)

#: Seconds that work waits which meets a database that is away for the second time in a row, see ``sit_out``; each
#: further time twice as long.
AGAIN = 0.5

#: Tries of ``try_five_times``.
TRIES = 5

#: Classes of "the database is away", by name: neither ZEO nor RelStorage has to be installed.
DISCONNECTS = (
    "ZEO.Exceptions.ClientDisconnected",
    "relstorage.storage.interfaces.StorageDisconnectedDuringCommit",
    "relstorage.adapters.interfaces.ReplicaClosedException",
)

#: What a driver raises where its server only reads, as one of PostgreSQL that takes over from another does at first.
_ONLY_READS = {"ReadOnlySqlTransaction", "FeatureNotSupported"}

#: What a driver raises when its server is gone, or has no room, or only reads. It means the job's own database only if
#: RelStorage was calling.
_DRIVER_ERRORS = {"OperationalError", "InterfaceError", "AdminShutdown", *_ONLY_READS}

#: What a driver raises where the server's user may not write.
_MAY_NOT = {"InsufficientPrivilege"}


def is_disconnect(exc: Any) -> bool:
    """Whether the exception or failure says that the database is away.

    Test this before ``is_conflict``: a disconnect of ZEO is a TransactionError as well.
    """
    if isinstance(exc, twisted.python.failure.Failure):
        names = [name.rpartition(".")[2] for name in map(str, exc.parents)]
        return exc.check(*DISCONNECTS) is not None or (
            _of_driver(names) and any("relstorage" in file for _, file, *_ in exc.frames)
        )
    classes = type(exc).__mro__
    if any(f"{cls.__module__}.{cls.__qualname__}" in DISCONNECTS for cls in classes):
        return True
    return _of_driver([cls.__name__ for cls in classes]) and _through_relstorage(exc)


def _of_driver(names: list[str]) -> bool:
    """Whether a driver's error, named by its class and the bases of that, tells of a server that is gone. What the
    server itself says comes as a class below DatabaseError; one that was cut off, with psycopg2, as that itself."""
    return names[0] == "DatabaseError" or not _DRIVER_ERRORS.isdisjoint(names)


def cannot_write(exc: Exception) -> bool:
    """Whether the exception says that the storage can be read, and not written."""
    if isinstance(exc, ReadOnlyError):
        return True
    names = {cls.__name__ for cls in type(exc).__mro__}
    return not names.isdisjoint(_ONLY_READS | _MAY_NOT) and _through_relstorage(exc)


def is_conflict(exc: Any) -> bool:
    """Whether the same work may go through at the next try, at once.

    A transaction that the work itself has doomed will be doomed again.
    """
    if is_disconnect(exc):
        return False
    if isinstance(exc, twisted.python.failure.Failure):
        return exc.check(TransactionError) is not None and exc.check(DoomedTransaction) is None
    return isinstance(exc, TransactionError) and not isinstance(exc, DoomedTransaction)


def abort(manager: Any) -> None:
    """Abort. As that is done some storages ask their server what is new, which may be away: by then all is undone, and
    whoever begins next meets it again."""
    try:
        manager.abort()
    except Exception as error:
        if not is_disconnect(error):
            raise
        logger.debug("The database is away at an abort", exc_info=True)


def commit_last(manager: Any, connection: Any) -> None:
    """Commit, where nobody looks at anything else before the next transaction of the connection.

    After each commit a connection asks its storage what others have changed, as somebody may go on without a begin.
    That waits for commits of other threads, and the begin of the next transaction asks the same. After a savepoint it
    asks all the same: what was let go to spare memory may have to be loaded again.
    """
    ones = connection.connections.values()
    asking = [one for one in ones if not one.explicit_transactions and one._savepoint_storage is None]
    for one in asking:
        one.explicit_transactions = True
    try:
        manager.commit()
    finally:
        for one in asking:
            one.explicit_transactions = False


def never_fail(call: Callable[[], Any], identifier: str, tm: Any, stop: Event | None = None) -> Any:
    """Call and commit until both work; return what the call returned.

    ``identifier`` names the work in the log. Once ``stop`` is set, the next trouble is raised.
    """
    conflicts = others = 0
    while True:
        try:
            result = call()
            tm.commit()
            return result
        except Exception as e:
            abort(tm)
            if isinstance(e, ReassignedError) or (stop is not None and stop.is_set()):
                raise
            if is_conflict(e):
                conflicts += 1
                if conflicts % 5 == 0:
                    logger.warning("%s: %d transaction errors; trying on", identifier, conflicts, exc_info=True)
                conflict_pause(conflicts, stop)
            else:
                others += 1
                wait = backoff(others)
                if others % 10 == 1:
                    level = logging.ERROR if _is_system_error(e) else logging.CRITICAL
                    logger.log(
                        level, "%s failed (%d times); trying again in %d s", identifier, others, wait, exc_info=True
                    )
                pause(wait, stop)
        except BaseException:
            tm.abort()
            raise


def surely(call: Callable[[], None], what: str, manager: Any, database: Any, stopping: Event) -> None:
    """Call and commit until it is stored. Conflicts are tried again at once, other trouble after growing waits."""
    tries = aways = 0
    while True:
        try:
            manager.begin()
            call()
            manager.commit()
            return
        except EXPLOSIVE:
            abort(manager)
            raise
        except Exception as error:
            abort(manager)
            tries += 1
            if is_disconnect(error):
                sit_out(database, stopping, aways)
                aways += 1
            elif is_conflict(error):
                stopping.wait(random.random() * min(0.5, 0.002 * 2 ** min(tries, 8)))
            else:
                logger.critical("Storing %s failed, try %s; it is tried again", what, tries, exc_info=True)
                if stopping.wait(backoff(tries)):
                    raise SystemExit(f"stopped while storing {what}") from error


def try_five_times(call: Callable[[], Any], identifier: str, tm: Any, commit: bool = True) -> Any:
    """Call and commit, five times if there are transaction errors; return what the call returned, or a Failure."""
    for count in range(1, TRIES + 1):
        try:
            result = call()
            if commit:
                tm.commit()
            return result
        except Exception as e:
            tm.abort()
            if isinstance(e, ReassignedError):
                raise
            if not is_conflict(e):
                logger.critical("%s failed", identifier, exc_info=True)
                return Failure.from_exception(e)
            if count == TRIES:
                logger.critical("%s: %d transaction errors; giving up", identifier, count, exc_info=True)
                return Failure.from_exception(e)
            conflict_pause(count, None)
        except BaseException:
            tm.abort()
            raise
    raise AssertionError("unreachable")


def backoff(count: int) -> float:
    """Seconds to wait after so many failures in a row."""
    first, more, longest = BACKOFF
    return min(longest, first + more * (count - 1))


def pause(seconds: float, stop: Event | None = None) -> None:
    """Wait, but no longer than until ``stop`` is set."""
    if stop is not None:
        stop.wait(seconds)
    else:
        sleep(seconds)


def sit_out(db: Any, stop: Event | None, before: int) -> None:
    """As ``wait_for_database``, but SystemExit if ``stop`` is set before."""
    if not wait_for_database(db, stop, before=before):
        raise SystemExit("stopped while the database was away")


def wait_for_database(
    db: Any, stop: Event | None = None, first: float = 1.0, longest: float = 60.0, before: int = 0
) -> bool:
    """Wait until the database answers; false if ``stop`` was set before.

    ``before``: how often in a row the same work has met this. A server that answers may still have no room to store
    anything, or only read, and what ends in vain must not be done again and again without a pause.
    """
    if before:
        pause(min(longest, AGAIN * 2 ** min(before - 1, 20)), stop)
    wait, count = first, 0
    while stop is None or not stop.is_set():
        try:
            ask(db)
        except Exception as e:
            count += 1
            if count % 10 == 1:
                logger.error("The database is away (%s: %s); asking again in %d s", type(e).__name__, e, wait)
            pause(wait, stop)
            wait = min(longest, wait * 2)
            continue
        if count:
            logger.info("The database answers again")
        return True
    return False


def ask(db: Any) -> None:
    """Read the root from the database, not from a cache; raises whatever that raises."""
    connected = getattr(db.storage, "is_connected", None)
    if connected is not None and not connected():
        raise ConnectionError("the storage is not connected")
    manager = transaction.TransactionManager()  # the thread's own may be in use
    connection = db.open(manager)
    try:
        root = connection.root()
        root._p_invalidate()
        root._p_activate()
    finally:
        manager.abort()
        connection.close()


def conflict_pause(count: int, stop: Event | None) -> None:
    """Two that have met twice must not march in step: a random moment, growing to a fifth of a second."""
    if count > 1:
        pause(random.uniform(0, min(0.2, 0.005 * 2 ** min(count, 10))), stop)


def _is_system_error(exc: Exception) -> bool:
    return isinstance(exc, POSKeyError) or is_disconnect(exc)


def _through_relstorage(exc: BaseException) -> bool:
    tb = exc.__traceback__
    while tb is not None:
        if tb.tb_frame.f_globals.get("__name__", "").startswith("relstorage."):
            return True
        tb = tb.tb_next
    return False
