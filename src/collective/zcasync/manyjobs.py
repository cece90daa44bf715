"""The job that changes many jobs, as somebody asked in a panel: with progress, and to be stopped like any other."""

from collections.abc import Callable
from collections.abc import Mapping
from collective.zcasync import actions
from collective.zcasync import bulk
from collective.zcasync import running
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.jobsearch import Search
from collective.zcasync.persistence import is_put_back
from collective.zcasync.tasks import task
from collective.zcasync.threadlocal import local
from datetime import datetime
from functools import partial
from typing import Any

#: Verb -> the states whose jobs it can change all at once.
VERBS = {
    "cancel": bulk.CANCELLABLE,
    "retry": bulk.RETRIABLE,
    "delete": bulk.DELETABLE,
    "run": bulk.MOVABLE,
    "schedule": bulk.MOVABLE,
    "priority": bulk.MOVABLE,
}


@task(name=bulk.TASK, title="Change many jobs")
def change_jobs(
    verb: str,
    states: tuple[str, ...],
    *,
    search: Mapping[str, Any] | None = None,
    value: Any = None,
    total: int | None = None,
    **which: Any,
) -> dict[str, int]:
    """Do with all jobs that match what ``verb``, of VERBS, says; how many became what.

    ``search``: the fields of a Search. ``value``: the aware datetime of "schedule", the number of "priority".
    ``total``: of how many jobs, for the progress. ``which``: ``queue``, ``group``, ``task`` and ``by``, see
    bulk.Which.
    """
    if verb not in VERBS:
        raise InvalidValueError(f"{verb!r} cannot be done with many jobs; use one of {', '.join(VERBS)}")

    def tell(done: Any) -> None:
        running.progress(done.total(), None if total is None else max(total, done.total()))

    options: dict[str, Any] = {**which, "search": Search(**(search or {})), "progress": tell}
    context = local.job._p_jar
    if verb in MOVES:
        return dict(bulk.move_all(context, partial(MOVES[verb], value), states, **options))
    return dict(ALL[verb](context, states, **options))


# Each answers False for a job that is where it is wanted, so that none is moved twice.


def _run(_value: Any, job: Any, by: str) -> Any:
    return False if is_put_back(job.key) and not job.held_back else actions.run_now(job, by)


def _schedule(when: datetime, job: Any, by: str) -> Any:
    return False if job._begin_after == when else actions.reschedule(job, when, by)


def _priority(value: int, job: Any, by: str) -> Any:
    return False if job.priority == value else actions.change_priority(job, value, by)


MOVES: dict[str, Callable[..., Any]] = {"run": _run, "schedule": _schedule, "priority": _priority}
ALL: dict[str, Callable[..., Any]] = {
    "cancel": bulk.cancel_all,
    "retry": bulk.retry_all,
    "delete": bulk.delete_all,
}
