"""A clock that is wrong on one machine: its processes ask a file how far, again and again, so that it can also jump.

Not by libfaketime: with it, what waits for some time in newer Pythons waits for another one, whatever it is told about
monotonic clocks. What a clock does to whole processes that is wrong from their begin is tested with that library.
"""

from collective.zcasync import clock
from datetime import timedelta
from pathlib import Path

import time

#: Seconds for which what the file says is believed.
BELIEVED = 0.2

_now, _time, _time_ns = clock.utcnow, time.time, time.time_ns


class Clock:
    """How wrong it is, as a file says."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._skew, self._looked = 0.0, 0.0

    def skew(self) -> float:
        """Seconds that it is ahead."""
        if time.monotonic() > self._looked + BELIEVED:
            self._skew, self._looked = float(self.file.read_text()), time.monotonic()
        return self._skew


def follow(folder: Path, machine: str) -> None:
    """From now on this process has the clock of its machine, if that has one of its own."""
    file = _file(folder, machine)
    if not file.exists():
        return
    own = Clock(file)
    clock.utcnow = lambda: _now() + timedelta(seconds=own.skew())
    time.time = lambda: _time() + own.skew()
    time.time_ns = lambda: _time_ns() + int(own.skew() * 1e9)


def put(folder: Path, machine: str, seconds: float) -> None:
    """The clock of a machine jumps to so many seconds ahead of the right time."""
    new = folder / f"{machine}.new"
    new.write_text(str(seconds))
    new.replace(_file(folder, machine))


def _file(folder: Path, machine: str) -> Path:
    return folder / f"{machine}.clock"
