"""A dispatcher for each functional test: started by setUp, ended by tearDown, on the database that the test sees."""

from collections.abc import Callable
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import events
from collective.zcasync import reactor
from collective.zcasync import subscribers
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.testwait import get_poll
from collective.zcasync.testwait import print_logs
from collective.zcasync.testwait import tear_down_dispatcher
from typing import Any
from zope.component import getGlobalSiteManager

import logging
import sys

#: For ``log_file``: what ``sys.stdout`` is at the time of the call.
STDOUT: Any = object()

#: Polls often, so that no test waits for one.
DISPATCHER_INSTALLER = subscribers.ThreadedDispatcherInstaller(poll_interval=0.1)

#: Seconds that the first polls may take.
POLLS_WITHIN = 30.0

#: What undoes the present setUp, last thing first.
_undo: list[Callable[[], Any]] = []


def setUp(
    connection: Any = None,
    queue_installer: Callable[[Any], Any] = subscribers.queue_installer,
    dispatcher_installer: Callable[[Any], Any] = DISPATCHER_INSTALLER,
    agent_installer: Callable[[Any], Any] = subscribers.agent_installer,
    log_file: Any = STDOUT,
    log_level: int = logging.CRITICAL,
) -> None:
    """Make queues, start a dispatcher with agents on the database of ``connection``, and wait for two polls.

    Without a connection the function ``getRootFolder`` of the caller's module gives an object in that database.
    ``log_file``: where the package's messages from ``log_level`` on are printed (None: nowhere).
    Once for each test: tests run on a DemoStorage above the database that an application's own dispatcher looks at.
    InvalidValueError if there is no connection, or tearDown was not called since the last setUp.
    """
    if _undo:
        raise InvalidValueError("ftesting.setUp was called before: call ftesting.tearDown first")
    if connection is None:
        find = sys._getframe(1).f_globals.get("getRootFolder")
        if find is None:
            raise InvalidValueError("no database: pass a connection, or have getRootFolder in the test's module")
        connection = find()._p_jar
    database = connection.db()
    try:
        if log_file is not None:
            handler = print_logs(None if log_file is STDOUT else log_file, log_level)
            _undo.append(lambda: logging.getLogger("collective.zcasync").removeHandler(handler))
        registry, opened = getGlobalSiteManager(), events.DatabaseOpened(database)
        registry.registerHandler(agent_installer, (events.IDispatcherActivated,))
        _undo.append(lambda: registry.unregisterHandler(agent_installer, (events.IDispatcherActivated,)))
        queue_installer(opened)
        dispatcher_installer(opened)
        dispatcher = dispatchers.serving(reactor.get_database(database))
        if dispatcher is None:
            raise InvalidValueError(f"{dispatcher_installer!r} has started no dispatcher on this database")
        _undo.append(lambda: tear_down_dispatcher(dispatcher))
        get_poll(dispatcher, 1, POLLS_WITHIN)
    except BaseException:
        tearDown()
        raise


def tearDown() -> None:
    """Undo the last setUp: no thread, no handler and no registration is left. Does nothing without one.

    TearDownDispatcherError names the jobs that hang; all else is undone nevertheless.
    """
    faults = []
    while _undo:
        try:
            _undo.pop()()
        except Exception as error:
            faults.append(error)
    if faults:
        raise faults[0]
