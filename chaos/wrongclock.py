"""A clock that is wrong on one machine: by libfaketime, where it is installed, which reads a file again and again."""

from pathlib import Path

import glob


def environ(folder: Path) -> dict[str, str]:
    """Variables of a process whose clock, and that of all it forks, is told by ``put``; empty without the library."""
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not found:
        return {}
    put(folder, 0)
    return {
        "LD_PRELOAD": found[0],
        "FAKETIME_TIMESTAMP_FILE": str(_file(folder)),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def put(folder: Path, seconds: float) -> None:
    """The clock jumps, within a second, to so many seconds ahead of the right time."""
    new = _file(folder).with_suffix(".new")
    new.write_text(f"{seconds:+.0f}")  # of fractions some versions of the library make impossible times to sleep
    new.replace(_file(folder))


def _file(folder: Path) -> Path:
    return folder / "clock"
