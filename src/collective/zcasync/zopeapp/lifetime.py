"""One running dispatcher of this process, and everything that ends it in time."""

from collections.abc import Callable
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.signals import StopSignals
from collective.zcasync.zopeapp.watching import Watching

import atexit
import logging
import os
import threading

logger = logging.getLogger("collective.zcasync.zopeapp")

#: Seconds between two looks whether the dispatcher still lives.
LOOK = 1.0


class Lifetime:
    """Stops the dispatcher before the databases close.

    It stands first in ``Zope2.opened``, whose members ``runwsgi`` closes one after the other at its end; ``atexit``
    serves all other servers. A process that was forked from ours has the object, but nothing runs in it.
    """

    def __init__(self, running: RunningDispatcher, grace: float, watching: Watching | None = None) -> None:
        self.running = running
        self.watching = watching
        self.pid = os.getpid()
        self.done = False
        self._grace = grace
        self._lock = threading.Lock()
        self._look = threading.Event()
        self._signals = StopSignals(self.close, hurry=self._hurry)

    @property
    def alive(self) -> bool:
        """Whether the dispatcher runs, in this process."""
        return not self.done and self.pid == os.getpid()

    @property
    def asked(self) -> bool:
        """Whether a stop signal has come."""
        return self._signals.asked

    def install(self) -> None:
        """Be told of the end of the process."""
        import Zope2

        Zope2.opened.insert(0, self)
        atexit.register(self.close)
        self._signals.install()

    def close(self) -> None:
        """Stop the dispatcher; whoever comes second waits until the first is through."""
        if self.pid != os.getpid():
            return
        with self._lock:
            if self.done:
                return
            try:
                if self.watching is not None:
                    self.watching.stop()
                self.running.stop(self._grace)
                logger.info("Dispatcher stopped")
            except Exception:
                # Not passed on: the databases behind us in Zope2.opened must be closed, and the pid file must go.
                logger.exception("The dispatcher did not stop cleanly; another one takes over what it leaves")
            finally:
                self.done = True
                self._look.set()

    def _hurry(self) -> None:
        self.running.hurry()

    def wait_for_end(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Return when the dispatcher has died by itself, was stopped by a call, or wants to be replaced, or when
        ``enough``, which is asked each second, says so."""
        while self._signals.asked or (self.alive and self.running.thread.is_alive() and not self._hangs):
            if not self._signals.asked and enough():
                return
            self._look.wait(LOOK)

    @property
    def _hangs(self) -> bool:
        return self.running.hung is not None

    def end(self) -> None:
        """Stop, and undo what ``install`` did. Not in a loop over ``Zope2.opened``, which must not shrink meanwhile."""
        import Zope2

        self.close()
        atexit.unregister(self.close)
        Zope2.opened[:] = [each for each in Zope2.opened if each is not self]
        self._signals.uninstall()
