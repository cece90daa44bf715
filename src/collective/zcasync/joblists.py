"""What the database knows of queues and jobs, as plain rows: for panels, command line and REST.

Nothing here writes, and nothing here loads the payload of a job, except ``job``, which is about one job.
"""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import lookup
from collective.zcasync import waiting
from collective.zcasync.entries import newest_keys
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.jobdetail import class_name
from collective.zcasync.jobdetail import group_of
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jobdetail import job_detail
from collective.zcasync.jobdetail import JobDetail
from collective.zcasync.jobdetail import oid_text
from collective.zcasync.monitorrows import AgentRow
from collective.zcasync.monitorrows import CANCELLED
from collective.zcasync.monitorrows import Count
from collective.zcasync.monitorrows import DispatcherRow
from collective.zcasync.monitorrows import FAILED
from collective.zcasync.monitorrows import FINISHED
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.monitorrows import OUTCOME_OF_STATE
from collective.zcasync.monitorrows import Page
from collective.zcasync.monitorrows import QUARANTINED
from collective.zcasync.monitorrows import QueueRow
from collective.zcasync.monitorrows import QuotaRow
from collective.zcasync.monitorrows import RUNNING
from collective.zcasync.monitorrows import SCHEDULED
from collective.zcasync.monitorrows import STATE_OF_OUTCOME
from collective.zcasync.monitorrows import STATES
from collective.zcasync.monitorrows import WAITING
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Queues
from collective.zcasync.readable import shorten
from datetime import datetime
from typing import Any
from typing import NamedTuple

__all__ = (
    "AgentRow",
    "CANCELLED",
    "Count",
    "DispatcherRow",
    "FAILED",
    "FINISHED",
    "JobRow",
    "Page",
    "QUARANTINED",
    "QueueRow",
    "QuotaRow",
    "RUNNING",
    "SCHEDULED",
    "STATES",
    "WAITING",
    "all_queues",
    "counts",
    "find",
    "job",
    "jobs",
    "queue_of",
    "queues",
    "row",
    "state_of",
)

#: Entries that a page looks at, at most, when it picks out the jobs of one site; it says so if that was not enough.
LOOK_LIMIT = 10_000

#: Jobs of one site that are counted one by one; from there on "or more".
COUNT_LIMIT = 1_000

#: Newest entries of each inbox that are looked at for cancelled jobs: no claim takes them out while nobody is at work.
UNSWEPT_LOOK = 8

#: Characters of the error's line in a list.
ERROR_LIMIT = 300


def queues(source: Any) -> tuple[QueueRow, ...]:
    """All queues, the default one first. ``source``: a ZODB connection, or the Queues themselves."""
    return tuple(_queue_row(queue) for _name, queue in _selected(source, None))


def all_queues(source: Any) -> list[Any]:
    """The stored queues themselves."""
    return [queue for _name, queue in _selected(source, None)]


def counts(source: Any, group: str | None = None, queue: str | None = None) -> dict[str, Count]:
    """How many jobs are in each state; of one site, if ``group`` is given."""
    if group is None or _only_group(source, group):
        return _stored_counts(source, queue)
    return {state: _counted(_entries(source, state, group, queue)) for state in STATES}


def jobs(
    source: Any,
    state: str,
    *,
    group: str | None = None,
    queue: str | None = None,
    start: int = 0,
    limit: int = 50,
) -> Page:
    """Jobs in that state: those that wait in the order in which they are offered, finished ones newest first."""
    if state not in STATES:
        raise InvalidValueError(f"{state!r} is not a state of jobs; use one of {', '.join(STATES)}")
    start = max(0, start)
    skipped = 0
    rows: list[JobRow] = []
    for looked, entry in enumerate(_entries(source, state, group, queue)):
        if looked >= LOOK_LIMIT + start:
            return Page(tuple(rows), start, more=False, complete=False)
        if entry is None:
            continue
        if skipped < start:
            skipped += 1
        elif len(rows) == limit:
            return Page(tuple(rows), start, more=True)
        else:
            rows.append(row(entry.job, state, entry.detail, entry.due))
    return Page(tuple(rows), start)


def job(source: Any, id: str) -> JobDetail:
    """All about one job; JobNotFound if there is none. This loads its arguments and its result."""
    found = find(source, id)
    return job_detail(found, row(found))


def find(source: Any, id: str) -> Any:
    """The stored job of that id, also a broken one that was set aside; JobNotFound if there is none."""
    connection = source._p_jar if isinstance(source, Queues) else source
    try:
        return lookup.find(connection, id)
    except JobNotFound:
        oid, _database = lookup.parse(id)
        for _name, queue in _selected(source, None):
            for _reason, other in queue.quarantined():
                if other._p_oid == oid:
                    return other
        raise


def queue_of(job: Any) -> Any:
    """The queue that holds the job, or in whose history it is; None if it is in none.

    A finished job climbs to its queue through the dispatcher that ran it, which may be gone since.
    """
    if is_broken(job):
        return quarantine_of(job._p_jar, job)
    if job.queue is not None or job.outcome is None:
        return job.queue
    held = (
        queue
        for _name, queue in _selected(job._p_jar, None)
        if any(found is job for found in queue.finished(job.outcome, job.group))
    )
    return next(held, None)


def quarantine_of(source: Any, job: Any) -> Any:
    """The queue that has set the job aside, or None."""
    return next((queue for _name, queue in _selected(source, None) if queue.quarantine_key(job) is not None), None)


def row(job: Any, state: str = "", detail: str = "", due: datetime | None = None) -> JobRow:
    """One job as a line of a list."""
    if is_broken(job):
        return JobRow(
            id=oid_text(job),
            state=state or QUARANTINED,
            task=class_name(job),
            group=group_of(job),
            detail=detail,
            broken=True,
        )
    queue = job.queue
    return JobRow(
        id=job.id,
        state=state or state_of(job),
        task=job.task or "",
        title=job.title or "",
        user=job.user or "",
        group=job.group or "",
        queue=queue.name if queue is not None else "",
        put_at=job.put_at,
        due=due or job._begin_after,
        started=job.active_start,
        ended=job.finished_at or job.active_end,
        attempts=job.attempts,
        error=shorten(job.error or "", ERROR_LIMIT),
        path=job.where or "",
        detail=detail or job.held_reason or "",
        needs_attention=bool(job.needs_attention),
        claimed=_is_claimed_ahead(job),
        overdue=bool(job.overdue),
        progress=job.progress,
    )


def _is_claimed_ahead(job: Any) -> bool:
    if job.token is None or job.status != ASSIGNED or job.agent is None:
        return False
    slot = job.agent.slot
    return slot is None or job._p_oid not in slot.started


def state_of(job: Any) -> str:
    """In which of STATES a person sees the job."""
    if is_broken(job):
        return QUARANTINED
    if job.status == COMPLETED:
        return STATE_OF_OUTCOME.get(job.outcome or "", FINISHED)
    if job.token is not None and job.status in (ASSIGNED, ACTIVE, CALLBACKS) or waiting.waiter(job) is not None:
        return RUNNING
    if job.queue is not None and job.queue.quarantine_key(job) is not None:
        return QUARANTINED
    due = job.not_before()
    return SCHEDULED if due is not None and due > clock.utcnow() else WAITING


# Reading the structures


def _selected(source: Any, name: str | None) -> Iterator[tuple[str, Any]]:
    """Name and queue of all queues, or of the one named."""
    found = source if isinstance(source, Queues) else get_queues(source)
    for key, queue in found.items() if found is not None else ():
        if name is None or key == name:
            yield key, queue


class _Entry(NamedTuple):
    """A job where it stands."""

    job: Any
    detail: str = ""
    due: datetime | None = None


def _entries(source: Any, state: str, group: str | None, queue: str | None) -> Iterator[_Entry | None]:
    """What is in one state, lazily; None for each entry that belongs to another site."""
    for _name, one in _selected(source, queue):
        for entry in _of_state(one, state, group):
            yield entry if group is None or group_of(entry.job) == group else None


def _of_state(queue: Any, state: str, group: str | None) -> Iterator[_Entry]:
    """What is in that state in one queue."""
    if state == WAITING:
        yield from (_Entry(found) for _key, found in queue.waiting() if not _has_ended(found))
        yield from (_Entry(found, why) for why, found in queue.parked_jobs())
    elif state == SCHEDULED:
        yield from (_Entry(found, due=due) for due, found in queue.later_jobs() if not _has_ended(found))
    elif state == RUNNING:
        yield from (_Entry(found, agent) for found, _uuid, agent in queue.running() if not _has_ended(found))
        inner = ((found, oid_text(job)) for found, job in queue.awaiting() if not _has_ended(found))
        yield from (_Entry(found, f"waits for {id}") for found, id in inner)
    elif state == QUARANTINED:
        yield from (_Entry(found, reason) for reason, found in queue.quarantined())
    else:
        outcome = OUTCOME_OF_STATE[state]
        yield from (_Entry(found) for found in unswept(queue) if found.outcome == outcome)
        yield from (_Entry(found) for found in queue.finished(outcome=outcome, group=group))


def _has_ended(job: Any) -> bool:
    """Whether the job has ended, and only its place in the queue does not tell so yet."""
    return not is_broken(job) and job.status == COMPLETED


def unswept(queue: Any) -> Iterator[Any]:
    """Jobs that have ended and are not in the history yet: the next claim puts them there."""
    yield from (found for found, _uuid, _agent in queue.running() if _has_ended(found))
    for place in queue.places(range(len(queue.inboxes)), None, None):
        if place.kind in ("inbox", "overflow"):
            newest = reversed(newest_keys(place.tree, UNSWEPT_LOOK))
            yield from (place.tree[key] for key in newest if _has_ended(place.tree[key]))


def _stored_counts(source: Any, name: str | None) -> dict[str, Count]:
    total = dict.fromkeys(STATES, 0)
    for _name, queue in _selected(source, name):
        stored = queue.counts()
        total[WAITING] += stored["waiting"] + stored["parked"]
        total[SCHEDULED] += stored["later"]
        total[RUNNING] += stored["running"] + stored["awaiting"]
        total[QUARANTINED] += stored["quarantined"]
        for outcome, state in STATE_OF_OUTCOME.items():
            total[state] += stored[outcome]
        for ended in unswept(queue):
            total[STATE_OF_OUTCOME.get(ended.outcome, FINISHED)] += 1
            total[RUNNING if ended.token is not None else WAITING] -= 1
    return {state: Count(number) for state, number in total.items()}


def _counted(entries: Iterator[_Entry | None]) -> Count:
    """Count one site's jobs, up to the limit."""
    number = 0
    for looked, entry in enumerate(entries):
        if number == COUNT_LIMIT or looked == LOOK_LIMIT:
            return Count(number, more=True)
        number += entry is not None
    return Count(number)


def _only_group(source: Any, group: str) -> bool:
    """Whether no other site has ever put a job here, so that the queue's own counts are the site's."""
    found = source if isinstance(source, Queues) else get_queues(source)
    return found is not None and list(found.sites.keys()) == [group]


def _queue_row(queue: Any) -> QueueRow:
    return QueueRow(
        name=queue.name,
        counts=queue.counts(),
        paused=queue.paused,
        owner=queue.owner,
        quotas=tuple(QuotaRow(name, quota.size, quota.filled) for name, quota in sorted(queue.quotas.items())),
        agents=tuple(
            AgentRow(role, name, template.size, template.weight, template.prefetch)
            for role, templates in queue.templates.items()
            for name, template in templates.items()
        ),
        dispatchers=tuple(_dispatcher_row(one) for one in queue.dispatchers.values()),
    )


def _dispatcher_row(one: Any) -> DispatcherRow:
    process = one.process
    return DispatcherRow(
        uuid=one.name,
        activated=one.activated,
        last_ping=one.last_ping.value,
        dead=one.dead,
        leaving=one.leaving is not None,
        running=sum(len(agent) for agent in one.values()),
        role=str(process.get("role", "")),
        host=str(process.get("host", "")),
        pid=str(process.get("pid", "")),
        version=str(one.last_ping.version or process.get("version", "")),
        memory=one.last_ping.memory or None,
        skew=one.last_ping.skew,
        gave_way=one.last_ping.gave_way,
    )
