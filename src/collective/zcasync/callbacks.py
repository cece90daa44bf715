"""Callbacks: jobs that are called with the result of another one. Knows IJob, not Job."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import ICallbackProxy
from collective.zcasync.interfaces import NEW
from collective.zcasync.persistence import Base
from twisted.python.failure import Failure
from typing import Any
from zope.interface import implementer

import logging
import uuid


def pass_through(result: Any) -> Any:
    """Stands in where no callback was given, so that what is chained behind it sees the result."""
    return result


def is_proxy(item: Any) -> bool:
    """Whether ``item`` stands for a callback that is chosen later."""
    return ICallbackProxy.providedBy(item)


def is_failure(value: Any) -> bool:
    """Whether a result is a failure."""
    return isinstance(value, Failure)


def jobs_of(callback: Any) -> Iterator[Any]:
    """The jobs that a callback is or may become."""
    if not is_proxy(callback):
        yield callback
        return
    yield from (job for job in (callback.success, callback.failure, callback.job) if job is not None)


def chosen(callback: Any, result: Any) -> Any:
    """The job that a callback is for this result."""
    return callback.getJob(result) if is_proxy(callback) else callback


def either(adapt: Callable[[Any], Any], success: Any, failure: Any) -> "SuccessFailureCallbackProxy":
    """The proxy for two callbacks, each of which may be None. ``adapt`` makes a job of what is given."""
    jobs = (None if callback is None else adapt(callback) for callback in (success, failure))
    return SuccessFailureCallbackProxy(*jobs)


def _mark(callback: Any, failure_log_level: int | None, retry_policy_factory: Any) -> None:
    """Let the jobs of a callback be callbacks, with their level and policy."""
    for target in jobs_of(callback):
        target.is_callback = True
        target.failure_log_level = failure_log_level or target.failure_log_level or logging.CRITICAL
        if retry_policy_factory is not None:
            target.retry_policy_factory = retry_policy_factory


def add(job: Any, callback: Any, failure_log_level: int | None, retry_policy_factory: Any) -> Any:
    """Add a callback to a job in whatever status; return it.

    While a dispatcher owns the job its record is left alone: the callback goes into the job's mailbox, guarded by a
    read check on the job, so that the adder conflicts if the job ends meanwhile, and nothing is lost.
    """
    _mark(callback, failure_log_level, retry_policy_factory)
    for target in jobs_of(callback):
        target.parent = job
    callback.parent = job
    database_name = None if job._p_jar is None else job._p_jar.db().database_name
    if job.put_at is not None:
        for target in jobs_of(callback):
            target.seal_as_callback(job, database_name)
    if job.token is not None and job.status != COMPLETED:
        job.agent.slot.send(job, ("callback", uuid.uuid4().hex), callback)
        return callback
    job._callbacks = (*job._callbacks, callback)
    return callback


@implementer(ICallbackProxy)
class SuccessFailureCallbackProxy(Base):
    """One callback for success, one for failure; see IAbstractJob.addCallbacks.

    Written when it is made, and by the run of the chosen callback; write conflicts are not resolved.
    """

    job: Any = None
    _callbacks: tuple[Any, ...] = ()

    def __init__(self, success: Any = None, failure: Any = None) -> None:
        self.success = success
        self.failure = failure

    def getJob(self, result: Any) -> Any:
        """See ICallbackProxy."""
        if self.job is None:
            job = self.failure if is_failure(result) else self.success
            if job is None:
                job = self.parent.adapt(pass_through)
                job.is_callback = True
                job.seal_as_callback(self.parent, None)
            job.parent = self.parent
            for callback in self._callbacks:
                add(job, callback, callback.failure_log_level, None)
            self._callbacks = ()
            self.job = job
        return self.job

    @property
    def failure_log_level(self) -> int | None:
        return next((job.failure_log_level for job in jobs_of(self)), None)

    @property
    def status(self) -> Any:
        return NEW if self.job is None else self.job.status

    @property
    def result(self) -> Any:
        return None if self.job is None else self.job.result

    @property
    def callbacks(self) -> tuple[Any, ...]:
        return self._callbacks if self.job is None else self.job.callbacks

    def seal_as_callback(self, main: Any, database_name: str | None) -> None:
        """See Job.seal_as_callback."""
        for job in jobs_of(self):
            job.seal_as_callback(main, database_name)

    def addCallback(self, callback: Any, failure_log_level: int | None = None, retry_policy_factory: Any = None) -> Any:
        """See IAbstractJob."""
        if self.job is not None:
            return self.job.addCallback(callback, failure_log_level, retry_policy_factory)
        return self._keep(self.parent.adapt(callback), failure_log_level, retry_policy_factory)

    def addCallbacks(
        self,
        success: Any = None,
        failure: Any = None,
        failure_log_level: int | None = None,
        retry_policy_factory: Any = None,
    ) -> Any:
        """See IAbstractJob."""
        if self.job is not None:
            return self.job.addCallbacks(success, failure, failure_log_level, retry_policy_factory)
        return self._keep(either(self.parent.adapt, success, failure), failure_log_level, retry_policy_factory)

    def _keep(self, callback: Any, failure_log_level: int | None, retry_policy_factory: Any) -> Any:
        """Until the choice is made, callbacks stay here; then they move to the chosen job."""
        _mark(callback, failure_log_level, retry_policy_factory)
        callback.parent = self.parent
        self._callbacks = (*self._callbacks, callback)
        return callback
