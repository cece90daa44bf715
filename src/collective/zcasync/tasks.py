"""Tasks: functions registered for jobs by name, with their defaults; and how they are put."""

from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.exceptions import TaskNotFound
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.job import Job
from collective.zcasync.putmany import Batches
from collective.zcasync.queue import get_queue
from collective.zcasync.threadlocal import local
from dataclasses import dataclass
from datetime import datetime
from datetime import timedelta
from typing import Any
from zope.component import queryUtility

import functools
import math

#: The tasks of this process, by name.
registry: dict[str, "Task"] = {}

#: The same by "module:qualname" of their functions: a function that ZCML made a task is put with the task's defaults.
_by_handler: dict[str, "Task"] = {}


def connection() -> Any:
    """The caller's ZODB connection: that of the running job, else what IConnectionSource says; PutRefused if none."""
    if local.job is not None and local.job._p_jar is not None:
        return local.job._p_jar
    source = queryUtility(IConnectionSource)
    found = None if source is None else source()
    if found is None:
        raise PutRefused(
            "no database connection is known here: call from a request, a site or a job, or put into a queue yourself:"
            " collective.zcasync.queue.get_queue(connection).put(...)"
        )
    return found


@dataclass(frozen=True)
class Options:
    """How jobs are put, apart from their own arguments, so that the two never collide.

    ``queue``: name. ``begin_after``: aware datetime, or timedelta from now. ``begin_by``: timedelta from begin_after.
    ``priority``: -16..15, higher first; 0: the queue's own. ``quotas``: names. ``policy``: name of a retry policy.
    ``run_as``: user id.
    """

    queue: str | None = None
    begin_after: datetime | timedelta | None = None
    begin_by: timedelta | None = None
    priority: int = 0
    quotas: tuple[str, ...] = ()
    policy: str | None = None
    run_as: str | None = None
    bound: Any = None

    def put(self, /, *args: Any, **kwargs: Any) -> Job:
        """``put(task, *args, **kwargs)``; on a task's own options just ``put(*args, **kwargs)``. Returns the job.

        Raises InvalidJobError, InvalidArgumentError, InvalidValueError, QueueNotFound, QuotaNotFound, TaskNotFound or
        PutRefused, all before anything is stored.
        """
        if self.bound is not None:
            return self.put_job(make_job(self.bound, args, kwargs))
        if not args:
            raise InvalidJobError("put needs something to call: put(task, *args, **kwargs)")
        return self.put_job(make_job(args[0], args[1:], kwargs))

    def put_many(self, *what: Any, batch: int = 1000, commit: bool = False) -> int:
        """``put_many(task, items)``; on a task's own options just ``put_many(items)``. See the function put_many."""
        call, items = self._task_and_items(what)
        batches = Batches(connection().transaction_manager, batch, commit)
        return batches.put(items, lambda args, kwargs: self.put_job(make_job(call, args, kwargs)))

    def _task_and_items(self, what: tuple[Any, ...]) -> tuple[Any, Any]:
        found = what if self.bound is None else (self.bound, *what)
        if len(found) != 2:
            raise InvalidTypeError("write put_many(task, items), or put_many(items) where the task is known already")
        return found

    def put_job(self, job: Job) -> Job:
        """Put a job that was made already."""
        task = registry.get(job._task)
        if isinstance(self.quotas, str):
            raise InvalidJobError(
                f"quotas must be a tuple of names, not the text {self.quotas!r}: write ({self.quotas!r},)"
            )
        name = self.queue if self.queue is not None else task.queue if task is not None else ""
        queue = get_queue(connection(), name)
        job.set_priority(self.priority or queue.default_priority)
        if job.timeout is None and queue.time_limit is not None:
            job.timeout = queue.time_limit
        job.quota_names = tuple(self.quotas)
        job.policy = self.policy or (task.policy if task is not None else None)
        return queue.put(job, self._moment(), self.begin_by, run_as=self.run_as)

    def _moment(self) -> datetime | None:
        if isinstance(self.begin_after, timedelta):
            return clock.utcnow() + self.begin_after
        return self.begin_after


class Task:
    """A function that is known to jobs by name. It can be called directly, as the function that it is."""

    def __init__(
        self,
        handler: Callable[..., Any],
        name: str | None = None,
        title: str | None = None,
        queue: str = "",
        policy: str | None = None,
        permission: str | None = None,
        transactional: bool = True,
        groupable: bool = False,
        timeout: float | None = None,
        safe_in_get: bool = False,
        rerun: bool = False,
        lane: str = "",
        visible: bool = False,
        content_rule: bool = False,
    ) -> None:
        functools.update_wrapper(self, handler)
        self.handler = handler
        self.handler_name = f"{handler.__module__}:{handler.__qualname__}"
        self.name = name or callables.dotted(self.handler_name)
        self.title = title or self.name
        self.queue = queue
        self.policy = policy or (None if transactional else "NeverRetry")
        self.permission = permission
        self.transactional = transactional
        self.groupable = groupable
        self.timeout = timeout
        self.safe_in_get = safe_in_get
        self.rerun = rerun
        self.lane = lane
        self.visible = visible
        self.content_rule = content_rule
        if not isinstance(self.name, str) or not self.name:
            raise InvalidValueError(f"a task's name must be a text, not {name!r}")
        if not isinstance(lane, str):
            raise InvalidValueError(f"lane of task {self.name!r} must be a text, not {lane!r}")
        if timeout is not None and (type(timeout) not in (int, float) or not 0 < timeout < math.inf):
            raise InvalidValueError(
                f"timeout of task {self.name!r} must be a number of seconds above 0, not {timeout!r}"
            )

    @property
    def __zcasync_task__(self) -> "Task":
        return self

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.handler(*args, **kwargs)

    def put(self, /, *args: Any, **kwargs: Any) -> Job:
        """Put a job for this task; see Options.put."""
        return Options(bound=self).put(*args, **kwargs)

    def put_many(self, items: Iterable[Any], *, batch: int = 1000, commit: bool = False) -> int:
        """Put a job for this task for each item; see the function put_many."""
        return Options(bound=self).put_many(items, batch=batch, commit=commit)

    def options(self, **options: Any) -> Options:
        """``task.options(begin_after=...).put(...)``; see Options."""
        return Options(**options, bound=self)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def register(task: Task) -> Task:
    """Make a task known by its name; InvalidValueError if another function has that name."""
    other = registry.get(task.name)
    if other is not None and other.handler_name != task.handler_name:
        raise InvalidValueError(
            f"two tasks are named {task.name!r}: {other.handler_name} and {task.handler_name}; rename one of them"
        )
    registry[task.name] = task
    _by_handler.setdefault(task.handler_name, task)
    return task


def task(handler: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Decorator: ``@task`` or ``@task(name=..., title=..., queue=..., policy=..., ...)``; see Task for the options.

    ``timeout``: seconds after which an attempt is asked to stop, and the job is shown as overdue.
    ``transactional=False``: the job has effects outside the database and is never run twice (policy NeverRetry, unless
    another is named). ``safe_in_get``: it may be put in a GET request. ``groupable``: it is short and only touches the
    database, so that several of its jobs may share a transaction.
    ``rerun``: if the process ends while the job waits for a Deferred that it has returned, it runs again, and its retry
    policy is asked as after any interruption; without it the job then ends with an AbortedError.
    ``lane``: jobs of one site in one lane would conflict with each other; they run in one process at a time.
    ``visible``: whoever put such a job sees it among the own jobs, with its progress and its result.
    ``content_rule``: rules of a site may put it; its first argument is then the object that the rule is about.
    """
    if handler is not None:
        return register(Task(handler, **options))
    return lambda function: register(Task(function, **options))


def get_task(name: str) -> Task:
    """A task by name; TaskNotFound, naming similar ones, if there is none."""
    try:
        return registry[name]
    except KeyError:
        raise TaskNotFound(
            f"no task is registered as {name!r} in this process; there are: {', '.join(sorted(registry)) or 'none'}"
        ) from None


def make_job(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
    """A job for a task, the name of one, or anything else that can be called."""
    if isinstance(call, str):
        call = get_task(call)
    if isinstance(call, Job):
        raise InvalidJobError("this is a job already: queue.put(job), or Options.put_job(job)")
    if isinstance(call, Task):
        return Job(call, *args, **kwargs)  # of several tasks for one function this one
    name = f"{getattr(call, '__module__', None)}:{getattr(call, '__qualname__', None)}"
    return Job(_by_handler.get(name, call) if not hasattr(call, "__self__") else call, *args, **kwargs)


def put_many(task: Any, items: Iterable[Any], *, batch: int = 1000, commit: bool = False) -> int:
    """Put a job for each item (a tuple of positional or a dict of keyword arguments); return how many.

    Without ``commit`` all belongs to the caller's transaction, with a savepoint after each ``batch`` jobs, which takes
    them out of memory. With ``commit=True`` each batch is committed; the first commit also stores what the caller had
    changed before.

    Items are read one by one, as they are put. If one is refused, or ``items`` raises: without ``commit`` those before
    it are put, unless the caller aborts; with it the batches before are committed, and the rest is aborted. The error
    names the number of the item, from 0, and the item; see Options.put for what is raised. InvalidTypeError or
    InvalidValueError, before anything is put, for what is no such ``batch``, ``commit`` or iterable.
    """
    return Options().put_many(task, items, batch=batch, commit=commit)
