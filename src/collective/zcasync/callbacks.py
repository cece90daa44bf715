"""Callbacks: jobs that are called with the result of another one. Knows IJob, not Job."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import callables
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import ICallbackProxy
from collective.zcasync.interfaces import NEW
from collective.zcasync.lookup import main_of
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import make_key
from twisted.python.failure import Failure
from typing import Any
from zope.interface import implementer

import logging
import uuid

#: Makes a job of what is given as a callback. The module job puts Job.adapt here: it is imported after this one.
make_job: Callable[[Any], Any] = lambda item: item  # noqa: E731


def pass_through(result: Any) -> Any:
    """Stands in where no callback was given, so that what is chained behind it sees the result."""
    return result


def end_with(failure: Any, result: Any) -> Any:
    """Stands in where choosing a callback failed: the callback ends with what was raised."""
    return failure


def is_proxy(item: Any) -> bool:
    """Whether ``item`` stands for a callback that is chosen later."""
    return ICallbackProxy.providedBy(item)


def is_failure(value: Any) -> bool:
    """Whether a result is a failure."""
    return isinstance(value, Failure)


#: Under this name zc.async's users know it.
isFailure = is_failure


def jobs_of(callback: Any) -> Iterator[Any]:
    """The jobs that a callback is or may become."""
    if not is_proxy(callback):
        yield callback
        return
    yield from (job for job in (*callback.candidates(), callback.job) if job is not None)


def chosen(callback: Any, result: Any) -> Any:
    """The job that a callback is for this result."""
    return callback.getJob(result) if is_proxy(callback) else callback


def either(success: Any, failure: Any) -> "SuccessFailureCallbackProxy":
    """The proxy for two callbacks, each of which may be None."""
    jobs = (None if callback is None else make_job(callback) for callback in (success, failure))
    return SuccessFailureCallbackProxy(*jobs)


def _mark(callback: Any, failure_log_level: int | None, retry_policy_factory: Any) -> None:
    """Let the jobs of a callback be callbacks, with their level and policy."""
    for target in jobs_of(callback):
        target.is_callback = True
        if failure_log_level is not None:
            target.failure_log_level = failure_log_level
        elif target.failure_log_level is None:
            target.failure_log_level = logging.CRITICAL
        if retry_policy_factory is not None:
            target.retry_policy_factory = retry_policy_factory


def _adopt(callback: Any, job: Any) -> None:
    """Let the callback belong to the job, and run as it does if that was put already."""
    for target in jobs_of(callback):
        target.parent = job
    callback.parent = job
    main = main_of(job)
    if main.put_at is not None:
        callback.seal_as_callback(job, None if main._p_jar is None else main._p_jar.db().database_name)


def add(job: Any, callback: Any, failure_log_level: int | None, retry_policy_factory: Any) -> bool:
    """Add a callback to a job in whatever status; whether it is in the job's record now.

    While a dispatcher owns the job its record is left alone: the callback goes into the job's mailbox, guarded by a
    read check on the job, so that the adder conflicts if the job ends meanwhile, and nothing is lost. So does one for a
    callback that has ended, while a dispatcher owns the job to which that belongs.
    """
    if callback is job:
        raise BadStatusError(f"{job!r} cannot be a callback of itself; make a new job of the same call")
    if callback.parent is not None or callback.status != NEW:
        raise BadStatusError(
            f"{callback!r} is {callback.status} and belongs to {callback.parent!r}: only a NEW job that nobody holds"
            " can become a callback; make a new job of the same call"
        )
    _mark(callback, failure_log_level, retry_policy_factory)
    _adopt(callback, job)
    owned = main_of(job) if job.status == COMPLETED else job
    if owned.token is not None and owned.status != COMPLETED and job.agent is not None and job.agent.slot is not None:
        job.agent.slot.send(job, ("callback", f"{make_key():016x}-{uuid.uuid4().hex[:8]}"), callback)
        return False
    job._callbacks = (*job._callbacks, callback)
    return True


class CallbackProxy(Base):
    """Several callbacks of which one is chosen by the result.

    Written when it is made, and by the run of the chosen callback; write conflicts are not resolved.
    """

    job: Any = None
    _callbacks: tuple[Any, ...] = ()
    #: Whether user code looks at the result to choose: it is then called in the job's context.
    asks = False

    def candidates(self) -> tuple[Any, ...]:
        """The jobs to choose from; None where no callback was given."""
        return ()

    def choose(self, result: Any) -> Any:
        """The candidate for this result, or None: then the result is passed on."""
        return None

    def getJob(self, result: Any) -> Any:
        """See ICallbackProxy."""
        if self.job is None:
            self._take(self.choose(result) or make_job(pass_through))
        return self.job

    def fail_with(self, failure: Any) -> Any:
        """Choosing has failed: the callback ends with this failure, and so do those that are chained behind it."""
        job = make_job(end_with)
        job.args.insert(0, failure)
        self._take(job)
        return job

    def _take(self, job: Any) -> None:
        if job not in self.candidates():
            _mark(job, None, None)
            job.seal_as_callback(self.parent, None)
        job.parent = self.parent
        for callback in self._callbacks:
            for target in jobs_of(callback):
                target.parent = job
            callback.parent = job
        job._callbacks = (*job._callbacks, *self._callbacks)
        self._callbacks = ()
        self.job = job

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
        for callback in (*jobs_of(self), *self._callbacks):
            callback.seal_as_callback(main, database_name)

    def addCallback(self, callback: Any, failure_log_level: int | None = None, retry_policy_factory: Any = None) -> Any:
        """See IAbstractJob."""
        if self.job is not None:
            return self.job.addCallback(callback, failure_log_level, retry_policy_factory)
        return self._keep(make_job(callback), failure_log_level, retry_policy_factory)

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
        return self._keep(either(success, failure), failure_log_level, retry_policy_factory)

    def _keep(self, callback: Any, failure_log_level: int | None, retry_policy_factory: Any) -> Any:
        """Until the choice is made, callbacks stay here; then they move to the chosen job."""
        _mark(callback, failure_log_level, retry_policy_factory)
        if self.parent is not None:
            _adopt(callback, self.parent)
        self._callbacks = (*self._callbacks, callback)
        return callback


@implementer(ICallbackProxy)
class SuccessFailureCallbackProxy(CallbackProxy):
    """One callback for success, one for failure; see IAbstractJob.addCallbacks, and CallbackProxy for conflicts."""

    def __init__(self, success: Any = None, failure: Any = None) -> None:
        self.success = success
        self.failure = failure

    def candidates(self) -> tuple[Any, ...]:
        """See CallbackProxy."""
        return self.success, self.failure

    def choose(self, result: Any) -> Any:
        """See CallbackProxy."""
        return self.failure if is_failure(result) else self.success


@implementer(ICallbackProxy)
class ConditionalCallbackProxy(CallbackProxy):
    """The callback of the first condition that is true for the result, else the default; see CallbackProxy.

    ``ConditionalCallbackProxy((condition, callback), ..., default)``: a condition is a function at the top of a module
    that is called with the result; a callback may be None, and the default may be left out: then the result is passed
    on unchanged. Raises InvalidJobError for anything else. Add it with ``job.addCallback``.
    """

    asks = True

    def __init__(self, *choices: Any, failure_log_level: int | None = None, retry_policy_factory: Any = None) -> None:
        pairs, default = list(choices), None
        if pairs and not isinstance(pairs[-1], tuple):
            default = pairs.pop()
        for pair in pairs:
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise InvalidJobError(f"a choice is a tuple (condition, callback or None), not {pair!r}")
        self.conditions = tuple(self._name_of(condition) for condition, _callback in pairs)
        callbacks = [callback for _condition, callback in pairs]
        self.jobs = tuple(None if callback is None else make_job(callback) for callback in (*callbacks, default))
        _mark(self, failure_log_level, retry_policy_factory)

    @staticmethod
    def _name_of(condition: Any) -> str:
        text, owner = callables.describe(condition)
        if owner is not None:
            raise InvalidJobError(f"{condition!r} is a method; a condition is a function at the top of a module")
        return text

    @property
    def default(self) -> Any:
        """The job for results that no condition is true for, or None."""
        return self.jobs[-1]

    def candidates(self) -> tuple[Any, ...]:
        """See CallbackProxy."""
        return self.jobs

    def choose(self, result: Any) -> Any:
        """See CallbackProxy. Raises what a condition raises."""
        for condition, job in zip(self.conditions, self.jobs, strict=False):
            if callables.resolve(condition)(result):
                return job
        return self.default
