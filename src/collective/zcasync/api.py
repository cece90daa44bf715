"""What most people use: put jobs, find them, cancel them. It knows nothing of Zope or Plone.

from collective.zcasync import api

@api.task(title="Send the newsletter")
def send(issue): ...

job = send.put(issue)                       # runs after the commit of this transaction
send.options(begin_after=timedelta(hours=1), priority=5).put(issue)
api.put(document.reindexObject)
api.cancel(job.id)
"""

from collective.zcasync import lookup
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.job import Job
from collective.zcasync.running import checkpoint
from collective.zcasync.running import cursor
from collective.zcasync.running import progress
from collective.zcasync.tasks import connection
from collective.zcasync.tasks import Options
from collective.zcasync.tasks import put_many
from collective.zcasync.tasks import task
from datetime import datetime
from datetime import timedelta
from typing import Any

__all__ = (
    "JobNotFound",
    "StopRequested",
    "cancel",
    "checkpoint",
    "connection",
    "cursor",
    "job",
    "options",
    "progress",
    "put",
    "put_many",
    "task",
)


def put(task: Any, /, *args: Any, **kwargs: Any) -> Job:
    """Put a job: a task, the name of one, a module's function, or a method of content or of a persistent object.

    It runs after the commit of the present transaction; if that is aborted, the job never existed. See Options.put.
    """
    return Options().put(task, *args, **kwargs)


def options(
    queue: str | None = None,
    begin_after: datetime | timedelta | None = None,
    begin_by: timedelta | None = None,
    priority: int = 0,
    quotas: tuple[str, ...] = (),
    policy: str | None = None,
    run_as: str | None = None,
) -> Options:
    """``options(...).put(task, *args, **kwargs)``; see Options."""
    return Options(queue, begin_after, begin_by, priority, quotas, policy, run_as)


def job(id: str) -> Job:
    """The job with that id; JobNotFound if there is none."""
    return lookup.find(connection(), id)


def cancel(id: str) -> str:
    """Cancel a job: "cancelled" if it had not started (its callbacks run, with a Failure of CancelledError),
    "stopping" if it runs and was asked to stop, "finished" if it was too late. JobNotFound if there is none."""
    found = job(id)
    queue = found.queue
    return "finished" if queue is None else queue.cancel(found)
