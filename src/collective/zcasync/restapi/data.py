"""Jobs, queues, dispatchers and policies as JSON; times are ISO texts in UTC, names of queues as people write them."""

from collections.abc import Callable
from collective.zcasync.activity import Span
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.jobdetail import EVENTS
from collective.zcasync.jobdetail import frames_of
from collective.zcasync.jobdetail import JobDetail
from collective.zcasync.jobdetail import LogLine
from collective.zcasync.jobtree import Branch
from collective.zcasync.monitorrows import Count
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.monitorrows import QueueRow
from collective.zcasync.monitorrows import STATES
from collective.zcasync.ploneapp.users import id_in
from collective.zcasync.processes import ProcessRow
from collective.zcasync.queues import shown_queue
from dataclasses import asdict
from datetime import datetime
from typing import Any

Translate = Callable[[Any], str]


def moment(when: datetime | None) -> str | None:
    """A time, or null."""
    return None if when is None else when.isoformat(timespec="milliseconds")


def count(number: Count) -> dict[str, Any]:
    """How many; with ``more``, at least so many."""
    return {"number": number.number, "more": number.more}


def job_line(row: JobRow, translate: Translate, url: str, queue: str | None = None) -> dict[str, Any]:
    """One job of a list. ``queue``: the name, where the row does not know it any more."""
    progress = row.progress
    return {
        "@id": url,
        "id": row.id,
        "state": row.state,
        "state_title": translate(STATES[row.state]),
        "task": row.task,
        "title": row.title or row.task,
        "user": id_in(row.user),
        "queue": shown_queue(row.queue if queue is None else queue),
        "put": moment(row.put_at),
        "due": moment(row.due),
        "started": moment(row.started),
        "ended": moment(row.ended),
        "attempts": row.attempts,
        "error": row.error,
        "cause": row.cause,
        "object": row.path,
        "detail": row.detail,
        "needs_attention": row.needs_attention,
        "overdue": row.overdue,
        "claimed": row.claimed,
        "broken": row.broken,
        "progress": None
        if progress is None
        else {"done": progress[0], "total": progress[1], "text": translate(progress[2] or "")},
    }


def job_facts(detail: JobDetail, translate: Translate) -> dict[str, Any]:
    """What all who see a job may know of it, beside its line."""
    return {
        "policy": detail.policy,
        "priority": detail.priority,
        "quotas": list(detail.quotas),
        "stop_requested": detail.stop_requested,
        "retry_of": detail.retry_of or None,
        "retried_as": detail.retried_as or None,
        "timeline": [
            {
                "when": moment(event.when),
                "what": event.what,
                "title": translate(EVENTS.get(event.what, event.what)),
                "text": id_in(event.text) if event.what == "put" else event.text,
            }
            for event in detail.timeline
        ],
    }


def job_inside(detail: JobDetail) -> dict[str, Any]:
    """What only those may know who manage jobs. Texts are cut, and secrets masked."""
    return {
        "arguments": [{"name": name, "value": value} for name, value in detail.arguments],
        "error_type": detail.error_type,
        "error_message": detail.error_message,
        "traceback": detail.traceback,
        "frames": [asdict(frame) for frame in detail.frames],
        "problems": list(detail.problems),
        "logs": [[log_line(line) for line in lines] for lines in detail.logs],
    }


def log_line(line: LogLine) -> dict[str, Any]:
    """What a job's code has logged."""
    return {"when": moment(line.when), "level": line.level, "logger": line.logger, "text": line.text}


def job_stack(stack: Any) -> dict[str, Any] | None:
    """Where a running job was when somebody asked; null if nobody has, or it has not answered yet."""
    if stack is None:
        return None
    when, calls = stack
    return {"when": moment(when), "frames": [asdict(frame) for frame in frames_of(calls)]}


def branch(found: Branch, url: str) -> dict[str, Any]:
    """A job that belongs to another one."""
    return {
        "@id": url,
        "id": found.id,
        "title": found.title,
        "kind": found.kind,
        "depth": found.depth,
        "status": found.status,
        "outcome": found.outcome,
        "error": found.error,
    }


def queue_line(row: QueueRow, url: str, mine: str, may_edit: bool, queue: Any) -> dict[str, Any]:
    """One queue. ``mine``: the site's group."""
    return {
        "@id": url,
        "name": shown_queue(row.name),
        "paused": row.paused,
        "served": row.served,
        "owner": owner(row.owner, mine),
        "may_edit": may_edit,
        "counts": dict(row.counts),
        "retention_days": queue.retention_days,
        "failed_days": queue.failed_days,
        "retention_jobs": queue.retention_jobs,
        "default_priority": queue.default_priority,
        "time_limit": queue.time_limit,
        "quotas": [{"name": one.name, "size": one.size, "filled": one.filled} for one in row.quotas],
        "agents": [
            {"role": one.role, "name": one.name, "size": one.size, "weight": one.weight, "prefetch": one.prefetch}
            for one in row.agents
        ],
        "dispatchers": [one.uuid for one in row.dispatchers],
    }


def dispatcher_line(found: ProcessRow, url: str, may_pause: bool) -> dict[str, Any]:
    """One dispatcher."""
    row = found.row
    return {
        "@id": url,
        "uuid": row.uuid,
        "state": found.state,
        "may_pause": may_pause,
        "role": row.role,
        "host": row.host,
        "pid": row.pid,
        "version": row.version,
        "activated": moment(row.activated),
        "last_ping": moment(row.last_ping),
        "memory": row.memory,
        "clock_skew": row.skew,
        "gave_way": row.gave_way,
        "queues": [shown_queue(name) for name in found.queues],
        "threads": found.threads,
        "running": found.running,
        "error": found.error,
        "error_at": moment(found.error_at),
    }


def span(found: Span) -> dict[str, Any]:
    """What happened in a span of time; waits in seconds."""
    return {
        "begin": moment(found.begin),
        "minutes": found.minutes,
        "put": found.put,
        "started": found.started,
        "succeeded": found.succeeded,
        "failed": found.failed,
        "cancelled": found.cancelled,
        "waiting": found.waiting,
        "latency": found.latency,
        "longest": found.longest,
    }


def policy_line(policy: ConfiguredPolicy, url: str, mine: str, may_edit: bool) -> dict[str, Any]:
    """One retry policy. ``version``: of its record, for those who change it."""
    return {
        "@id": url,
        "name": policy.name,
        "owner": owner(policy.owner, mine),
        "may_edit": may_edit,
        **policy.numbers(),
        "rules": [{name: value for name, value in rule if value != ""} for rule in policy.rules],
        "version": policy._p_serial.hex() if policy._p_serial else "",
    }


def owner(group: str, mine: str) -> str:
    """Whose a queue or policy is: this site's, another one's, or the root's."""
    return "root" if not group else "site" if group == mine else "other site"
