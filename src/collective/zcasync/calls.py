"""What a job stores of its call: what is called, with what, for whom, and with which options."""

from collections.abc import Iterable
from collections.abc import Mapping
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import door
from collective.zcasync import retry
from collective.zcasync import surroundings
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import Checked
from collective.zcasync.persistence import level_or_none
from collective.zcasync.persistence import MappingView
from collective.zcasync.persistence import Moment
from collective.zcasync.persistence import name_or_none
from collective.zcasync.persistence import Payload
from collective.zcasync.persistence import PRIORITIES
from collective.zcasync.persistence import SequenceView
from collective.zcasync.persistence import Sparse
from collective.zcasync.persistence import walk
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Self
from zope.component import queryUtility

import logging
import uuid


class Call(Sparse, Base):
    """The part of a job's record that says what it does. The base of Job, whose docstring tells of conflicts."""

    _callable = ""
    _task = ""
    _title = ""
    _is_method = False
    _args: tuple[Any, ...] = ()
    _kwargs: tuple[tuple[str, Any], ...] = ()
    _payload: Payload | None = None
    #: Who put the job, as IJobContext captured it: the site, the user, and the rest as plain data.
    group = ""
    user = ""
    context_data: Any = None
    #: The id of the job that this one repeats.
    retry_of = ""
    _begin_after: Any = Moment()
    _begin_by: float | None = None
    #: The first begin_after of a job that was rescheduled since.
    _first_begin: Any = Moment()
    _quota_names: tuple[str, ...] = ()
    _assigner: str | None = None
    _policy_factory: str | None = None
    _policy_data: tuple[tuple[str, Any], ...] = ()
    failure_log_level: Any = Checked(level_or_none)
    #: Whether a failure of the job keeps the locals of its frames, shortened, and without those of secret names. Locals
    #: may hold secrets all the same: for jobs where they help and cannot harm. Set it on a job, or in a subclass.
    capture_locals = False
    #: Name of a retry policy that is looked up at each decision; None: the default.
    policy: Any = Checked(name_or_none)
    priority = 0
    #: Name of the lane in which the job runs, with its group; "": none, unless it is learned. See lanes.
    lane = ""
    #: Seconds that an attempt may take before the job is asked to stop; None: no limit.
    timeout: float | None = None
    #: Whether the job may share a transaction with others; see groups.
    groupable = False
    # What Job adds, and this part needs.
    id: Any
    status: Any
    queue: Any
    callbacks: Any
    put_at: Any
    active_end: Any
    resume_at: Any
    _status_id: int
    goes_on: bool
    rerun: bool
    extended: bool

    def _set_call(self, call: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        task = getattr(call, "__zcasync_task__", None)
        if task is not None:
            self._task, self._callable, owner = task.name, task.handler_name, None
            self._title = task.title if task.title != task.name else ""
        else:
            self._task = self._title = ""
            self._callable, owner = callables.describe(call)
        timeout = None if task is None else task.timeout
        if self.timeout != timeout:  # most jobs have none, and need not say so in their records
            self.timeout = timeout
        if task is not None and task.rerun:
            self.rerun = True
        lane = "" if task is None else task.lane
        if self.lane != lane:
            self.lane = lane
        if self.groupable != (task is not None and task.groupable):
            self.groupable = not self.groupable
        self._is_method = owner is not None
        if owner is not None and owner is not self and IJob.providedBy(owner) and owner.parent is None:
            owner.parent = self
        self._store_call(owner, args, kwargs)

    def _store_call(self, owner: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Small plain arguments stay in the record; all others go into a payload of their own."""
        if self.goes_on:
            self.extended = True
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
        return SequenceView(self._get_args, lambda args: self._change_call(args, self._get_kwargs()))

    @property
    def kwargs(self) -> MappingView:
        return MappingView(self._get_kwargs, lambda kwargs: self._change_call(self._get_args(), kwargs))

    def _change_call(self, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Other arguments. What is put already takes only what the door lets in, and else keeps what it had."""
        before = self._args, self._kwargs, self._payload
        self._store_call(self._owner(), args, kwargs)
        if self.put_at is not None:
            try:
                self._shelve(queryUtility(IJobContext), None if self._p_jar is None else self._p_jar.db().database_name)
            except ZCAsyncError:
                self._args, self._kwargs, self._payload = before
                raise

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
    def neighbours(self) -> tuple[str, str]:
        """Whose jobs are its neighbours in a process: the group, with its lane or else its task."""
        return self.group, self.lane or self.task

    @property
    def title(self) -> str:
        return self._title or self.task

    @property
    def callable_name(self) -> str:
        """Text under which the callable is found, or "" for a method (its owner is in the payload)."""
        return "" if self._is_method else self._callable

    def _resolved(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Callable, arguments and keywords as the job's code sees them: inside the entered context."""
        restore = surroundings.unshelve
        args, kwargs = self._get_args(), self._get_kwargs()
        if self._payload is not None:  # else they are plain, and nothing stands for something else
            args = tuple(walk(arg, restore) for arg in args)
            kwargs = {name: walk(value, restore) for name, value in kwargs.items()}
        if self._is_method:
            call = getattr(restore(self._owner()), self._callable)
        else:
            call = callables.resolve(self._callable)
        return getattr(call, "handler", call) if self._task else call, args, kwargs

    def seal(self, database_name: str | None = None, run_as: str | None = None) -> None:
        """Check that the call can be stored, shelve content in it, and remember the caller.

        Raises InvalidJobError, InvalidArgumentError or PutRefused, before anything was stored. A repeated job keeps
        the caller of the first.
        """
        context = queryUtility(IJobContext)
        self._shelve(context if not self.retry_of else None, database_name)
        if context is not None and not self.retry_of:
            self.group, self.user, self.context_data = context.capture(self, run_as)
        self._seal_callbacks(database_name)

    def seal_as_callback(self, main: "Call", database_name: str | None) -> None:
        """A callback runs as its main job does."""
        self._shelve(queryUtility(IJobContext), database_name)
        self.group, self.user, self.context_data = main.group, main.user, main.context_data
        self._seal_callbacks(database_name)

    def _seal_callbacks(self, database_name: str | None) -> None:
        for callback in self.callbacks:
            callback.seal_as_callback(self, database_name)

    def _shelve(self, context: Any, database_name: str | None) -> None:
        """Check what is not plain, and replace content by references to it. What is plain needs neither."""
        if self._payload is None:
            return
        owner, args, kwargs = self._owner(), self._get_args(), self._get_kwargs()
        if context is not None:
            owner = None if owner is None else context.shelve(owner)
            args = tuple(walk(arg, context.shelve) for arg in args)
            kwargs = {name: walk(value, context.shelve) for name, value in kwargs.items()}
        door.check(args, kwargs, owner, self.task, database_name)
        self._store_call(owner, args, kwargs)

    def again(self) -> Self:
        """A new job with the same call, options and caller, not yet put."""
        new = type(self).__new__(type(self))
        for name in (
            *("_callable", "_task", "_title", "_is_method", "_args", "_kwargs", "_quota_names"),
            *("_policy_factory", "failure_log_level", "group", "user", "context_data", "policy", "priority", "where"),
            *("timeout", "capture_locals", "rerun", "groupable"),
        ):
            setattr(new, name, getattr(self, name))
        if self._payload is not None:
            old = self._payload
            new._payload = Payload(owner=old.owner, args=old.args, kwargs=old.kwargs)
        new.retry_of = self.id or ""
        return new

    # Options

    @property
    def begin_after(self) -> datetime | None:
        return self._begin_after or self.put_at

    @begin_after.setter
    def begin_after(self, value: datetime | None) -> None:
        if self.status != NEW:
            raise BadStatusError(f"begin_after can be set on a NEW job only, this one is {self.status}")
        self._begin_after = None if value is None else clock.aware(value, "begin_after")
        self._first_begin = None

    def postpone(self, until: datetime) -> None:
        """Let a retry wait. The deadline goes on to count from the first begin_after: a retry must not move it."""
        self._first_begin = self._first_begin or self._begin_after or self.put_at
        self._begin_after = until

    @property
    def begin_by(self) -> timedelta | None:
        return None if self._begin_by is None else timedelta(seconds=self._begin_by)

    @begin_by.setter
    def begin_by(self, value: timedelta | None) -> None:
        if self.status not in (NEW, PENDING):
            raise BadStatusError(f"begin_by can be set on a NEW or PENDING job only, this one is {self.status}")
        if value is not None and (not isinstance(value, timedelta) or value < timedelta(0)):
            raise InvalidValueError(
                f"begin_by must be a timedelta of zero or more, counted from begin_after: {value!r}"
            )
        self._begin_by = None if value is None else value.total_seconds()

    def deadline(self) -> datetime | None:
        """When the job must have started, or None."""
        if self._begin_by is None:
            return None
        start = self._first_begin or self._begin_after or self.put_at or self.active_end or clock.utcnow()
        return start + timedelta(seconds=self._begin_by)

    def not_before(self) -> datetime | None:
        """When the job (or the rest of its callbacks) may go on, or None for at once."""
        return self.resume_at if self._status_id == 2 else self._begin_after

    def ready_since(self) -> datetime | None:
        """Since when the job (or the rest of its callbacks) can go on, or from when; None if nobody has put it."""
        put_at, later = self.put_at, self.not_before()
        return put_at if later is None or put_at is not None and later < put_at else later

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
        if not isinstance(value, Iterable) or not all(isinstance(name, str) for name in value):
            raise InvalidJobError(f"quota_names must be a tuple of names, not {value!r}")
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
    def failure_level(self) -> int:
        """The level at which a failure of the job is logged."""
        return logging.ERROR if self.failure_log_level is None else int(self.failure_log_level)

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
        if value is not None and not isinstance(value, uuid.UUID):
            raise InvalidTypeError(f"assignerUUID must be a UUID or None, not {value!r}")
        self._assigner = None if value is None else str(value)
