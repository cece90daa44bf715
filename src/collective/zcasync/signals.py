"""Stop signals: the first one drains while HTTP is still served, and then the process leaves as with Ctrl-C."""

from collections.abc import Callable
from queue import Empty
from queue import SimpleQueue
from types import FrameType
from typing import Any

import logging
import os
import signal
import threading

logger = logging.getLogger("collective.zcasync.events")

#: Seconds after which the main thread is interrupted again, and how often: it may be busy in a library for long.
REPEAT_AFTER = 0.2
REPEATS = 150


#: Whether ``leave_at_once`` was called. Imports and callbacks may swallow what it raises: look, once all has started.
asked_early = False


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """Handler for the time before there is anything to drain."""
    global asked_early
    asked_early = True
    raise SystemExit(0)


#: The signals, and the handlers that may stand for us to take over: what Python starts with, and our own. A server
#: that has others, as gunicorn does, stops the dispatcher at its end.
OURS: dict[int, tuple[Any, ...]] = {
    signal.SIGTERM: (signal.SIG_DFL, leave_at_once),
    signal.SIGINT: (signal.default_int_handler,),
}


class StopSignals:
    """Handlers for SIGTERM and SIGINT that call ``drain`` once, in a thread, before the main thread is interrupted.

    SIGTERM's default kills at once: no database is closed, and the pid file stays. Here the main thread gets
    SystemExit, which every Python server takes as it takes Ctrl-C. A second signal calls ``hurry`` first, in the
    handler, and interrupts the main thread without waiting for the drain's end.
    ``chain``: take over the handlers of others too; that of SIGINT is called in place of the KeyboardInterrupt.
    """

    def __init__(
        self, drain: Callable[[], None], chain: bool = False, hurry: Callable[[], None] = lambda: None
    ) -> None:
        self._drain = drain
        self._hurry = hurry
        self._chain = chain
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}
        #: Whether a signal has come.
        self.asked = False
        self._drained = self._leaving = False
        # put() of a SimpleQueue is safe in a signal handler; locks, events and new threads are not.
        self._signals: SimpleQueue[int | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._watch, name="zcasync-signals", daemon=True)

    def install(self) -> bool:
        """Take over what nobody has taken over; false if that is nothing. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return False
        for number, replaceable in OURS.items():
            present = self._without_inherited(number, signal.getsignal(number))
            if present in replaceable or self._chain:
                signal.signal(number, self._handle)
                self._previous[number] = present
        if self._previous:
            self._thread.start()
        return bool(self._previous)

    @property
    def handlers(self) -> dict[int, tuple[Any, Any]]:
        """What is installed: signal -> (the handler before, ours)."""
        return {number: (previous, self._handle) for number, previous in self._previous.items()}

    def uninstall(self) -> None:
        """Restore the handlers and end the thread. Elsewhere than in the main thread only the thread ends."""
        if not self._previous:
            return
        self._signals.put(None)
        # Before the handlers are restored: a drain that has just ended still sends its signal to them.
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, handler)
            self._previous.clear()

    def _without_inherited(self, number: int, handler: Any) -> Any:
        owner = getattr(handler, "__self__", None)
        if isinstance(owner, StopSignals) and owner._pid != self._pid:
            return owner._previous.get(number)
        return handler

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pid != os.getpid():
            # A fork: nothing of the dispatcher runs here, so the signal means what it meant before.
            signal.signal(number, self._previous[number])
            os.kill(os.getpid(), number)
        elif self.asked:
            if not self._drained:
                self._hurry()
            self._leave(number, frame)
        else:
            self.asked = True
            self._signals.put(number)

    def _watch(self) -> None:
        number = self._signals.get()
        if number is None:
            return
        logger.info("Got %s: the dispatcher stops, then this process", signal.Signals(number).name)
        try:
            self._drain()
        except Exception:
            logger.exception("The dispatcher did not stop cleanly; this process ends nevertheless")
        self._drained = True
        self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        # A signal that arrives just before the main thread begins to wait does not end that wait: so it is repeated.
        for _ in range(REPEATS):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            try:
                self._signals.get(timeout=REPEAT_AFTER)
            except Empty:
                continue
            return

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if self._leaving:
            # The main thread is closing the databases: an exception there would leave the pid file behind.
            return
        self._signals.put(None)
        previous = self._previous.get(number)
        if number == signal.SIGINT and callable(previous) and previous not in OURS[number]:
            previous(number, frame)  # whoever had it before may want to go on
            return
        self._leaving = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(0)
