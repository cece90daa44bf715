"""Start and stop of the dispatcher inside a Zope process."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import notify
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.subscribers import tell_of_second
from collective.zcasync.zopeapp import publishing
from collective.zcasync.zopeapp import rule
from collective.zcasync.zopeapp.config import describe_queues
from collective.zcasync.zopeapp.config import get_settings
from collective.zcasync.zopeapp.config import seen_file
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.database import get_database
from collective.zcasync.zopeapp.database import open_all
from collective.zcasync.zopeapp.database import prepare
from collective.zcasync.zopeapp.database import ReadOnlyDatabase
from collective.zcasync.zopeapp.database import with_queues_beside
from collective.zcasync.zopeapp.lifetime import Lifetime
from collective.zcasync.zopeapp.watching import Watching
from contextlib import contextmanager
from functools import partial
from typing import Any

import logging
import os
import threading

logger = logging.getLogger("collective.zcasync.zopeapp")

_lock = threading.Lock()
_lifetime: Lifetime | None = None
_held_back = False


def process_starting(event: Any = None) -> None:
    """Subscriber of IProcessStarting, which also consoles, exporters and test servers send."""
    if _held_back:
        return
    try:
        settings = get_settings()
        if settings.notify:  # also where no dispatcher runs: this process may put jobs
            notify.switch_on(get_database(settings))
        decision = rule.by_itself(settings)
    except ConfigurationError as error:
        logger.critical("%s", error)
        if rule.is_server():
            raise
        return
    _start_if(decision, settings)


@contextmanager
def held_back() -> Iterator[None]:
    """Zope's start does nothing of ours meanwhile: for commands that start Zope, and decide by themselves."""
    global _held_back
    _held_back = True
    try:
        yield
    finally:
        _held_back = False


def start() -> RunningDispatcher | None:
    """Start the dispatcher as zope.conf says, in a process that serves; None if zope.conf or the environment forbid it.

    For servers that Zope does not recognise, and for hooks that run after a fork. Called twice it changes nothing.
    """
    settings = get_settings()
    return _start_if(rule.by_call(settings), settings)


def start_by_filter() -> RunningDispatcher | None:
    """As ``start``, for the filter factory."""
    settings = get_settings()
    return _start_if(rule.by_filter(settings), settings)


def stop() -> None:
    """Stop the dispatcher of this process, if one runs, and leave nothing of it behind."""
    global _lifetime
    with _lock:
        lifetime, _lifetime = _lifetime, None
        if lifetime is not None and lifetime.pid == os.getpid():
            lifetime.end()


def running() -> RunningDispatcher | None:
    """The RunningDispatcher of this process, or None. A fork inherits none."""
    lifetime = _lifetime
    return lifetime.running if lifetime is not None and lifetime.alive else None


def stopping() -> bool:
    """Whether a signal has asked this process to stop."""
    return _lifetime is not None and _lifetime.asked


def wait_for_end(enough: Callable[[], bool] = lambda: False) -> None:
    """Return when the dispatcher of this process has died, or wants to be replaced, or when ``enough`` says so. At a
    clean stop, the signal's exception ends the wait."""
    if _lifetime is not None:
        _lifetime.wait_for_end(enough)


def run(settings: Settings, replaceable: bool = False) -> RunningDispatcher:
    """Start a dispatcher with these settings, whatever the rule says; the one of this process if it runs already.

    ``replaceable``: see Dispatcher.
    """
    global _lifetime
    with _lock:
        present = running()
        if present is not None:
            return present
        if _lifetime is not None and _lifetime.pid == os.getpid():
            _lifetime.end()
        database = get_database(settings)
        prepare(database, settings)
        if settings.notify:
            notify.switch_on(database)
        started = RunningDispatcher(
            database,
            poll_interval=settings.poll_interval,
            role=settings.role,
            threads=settings.threads,
            queues=settings.queues,
            shutdown_grace=settings.shutdown_grace,
            uuid_file=settings.uuid_file or None,
            replaceable=replaceable,
            politeness=publishing.politeness if settings.polite else None,
            deployment=settings.deployment,
            stale_after=settings.stale_after,
            seen_file=settings.seen_file or seen_file(),
        )
        serve_all(started, settings)
        _lifetime = Lifetime(started, settings.shutdown_grace, Watching(partial(serve_all, started, settings)))
        _lifetime.install()
        return started


def serve_all(running: RunningDispatcher, settings: Settings) -> list[Any]:
    """Serve the databases of mount points too, those that can be opened and have queues by now; all that are served.

    Not with ``db-name``: then the jobs of all sites are in that one.
    """
    if not settings.db_name:
        open_all()
        for database in with_queues_beside(running.databases[0]):
            if dispatchers.serving(database) is not None or database.storage.isReadOnly():
                continue
            if running.serve(database) is not None:
                logger.info(
                    "The jobs of the database %r run here too, in %s of their own",
                    database.database_name,
                    _job_threads(settings),
                )
    return running.databases


def _start_if(decision: rule.Decision, settings: Settings) -> RunningDispatcher | None:
    if decision.start and running() is not None:
        return running()
    if not decision.start:
        logger.info("Dispatcher not started: %s", decision.reason)
        return None
    present = dispatchers.serving(get_database(settings))
    if present is not None:
        tell_of_second(present)
        return None
    try:
        started = run(settings)
    except ReadOnlyDatabase as error:  # a site that can only be read is better than none
        logger.error("Dispatcher not started: %s", error)
        return None
    logger.info(
        "Dispatcher %s started (role %s, %s, queues: %s): %s",
        started.dispatcher.UUID,
        settings.role,
        _job_threads(settings),
        describe_queues(settings),
        decision.reason,
    )
    return started


def _job_threads(settings: Settings) -> str:
    return "1 job thread" if settings.threads == 1 else f"{settings.threads} job threads"
