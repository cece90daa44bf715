"""Asking a job's retry policy, whatever it is and whatever it raises."""

from collective.zcasync import clock
from collective.zcasync import door
from collective.zcasync import retry
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.configuredpolicy import OWN
from collective.zcasync.failure import convert
from datetime import datetime
from datetime import timedelta
from twisted.python.failure import Failure
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")

#: Longest wait that a job thread does itself; a longer one goes back to the queue.
LONGEST_PAUSE = timedelta(seconds=1)

#: What follows a policy that raises, or that nobody finds: the job waits this long, and is shown as one that needs
#: attention.
POLICY_TROUBLE = timedelta(seconds=60)

#: Longest time that a job is rescheduled for: a moment after the year 9999 cannot be stored.
LONGEST_DELAY = timedelta(days=3650)


def answer(job: Any, failure: Any, kind: str, at_commit: bool, cache: dict[str, Any]) -> bool | timedelta:
    """What follows a failed attempt: False, True, or the time until the next one. ``kind``: see retry.trouble."""
    answer = after_error(job, failure, at_commit, cache)
    deadline = job.deadline()
    late = deadline is not None and clock.utcnow() > deadline and not job.goes_on
    if answer is False or late:
        return False
    if kind == "away":
        return True  # the whole pool has waited for the database already, and this is no attempt
    if isinstance(answer, timedelta) and needs_queue(answer) and job.queue is None:
        logger.critical("%r is in no queue and cannot be rescheduled: no retry", job)
        return False
    return answer


def needs_queue(delay: timedelta) -> bool:
    """Whether the job goes back to its queue: for a long wait, or (zero, negative or past) ahead of all that waits."""
    return delay > LONGEST_PAUSE or delay <= timedelta(0)


def after_error(job: Any, failure: Any, at_commit: bool, cache: dict[str, Any]) -> bool | timedelta:
    """What the policy answers to an error of the job's code, or of its commit; POLICY_TROUBLE if it cannot be asked."""
    method = "commitError" if at_commit else "jobError"
    try:
        policy = _policy(job, cache)
        decide = getattr(policy, method, None)
        if decide is None:
            logger.error("The retry policy of %r, %r, has no method %s: no retry", job, policy, method)
            return False
        answer = as_delay(decide(failure, cache))
        _keep_own(policy, job, cache)
        return answer
    except Exception:
        logger.critical("The retry policy of %r failed; the job waits %s", job, POLICY_TROUBLE, exc_info=True)
        return POLICY_TROUBLE


def after_interruption(job: Any, counted: dict[str, Any] | None = None) -> bool | timedelta | None:
    """What the policy answers to an interruption; None if it cannot be asked. ``counted``: what its run has counted,
    which the caller keeps."""
    try:
        cache = dict(job._retry_cache) if counted is None else counted
        policy = _policy(job, cache)
        decide = getattr(policy, "interrupted", None)
        if decide is None:
            logger.error("The retry policy of %r, %r, has no method interrupted: no retry", job, policy)
            return False
        answer = as_delay(decide())
        _keep_own(policy, job, cache)
        if counted is None and cache.get(OWN, ()) != dict(job._retry_cache).get(OWN, ()):
            keep_cache(job, cache)
        return answer
    except Exception:
        logger.critical(
            "The retry policy of %r cannot be asked about an interruption; it is asked again in %s",
            job,
            POLICY_TROUBLE,
            exc_info=True,
        )
        return None


def after_stop(job: Any, cache: dict[str, Any]) -> timedelta | None:
    """In what time a job runs again that stopped because its dispatcher did; None: it does not. Only a policy of
    unknown ways is asked. ``cache``: what the run has counted."""
    now, answer = clock.utcnow(), timedelta(0)
    if not job.goes_on:
        deadline = job.deadline()
        if deadline is not None and now > deadline:
            return None
        if not retry.retries_interruptions(job):
            job.interrupted_by = "stop"
            told = after_interruption(job, cache)
            if told is not None:  # else it is asked before the job runs again
                job.interrupted_by = ""
            if told is False:
                return None
            if isinstance(told, timedelta) and told > answer:
                answer = told
    job.remember("interruption", "its dispatcher stopped, and so did the job", now)
    if answer and not job.is_callback:
        job.postpone(now + answer)
    return answer


def store_counts(job: Any, cache: dict[str, Any]) -> None:
    """Let the policy store what it has counted. An outcome cannot fail because of a policy."""
    if not cache:
        return
    try:
        policy = _policy(job, cache)
        update = getattr(policy, "updateData", None)
        if update is not None:
            update(cache)
            _keep_own(policy, job, cache)
    except Exception:
        logger.critical("The retry policy of %r could not store what it has counted", job, exc_info=True)


def keep_cache(job: Any, cache: dict[str, Any]) -> None:
    """What policies have counted goes with a job that waits again. What the job's record cannot hold stays behind."""
    kept = []
    for name, value in cache.items():
        told = convert(value).summary if isinstance(value, Failure) else value
        if door.is_plain((name, told)):
            kept.append((name, told))
        else:
            logger.warning("The retry policy of %r has noted %r, which is no small plain value: it is lost", job, name)
    job._retry_cache = tuple(kept)


def _policy(job: Any, cache: dict[str, Any]) -> Any:
    """The job's policy; one that somebody wrote knows of itself what it knew at the last decision."""
    policy = job.getRetryPolicy()
    if OWN in cache and _own(policy, job) is not None:
        vars(policy).update(cache[OWN])
    return policy


def _keep_own(policy: Any, job: Any, cache: dict[str, Any]) -> None:
    """The policy is made anew for the next decision: keep its attributes that are plain values."""
    own = tuple((name, value) for name, value in (_own(policy, job) or {}).items() if door.is_plain(value))
    if own:
        cache[OWN] = own


def _own(policy: Any, job: Any) -> dict[str, Any] | None:
    """The attributes of a policy that was made for this job; None for what others share, and for the package's own."""
    attributes = getattr(policy, "__dict__", {})
    if attributes.get("parent") is not job or type(policy).__module__ in (retry.__name__, ConfiguredPolicy.__module__):
        return None
    return {
        name: value
        for name, value in attributes.items()
        if name not in ("parent", "__parent__") and not name.startswith("_v_")
    }


def as_delay(answer: Any) -> bool | timedelta:
    """A policy's answer with datetimes made timedeltas from now; naive ones are read as UTC."""
    if isinstance(answer, datetime):
        aware = answer if answer.tzinfo is not None else answer.replace(tzinfo=clock.UTC)
        answer = aware - clock.utcnow()
    return min(answer, LONGEST_DELAY) if isinstance(answer, timedelta) else bool(answer)
