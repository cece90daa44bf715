"""A look each minute at what nobody asks about: by a thread of a process that runs a dispatcher."""

from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import inprocess
from collective.zcasync.zopeapp.interfaces import IWatch
from typing import Any
from zope.component import getUtilitiesFor

import logging
import threading

logger = logging.getLogger("collective.zcasync.zopeapp")

#: Seconds between two looks.
EVERY = 60.0


class Watching:
    """Calls all utilities of IWatch each minute for each database, from its making until ``stop``. It waits for no job
    thread: what is looked for may be that none is free."""

    def __init__(self, databases: Callable[[], Iterable[Any]], every: float = EVERY) -> None:
        self._databases = databases
        self._every = every
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="zcasync-watching", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a look that is being taken has some seconds to end."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(5)

    def _loop(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                databases = list(self._databases())
            except Exception:
                logger.exception("Nobody knows which databases to look at; the next try is in a minute")
                continue
            for database in databases:
                look(database)


def look(database: Any) -> None:
    """Take one look; what fails is logged, and keeps no other from looking. None at a database whose dispatcher is held
    here: it may be a copy, and nobody is to get mails from there."""
    dispatcher = inprocess.serving(database)
    if dispatcher is not None and dispatcher.held is not None:
        return
    for name, watch in getUtilitiesFor(IWatch):
        try:
            watch(database)
        except Exception:
            logger.exception("The look of %s failed; the next one is in a minute", name or watch)
