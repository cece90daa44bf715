"""The job: a call that is stored, run later, and remembered with its outcome."""

from collections.abc import Iterator
from collections.abc import Mapping
from datetime import datetime
from datetime import timedelta
from typing import Any

from BTrees.OOBTree import OOBTree
from collective.zcasync import callables
from collective.zcasync import callbacks
from collective.zcasync import clock
from collective.zcasync import door
from collective.zcasync import execution
from collective.zcasync import retry
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IAgent
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import MappingView
from collective.zcasync.persistence import Payload
from collective.zcasync.persistence import PRIORITIES
from collective.zcasync.persistence import SequenceView
from collective.zcasync.persistence import walk
from collective.zcasync.representation import call_text
from twisted.python.failure import Failure as TwistedFailure
from zope.component import queryUtility
from zope.interface import implementer

import logging
import uuid

logger = logging.getLogger("collective.zcasync.events")

#: Attempts that a job remembers, newest last; a job that is tried for ever must not grow for ever.
REMEMBERED_ATTEMPTS = 20

_STORED = (NEW, ACTIVE, CALLBACKS, COMPLETED)


@implementer(IJob)
class Job(Base):
    """See IJob.

    The record holds only plain values and references to records of this package, so that it can be loaded and written
    wherever the package is installed, whatever user code is missing. Write conflicts are not resolved, on purpose:
    every change of owner and every commit of a running job writes this record, and the later one loses.
    """

    _status_id = 0
    _callable = ""
    _task = ""
    _title = ""
    _is_method = False
    _args: tuple[Any, ...] = ()
    _kwargs: tuple[tuple[str, Any], ...] = ()
    _payload: Payload | None = None
    _result: Any = None
    _result_record: Payload | None = None
    _callbacks: tuple[Any, ...] = ()
    _annotations: Any = None
    _begin_after: datetime | None = None
    _begin_by: float | None = None
    _quota_names: tuple[str, ...] = ()
    _assigner: str | None = None
    _policy_factory: str | None = None
    _policy_data: tuple[tuple[str, Any], ...] = ()
    _retry_cache: tuple[tuple[str, Any], ...] = ()
    failure_log_level: int | None = None
    is_callback = False
    #: Who put the job, as IJobContext captured it: the site, the user, and the rest as plain data.
    group = ""
    user = ""
    context_data: Any = None
    #: Name of a retry policy that is looked up at each decision; None: the default.
    policy: str | None = None
    priority = 0
    #: Where the job waits: its key and the number of its inbox.
    key: int | None = None
    shard: int | None = None
    #: The key of the entry that a cancelled job left behind, until a claim takes it out.
    former_key: int | None = None
    #: The claim that owns the job; see execution.Guard.
    token: str | None = None
    agent_name = ""
    put_at: datetime | None = None
    active_start: datetime | None = None
    active_end: datetime | None = None
    initial_callbacks_end: datetime | None = None
    #: When a job whose callbacks have to wait goes on.
    resume_at: datetime | None = None
    attempts = 0
    attempt_log: tuple[tuple[datetime, str, str], ...] = ()
    #: Deaths of processes under this job; stops and disconnects are not counted.
    deaths = 0
    outcome: str | None = None
    error = ""
    needs_attention = False
    held_reason = ""
    retry_of = ""
    retried_as = ""
    where = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not args:
            raise InvalidJobError("a Job needs something to call: Job(function, *args, **kwargs)")
        call, *rest = args
        self._set_call(call, tuple(rest), kwargs)

    @classmethod
    def bind(cls, *args: Any, **kwargs: Any) -> "Job":
        """A job that gets itself as first argument."""
        job = cls(*args, **kwargs)
        job.args.insert(0, job)
        return job

    @staticmethod
    def adapt(item: Any) -> Any:
        """``item`` as a job: a job or callback proxy itself, what is adaptable to IJob, or a function or method."""
        if IJob.providedBy(item) or callbacks.is_proxy(item):
            return item
        adapted = IJob(item, None)
        if adapted is not None:
            return adapted
        if callable(item) and not isinstance(item, type):
            return Job(item)
        raise InvalidJobError(f"{item!r} cannot be a job; wrap it: Job({item!r}, ...)")

    # The call

    def _set_call(self, call: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        task = getattr(call, "__zcasync_task__", None)
        if task is not None:
            self._task, self._title, self._callable, owner = task.name, task.title, task.handler_name, None
        else:
            self._task = self._title = ""
            self._callable, owner = callables.describe(call)
        self._is_method = owner is not None
        if IJob.providedBy(owner) and owner is not self and owner.parent is None:
            owner.parent = self
        self._store_call(owner, args, kwargs)

    def _store_call(self, owner: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Small plain arguments stay in the record; all others go into a payload of their own."""
        arguments = tuple(args), tuple(kwargs.items())
        if owner is None and door.is_plain(arguments):
            self._args, self._kwargs = arguments
            self._payload = None
        else:
            self._args, self._kwargs = (), ()
            self._payload = Payload(owner=owner, args=arguments[0], kwargs=arguments[1])

    def _owner(self) -> Any:
        return self._payload.owner if self._payload is not None else None

    def _get_args(self) -> tuple[Any, ...]:
        return self._args if self._payload is None else self._payload.args

    def _get_kwargs(self) -> dict[str, Any]:
        return dict(self._kwargs if self._payload is None else self._payload.kwargs)

    @property
    def args(self) -> SequenceView:
        return SequenceView(
            self._get_args, lambda args: self._store_call(self._owner(), args, self._get_kwargs())
        )

    @property
    def kwargs(self) -> MappingView:
        return MappingView(
            self._get_kwargs, lambda kwargs: self._store_call(self._owner(), self._get_args(), kwargs)
        )

    @property
    def callable(self) -> Any:
        """What is called; UnknownCallableError if this process does not know it."""
        if self._is_method:
            return getattr(self._owner(), self._callable)
        return callables.resolve(self._callable)

    @callable.setter
    def callable(self, value: Any) -> None:
        if self.status != NEW:
            raise BadStatusError(f"callable can be set on a NEW job only, this one is {self.status}")
        self._set_call(value, self._get_args(), self._get_kwargs())

    @property
    def task(self) -> str:
        """The name of the registered task, else of the callable."""
        return self._task or callables.dotted(self._callable)

    @property
    def title(self) -> str:
        return self._title or self.task

    @property
    def callable_name(self) -> str:
        """Text under which the callable is found, or "" for a method (its owner is in the payload)."""
        return "" if self._is_method else self._callable

    def _resolved(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Callable, arguments and keywords as the job's code sees them: inside the entered context."""
        restore = execution.unshelve
        args = tuple(walk(arg, restore) for arg in self._get_args())
        kwargs = {name: walk(value, restore) for name, value in self._get_kwargs().items()}
        if self._is_method:
            call = getattr(restore(self._owner()), self._callable)
        else:
            call = callables.resolve(self._callable)
        return getattr(call, "handler", call) if self._task else call, args, kwargs

    def seal(self, database_name: str | None = None, run_as: str | None = None) -> None:
        """Check that the call can be stored, shelve content in it, and remember the caller.

        Raises InvalidJobError, InvalidArgumentError or PutRefused, before anything was stored.
        """
        context = queryUtility(IJobContext)
        owner, args, kwargs = self._owner(), self._get_args(), self._get_kwargs()
        if context is not None and not self.retry_of:
            owner = context.shelve(owner) if owner is not None else None
            args = tuple(walk(arg, context.shelve) for arg in args)
            kwargs = {name: walk(value, context.shelve) for name, value in kwargs.items()}
            self.group, self.user, self.context_data = context.capture(self, run_as)
        if self._payload is not None:
            door.check(args, kwargs, owner, self.task, database_name)
            self._store_call(owner, args, kwargs)
        for callback in self.all_callbacks():
            callback.seal_as_callback(self, database_name)

    def seal_as_callback(self, main: "Job", database_name: str | None) -> None:
        """A callback runs as its main job does."""
        if self._payload is not None:
            context = queryUtility(IJobContext)
            shelve = context.shelve if context is not None else (lambda value: value)
            owner = shelve(self._owner()) if self._owner() is not None else None
            args = tuple(walk(arg, shelve) for arg in self._get_args())
            kwargs = {name: walk(value, shelve) for name, value in self._get_kwargs().items()}
            door.check(args, kwargs, owner, self.task, database_name)
            self._store_call(owner, args, kwargs)
        self.group, self.user, self.context_data = main.group, main.user, main.context_data
        for callback in self.all_callbacks():
            callback.seal_as_callback(self, database_name)

    def again(self) -> "Job":
        """A new job with the same call, options and caller, not yet put."""
        new = type(self).__new__(type(self))
        for name in (
            *("_callable", "_task", "_title", "_is_method", "_args", "_kwargs", "_quota_names"),
            *("_policy_factory", "failure_log_level", "group", "user", "context_data", "policy", "priority", "where"),
        ):
            setattr(new, name, getattr(self, name))
        if self._payload is not None:
            old = self._payload
            new._payload = Payload(owner=old.owner, args=old.args, kwargs=old.kwargs)
        new.retry_of = self.id or ""
        return new

    # Where it stands

    @property
    def id(self) -> str | None:
        """The oid in hex, with @database where that is not the main one."""
        if self._p_oid is None:
            return None
        name = self._p_jar.db().database_name
        at = "" if name in ("main", "unnamed") else f"@{name}"
        return f"{int.from_bytes(self._p_oid, 'big'):x}{at}"

    def _climb(self) -> Iterator[Any]:
        """The parents, nearest first; a job may be the parent of itself (its callable is its own method)."""
        seen = {id(self)}
        parent = self.parent
        while parent is not None and id(parent) not in seen:
            seen.add(id(parent))
            yield parent
            parent = getattr(parent, "parent", None)

    @property
    def status(self) -> Any:
        if self._status_id:
            return _STORED[self._status_id]
        for parent in self._climb():
            if IAgent.providedBy(parent):
                return ASSIGNED
            if IQueue.providedBy(parent):
                return PENDING
        return NEW

    @property
    def queue(self) -> Any:
        return next((parent for parent in self._climb() if IQueue.providedBy(parent)), None)

    @property
    def agent(self) -> Any:
        return next((parent for parent in self._climb() if IAgent.providedBy(parent)), None)

    def policies(self) -> Mapping[str, Any]:
        """The named retry policies of the database that holds the job."""
        queue = self.queue
        return queue.parent.policies if queue is not None and queue.parent is not None else {}

    @property
    def result(self) -> Any:
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

    @property
    def callbacks(self) -> tuple[Any, ...]:
        return self._callbacks

    def all_callbacks(self) -> Iterator["Job"]:
        """The callbacks, with those that stand behind proxies."""
        for callback in self._callbacks:
            yield from callbacks.jobs_of(callback)

    # Options

    @property
    def begin_after(self) -> datetime | None:
        return self._begin_after

    @begin_after.setter
    def begin_after(self, value: datetime | None) -> None:
        if self.status != NEW:
            raise BadStatusError(f"begin_after can be set on a NEW job only, this one is {self.status}")
        self._begin_after = None if value is None else clock.aware(value, "begin_after")

    @property
    def begin_by(self) -> timedelta | None:
        return None if self._begin_by is None else timedelta(seconds=self._begin_by)

    @begin_by.setter
    def begin_by(self, value: timedelta | None) -> None:
        if self.status not in (NEW, PENDING):
            raise BadStatusError(f"begin_by can be set on a NEW or PENDING job only, this one is {self.status}")
        if value is not None and (not isinstance(value, timedelta) or value < timedelta(0)):
            raise InvalidValueError(f"begin_by must be a timedelta of zero or more, counted from begin_after: {value!r}")
        self._begin_by = None if value is None else value.total_seconds()

    def deadline(self) -> datetime | None:
        """When the job must have started, or None."""
        if self._begin_by is None:
            return None
        start = self._begin_after or self.put_at or self.active_end or clock.utcnow()
        return start + timedelta(seconds=self._begin_by)

    def not_before(self) -> datetime | None:
        """When the job (or the rest of its callbacks) may go on, or None for at once."""
        return self.resume_at if self._status_id == 2 else self._begin_after

    @property
    def held_back(self) -> bool:
        """Whether the job waits for a later time; then it gives up its place in quotas."""
        return self._status_id == 0 and self._begin_after is not None and self._begin_after > clock.utcnow()

    @property
    def quota_names(self) -> tuple[str, ...]:
        return self._quota_names

    @quota_names.setter
    def quota_names(self, value: Any) -> None:
        if isinstance(value, str):
            raise InvalidJobError(f"quota_names must be a tuple of names, not the text {value!r}: write ({value!r},)")
        names = tuple(value)
        status = self.status
        if status not in (NEW, PENDING):
            raise BadStatusError(f"quota_names can be set on a NEW or PENDING job only, this one is {status}")
        if status == PENDING:
            self.check_quotas(names, self.queue)
        self._quota_names = names

    @staticmethod
    def check_quotas(names: tuple[str, ...], queue: Any) -> None:
        """QuotaNotFound (a ValueError) for a name that the queue does not know."""
        for name in names:
            if name not in queue.quotas:
                raise QuotaNotFound("unknown quota name", name)

    def set_priority(self, value: int) -> None:
        """-16..15, higher first; a step is worth ten minutes of waiting. For jobs that are not yet put."""
        if type(value) is not int or value not in PRIORITIES:
            raise InvalidValueError(f"priority must be a whole number from -16 to 15, not {value!r}")
        self.priority = value

    @property
    def retry_policy_factory(self) -> str | None:
        """Name of an adapter or policy, or "module:qualname" of a policy class; None: the default."""
        return self._policy_factory

    @retry_policy_factory.setter
    def retry_policy_factory(self, value: Any) -> None:
        if value is not None and not isinstance(value, str):
            value, owner = callables.describe(value)
            if owner is not None:
                raise InvalidJobError("a retry policy must be a name, a class or a module's function, not a method")
        self._policy_factory = value

    def getRetryPolicy(self) -> Any:
        """The policy that decides for this job now."""
        return retry.policy_for(self)

    @property
    def policy_data(self) -> MappingView:
        """What the job's policy counts: plain values, kept with the job."""

        def assign(values: dict[Any, Any]) -> None:
            self._policy_data = tuple(values.items())

        return MappingView(lambda: dict(self._policy_data), assign)

    @property
    def assignerUUID(self) -> uuid.UUID | None:
        """UUID of the process that put the job."""
        return None if self._assigner is None else uuid.UUID(self._assigner)

    @assignerUUID.setter
    def assignerUUID(self, value: uuid.UUID | None) -> None:
        self._assigner = None if value is None else str(value)

    @property
    def annotations(self) -> Any:
        """A mapping for the application; it becomes a record when something is written."""
        if self._annotations is not None:
            return self._annotations

        def assign(values: dict[Any, Any]) -> None:
            self._annotations = OOBTree(values)

        return MappingView(lambda: {} if self._annotations is None else self._annotations, assign)

    # Letters from others, while the job runs

    def _letters(self, kind: str) -> Iterator[tuple[Any, Any]]:
        agent = self.agent
        slot = getattr(agent, "slot", None)
        if slot is not None and self._p_oid is not None:
            yield from slot.letters(self._p_oid, kind)

    def live_annotation(self, name: str, default: Any = None) -> Any:
        """The annotation as others see it: from the mailbox while the job runs, then from the job."""
        for key, value in self._letters("annotation"):
            if key == name:
                return value
        return self.annotations.get(name, default)

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked the running job to stop."""
        return any(True for _ in self._letters("stop"))

    # Callbacks

    def addCallback(
        self, callback: Any, failure_log_level: int | None = None, retry_policy_factory: Any = None
    ) -> Any:
        """See IAbstractJob. A job that runs elsewhere gets it through its mailbox, and loses nothing by it."""
        return self._add(self.adapt(callback), failure_log_level, retry_policy_factory)

    def addCallbacks(
        self,
        success: Any = None,
        failure: Any = None,
        failure_log_level: int | None = None,
        retry_policy_factory: Any = None,
    ) -> Any:
        """See IAbstractJob."""
        proxy = callbacks.SuccessFailureCallbackProxy(
            None if success is None else self.adapt(success), None if failure is None else self.adapt(failure)
        )
        return self._add(proxy, failure_log_level, retry_policy_factory)

    def _add(self, callback: Any, failure_log_level: int | None, retry_policy_factory: Any) -> Any:
        callbacks.add(self, callback, failure_log_level, retry_policy_factory)
        if self._status_id == 3:
            self._run_late()
        return callback

    def _run_late(self) -> None:
        """A callback on a finished job: at once if this transaction holds nothing else, otherwise as a job."""
        self._status_id = 2
        connection, queue = self._p_jar, self.queue
        mine = {id(self), *(id(callback) for callback in self._callbacks)}
        alone = connection is None or all(id(other) in mine for other in connection._registered_objects)
        if alone or queue is None:
            execution.resume_callbacks(self)
        else:
            queue.give_back(self)

    # Running

    def setUp(self) -> Any:
        """For subclasses: called before each attempt; what it returns goes to tearDown."""

    def tearDown(self, setup_info: Any) -> None:
        """For subclasses: called after the commit or abort of each attempt."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run in this thread, with commits on the manager of the job's connection. See IJob."""
        if self._status_id or self.status not in (NEW, ASSIGNED):
            raise BadStatusError(f"only a NEW or ASSIGNED job can be called, this one is {self.status}")
        return execution.call_directly(self, args, kwargs)

    def fail(self, e: BaseException | None = None) -> None:
        """See IJob. A waiting job is taken out of its queue."""
        execution.fail(self, e)

    def handleInterrupt(self) -> None:
        """See IJob."""
        execution.handle_interrupt(self)

    def resumeCallbacks(self) -> None:
        """See IJob."""
        execution.resume_callbacks(self)

    # Changes of state: each is one step of the protocol, and all that writes _status_id

    def _claim(self, agent: Any, token: str, now: datetime, active: bool) -> None:
        """A dispatcher takes the job."""
        self.parent = agent
        self.agent_name = agent.name
        self.token = token
        self.resume_at = None
        if active and self._status_id == 0:
            self._begin(now)

    def _begin(self, now: datetime) -> None:
        """A thread begins the job's first attempt since its claim."""
        self._status_id = 1
        self.active_start = now

    def _wait_in(self, queue: Any) -> None:
        """The job waits again: put back, rescheduled, or with callbacks to resume."""
        if self._status_id == 1:
            self._status_id = 0
            self.active_start = None
        self.parent = queue
        self.token = None

    def _finish(self, result: Any, now: datetime, outcome: str | None = None) -> None:
        """The one door to an end: result, status and outcome. What cannot be stored is replaced by its repr."""
        if isinstance(result, TwistedFailure):
            failure = result if isinstance(result, Failure) else Failure.convert(result)
            self._result, self._result_record = None, Payload(result=failure.to_data())
            self.error = failure.summary or "unknown error"
            self.outcome = outcome or "failed"
        else:
            self._store_result(result)
            self.error = ""
            self.outcome = outcome or "succeeded"
        self.active_end = now
        self.needs_attention = False
        self._retry_cache = ()
        self._status_id = 2 if self._callbacks else 3
        if not self._callbacks:
            self.initial_callbacks_end = now

    def _store_result(self, result: Any) -> None:
        self._result, self._result_record = None, None
        result = walk(result, execution.shelve_result)
        if door.is_plain(result):
            self._result = result
            return
        if not door.survives(result):
            text = repr(result)[:1000]
            logger.warning(
                "The result of %r cannot be stored and is kept as text: %s. Return plain values, content or"
                " persistent objects.",
                self,
                text,
            )
            self._result = text
            return
        self._result_record = Payload(result=result)

    def _complete(self, now: datetime) -> None:
        """The last callback is done."""
        self._status_id = 3
        self.initial_callbacks_end = now

    def remember(self, kind: str, text: str, now: datetime) -> None:
        """Note an attempt that did not end the job."""
        self.attempt_log = (*self.attempt_log[1 - REMEMBERED_ATTEMPTS :], (now, kind, text[:500]))

    def __repr__(self) -> str:
        try:
            return call_text(self)
        except (TypeError, ValueError, AttributeError, LookupError):
            return super().__repr__()
