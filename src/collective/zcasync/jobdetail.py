"""All that the database knows of one job, as plain data: timeline, arguments, result, traceback."""

from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.clock import UTC
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import _
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.monitorrows import QUARANTINED
from collective.zcasync.persistence import values_in
from collective.zcasync.persistence import written_at
from collective.zcasync.readable import argument_lines
from collective.zcasync.readable import shorten
from collective.zcasync.readable import text_of
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any
from ZODB.broken import Broken

import logging

#: Characters of a traceback; its end says most, so the beginning is cut.
TRACEBACK_LIMIT = 64_000

#: Callbacks whose ends the timeline tells.
MOST_CALLBACKS = 50

#: What the timeline calls each entry of a job's attempt log.
EVENTS = {
    "put": _("event_put", default="Put"),
    "due": _("event_due", default="To start not before"),
    "claimed": _("event_claimed", default="Claimed"),
    "started": _("event_started", default="Started"),
    "ended": _("event_ended", default="Call ended"),
    "finished": _("event_finished", default="Finished"),
    "failed": _("event_failed", default="Failed"),
    "cancelled": _("event_cancelled", default="Cancelled"),
    "stop": _("event_stop", default="Asked to stop"),
    "by_cancel": _("event_by_cancel", default="Cancelled by"),
    "by_retry": _("event_by_retry", default="Put again by"),
    "by_change": _("event_by_change", default="Put again with other arguments by"),
    "by_release": _("event_by_release", default="Released by"),
    "by_run": _("event_by_run", default="Sent to the front by"),
    "by_schedule": _("event_by_schedule", default="Rescheduled by"),
    "by_priority": _("event_by_priority", default="Priority changed by"),
    "conflict": _("event_conflict", default="Write conflict"),
    "error": _("event_error", default="Error in the job"),
    "interruption": _("event_interruption", default="Interrupted"),
    "away": _("event_away", default="Database was away"),
    "commit": _("event_commit", default="Error at commit"),
    "reschedule": _("event_reschedule", default="Put back for later"),
    "committed": _("event_committed", default="Committed by itself"),
    "callback": _("event_callback", default="Callback ended"),
    "callback_failed": _("event_callback_failed", default="Callback failed"),
}


@dataclass(frozen=True)
class Event:
    """One line of a job's timeline."""

    when: datetime
    what: str
    text: str = ""


@dataclass(frozen=True)
class Frame:
    """One frame of a traceback."""

    file: str
    line: int
    function: str
    source: str = ""
    #: Whether it belongs to an installed package or to Python, and not to code under development.
    framework: bool = False


@dataclass(frozen=True)
class LogLine:
    """One line that a job's code has logged."""

    when: datetime
    level: str
    logger: str
    text: str


@dataclass(frozen=True)
class JobDetail:
    """One job, for the page about it. ``row`` is its line in the lists."""

    row: JobRow
    arguments: tuple[tuple[str, str], ...] = ()
    result: str = ""
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""
    frames: tuple[Frame, ...] = ()
    timeline: tuple[Event, ...] = ()
    policy: str = ""
    priority: int = 0
    quotas: tuple[str, ...] = ()
    stop_requested: bool = False
    retried_as: str = ""
    retry_of: str = ""
    #: What the code has logged, an attempt after the other.
    logs: tuple[tuple[LogLine, ...], ...] = ()
    can_cancel: bool = False
    can_retry: bool = False
    #: Broken, or set aside: only to be discarded.
    can_discard: bool = False
    #: What could not be read, and why.
    problems: tuple[str, ...] = field(default=())


def is_broken(job: Any) -> bool:
    """Whether the job's class cannot be loaded in this process. The record is not loaded for it."""
    return isinstance(job, Broken)


def class_name(job: Any) -> str:
    """Dotted name of the job's class, also of a broken one."""
    return f"{type(job).__module__}.{type(job).__qualname__}"


def oid_text(job: Any) -> str:
    """The id of a stored job, from its oid alone."""
    return f"{int.from_bytes(job._p_oid, 'big'):x}"


def group_of(job: Any) -> str:
    """The site of a job; that of a broken one is read from its raw state."""
    if not is_broken(job):
        return job.group or ""
    job._p_activate()
    state = values_in(job.__Broken_state__)
    found = state.get("group", "") if isinstance(state, dict) else ""
    return found if isinstance(found, str) else ""


def frames_of(calls: Iterable[tuple[str, str, int, str, bool]]) -> tuple[Frame, ...]:
    """The frames of a stored traceback or stack: see Failure.frames_data, and failuredata.stack_of."""
    return tuple(Frame(file, line, function, source, installed) for function, file, line, source, installed in calls)


def job_detail(job: Any, row: JobRow) -> JobDetail:
    """All about a job. What cannot be loaded is told in ``problems`` and left out."""
    brief = brief_detail(job, row)
    if is_broken(job):
        return brief
    problems: list[str] = []
    failure = job.result if job.failed else None
    return replace(
        brief,
        arguments=_arguments(job, problems),
        result=_result(job, problems),
        logs=tuple(map(_log, job.logs)),
        problems=tuple(problems),
        **_failure(failure),
    )


def brief_detail(job: Any, row: JobRow) -> JobDetail:
    """What may be told of a job without its arguments, its result and its traceback, which are not loaded."""
    if is_broken(job):
        return JobDetail(row=row, can_discard=True)
    aside = row.state == QUARANTINED
    return JobDetail(
        row=row,
        timeline=timeline(job),
        policy=job.retry_policy_factory or job.policy or "",
        priority=job.priority,
        quotas=tuple(job.quota_names),
        stop_requested=bool(job.stop_requested),
        retried_as=job.retried_as or "",
        retry_of=job.retry_of or "",
        can_cancel=job.outcome is None and not aside,
        can_retry=aside or job.outcome in ("failed", "cancelled") and not job.retried_as,
        can_discard=aside,
    )


def timeline(job: Any) -> tuple[Event, ...]:
    """What happened to the job, oldest first."""
    place = place_of(job)[1]
    events = [
        Event(when, what, text)
        for when, what, text in (
            (job.put_at, "put", job.user or ""),
            (job._begin_after, "due", ""),
            (_claimed_at(job) if place else None, "claimed", place),
            (job.active_start, "started", ""),
            (job.finished_at or job.active_end, _end_of(job), job.error or ""),
        )
        if when is not None
    ]
    events.extend(Event(clock.from_microseconds(began), "started") for began in job.starts)
    events.extend(Event(when, kind, text) for when, kind, text in job.attempt_log)
    events.extend(_ends_of(islice(job.all_callbacks(), MOST_CALLBACKS)))
    events.extend(Event(value[0], "stop", value[1]) for _name, value in job._letters("stop") if value is not True)
    return tuple(sorted(events, key=lambda event: event.when))


def _claimed_at(job: Any) -> datetime | None:
    """When a dispatcher took the job; of one that has begun since then that moment, which comes a second later at most.

    A claim leaves no moment in the record, which would make short jobs slower: until they begin its last change was the
    claim.
    """
    began: datetime | None = job.active_start
    return written_at(job) if began is None and job.status == ASSIGNED else began


def place_of(job: Any) -> tuple[str, str]:
    """UUID of the dispatcher that runs the job or has run it, and what it says of its process; else its UUID again."""
    agent = None if is_broken(job) else job.agent
    da = None if agent is None else agent.parent
    if da is None:
        return "", ""
    told = " ".join(str(da.process[name]) for name in ("role", "host", "pid") if da.process.get(name))
    return da.name, told or da.name


def _ends_of(callbacks: Iterable[Any]) -> Iterator[Event]:
    """The ends of callbacks."""
    for callback in callbacks:
        if not is_broken(callback) and callback.outcome is not None:
            what = "callback_failed" if callback.failed else "callback"
            yield Event(callback.active_end, what, callback.title or callback.task)


def _end_of(job: Any) -> str:
    ends = {"succeeded": "finished", "failed": "failed", "cancelled": "cancelled"}
    return ends.get(job.outcome or "", "ended")


def _arguments(job: Any, problems: list[str]) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(argument_lines(job.callable_name, tuple(job.args), dict(job.kwargs)))
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
        return ()


def _result(job: Any, problems: list[str]) -> str:
    if job.outcome != "succeeded":
        return ""
    try:
        return text_of(job.result)
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
        return ""


def _log(kept: tuple[float, Any]) -> tuple[LogLine, ...]:
    return tuple(
        LogLine(datetime.fromtimestamp(created, UTC), logging.getLevelName(level), name, text)
        for created, level, name, text in kept[1].lines
    )


def _failure(failure: Any) -> dict[str, Any]:
    """The fields of JobDetail that a Failure fills."""
    if not isinstance(failure, Failure):
        return {}
    traceback = failure.getTraceback()
    return {
        "error_type": failure.type_name,
        "error_message": shorten(failure.message),
        "traceback": traceback[-TRACEBACK_LIMIT:],
        "frames": frames_of(failure.frames_data),
    }
