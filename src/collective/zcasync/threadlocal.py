"""What a job can know of itself: the running job, its queue and dispatcher, and live annotations."""

from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import NoJob
from queue import Empty
from queue import SimpleQueue
from typing import Any

import logging
import threading
import time
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Seconds beyond its timeout that a look for a live annotation may block.
PATIENCE = 2.0

#: Seconds between two looks, at least.
SHORTEST_POLL = 0.01


class Local(threading.local):
    """One per process; each thread sees its own values. Outside job threads all are None."""

    #: The innermost running job.
    job: Any = None
    #: What that job says and is told; see collective.zcasync.running.
    running: Any = None
    #: The dispatcher whose thread this is.
    dispatcher: Any = None
    #: The name of the agent that claimed the job.
    name: str | None = None

    def getJob(self) -> Any:
        """The innermost job (or callback) that runs in this thread, or None."""
        return self.job

    def getQueue(self) -> Any:
        """The queue of that job; NoJob (an AttributeError) outside jobs."""
        if self.job is None:
            raise NoJob
        return self.job.queue

    def getDispatcher(self) -> Any:
        """The dispatcher of this thread, or None."""
        return self.dispatcher

    def getReactor(self) -> Any:
        """The reactor of this thread's dispatcher; NoJob (an AttributeError) outside job threads."""
        if self.dispatcher is None:
            raise NoJob
        return self.dispatcher.reactor

    def getAgentName(self) -> str | None:
        """The name of the agent that claimed the job, or None."""
        return self.name

    def setLiveAnnotation(self, name: str, value: Any, job: Any = None) -> None:
        """Let others see ``value`` under ``name`` before the job commits; it returns at once.

        ``value``: immutable plain data (numbers, text, dates, tuples and frozensets of them). ``job``: another one than
        the running one. It is written in another connection and thread, into the mailbox beside the job (the job's own
        record is not touched: that would make the job's finish conflict), and kept with the job's annotations when the
        job has ended. Raises InvalidValueError (a ValueError) outside a job thread, and for other values.
        """
        target = self.job if job is None else job
        if self.dispatcher is None or target is None or target._p_oid is None:
            raise InvalidValueError("setLiveAnnotation works in the jobs of a dispatcher only; use job.annotations")
        self.dispatcher.mail.annotate(target._p_oid, name, value)

    def getLiveAnnotation(
        self, name: str, default: Any = None, timeout: float = 0, poll: float = 1, job: Any = None
    ) -> Any:
        """The annotation as last committed by anybody; ``default`` if there is none.

        ``timeout``: seconds to wait for it; ``poll``: seconds between two looks. Blocks two seconds longer at most,
        also if the database does not answer. ``job``: another one than the running one. ``job.annotations`` shows what
        the own transaction sees, and is not refreshed by this. Raises InvalidValueError if there is no job.
        """
        target = self.job if job is None else job
        if target is None or target._p_jar is None:
            raise InvalidValueError("no job runs in this thread: getLiveAnnotation(name, job=...) says whose is meant")
        for what, seconds in (("timeout", timeout), ("poll", poll)):
            if type(seconds) not in (int, float) or not 0 <= seconds < threading.TIMEOUT_MAX:
                raise InvalidValueError(f"{what} must be a number of seconds, not {seconds!r}")
        look = _Look(target._p_jar.db(), target._p_oid, name, default)
        # In a thread of its own: a database that is away can block for longer than the caller wants to wait.
        threading.Thread(target=look.watch, args=(timeout, poll), name="zcasync-look", daemon=True).start()
        return look.answer_within(timeout + PATIENCE)


class _Look:
    """A look for one live annotation."""

    def __init__(self, database: Any, oid: bytes, name: str, default: Any) -> None:
        self._database = database
        self._oid = oid
        self._name = name
        self._default = default
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._over = threading.Event()

    def answer_within(self, seconds: float) -> Any:
        try:
            return self._answers.get(timeout=seconds)
        except Empty:
            return self._default
        finally:
            self._over.set()

    def watch(self, timeout: float, poll: float) -> None:
        """Look until there is something, or the time is over."""
        end, missing = time.monotonic() + timeout, object()
        while not self._over.is_set():
            try:
                found = self._look(missing)
            except Exception:  # the database is away, or nobody else can see the job yet
                logger.debug("A live annotation cannot be read", exc_info=True)
                found = missing
            rest = end - time.monotonic()
            if found is not missing or rest <= 0:
                self._answers.put(self._default if found is missing else found)
                return
            self._over.wait(max(min(poll, rest), SHORTEST_POLL))

    def _look(self, missing: Any) -> Any:
        manager = transaction.TransactionManager()
        connection = self._database.open(manager)
        try:
            return connection.get(self._oid).live_annotation(self._name, missing)
        finally:
            manager.abort()
            connection.close()


local = Local()
