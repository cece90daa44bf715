"""What the code of a job logs: the last lines of each attempt, kept with the job whatever becomes of it."""

from collections import deque
from collections.abc import Iterable
from collective.zcasync.persistence import Base
from collective.zcasync.threadlocal import local
from typing import Any

import logging
import threading

#: Lines that are kept of one attempt, characters of all of them and of one, and attempts of which they are kept.
LINES, CHARACTERS, LINE_CHARACTERS, ATTEMPTS = 200, 16_000, 2_000, 10

#: Seconds since 1970, level, name of the logger, text.
Line = tuple[float, int, str, str]


class Log(Base):
    """The lines of one attempt. Made with the attempt's outcome and never changed, so there is nothing to resolve."""

    def __init__(self, lines: tuple[Line, ...]) -> None:
        self.lines = lines


#: When the first line of an attempt was logged, and its lines.
Kept = tuple[float, Log]


class Lines:
    """The last lines of one attempt, in memory."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=LINES)
        self.began = 0.0

    def note(self, record: logging.LogRecord) -> None:
        """Remember one record; whatever it holds, this does not raise."""
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[0] is not None:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
        except Exception as error:
            text = f"{record.msg!r:.200} (its text cannot be made: {type(error).__name__})"
        self.began = self.began or record.created
        text = text[:LINE_CHARACTERS].encode("utf-8", "backslashreplace").decode()
        self._lines.append((record.created, record.levelno, record.name[:100], text))

    def log(self) -> Log:
        """What is stored: the last lines, as far as there is room for them."""
        kept: list[Line] = []
        room = CHARACTERS
        for line in reversed(self._lines):
            room -= len(line[2]) + len(line[3])
            if room < 0:
                break
            kept.append(line)
        return Log(tuple(reversed(kept)))


def keep(job: Any, attempts: Iterable[Lines]) -> None:
    """Store with the job what these attempts have logged. What was stored of them before, at a checkpoint, goes."""
    mine = [(lines.began, lines.log()) for lines in attempts]
    if mine:
        # By their moments, not before them: another machine's clock may have been ahead.
        stored = {began for began, _log in mine}
        before = [kept for kept in job.logs if kept[0] not in stored]
        job.logs = tuple([*before, *mine][-ATTEMPTS:])


class _Handler(logging.Handler):
    """Gives each record to the job that runs in its thread. It holds no lock: to write a record out may load jobs,
    which may log in its turn."""

    def handle(self, record: logging.LogRecord) -> bool:
        running = local.running
        if running is not None:
            running.note(record)
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and not _has_other(record.name):
            last.handle(record)  # as if this handler were not there
        return True


def _has_other(name: str) -> bool:
    """Whether somebody else hears what is logged under that name."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(handler is not _handler for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


_handler = _Handler()
_lock = threading.Lock()
_listeners = 0


def listen() -> None:
    """From now on what is logged in a job's thread comes to the job. The handler is there only while jobs run: the
    application may set up its logging later, and must not find that somebody has."""
    global _listeners
    with _lock:
        _listeners += 1
        if _listeners == 1:
            logging.getLogger().addHandler(_handler)


def unlisten() -> None:
    """A job has ended that had made its thread listen."""
    global _listeners
    with _lock:
        _listeners -= 1
        if not _listeners:
            logging.getLogger().removeHandler(_handler)
