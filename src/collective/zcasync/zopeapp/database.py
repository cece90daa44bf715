"""The database that holds the queues, made ready for a dispatcher."""

from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.queue import install
from collective.zcasync.zopeapp.config import did_you_mean
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.config import shown_queue
from typing import Any
from ZODB.POSException import ConflictError

import logging
import transaction

logger = logging.getLogger("collective.zcasync.zopeapp")

#: Tries to create the queues. Processes that start together meet there once; each try waits for the others' commit.
ATTEMPTS = 10


def get_database(settings: Settings) -> Any:
    """The open database that holds the queues; ConfigurationError if ``db-name`` names none."""
    import Zope2

    if not settings.db_name:
        return Zope2.DB
    databases = Zope2.DB.databases
    if settings.db_name not in databases:
        raise ConfigurationError(
            f"db-name: zope.conf has no database {settings.db_name!r}{did_you_mean(settings.db_name, databases)};"
            f" it has {', '.join(sorted(databases))}"
        )
    return databases[settings.db_name]


def prepare(database: Any, settings: Settings) -> None:
    """Create the queues where they are missing, and say which of the wanted ones do not exist.

    ConfigurationError if the database is read-only.
    """
    if database.storage.isReadOnly():
        raise ConfigurationError(
            f"the database {database.database_name!r} is read-only, and running jobs write to it: take read-only out of"
            " its storage in zope.conf, or say dispatcher off"
        )
    for attempt in range(1, ATTEMPTS + 1):
        # A manager of its own: the caller's transaction is none of our business.
        manager = transaction.TransactionManager()
        connection = database.open(manager)
        try:
            queues = install(connection)
            if queues.deployment is None:
                queues.deployment = settings.deployment or database.storage.sortKey()
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
