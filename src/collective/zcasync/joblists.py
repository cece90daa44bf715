"""What the database knows of queues and jobs, as plain rows: for panels, command line and REST.

Nothing here writes, and nothing here loads the payload of a job, except ``job``, which is about one job.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import lookup
from collective.zcasync import waiting
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.history import joined
from collective.zcasync.history import Kind
from collective.zcasync.history import Tally
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
from collective.zcasync.jobentries import count
from collective.zcasync.jobentries import counts
from collective.zcasync.jobentries import entries
from collective.zcasync.jobentries import Entry
from collective.zcasync.jobentries import list_counts
from collective.zcasync.jobentries import selected
from collective.zcasync.jobentries import unswept
from collective.zcasync.jobsearch import NOTHING
from collective.zcasync.jobsearch import Search
from collective.zcasync.monitorrows import AgentRow
from collective.zcasync.monitorrows import ATTENTION
from collective.zcasync.monitorrows import CANCELLED
from collective.zcasync.monitorrows import Count
from collective.zcasync.monitorrows import DispatcherRow
from collective.zcasync.monitorrows import FAILED
from collective.zcasync.monitorrows import FailureRow
from collective.zcasync.monitorrows import FINISHED
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.monitorrows import LISTS
from collective.zcasync.monitorrows import next_skip
from collective.zcasync.monitorrows import Page
from collective.zcasync.monitorrows import QUARANTINED
from collective.zcasync.monitorrows import QueueRow
from collective.zcasync.monitorrows import QuotaRow
from collective.zcasync.monitorrows import RETRYING
from collective.zcasync.monitorrows import RUNNING
from collective.zcasync.monitorrows import SCHEDULED
from collective.zcasync.monitorrows import STATE_OF_OUTCOME
from collective.zcasync.monitorrows import STATES
from collective.zcasync.monitorrows import WAITING
from collective.zcasync.ownership import text_of
from collective.zcasync.queue import Queues
from collective.zcasync.readable import shorten
from datetime import datetime
from itertools import islice
from typing import Any

__all__ = (
    "ATTENTION",
    "AgentRow",
    "CANCELLED",
    "Count",
    "DispatcherRow",
    "FAILED",
    "FINISHED",
    "FailureRow",
    "JobRow",
    "LISTS",
    "Page",
    "QUARANTINED",
    "QueueRow",
    "QuotaRow",
    "RETRYING",
    "RUNNING",
    "SCHEDULED",
    "STATES",
    "Search",
    "WAITING",
    "all_queues",
    "count",
    "counts",
    "failures",
    "find",
    "job",
    "jobs",
    "list_counts",
    "queue_of",
    "queue_row",
    "queues",
    "row",
    "state_of",
    "unswept",
)

#: Entries that a search looks at, at most; it says so if that was not enough.
LOOK_LIMIT = 10_000

#: The same of a page that picks out what a list is about, or the jobs of one site: it opens at a click.
PAGE_LOOK = 2_000

#: Characters of the error's line in a list.
ERROR_LIMIT = 300


def queues(source: Any) -> tuple[QueueRow, ...]:
    """All queues, the default one first. ``source``: a ZODB connection, or the Queues themselves."""
    return tuple(queue_row(queue) for _name, queue in selected(source, None))


def all_queues(source: Any) -> list[Any]:
    """The stored queues themselves."""
    return [queue for _name, queue in selected(source, None)]


def jobs(
    source: Any,
    wanted: str,
    *,
    group: str | None = None,
    queue: str | None = None,
    search: Search = NOTHING,
    oldest: bool = False,
    start: int = 0,
    skip: int = 0,
    limit: int = 50,
) -> Page:
    """Jobs of one of LISTS: those that wait in the order in which they are offered, finished ones newest first.

    ``oldest``: finished ones oldest first. ``start``: how many that fit are left out. ``skip``: how many entries of the
    list are not even looked at: the ``next`` of the page before. A search looks at LOOK_LIMIT entries beyond ``start``,
    a list of which the structures do not know all that fits at PAGE_LOOK. What is left out is loaded only where its
    place does not tell enough. Behind LAST_SKIP no list is looked at.
    """
    if wanted not in LISTS:
        raise InvalidValueError(f"{wanted!r} is not a state of jobs; use one of {', '.join(LISTS)}")
    start, skip = max(0, start), max(0, skip)
    most = start + (LOOK_LIMIT if search else PAGE_LOOK)
    looked = fitting = 0
    if next_skip(skip) is None:
        return Page((), start, more=True, skip=skip)
    rows: list[JobRow] = []
    found: Iterable[Entry] = islice(entries(source, wanted, group, queue, search, oldest), skip, None)
    for entry in lookup.fetched(found, lambda entry: entry.job) if search else found:
        if looked >= most:
            return Page(tuple(rows), start, complete=False, skip=skip, looked=looked)
        if fitting < start and not search and entry.is_known(fitting) or entry.fits(group, search):
            fitting += 1
            if len(rows) == limit:
                return Page(tuple(rows), start, more=True, skip=skip, looked=looked)
            if fitting > start:
                rows.append(row(entry.job, entry.state, entry.detail, entry.due))
        looked += 1
    return Page(tuple(rows), start, skip=skip, looked=looked)


def failures(source: Any, group: str | None = None, queue: str | None = None) -> tuple[FailureRow, ...]:
    """How many jobs failed in which way, those of the latest first."""
    found = joined(
        pair
        for _name, one in selected(source, queue)
        for pair in (*one.failures(group).items(), *_failed_just_now(one, group))
    )
    rows = [
        FailureRow(*kind, tally.number, clock.from_microseconds(tally.first), clock.from_microseconds(tally.last))
        for kind, tally in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: row.last, reverse=True))


def _failed_just_now(queue: Any, group: str | None) -> Iterator[tuple[Kind, Tally]]:
    """Of the jobs that have failed and are not in the history yet; lists show them already."""
    for ended in unswept(queue):
        if STATE_OF_OUTCOME.get(ended.outcome) == FAILED and group in (None, ended.group):
            moment = clock.to_microseconds(ended.active_end)
            yield (ended.group, ended.task, ended.fingerprint), Tally(1, moment, moment)


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
        for _name, queue in selected(source, None):
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
    return next((queue for _name, queue in selected(job._p_jar, None) if queue.has_filed(job)), None)


def quarantine_of(source: Any, job: Any) -> Any:
    """The queue that has set the job aside, or None."""
    return next((queue for _name, queue in selected(source, None) if queue.quarantine_key(job) is not None), None)


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
    state = state or state_of(job)
    if queue is not None and state in (WAITING, SCHEDULED):
        detail = detail or _what_holds(queue, job)
    return JobRow(
        id=job.id,
        state=state,
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
        cause=job.fingerprint,
        path=job.where or "",
        detail=detail or job.held_reason or "",
        needs_attention=bool(job.needs_attention),
        claimed=_is_claimed_ahead(job),
        overdue=bool(job.overdue),
        progress=job.progress,
    )


def _what_holds(queue: Any, job: Any) -> str:
    """Why a job that waits may not begin: its site's jobs or its queue are paused, or a quota is full."""
    if job.group in queue.held_groups:
        return f"group:{job.group}"
    if queue.paused:
        return f"queue:{queue.name}"
    return next((why for why, parked in queue.parked.items() if parked.get(job.key) is job), "")


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


# Rows


def queue_row(queue: Any) -> QueueRow:
    """One stored queue."""
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
        dispatchers=tuple(dispatcher_row(one) for one in queue.dispatchers.values()),
    )


def dispatcher_row(one: Any) -> DispatcherRow:
    """One dispatcher, as one queue knows it."""
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
        work=one.last_ping.work,
        held="" if one.held is None else text_of(one.held),
    )
