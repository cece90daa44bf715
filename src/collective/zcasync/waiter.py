"""The part of a job's record that says for what the job waits once its own code has run."""

from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from datetime import datetime
from typing import Any


class Waiter:
    """What Job has in addition for jobs that return a job. Job's docstring tells of conflicts."""

    #: The job that has to end before this one can; see ``waiting``. Read ``result`` for it while the job is ACTIVE.
    waiting_for: Any = None
    #: Whether the job's code is called again each time that the job for which it waits has ended: see ``sequences``.
    goes_on = False
    #: Of a job with ``goes_on``: whether it was given more jobs since its code ran last.
    extended = False
    #: The ``serial`` or ``parallel`` job that this one belongs to.
    sequence: Any = None
    # What Job adds, and this part needs.
    parent: Any
    token: str | None
    error: str
    outcome: str | None
    _status_id: int
    _result: Any
    _result_record: Any
    _become: Any
    _ended: Any
    _callbacks: tuple[Any, ...]

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
        self._ended(now)
