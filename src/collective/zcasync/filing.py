"""Filing away what has ended: into history, and out of the running jobs and the quotas."""

from collective.zcasync import clock
from collective.zcasync import notify
from collective.zcasync import waiting
from typing import Any


def file_away(queue: Any, slot: Any, job: Any) -> None:
    """Move a finished job to history, and out of the running jobs and its quotas.

    A callback that stood in the queue by itself, for a late callback of its own, belongs to its job and is only let go.
    """
    outcome = job.outcome or "failed"
    known = job.late and (job.parent is None or queue.has_filed(job))  # without a parent: it was deleted since
    if not job.is_callback and not known:
        home = slot if slot is not None else queue.any_slot()
        home.file(job, outcome, job.finished_at or clock.utcnow())
    if slot is not None and job._p_oid in slot.running:
        slot.release(job._p_oid)
    leave_quotas(queue, job)
    waiting.ended(queue, slot, job)


def leave_quotas(queue: Any, job: Any) -> None:
    """Give back the job's places in quotas."""
    for quota in filter(None, map(queue.quotas.get, job.quota_names)):
        quota.discard(job)
    if job.quota_names and queue.parked:
        notify.tell_at_commit(queue._p_jar)  # others may have threads for what waits for a place
