"""What the code of a running job says, and what it is told: progress, checkpoints, requests to stop."""

from collective.zcasync import door
from collective.zcasync import failuredata
from collective.zcasync import joblog
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.lookup import main_of
from collective.zcasync.threadlocal import local
from typing import Any
from typing import NamedTuple
from zodbpickle import pickle  # the ZODB's own: it accepts less than the standard library's
from zope.i18nmessageid import Message

import logging
import math
import sys
import threading
import time

#: Bytes that a cursor may take, pickled.
CURSOR_BYTES = 1024

#: Characters of a progress text; it is a line, not a log.
TEXT_CHARACTERS = 500

#: Why a job can be asked to stop, the weakest reason first: a stronger one takes the place of a weaker one.
TIMEOUT, SHUTDOWN, CANCEL = "timeout", "shutdown", "cancel"
_REASONS = (TIMEOUT, SHUTDOWN, CANCEL)

_ASKED = {
    TIMEOUT: "the job has run longer than its timeout",
    SHUTDOWN: "the dispatcher stops; the job goes on later, from its last checkpoint",
    CANCEL: "the job was cancelled",
}


class Progress(NamedTuple):
    """How far a job says it is."""

    done: float
    total: float | None = None
    #: A str, or a translatable message.
    text: str | None = None


#: Progress as it is stored: a number that grows with each that the job tells, then done, total, and the text as data.
Said = tuple[int, float, float | None, Any]


class RunningJob:
    """One job or callback while a thread runs it. Only ``ask`` and ``stack`` may be called from other threads.

    ``manager``: the transaction manager of the job's connection. ``mail``: the dispatcher's Mail, or None.
    """

    def __init__(self, manager: Any, mail: Any = None) -> None:
        self.manager = manager
        self.mail = mail
        #: Why it was asked to stop, or None.
        self.asked: str | None = None
        #: The newest progress that is not in the job's record.
        self.said: Said | None = None
        #: Whether the attempt has come further: a checkpoint stored another cursor than the one it began with.
        self.moved = False
        self.oid: bytes | None = None
        self.main_oid: bytes | None = None
        self.token: str | None = None
        self.id: str | None = None
        self.who = ""
        #: What log records tell of it: its task, the path of its site, and the number of its attempt.
        self.task, self.site, self.attempt = "", "", 0
        #: Seconds that an attempt may take, or None.
        self.timeout: float | None = None
        #: When the attempt began, by the monotonic clock.
        self.began = time.monotonic()
        #: What this attempt and those before it in this thread have logged, if anything.
        self.lines: joblog.Lines | None = None
        self.earlier: list[joblog.Lines] = []
        #: The thread that runs the job.
        self.thread = threading.get_ident()

    def enter(self, job: Any) -> None:
        """From now on others can see and stop the job, and what it logs is kept."""
        self._know(job)
        joblog.listen()
        if self.mail is not None and self.oid is not None:
            self.mail.enter(self)

    def leave(self) -> None:
        """From now on they cannot."""
        if self.mail is not None and self.oid is not None:
            self.mail.leave(self)
        joblog.unlisten()

    def _know(self, job: Any) -> None:
        main = main_of(job)
        self.oid, self.main_oid, self.token = job._p_oid, main._p_oid, main.token
        self.id, self.timeout = job.id, job.timeout
        self.who = f"{self.id} ({job.task})"
        self.task, self.site, self.attempt = job.task, job.group, job.attempts
        self._number = 0 if job._progress is None else job._progress[0]

    def begin(self) -> None:
        """Another attempt begins: what the last one was told about its time is over."""
        self.began, self.moved = time.monotonic(), False
        self.attempt += 1
        if self.lines is not None:
            self.earlier, self.lines = [*self.earlier, self.lines], None
        if self.asked == TIMEOUT:
            self.asked = None

    def note(self, record: logging.LogRecord) -> None:
        """The job's code has logged something."""
        if self.lines is None:
            self.lines = joblog.Lines()
        self.lines.note(record)

    def stack(self) -> tuple[tuple[str, str, int, str, bool], ...]:
        """Where the job's thread is now, see failuredata.stack_of; from any thread."""
        return failuredata.stack_of(sys._current_frames().get(self.thread))

    def ask(self, why: str) -> None:
        """Ask the job to stop, from any thread."""
        if self.asked is None or _REASONS.index(why) > _REASONS.index(self.asked):
            self.asked = why

    @property
    def leaves(self) -> bool:
        """Whether no other attempt may begin."""
        return self.asked in (CANCEL, SHUTDOWN)

    @property
    def late(self) -> float:
        """Seconds that the attempt has run beyond its timeout; 0 or less: none."""
        return 0.0 if self.timeout is None else time.monotonic() - self.began - self.timeout

    # What the job's code calls

    def progress(self, said: Progress) -> None:
        """See the function ``progress``."""
        self._number += 1
        self.said = self._number, said.done, said.total, _text_data(said.text)
        if self.mail is not None:
            self.mail.said(self)
        self.look()

    def checkpoint(self, cursor: bytes | None) -> None:
        """See the function ``checkpoint``."""
        job = local.job
        before, job._cursor = job._cursor, cursor
        self.keep(job)
        self.commit(job)
        self.moved = self.moved or cursor not in (None, before)
        self.look()

    def commit(self, job: Any) -> None:
        """Store what was done up to here, and go on in the next transaction."""
        if job._p_oid is not None:
            self.manager.get().note(f"job {job.id} {job.task}, checkpoint")
        self.manager.commit()
        self.manager.begin()

    def look(self) -> None:
        """StopRequested if the job was asked to stop. Reads memory only."""
        if self.late > 0:
            self.ask(TIMEOUT)
        if self.asked is not None:
            raise StopRequested(_ASKED[self.asked])

    def keep(self, job: Any) -> None:
        """Write the newest progress, and what was logged, with whatever the job's thread commits next."""
        if self.said is not None:
            job._progress = self.said
        if self.lines is not None or self.earlier:
            joblog.keep(job, self.earlier if self.lines is None else [*self.earlier, self.lines])


def ending(job: Any, why: str) -> tuple[BaseException, str]:
    """How a job ends that StopRequested has left: the error, and the outcome."""
    if why == CANCEL:
        return CancelledError("The job was cancelled while it ran, and stopped."), "cancelled"
    if why == TIMEOUT:
        return TimeoutError(f"The job was stopped: it had run longer than its timeout of {job.timeout:g} s."), "failed"
    return AbortedError(AbortedError.__doc__), "failed"


# For the job's code; collective.zcasync.api offers them.


def progress(done: float, total: float | None = None, text: str | None = None) -> None:
    """Tell how far the running job is. Others see it as ``job.progress`` at once, without a commit of the job.

    ``done``, ``total``: numbers of whatever is counted. ``text``: a line, up to 500 characters, translatable if wanted.
    Call it as often as you like: at most every two seconds something is written. Raises StopRequested if the job was
    asked to stop, InvalidValueError for anything but numbers and text. Outside a job it does nothing else.
    """
    said = Progress(_number("done", done), None if total is None else _number("total", total), _text(text))
    running = local.running
    if running is not None:
        running.progress(said)


def checkpoint(cursor: Any = None) -> None:
    """Commit what the running job has changed, together with ``cursor``, and go on in a new transaction.

    After an interruption, a conflict or an error the job begins again, and ``cursor()`` tells where it had come to; the
    work before the checkpoint is kept, whatever follows. ``cursor``: None, numbers, text, bytes, dates, and tuples,
    lists, sets or dicts of them, 1 kB pickled at most; None: forget the last one. Raises InvalidValueError for others,
    before anything is committed; StopRequested, after the commit, if the job was asked to stop; whatever a commit
    raises: let that pass, the attempt has failed. Outside a job it does nothing.
    """
    data = None if cursor is None else _cursor_data(cursor)
    running = local.running
    if running is not None:
        running.checkpoint(data)


def cursor(default: Any = None) -> Any:
    """What the last ``checkpoint`` of the running job stored, also in an earlier attempt; else ``default``."""
    job = local.job
    return default if job is None or job._cursor is None else pickle.loads(job._cursor)


# What is stored


def progress_of(said: Said) -> Progress:
    """Stored progress as the application sees it."""
    _count, done, total, text = said
    return Progress(done, total, _message(text) if isinstance(text, tuple) else text)


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise InvalidValueError(f"{name} of progress must be a number of 0 or more, not {value!r}")
    return float(value) if type(value) is float else int(value)


def _text(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise InvalidValueError(f"text of progress must be a text or a translatable message, not {value!r}")
    if value is not None and len(value) > TEXT_CHARACTERS:
        raise InvalidValueError(f"text of progress has {len(value)} characters; a line of {TEXT_CHARACTERS} is enough")
    return value


def _text_data(text: Any) -> Any:
    """A text as plain data: a translatable message becomes a tuple, since records hold no objects of other packages."""
    if not isinstance(text, Message):
        return None if text is None else str(text)
    mapping = tuple((str(key), _value_data(value)) for key, value in (text.mapping or {}).items())
    return str(text), text.domain, None if text.default is None else str(text.default), mapping


def _value_data(value: Any) -> Any:
    if isinstance(value, Message):
        return _text_data(value)
    return value if type(value) in (int, float) else str(value)


def _message(data: tuple[Any, ...]) -> Message:
    msgid, domain, default, mapping = data
    values = {key: _message(value) if isinstance(value, tuple) else value for key, value in mapping}
    return Message(msgid, domain, default, values or None)


def _cursor_data(cursor: Any) -> bytes:
    _check_plain(cursor)
    data: bytes = pickle.dumps(cursor, 3)
    if len(data) > CURSOR_BYTES:
        raise InvalidValueError(
            f"the cursor takes {len(data)} bytes, {CURSOR_BYTES} is the most: store a number, a key or an id from which"
            " the job finds its place again"
        )
    return data


def _check_plain(value: Any, depth: int = 0) -> None:
    kind = type(value)
    if kind is dict:
        value = [*value.keys(), *value.values()]
    elif kind not in (list, tuple, set, frozenset):
        if not door.is_plain(value, CURSOR_BYTES * 1000):
            raise InvalidValueError(
                "a cursor is plain data (numbers, text, bytes, dates with a fixed offset, and lists or dicts of them),"
                f" not {kind.__name__}: {value!r:.200}"
            )
        return
    if depth > 20:
        raise InvalidValueError("the cursor is nested too deeply: store a key or an id")
    for item in value:
        _check_plain(item, depth + 1)
