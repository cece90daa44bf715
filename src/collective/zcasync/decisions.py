"""Asking a job's retry policy, whatever it is and whatever it raises."""

from collective.zcasync import clock
from collective.zcasync import retry
from datetime import datetime
from datetime import timedelta
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")

#: What follows a policy that raises, or that nobody finds: the job waits this long, and is shown as one that needs
#: attention.
POLICY_TROUBLE = timedelta(seconds=60)

#: Longest time that a job is rescheduled for: a moment after the year 9999 cannot be stored.
LONGEST_DELAY = timedelta(days=3650)


def after_error(job: Any, failure: Any, at_commit: bool, cache: dict[str, Any]) -> bool | timedelta:
    """What the policy answers to an error of the job's code, or of its commit; POLICY_TROUBLE if it cannot be asked."""
    method = "commitError" if at_commit else "jobError"
    try:
        policy = job.getRetryPolicy()
        decide = getattr(policy, method, None)
        if decide is None:
            logger.error("The retry policy of %r, %r, has no method %s: no retry", job, policy, method)
            return False
        return as_delay(decide(failure, cache))
    except Exception:
        logger.critical("The retry policy of %r failed; the job waits %s", job, POLICY_TROUBLE, exc_info=True)
        return POLICY_TROUBLE


def after_interruption(job: Any) -> bool | timedelta | None:
    """What the policy answers to an interruption; None if it cannot be asked."""
    try:
        policy = job.getRetryPolicy()
        decide = getattr(policy, "interrupted", None)
        if decide is None:
            logger.error("The retry policy of %r, %r, has no method interrupted: no retry", job, policy)
            return False
        return as_delay(decide())
    except Exception:
        logger.critical(
            "The retry policy of %r cannot be asked about an interruption; it is asked again in %s",
            job,
            POLICY_TROUBLE,
            exc_info=True,
        )
        return None


def goes_on_after_stop(job: Any) -> bool:
    """Whether a job that stopped because its dispatcher did runs again. Only a policy of unknown ways is asked."""
    if job.goes_on:
        return True
    deadline = job.deadline()
    if deadline is not None and clock.utcnow() > deadline:
        return False
    if retry.retries_interruptions(job):
        return True
    job.interrupted_by = "stop"
    answer = after_interruption(job)
    if answer is not None:  # else it is asked before the job runs again
        job.interrupted_by = ""
    return answer is not False


def store_counts(job: Any, cache: dict[str, Any]) -> None:
    """Let the policy store what it has counted. An outcome cannot fail because of a policy."""
    if not cache:
        return
    try:
        update = getattr(job.getRetryPolicy(), "updateData", None)
        if update is not None:
            update(cache)
    except Exception:
        logger.critical("The retry policy of %r could not store what it has counted", job, exc_info=True)


def as_delay(answer: Any) -> bool | timedelta:
    """A policy's answer with datetimes made timedeltas from now; naive ones are read as UTC."""
    if isinstance(answer, datetime):
        aware = answer if answer.tzinfo is not None else answer.replace(tzinfo=clock.UTC)
        answer = aware - clock.utcnow()
    return min(answer, LONGEST_DELAY) if isinstance(answer, timedelta) else bool(answer)
