"""What a dispatcher's process remembers of a job that one of its threads runs or has run: in memory, for looking in."""

from collective.zcasync import clock
from collective.zcasync.counters import counters
from collective.zcasync.failure import Failure
from datetime import datetime
from typing import Any
from typing import NamedTuple

import threading
import time

#: Characters of a result, a traceback or a call; more is cut, and the cut is shown.
TEXT_LIMIT = 10_000

CUT = "\n[...TRUNCATED...]"


class End(NamedTuple):
    """What filing away needs to know of a job that has ended and left nothing to do: then its record is not loaded."""

    token: str
    outcome: str
    group: str
    moment: datetime

    @classmethod
    def of(cls, job: Any) -> "End | None":
        """None for a job at whose record a sweep has to look."""
        if job._status_id != 3 or job.token is None or job.outcome is None:
            return None
        if job._callbacks or job.quota_names or job.is_callback or job.late or job.sequence is not None:
            return None
        moment = job.finished_at
        return None if moment is None else cls(job.token, job.outcome, job.group, moment)


class JobInfo(dict):
    """One claim of a job. Written by the claim and then by one job thread; anybody may read it.

    ``agent``, ``queue``: names. ``quota names``: a tuple. ``poll id``: key of the poll under whose new jobs it is.
    ``call``: the job's repr. ``thread``: ident of its thread. ``started``, ``completed``: aware datetimes in UTC; a
    job that left its thread without an outcome (it waits for a retry, for a job or for a Deferred) is not completed.
    ``failed``. ``result``: repr of the result, or the traceback. ``reassigned``: it belongs to another claim now.
    """

    def __init__(self, job: Any, queue: str) -> None:
        super().__init__(
            {
                "agent": job.agent_name,
                "call": None,
                "completed": None,
                "failed": False,
                "poll id": None,
                "queue": queue,
                "quota names": tuple(job.quota_names),
                "reassigned": False,
                "result": None,
                "started": None,
                "thread": None,
            }
        )
        #: When the claim took the job.
        self.claimed: datetime = clock.utcnow()
        self.end_of_job: End | None = None
        #: Whether no thread has to do with it any more.
        self.over = False
        self._task = ""
        self._began: float | None = None

    def begin(self, job: Any) -> None:
        """The job's thread begins."""
        first = self["started"] is None
        self._task = job.task
        self["call"] = bounded(job)
        self["thread"] = threading.get_ident()
        self["started"] = clock.utcnow()
        self._began = time.perf_counter()
        since = job.ready_since() if first else None
        if since is not None:
            counters.waited(self["queue"], max((self["started"] - since).total_seconds(), 0.0))

    def end(self, job: Any) -> None:
        """The job's thread has done with it; ``job`` is read as that thread committed it."""
        if job.outcome is None:
            return
        self.end_of_job = End.of(job)
        result = job.result
        self["failed"] = bool(job.failed)
        self["result"] = cut(result.getTraceback()) if isinstance(result, Failure) else bounded(result)
        self["completed"] = clock.utcnow()

    def leave(self, reassigned: bool) -> None:
        """The thread turns to something else."""
        self["reassigned"] = reassigned
        self.over = True
        if self._began is not None:
            counters.ran(self["queue"], self._task, time.perf_counter() - self._began)


def bounded(value: Any) -> str:
    """The repr of a value, cut; it never raises, whatever the value's repr does."""
    try:
        # Cut before: the repr of a text of megabytes would be copied twice.
        return cut(repr(value[: TEXT_LIMIT + 1] if isinstance(value, str | bytes) else value))
    except Exception as error:
        return f"<{type(value).__module__}.{type(value).__qualname__}: repr failed with {type(error).__name__}>"


def cut(text: str) -> str:
    """The text, with a mark at the end if there was more."""
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + CUT
