"""The database of a zope.conf, opened for a command: in a moment, without Zope's start or harm to its server."""

from collections.abc import Iterator
from collective.zcasync import notify
from collective.zcasync import schema
from collective.zcasync import transactions
from collective.zcasync.deployment import address_of
from collective.zcasync.deployment import text_of_servers
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.zopeapp.config import did_you_mean
from collective.zcasync.zopeapp.config import read_settings
from collective.zcasync.zopeapp.config import SECTION
from collective.zcasync.zopeapp.config import Settings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zc.lockfile import LockError
from ZODB.config import FileStorage
from ZODB.config import ZODBDatabase
from ZODB.POSException import ReadOnlyError
from ZODB.POSException import StorageError

import logging
import threading
import time
import transaction
import ZConfig
import ZODB.broken

logger = logging.getLogger("collective.zcasync.zopeapp")

#: Seconds that a ZEO server gets to answer.
PATIENCE = 10

#: Seconds after which a command says that it waits for its storage.
SILENCE = 3

#: What a worker says of the storage for which it waits.
SILENT = "The storage does not answer (%s); waiting until it does"
ONLY_READS = "The storage can only be read (%s); waiting until it can be written"

#: Seconds that it gets from a process that waits for it, and until that asks again; each time so many more, up to
#: PATIENCE.
GLANCE = 2


class DatabaseInUse(ZCAsyncError):
    """The database is a file that another process has opened. To change its jobs use Site Setup, or ZEO."""


@dataclass(frozen=True)
class Opened:
    """The database that holds the queues, a connection to it, and the settings of its zope.conf."""

    connection: Any
    settings: Settings
    #: Whether it is a file that other processes cannot share.
    embedded: bool


@contextmanager
def opened(zope_conf: str, writes: bool = False, database: str | None = None) -> Iterator[Opened]:
    """Open the database of a zope.conf. ``writes``: else it is opened read-only, a FileStorage beside a running server.
    ``database``: its name; None: the one that holds the queues of the root.

    Raises ConfigurationError if zope.conf or the database is missing or wrong, DatabaseInUse if another process has it,
    what transactions.cannot_write knows if it only reads, and SchemaTooNew if only newer code may write its queues. The
    connection has a transaction manager of its own; what is not committed at the end is aborted.
    """
    root = read_zope_conf(zope_conf)
    settings = read_settings(root.product_config.get(SECTION) or {})
    section = _section(root, database or settings.db_name)
    files = [opener for opener in _openers(section.config.storage) if isinstance(opener, FileStorage)]
    _prepare(section, files, writes)
    try:
        with _telling_of_a_wait(section), _quiet():
            opened_one = ZODBDatabase.open(section, {})
    except LockError as error:
        raise DatabaseInUse from error
    except StorageError as error:
        if transactions.is_disconnect(error):
            raise
        raise ConfigurationError(f"the database of {zope_conf} is empty: start the server once") from error
    try:
        if settings.notify and writes:
            notify.switch_on(opened_one)
        manager = transaction.TransactionManager()
        connection = opened_one.open(manager)
        try:
            if writes:
                if opened_one.storage.isReadOnly():
                    raise ReadOnlyError
                schema.check_database(connection)
            yield Opened(connection, settings, bool(files))
        finally:
            manager.abort()
            connection.close()
    finally:
        notify.switch_off(opened_one)
        opened_one.close()


@contextmanager
def _telling_of_a_wait(section: Any) -> Iterator[None]:
    """Opening a ZEO client waits for its server, half a minute and silently: then say so meanwhile."""
    servers = [
        one.address for opener in _openers(section.config.storage) for one in getattr(opener.config, "server", ())
    ]
    if not servers:
        yield
        return
    timer = threading.Timer(
        SILENCE, logger.warning, ("Waiting for the storage at %s; Ctrl-C ends that", text_of_servers(servers))
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def read_zope_conf(zope_conf: str) -> Any:
    """What Zope's own schema makes of the file, without any effect of it; ConfigurationError if it is missing or
    wrong."""
    path = Path(zope_conf).absolute()
    if not path.is_file():
        raise ConfigurationError(f"there is no zope.conf at {path}; name one with -C")
    from Zope2.Startup.options import ZopeWSGIOptions

    try:
        return ZopeWSGIOptions(configfile=str(path))().configroot
    except ZConfig.ConfigurationError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception) -> ConfigurationError:
    """What to raise where ZConfig or Zope finds a mistake in zope.conf: it says so in several lines."""
    return ConfigurationError(f"{path} cannot be used: {' '.join(str(error).split())}")


def wait_for_storage(root: Any) -> None:
    """Return once the storage of the main database answers and can be written: one line in the log tells that it is
    waited for, another one that it is there. Not looked at are a file, and a storage that zope.conf lets only read.
    ``root``: what ``read_zope_conf`` returns; it is of no use then."""
    section = _section(root, "")
    openers = list(_openers(section.config.storage))
    if any(isinstance(opener, FileStorage) or getattr(opener.config, "read_only", False) for opener in openers):
        return
    _prepare(section, [], writes=True)
    for opener in openers:
        if hasattr(opener.config, "wait"):
            opener.config.wait = False  # else ZEO's client waits for half a minute before it says anything
    failed = 0
    while True:
        try:
            with _quiet():
                _ask(section.config.storage)
        except Exception as error:
            if not isinstance(error, (ConnectionError, ReadOnlyError)) and not transactions.is_disconnect(error):
                raise
            failed += 1
            if failed == 1:
                logger.warning(ONLY_READS if transactions.cannot_write(error) else SILENT, in_a_line(error))
            transactions.pause(min(PATIENCE, GLANCE * failed))
        else:
            if failed:
                logger.info("The storage answers")
            return


def _ask(opener: Any) -> None:
    """Open and close a storage; ConnectionError, or whatever it raises itself, if its server does not answer.
    ReadOnlyError if that only reads."""
    storage = opener.open()
    try:
        connected, end = getattr(storage, "is_connected", lambda: True), time.monotonic() + GLANCE
        while not connected():
            if time.monotonic() > end:
                raise ConnectionError(f"no connection to {address_of(storage)}")
            transactions.pause(GLANCE / 20)
        if storage.isReadOnly():
            raise ReadOnlyError(f"{address_of(storage)} takes nothing that is to be stored")
    finally:
        storage.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """What the clients of storages tell of each try in vain would bury the one line that matters."""
    loggers = [logging.getLogger(name) for name in ("ZEO", "relstorage")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def in_a_line(error: Exception) -> str:
    """Kind and message of an error of a storage: those of PostgreSQL have several lines."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def configured(path: Path, number: int) -> Any:
    """What Zope is started with in this process, of which ``number`` tells several with one zope.conf apart: a cache
    file of ZEO's belongs to one process."""
    from App.config import setConfiguration
    from Zope2.Startup.handlers import handleWSGIConfig
    from Zope2.Startup.options import ZopeWSGIOptions

    options = ZopeWSGIOptions(configfile=str(path))()
    root = options.configroot
    handleWSGIConfig(root, options.confighandlers)
    for factory in root.dbtab.db_factories.values():
        for opener in _openers(factory.config.storage):
            if getattr(opener.config, "client", None):
                opener.config.client = numbered(opener.config.client, number)
    setConfiguration(root)
    return root


def numbered(name: str, number: int) -> str:
    """The name of what each of several processes has for itself; the first one has the name as it is."""
    return f"{name}-{number}" if name and number > 1 else name


def _section(root: Any, name: str) -> Any:
    """The <zodb_db> of that name; without one, that of the root."""
    factories = root.dbtab.db_factories
    name = name or root.dbtab.mount_paths.get("/") or "main"
    if name not in factories:
        raise ConfigurationError(
            f"zope.conf has no database {name!r}{did_you_mean(name, factories)}; it has {', '.join(sorted(factories))}"
        )
    factories[name].config.database_name = name
    return factories[name]


def _openers(storage: Any) -> Iterator[Any]:
    """A storage's section, and those of what it wraps."""
    yield storage
    inner = getattr(storage.config, "base", None)
    for section in [*([] if inner is None else [inner]), *(getattr(storage.config, "factories", None) or ())]:
        yield from _openers(section)


def _prepare(section: Any, files: list[Any], writes: bool) -> None:
    """Open what is there, create nothing, take no cache file that a server holds, and load no class of Zope's."""
    section.config.class_factory = _find_class
    for opener in _openers(section.config.storage):
        if getattr(opener.config, "client", None):
            opener.config.client = None  # a cache file that stays: the server has locked it
        if getattr(opener.config, "wait_timeout", None):
            opener.config.wait_timeout = PATIENCE
        if not writes and hasattr(opener.config, "read_only"):
            opener.config.read_only = True
        if not writes and hasattr(opener.config, "create_schema"):
            opener.config.create_schema = False  # RelStorage writes at each start, only in order to see what it may
        if hasattr(opener.config, "read_only_fallback"):  # else ZEO's client waits for a server that takes more
            opener.config.read_only_fallback = not opener.config.read_only
    for file in files:
        if not Path(file.config.path).is_file():
            raise ConfigurationError(f"there is no database at {file.config.path} yet: start the server once")
        if not writes:
            file.config.blob_dir = None  # opening it looks after its folders; no record here needs a blob


def _find_class(connection: Any, module: str, name: str) -> Any:
    """A class by name, or a stand-in; Zope's own factory would load most of Zope."""
    return ZODB.broken.find_global(module, name)
