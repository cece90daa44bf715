"""The database that holds the queues, made ready for a dispatcher."""

from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import install
from collective.zcasync.queues import shown_queue
from collective.zcasync.zopeapp.config import did_you_mean
from collective.zcasync.zopeapp.config import Settings
from typing import Any
from ZODB.POSException import ConflictError

import logging
import transaction

logger = logging.getLogger("collective.zcasync.zopeapp")

#: Tries to create the queues. Processes that start together meet there once; each try waits for the others' commit.
ATTEMPTS = 10

#: Names of the databases that could not be opened when that was tried last.
_closed: set[str] = set()


class ReadOnlyDatabase(ConfigurationError):
    """The database is read-only, and running jobs write to it."""


def get_database(settings: Settings, name: str | None = None) -> Any:
    """The open database that holds the queues; ConfigurationError if ``db-name`` names none. ``name``: that of another
    one, which may be the database of a mount point that nobody has opened yet."""
    import Zope2

    databases = Zope2.DB.databases
    if name is not None:
        open_all()
        if name in databases:
            return databases[name]
    if not settings.db_name:
        return Zope2.DB
    if settings.db_name not in databases:
        raise ConfigurationError(
            f"db-name: zope.conf has no database {settings.db_name!r}{did_you_mean(settings.db_name, databases)};"
            f" it has {', '.join(sorted(databases))}"
        )
    return databases[settings.db_name]


def open_all() -> None:
    """Open all databases of zope.conf: those of mount points open by themselves only when somebody goes there.

    One that cannot be opened is told of once, and keeps nobody from the others; call it again later.
    """
    from App.config import getConfiguration

    dbtab = getattr(getConfiguration(), "dbtab", None)  # there is none in tests
    for name in [] if dbtab is None else dbtab.listDatabaseNames():
        try:
            dbtab.getDatabase(name=name)
        except Exception:
            if name not in _closed:
                logger.exception("The database %r cannot be opened; its jobs wait, and it is tried again", name)
            _closed.add(name)
        else:
            _closed.discard(name)


def with_queues_beside(database: Any) -> list[Any]:
    """The other open databases of this Zope that hold queues of their own: those of sites in mount points."""
    return [other for other in list(database.databases.values()) if other is not database and _has_queues(other)]


def _has_queues(database: Any) -> bool:
    manager = transaction.TransactionManager()
    try:
        connection = database.open(manager)
        try:
            queues = get_queues(connection)
            return queues is not None and queues._p_jar is connection  # else its root refers to those of another
        finally:
            manager.abort()
            connection.close()
    except Exception:
        logger.warning("The database %r does not tell whether it has queues", database.database_name, exc_info=True)
        return False


def prepare(database: Any, settings: Settings) -> None:
    """Create the queues where they are missing, and say which of the wanted ones do not exist.

    ReadOnlyDatabase if it cannot be written.
    """
    if database.storage.isReadOnly():
        raise ReadOnlyDatabase(
            f"the database {database.database_name!r} is read-only, and running jobs write to it: take read-only out of"
            " its storage in zope.conf, or say dispatcher off"
        )
    for attempt in range(1, ATTEMPTS + 1):
        # A manager of its own: the caller's transaction is none of our business.
        manager = transaction.TransactionManager()
        connection = database.open(manager)
        try:
            queues = install(connection)
            manager.commit()
            missing = [name for name in settings.queues or () if name not in queues]
        except ConflictError:
            if attempt == ATTEMPTS:
                raise
        else:
            break
        finally:
            manager.abort()
            connection.close()
    for name in missing:
        logger.warning(
            "The queue %r in zope.conf does not exist (yet); create it, for example in a profile's zcasync.xml",
            shown_queue(name),
        )
