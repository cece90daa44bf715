"""``serial`` and ``parallel``: what such jobs do, that run others one after the other or all at once, and a last one.

Such a job's code only puts what comes next, and returns the job that must end before there is more to do. While it
waits it holds no thread; when that job ends, its code is called again. Each call is one transaction, from what is
stored: so no interruption runs an element or the last job twice, or loses one. Of the elements that run side by side
only one is waited for at a time: so those that end together do not conflict.
"""

from collective.zcasync import waiting
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.interfaces import IJob
from collective.zcasync.outcomes import Again
from collective.zcasync.threadlocal import local
from typing import Any


def make(kind: type, name: str, items: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A job of class ``kind``; see job.serial and job.parallel. InvalidJobError for what cannot be part of it."""
    last = options.pop("postprocess", None)
    if options:
        unknown = ", ".join(map(repr, sorted(options)))
        raise InvalidJobError(f"{name} knows the keyword 'postprocess', not {unknown}; give the jobs their arguments")
    jobs = [_adapted(kind, item, name) for item in items]
    main = kind(_RUN[name], *jobs, postprocess=_adapted(kind, together if last is None else last, name))
    main._title = name
    main.retry_policy_factory = "RetryCommonForever"  # it only puts jobs, and must not end because of conflicts
    return main


def _adapted(kind: Any, item: Any, name: str) -> Any:
    job = kind.adapt(item)
    if not IJob.providedBy(job):
        raise InvalidJobError(f"{item!r} stands for one of several callbacks, and cannot be a part of {name}")
    return job


def together(*jobs: Any) -> tuple[Any, ...]:
    """The last job where none is given: the result is the tuple of all jobs."""
    return jobs


def run_serial(*jobs: Any, postprocess: Any) -> Any:
    """The code of a serial job."""
    return _go_on(jobs, postprocess, at_once=False)


def run_parallel(*jobs: Any, postprocess: Any) -> Any:
    """The code of a parallel job."""
    return _go_on(jobs, postprocess, at_once=True)


_RUN = {"serial": run_serial, "parallel": run_parallel}


def _go_on(jobs: tuple[Any, ...], postprocess: Any, at_once: bool) -> Any:
    main = local.getJob()
    if main.queue is None:
        raise BadStatusError(f"{main!r} is in no queue, so it cannot put its jobs into one: queue.put(job)")
    main.extended = False
    jobs = jobs[: len(main.args)]  # a callback is called with a result behind its own arguments
    awaited = _put_next(main, jobs, main._passed, at_once)
    if awaited is None and main._passed:  # jobs may have been inserted before those that have ended
        awaited = _put_next(main, jobs, 0, at_once)
    if awaited is not None:
        return Again(awaited)
    postprocess.args.extend(jobs)
    return postprocess


def _put_next(main: Any, jobs: tuple[Any, ...], start: int, at_once: bool) -> Any:
    """Put what may run now of the jobs from ``start`` on; the first one that has not ended, or None."""
    awaited = None
    for number, job in enumerate(jobs[start:], start):
        if waiting.end_of(job) is not None:
            continue
        if job._status_id == 0 and job.parent is None:
            job.sequence = main
            main.queue.put(job)
        if awaited is None:
            awaited, main._passed = job, number
        if not at_once:
            break
    return awaited
