"""The mail of one dispatcher: writes for others what running jobs say, and reads what others tell them."""

from collections import deque
from collections.abc import Iterable
from collective.zcasync import clock
from collective.zcasync import door
from collective.zcasync import transactions
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.lookup import main_of
from collective.zcasync.running import CANCEL
from collective.zcasync.running import RunningJob
from collective.zcasync.running import SHUTDOWN
from decimal import Decimal
from typing import Any
from typing import NamedTuple
from uuid import UUID
from ZODB.POSException import POSKeyError
from zope.i18nmessageid import Message

import logging
import random
import threading
import time
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Seconds between two looks at the mailboxes while nothing tells of a letter. They cost nothing if nothing changed.
LOOK = 1.0

#: Seconds between two writes of one job's progress.
PROGRESS_EVERY = 2.0

#: Seconds beyond its timeout after which a job counts as hung.
HUNG_AFTER = 60.0

#: Bytes of a live annotation's value.
LARGEST = 1024 * 1024

#: Tries in a row of a write that conflicts; then it waits for the next look.
TRIES = 20


class Letter(NamedTuple):
    """Something for the mailbox. ``token``: of the owner that says it of its own job; None: from whoever."""

    oid: bytes
    kind: str
    name: str
    value: Any
    token: str | None = None


class Mail:
    """One thread and one connection beside a dispatcher's job threads, so that those never wait for it.

    All public methods may be called from any thread.
    """

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self._lock = threading.Lock()
        self._running: dict[int, RunningJob] = {}
        #: oid of each running job -> the progress that was written last, when, and whether it was told as overdue.
        self._written: dict[int, _Written] = {}
        self._posted: deque[Letter] = deque()
        self._boxes: frozenset[bytes] = frozenset()
        #: oids of the claimed jobs that somebody asked to stop.
        self._stops: frozenset[bytes] = frozenset()
        self._leaving = self._over = False
        self._read = True
        self._wake = threading.Event()
        self._connection: Any = None
        self._manager: Any = None
        self._thread = threading.Thread(target=self._loop, name="zcasync-mail", daemon=True)
        self._thread.start()

    # From job threads

    def enter(self, running: RunningJob) -> None:
        """A thread runs this job from now on."""
        with self._lock:
            self._running[id(running)] = running
            self._written[id(running)] = _Written()
        if running.oid in self._stops:
            running.ask(CANCEL)
        if self._leaving:
            running.ask(SHUTDOWN)

    def leave(self, running: RunningJob) -> None:
        """The run is over."""
        with self._lock:
            del self._running[id(running)]
            del self._written[id(running)]

    def said(self, running: RunningJob) -> None:
        """The job told of its progress: write it, if the last one was not written just now."""
        written = self._written.get(id(running))
        if written is not None and time.monotonic() >= written.next_at:
            self._wake.set()

    def post(self, oid: bytes, kind: str, name: str, value: Any) -> None:
        """Write a letter to a job, running or not, as soon as possible."""
        self._posted.append(Letter(oid, kind, name, value))
        self._wake.set()

    def annotate(self, oid: bytes, name: str, value: Any) -> None:
        """A live annotation; InvalidValueError if it cannot be one."""
        if not isinstance(name, str):
            raise InvalidValueError(f"the name of a live annotation is a text, not {name!r}")
        if not _is_immutable(value):
            raise InvalidValueError(
                f"the live annotation {name!r} must be immutable plain data (numbers, text, dates, tuples of them), not"
                f" {type(value).__name__}: {value!r:.200}. Make a tuple of it, or pass the id of an object"
            )
        self.post(oid, "annotation", name, value)

    # From the dispatcher

    def watch(self, boxes: Iterable[bytes]) -> None:
        """The oids of the mailboxes of this dispatcher's slots."""
        self._boxes = frozenset(boxes)
        self.read_soon()

    @property
    def boxes(self) -> frozenset[bytes]:
        return self._boxes

    def read_soon(self) -> None:
        """A mailbox has changed."""
        self._read = True
        self._wake.set()

    def ask_all(self) -> None:
        """The dispatcher stops: ask all that runs, and all that begins from now on, to stop."""
        self._leaving = True
        with self._lock:
            running = list(self._running.values())
        for one in running:
            one.ask(SHUTDOWN)

    def stop(self, flush: bool = True) -> None:
        """End, after writing what is left."""
        if not flush:
            self._posted.clear()
            self._boxes = frozenset()
        self._over = True
        self._wake.set()
        self._thread.join(5)

    # The thread

    def _loop(self) -> None:
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            over = self._over
            try:
                self._round()
            except Exception as error:
                usual = transactions.is_disconnect(error) or transactions.is_conflict(error)
                level = logging.INFO if usual else logging.CRITICAL
                logger.log(level, "The mailboxes cannot be reached; the next look tries again", exc_info=True)
                self._close()
                if not over:
                    self.dispatcher.around.stopping.wait(LOOK)
            if over:
                self._close()
                return

    def _pause(self) -> float:
        """Seconds until something is due."""
        now, pause = time.monotonic(), LOOK
        for running, written in self._rows():
            if running.said is not None and running.said is not written.said:
                pause = min(pause, written.next_at - now)
            if running.timeout is not None and not written.overdue:
                pause = min(pause, 0.001 - running.late)
        return max(pause, 0.0)

    def _rows(self) -> list[tuple[RunningJob, "_Written"]]:
        with self._lock:
            return [(one, self._written[key]) for key, one in self._running.items()]

    def _round(self) -> None:
        rows = self._rows()
        if self._boxes and (rows or self._read):
            self._read = False
            self._read_boxes()
        said = self._news(rows)
        posted = [self._posted.popleft() for _ in range(len(self._posted))]
        try:
            if posted or said:
                self._deliver([*posted, *(letter for _running, _written, letter in said)])
        except BaseException:
            self._posted.extendleft(reversed(posted))
            raise
        for running, written, letter in said:
            written.note(letter)
            if letter.kind == "overdue" and letter.value:
                logger.warning(
                    "Job %s is overdue: it runs longer than its timeout of %g s, and is to stop at its next look",
                    *(running.who, running.timeout),
                )
            elif letter.kind == "hung":
                self.dispatcher.hangs(running)

    def _read_boxes(self) -> None:
        """See who is to stop, and tell where those are that somebody asks about."""
        manager, connection = self._opened()
        manager.begin()
        try:
            rows = [row for box in self._boxes for row in connection.get(box).items() if row[0][1] in ("stop", "ask")]
        except POSKeyError:
            rows = []  # the queue was removed, and packed away
        finally:
            manager.abort()
        self._stops = frozenset(oid for (oid, kind, _name), _value in rows if kind == "stop")
        asked = {oid: value for (oid, kind, _name), value in rows if kind == "ask"}
        for running, written in self._rows():  # anew: who came meanwhile has not seen the new stops
            if running.oid in self._stops:
                running.ask(CANCEL)
            if running.oid is not None and running.oid in asked and written.answered != asked[running.oid]:
                written.answered = asked[running.oid]
                self._posted.append(Letter(running.oid, "stack", "", (clock.utcnow(), running.stack()), running.token))

    def _news(self, rows: list[tuple[RunningJob, "_Written"]]) -> list[tuple[RunningJob, "_Written", Letter]]:
        """What running jobs have to say now. That its time is over a job sees by itself, when it looks: what is known
        here may be true of an attempt that has just ended, and must not stop the next one."""
        news, now = [], time.monotonic()
        for running, written in rows:
            oid, said, late = running.oid, running.said, running.late
            if oid is None:
                continue
            if said is not None and said is not written.said and now >= written.next_at:
                news.append((running, written, Letter(oid, "progress", "", said, running.token)))
            if (late > 0) != written.overdue:
                news.append((running, written, Letter(oid, "overdue", "", late > 0, running.token)))
            if late > HUNG_AFTER and not written.hung:
                news.append((running, written, Letter(oid, "hung", "", True, running.token)))
        return news

    def _deliver(self, letters: list[Letter]) -> None:
        """Write letters in one transaction; one after the other, if something is wrong with one of them."""
        manager, connection = self._opened()
        for count in range(TRIES):
            manager.begin()
            try:
                for letter in letters:
                    _put(connection, letter)
                manager.commit()
                return
            except Exception as error:
                manager.abort()
                if transactions.is_disconnect(error) or count == TRIES - 1 and transactions.is_conflict(error):
                    raise
                if transactions.is_conflict(error):
                    time.sleep(random.random() * 0.002 * 2 ** min(count, 6))
                elif len(letters) == 1:
                    logger.critical("A letter to job %s is lost: %r", letters[0].oid.hex(), letters[0], exc_info=True)
                    return
                else:
                    for letter in letters:
                        self._deliver([letter])
                    return

    def _opened(self) -> tuple[Any, Any]:
        if self._connection is None:
            self._manager = transaction.TransactionManager(explicit=True)
            self._connection = self.dispatcher.db.open(self._manager)
        return self._manager, self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception:
                logger.debug("A connection could not be closed", exc_info=True)


class _Written:
    """What of a running job has been written."""

    def __init__(self) -> None:
        self.said: Any = None
        self.next_at = 0.0
        self.overdue = self.hung = False
        #: The question for its stack that was answered last.
        self.answered: Any = None

    def note(self, letter: Letter) -> None:
        if letter.kind == "progress":
            self.said, self.next_at = letter.value, time.monotonic() + PROGRESS_EVERY
        elif letter.kind == "overdue":
            self.overdue = letter.value
        else:
            self.hung = True


def _is_immutable(value: Any) -> bool:
    if type(value) in (tuple, frozenset):
        return all(map(_is_immutable, value))
    return type(value) in (Decimal, Message, UUID) or door.is_plain(value, LARGEST)


def _put(connection: Any, letter: Letter) -> None:
    """Into the mailbox of a job that somebody owns; an annotation of any other job is written to the job itself."""
    job = connection.get(letter.oid)
    main = main_of(job)
    if letter.token is not None and (main.token != letter.token or job._status_id >= 2):
        return  # the job has ended, and kept its last word itself; or it has another owner
    slot = None if main.token is None or main.agent is None or job._status_id == 3 else main.agent.slot
    if slot is not None:
        slot.send(job, (letter.kind, letter.name), letter.value)
    elif letter.kind == "annotation":
        job.annotations[letter.name] = letter.value
