"""Signs of life that a process gives every few seconds: it touches its health-file, and tells systemd."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import logging
import os
import threading

logger = logging.getLogger("collective.zcasync.zopeapp")

#: Seconds between two signs, and until the process is ready for the first time: somebody waits for that.
EVERY, SOON = 5.0, 0.5

#: Seconds that systemd gets to take a message.
PATIENCE = 2.0

#: Where systemd says that it wants to be told, and how often it wants a sign, in microseconds, if at all.
SOCKET, WATCHDOG = "NOTIFY_SOCKET", "WATCHDOG_USEC"


class Signs:
    """Gives signs in a thread of its own until ``stop``, as long as the process lives.

    ``state``: returns two words as ``health.live`` and ``health.ready`` do, empty where all is well. The file holds the
    second one, or ``ok``, and is touched only while the first is empty.
    """

    def __init__(self, file: str, state: Callable[[], tuple[str, str]]) -> None:
        self._file = Path(file) if file else None
        self._state = state
        self._systemd = _notifier()
        self._ready = self._leaving = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="zcasync-signs", daemon=True)
        self._thread.start()

    def soon(self) -> None:
        """Something has changed: give a sign at once."""
        self._wake.set()

    def leave(self) -> None:
        """The process begins to stop: tell systemd."""
        with self._lock:
            if not self._leaving:
                self._leaving = True
                self._systemd("STOPPING=1")

    def stop(self) -> None:
        """Give no more signs, and remove the file."""
        self.leave()
        self._stopped = True
        self._wake.set()
        self._thread.join(EVERY)
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _loop(self) -> None:
        every = min(EVERY, int(os.environ.get(WATCHDOG) or 0) / 2_000_000 or EVERY)
        while not self._stopped:
            try:
                self._give()
            except Exception:
                logger.exception("No sign of life can be given; whoever waits for one may end this process")
            self._wake.wait(every if self._ready else min(every, SOON))
            self._wake.clear()

    def _give(self) -> None:
        live, ready = self._state()
        if live:
            logger.error("This process gives no sign of life: its %s stands still", live)
            return
        if ready == "leaving":
            self.leave()
        if not ready and not self._ready:
            self._ready = True
            self._systemd("READY=1")
        if WATCHDOG in os.environ:
            self._systemd("WATCHDOG=1")
        if self._file is not None:
            # Whole at any moment: a reader never meets an empty one.
            new = self._file.with_name(f"{self._file.name}.new")
            new.write_text(f"{ready or 'ok'}\n")
            new.replace(self._file)


def _notifier() -> Callable[[str], Any]:
    """What tells systemd; nothing where systemd does not ask to be told."""
    if SOCKET not in os.environ:
        return lambda state: None
    try:
        from sdnotify import SystemdNotifier
    except ImportError:
        logger.warning(
            "systemd waits to be told that this process is ready, which needs the package sdnotify: install"
            " collective.zcasync[systemd], or take Type=notify out of the unit"
        )
        return lambda state: None
    notifier = SystemdNotifier()
    if notifier.socket is not None:
        notifier.socket.settimeout(PATIENCE)  # a process that is about to end must not wait for a reader for ever
    notify: Callable[[str], Any] = notifier.notify
    return notify
