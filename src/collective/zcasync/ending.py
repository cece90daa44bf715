"""The part of a job's record that says how the job ended, or for what it waits once its own code has run."""

from collective.zcasync import door
from collective.zcasync import readable
from collective.zcasync import surroundings
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.persistence import Moment
from collective.zcasync.persistence import Payload
from collective.zcasync.persistence import walk
from datetime import datetime
from twisted.python.failure import Failure as TwistedFailure
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")


class Ending:
    """A base of Job, whose docstring tells of conflicts."""

    _result: Any = None
    _result_record: Payload | None = None
    outcome: str | None = None
    error = ""
    #: Of a job that has failed: what failures of one cause have in common; see Failure.fingerprint.
    fingerprint = ""
    active_end: Any = Moment()
    initial_callbacks_end: Any = Moment()
    #: The job that has to end before this one can; see ``waiting``. Read ``result`` for it while the job is ACTIVE.
    waiting_for: Any = None
    #: Whether its code has run, and a Deferred in its dispatcher's process will tell the result; see ``deferreds``.
    deferred = False
    #: Whether it is run again if that process ends before; else it then ends with an AbortedError.
    rerun = False
    #: Whether the job's code is called again each time that the job for which it waits has ended: see ``sequences``.
    goes_on = False
    #: Of a job with ``goes_on``: whether it was given more jobs since its code ran last.
    extended = False
    #: Of a job with ``goes_on``: the number of the first of its jobs that had not ended when its code ran last.
    _passed = 0
    #: The ``serial`` or ``parallel`` job that this one belongs to.
    sequence: Any = None
    # What Job adds, and this part needs.
    parent: Any
    token: str | None
    needs_attention: bool
    _status_id: int
    _callbacks: tuple[Any, ...]
    _retry_cache: tuple[tuple[str, Any], ...]
    _cursor: Any
    _become: Any

    @property
    def result(self) -> Any:
        if self._status_id == 1 and self.waiting_for is not None:
            return self.waiting_for
        if self._result_record is None:
            return self._result
        stored = self._result_record.result
        return Failure.from_data(stored) if self.failed else stored

    @property
    def failed(self) -> bool:
        """Whether the result is a Failure."""
        return bool(self.error)

    @property
    def finished_at(self) -> datetime | None:
        return self.initial_callbacks_end or (self.active_end if self._status_id == 3 else None)

    # Changes of state: each is one step of the protocol

    def _wait_for(self, inner: Any, again: bool) -> None:
        """The job's code has run, and its changes are committed with this: it stays ACTIVE until ``inner`` ends."""
        self.waiting_for = inner
        self.goes_on = again

    def _leave_thread(self, queue: Any) -> None:
        """The job waits, and no dispatcher owns it any more."""
        self.parent = queue
        self.token = None

    def _finish_as(self, inner: Any, now: datetime) -> None:
        """End as ``inner`` did, whose result is not even loaded for that: both then refer to one record."""
        self._become(CALLBACKS if self._callbacks else COMPLETED)
        self._result, self._result_record = inner._result, inner._result_record
        self.error = inner.error
        self.outcome = inner.outcome
        self.fingerprint = inner.fingerprint
        self._ended(now)

    def _finish(self, result: Any, now: datetime, outcome: str | None = None) -> None:
        """The one door to an end: result, status and outcome. What cannot be stored is replaced by its repr."""
        self._become(CALLBACKS if self._callbacks else COMPLETED)
        if isinstance(result, TwistedFailure):
            failure = result if isinstance(result, Failure) else Failure.convert(result)
            self._result, self._result_record = None, Payload(result=failure.to_data())
            self.error = failure.summary or "unknown error"
            self.outcome = outcome or "failed"
            self.fingerprint = failure.fingerprint if self.outcome == "failed" else ""
        else:
            self._store_result(result)
            self.error = self.fingerprint = ""
            self.outcome = outcome or "succeeded"
        self._ended(now)

    def _cancel(self, now: datetime) -> None:
        """End without having run, or before what it waits for has ended."""
        self._finish(Failure.from_exception(CancelledError(CancelledError.__doc__)), now, "cancelled")

    def _ended(self, now: datetime) -> None:
        """What every end has in common."""
        self.active_end = now
        self.needs_attention = False
        self._retry_cache = ()
        if self._cursor is not None:
            self._cursor = None
        if not self._callbacks:
            self.initial_callbacks_end = now

    def _store_result(self, result: Any) -> None:
        self._result, self._result_record = None, None
        plain = door.is_plain(result)
        if not plain:
            result = walk(result, surroundings.shelve_result)
            plain = door.is_plain(result)
        if plain:
            self._result = result
            return
        size = door.stored_size(result)
        if size is None or size > door.REFUSE_ABOVE:
            text = readable.text_of(result, 1000)
            why = "cannot be stored" if size is None else f"takes {size // 1024 // 1024} MB"
            logger.warning(
                "The result of %r %s and is kept as text: %s. Return plain values, content or persistent objects, and"
                " large data in a blob.",
                self,
                why,
                text,
            )
            self._result = text
            return
        if size > door.WARN_ABOVE:
            logger.warning(
                "The result of %r takes %d kB in the database; return large data by a blob or a persistent object",
                self,
                size // 1024,
            )
        self._result_record = Payload(result=result)
