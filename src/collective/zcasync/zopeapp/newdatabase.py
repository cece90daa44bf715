"""A new database, on which several processes start at once: the first one sets it up for Zope, and the others wait."""

from collections.abc import Callable
from collective.zcasync import transactions
from typing import Any

import logging
import time

logger = logging.getLogger("collective.zcasync.zopeapp")

#: Tries to make what a new database begins with. Processes meet there once; each try waits for the others' commit.
ATTEMPTS = 10

#: Seconds that the first process gets for Zope's set-up, and between two looks whether it is through.
PATIENCE, GLANCE = 120.0, 0.5

#: What Zope's set-up adds to the application root at last; it does so at each start, where it is missing.
LAST = "index_html"


def wait_for_setup(dbtab: Any) -> None:
    """Return when Zope can be started without a conflict with others that start too: at once, but for a database that
    another process sets up now. Zope itself ends then with a ConflictError, wherever in its products that comes.

    ``dbtab``: the databases of zope.conf, of which those with a mount point are opened. Raises what that raises.
    """
    databases = {name: _opened(dbtab, name) for name in dbtab.mount_paths.values()}
    database = databases[dbtab.mount_paths["/"]]
    if _make_application(database) or _is_set_up(database):
        return
    logger.info("Another process sets up the new database; waiting until it has done so")
    end = time.monotonic() + PATIENCE
    while not _is_set_up(database):
        if time.monotonic() > end:
            logger.warning("Nobody has set up the new database in %d s; this process does", PATIENCE)
            return
        transactions.pause(GLANCE)
    logger.info("The new database is set up")


def _opened(dbtab: Any, name: str) -> Any:
    """A database, which has its root object then."""

    def once() -> Any:
        there = name in dbtab.databases
        try:
            return dbtab.getDatabase(name=name)
        except Exception:
            if not there:
                dbtab.databases.pop(name, None)  # one that could not be set up is registered, and closed
            raise

    return _through_conflicts(once)


def _make_application(database: Any) -> bool:
    """Make Zope's application root if it is missing; whether this process has made it."""
    from OFS.Application import Application

    def once() -> bool:
        with database.transaction() as connection:
            root = connection.root()
            if "Application" in root:
                return False
            root["Application"] = Application()
        return True

    return bool(_through_conflicts(once))


def _is_set_up(database: Any) -> bool:
    with database.transaction() as connection:
        return LAST in connection.root()["Application"]


def _through_conflicts(call: Callable[[], Any]) -> Any:
    """What the call returns, which is made again at once where it conflicts; the last try raises what it raises."""
    for _attempt in range(1, ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if transactions.is_disconnect(error) or not transactions.is_conflict(error):
                raise
    return call()
