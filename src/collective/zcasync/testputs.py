"""What was put, for tests: list it, and assert it without running anything."""

from collective.zcasync import surroundings
from collective.zcasync.exceptions import ContentGone
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.job import Job
from collective.zcasync.persistence import connection_of
from collective.zcasync.persistence import walk
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import make_job
from collective.zcasync.tasks import Options
from datetime import timedelta
from typing import Any

#: By how much a put may be later than the moment from which its ``begin_after`` was counted.
TOLERANCE = timedelta(minutes=1)


def put_jobs(context: Any, task: Any = None, /, *args: Any, **kwargs: Any) -> list[Job]:
    """The jobs that wait in the database of ``context`` (a site, any persistent object, a connection), in order.

    With a task, and arguments, only those that ``assert_put`` would take.
    """
    queues = get_queues(connection_of(context))
    waiting = [] if queues is None else [job for queue in queues.values() for job in queue]
    if task is None:
        return waiting
    wanted = _Wanted(task, args, kwargs)
    return [job for job in waiting if wanted.fits(job)]


def assert_put(context: Any, task: Any, /, *args: Any, **kwargs: Any) -> Job:
    """Assert that exactly one job waits that was put like this, and return it.

    Write it as the put: ``measure.put(folder)`` is ``assert_put(portal, measure, folder)``, and
    ``measure.options(queue="mail").put(folder)`` is ``assert_put(portal, measure.options(queue="mail"), folder)``; of
    the options only those that are given are compared. ``task``: a task, the name of one, a function, or a bound
    method; a function without a name of its own as a task takes ``api.options(...)`` before it. ``...`` as the last
    argument stands for any further ones, ``unittest.mock.ANY`` for any value.

    AssertionError, which lists what was put instead, if none was, or more than one. InvalidJobError if ``task`` cannot
    be put at all.
    """
    return assert_put_count(context, 1, task, *args, **kwargs)[0]


def assert_put_count(context: Any, count: int, task: Any, /, *args: Any, **kwargs: Any) -> list[Job]:
    """As assert_put, for so many jobs; return them. 0: that none was put like this."""
    found = put_jobs(context, task, *args, **kwargs)
    if len(found) != count:
        waiting = put_jobs(context)
        lines = "".join(f"\n  {_describe(job)}" for job in waiting) or "\n  nothing"
        raise AssertionError(
            f"{count} of {_Wanted(task, args, kwargs)} should wait, {len(found)} do; what was put:{lines}"
        )
    return found


class _Wanted:
    """A put as a test expects it. Not persistent."""

    def __init__(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.options = Options()
        if isinstance(task, Options):
            self.options = task
            if task.bound is not None:
                task = task.bound
            elif args:
                task, *rest = args
                args = tuple(rest)
            else:
                raise InvalidJobError("options need something that was put: assert_put(context, options(...), task)")
        self.call = make_job(task, (), {})
        self.more = bool(args) and args[-1] is ...
        self.args = args[:-1] if self.more else args
        self.kwargs = kwargs

    def fits(self, job: Any) -> bool:
        return self._is_same_call(job) and self._has_arguments(job) and self._has_options(job)

    def _is_same_call(self, job: Any) -> bool:
        mine = self.call
        if (mine._task, mine._callable, mine._is_method) != (job._task, job._callable, job._is_method):
            return False
        return not mine._is_method or bool(_given(job._owner()) == mine._owner())

    def _has_arguments(self, job: Any) -> bool:
        args = tuple(walk(value, _given) for value in job.args)
        kwargs = {name: walk(value, _given) for name, value in job.kwargs.items()}
        if self.more:
            args = args[: len(self.args)]
            kwargs = {name: value for name, value in kwargs.items() if name in self.kwargs}
        return self.args == args and self.kwargs == kwargs

    def _has_options(self, job: Any) -> bool:
        wanted = self.options
        same = [
            wanted.queue in (None, job.queue.name),
            wanted.begin_by in (None, job.begin_by),
            wanted.priority in (0, job.priority),
            wanted.quotas in ((), job.quota_names),
            wanted.policy in (None, job.policy),
            wanted.run_as in (None, job.user.rpartition(":")[2]),
        ]
        if isinstance(wanted.begin_after, timedelta):
            same.append(
                job._begin_after is not None
                and timedelta(0) <= job.put_at + wanted.begin_after - job._begin_after < TOLERANCE
            )
        elif wanted.begin_after is not None:
            same.append(job._begin_after == wanted.begin_after)
        return all(same)

    def __str__(self) -> str:
        arguments = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        text = f"{self.call.task}({', '.join(arguments + (['...'] if self.more else []))})"
        return text + _with(vars(self.options))


def _given(value: Any) -> Any:
    """A stored argument as it was given to the put; a reference to content that is gone stays what it is."""
    try:
        return surroundings.unshelve(value)
    except ContentGone:
        return value


def _describe(job: Any) -> str:
    options = {name: getattr(job, name) for name in ("begin_by", "priority", "policy")}
    asked = {"queue": job.queue.name or None, "begin_after": job._begin_after}  # not the moment of the put
    return repr(job) + _with({**asked, **options, "quotas": job.quota_names})


def _with(options: dict[str, Any]) -> str:
    """Those options that say something, for people."""
    said = [f"{name}={value!r}" for name, value in options.items() if name != "bound" and value not in (None, 0, ())]
    return f" with {', '.join(said)}" if said else ""
