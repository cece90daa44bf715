"""Why jobs do not run: all that keeps them, as the database tells it, each with the way out."""

from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync import schema
from collective.zcasync.doctordispatchers import of_dispatchers
from collective.zcasync.doctordispatchers import of_held
from collective.zcasync.doctordispatchers import of_requests
from collective.zcasync.doctordispatchers import SKEW as SKEW
from collective.zcasync.doctordispatchers import where
from collective.zcasync.findings import bounded
from collective.zcasync.findings import Finding
from collective.zcasync.findings import ids
from collective.zcasync.findings import jobs_text
from collective.zcasync.findings import NAMED
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jobdetail import oid_text
from collective.zcasync.jobselection import accepted
from collective.zcasync.jobselection import filter_of
from collective.zcasync.lanes import holder_of
from collective.zcasync.plaindata import connection_of
from collective.zcasync.queue import get_queues
from collective.zcasync.utils import takecount
from datetime import timedelta
from itertools import islice
from typing import Any

#: Waiting jobs that are looked at one by one, from the front.
LOOK_AT_MOST = 500

#: Queues above which the doctor says that they are many.
MANY_QUEUES = 100


def examine(context: Any) -> list[Finding]:
    """All findings, problems first. ``context``: leads to a connection. Reads only, and loads no arguments."""
    queues = get_queues(connection_of(context))
    if queues is None:
        return [
            Finding(
                "no-queues",
                "this database has no queues",
                "import the add-on's profile, or start a dispatcher on it: it creates the default queue",
            )
        ]
    if not schema.understood(queues):
        way_out = "install that version here; dispatchers of this one take no jobs, and its puts are refused"
        return [Finding("schema", schema.too_new(queues), way_out)]
    found = [
        *of_held(queues),
        *of_requests(queues),
        *(finding for queue in queues.values() for finding in _of_queue(queue)),
    ]
    if len(queues) > MANY_QUEUES:
        found.append(
            Finding(
                "many-queues",
                f"there are {len(queues)} queues, and each costs dispatchers and lists a look of its own",
                "use few: quotas, priorities and filters of agents tell jobs apart as well",
                problem=False,
            )
        )
    return sorted(bounded(found), key=lambda finding: not finding.problem)


def _of_queue(queue: Any) -> Iterator[Finding]:
    counts = joblists.counts(queue.parent, queue=queue.name)
    waits = counts[joblists.WAITING].number + counts[joblists.SCHEDULED].number
    yield from of_dispatchers(queue, waits)
    if queue.paused:
        yield Finding(
            "paused",
            f"the queue is paused; {jobs_text(waits)} in it",
            f"zcasync resume {queue.name or 'default'}",
            queue.name,
            problem=waits > 0,
        )
    if queue.arriving or queue.departed:
        yield Finding(
            "arriving",
            "a move of the queue's jobs to another database was broken off: some of them wait in neither",
            "call zcasync move-queue once more, with the same names",
            queue.name,
        )
    yield from _of_parked(queue)
    yield from _of_lanes(queue)
    yield from _of_waiting(queue)
    yield from _of_later(queue)
    yield from _of_running(queue)
    yield from _of_quarantine(queue)


def _of_parked(queue: Any) -> Iterator[Finding]:
    for name, tree in queue.parked.items():
        if not tree:
            continue
        kind, _, value = name.partition(":")
        number = len(tree)
        quota = queue.quotas.get(value) if kind == "quota" else None
        if quota is None or not quota.filled:
            continue
        members = list(quota)
        ended = [job for job in members if is_broken(job) or job._status_id == 3]
        by = ", ".join(f"{oid_text(job)} ({'?' if is_broken(job) else job.task})" for job in members[:NAMED])
        yield Finding(
            "quota-full",
            f"the quota {value!r} is full ({len(members)} of {quota.size}): held by {by}; {jobs_text(number)} for it",
            "the next poll of a dispatcher frees it: those that hold it have ended"
            if ended
            else "wait for those that hold it, cancel them, or make the quota larger in Site Setup",
            queue.name,
            ids(members),
            problem=bool(ended),
        )


def _of_lanes(queue: Any) -> Iterator[Finding]:
    for (group, name), lane in queue.lanes.items() if queue.lanes is not None else ():
        number = lane.waiting()
        holder = holder_of(queue, lane)
        if number:
            site = f" of {group}" if group else ""
            by = "no dispatcher" if holder is None else where(queue.dispatchers.get(holder))
            yield Finding(
                "lane",
                f"{jobs_text(number)} in the lane {name!r}{site}, which {by} holds",
                "nothing: they run one after the other, as they would conflict"
                if holder is not None
                else "the next dispatcher with a free thread takes them",
                queue.name,
                problem=False,
            )


def _of_waiting(queue: Any) -> Iterator[Finding]:
    """What the first waiting jobs say one by one."""
    agents = [agent for da in queue.dispatchers.active() if not da.dead for agent in da.values()]
    # Of an agent with a chooser nobody can tell what it takes: perhaps anything.
    filters = [filter_of(agent) if agent.batches else None for agent in agents]
    open_to_all = not agents or any(accepts is None for accepts in filters)
    refused: list[Any] = []
    held: dict[str, list[Any]] = {}
    unknown: dict[str, list[Any]] = {}
    for job in islice(queue, LOOK_AT_MOST):
        if job.group in queue.held_groups:
            held.setdefault(job.group, []).append(job)
            continue
        if job.callable_name and not callables.known(job.callable_name):
            unknown.setdefault(callables.dotted(job.callable_name), []).append(job)
        if not open_to_all and not any(accepted(job, accepts) for accepts in filters if accepts is not None):
            refused.append(job)
    for group, jobs in held.items():
        number = max(len(jobs), len(queue.parked.get(f"group:{group}", ())))
        yield Finding(
            "group-held",
            f"the jobs of {group} are held; {jobs_text(number)}",
            f"zcasync release --group {group}",
            queue.name,
            ids(jobs),
        )
    for name, jobs in unknown.items():
        yield Finding(
            "unknown-code",
            f"{name}, which {jobs_text(len(jobs))} for, is not found here",
            "install its code where the dispatchers run and restart them, or cancel the jobs; after"
            f" {timedelta(seconds=queue.code_wait)} they are set aside",
            queue.name,
            ids(jobs),
        )
    if refused:
        yield Finding(
            "refused",
            f"no agent takes them: the filters of all agents refuse {len(refused)} of the first waiting jobs",
            "keep one agent that takes anything, or change a filter",
            queue.name,
            ids(refused),
        )
    if agents and _room(agents) == 0 and any(True for _ in queue.waiting()):
        longest = [f"{oid_text(job)} ({job.task})" for job in _longest(queue)]
        yield Finding(
            "busy",
            f"all {sum(agent.size for agent in agents)} job threads are busy; longest: {', '.join(longest)}",
            "wait, give agents more threads, or start another worker",
            queue.name,
            problem=False,
        )


def _room(agents: Iterable[Any]) -> int:
    """How many jobs the agents could take more."""
    return sum(max(agent.places - len(agent), 0) for agent in agents)


def _longest(queue: Any) -> list[Any]:
    running = [job for job, _uuid, _agent in queue.running() if not is_broken(job) and job.active_start is not None]
    return sorted(running, key=lambda job: job.active_start)[:3]


def _of_later(queue: Any) -> Iterator[Finding]:
    now = clock.utcnow()
    count = queue.counts()["later"]
    first = next(iter(queue.later_jobs()), None)
    if first is not None and count > 0:
        yield Finding(
            "later",
            f"{jobs_text(count)} for a later time, the first until {first[0]:%Y-%m-%d %H:%M:%S} UTC",
            "nothing: they start then",
            queue.name,
            ids([first[1]]),
            problem=False,
        )
    missed = []
    for (moment, _key), job in takecount(queue.deadlines.items(), LOOK_AT_MOST):
        if clock.from_microseconds(moment) > now:
            break
        deadline = None if is_broken(job) or job._status_id else job.deadline()
        if deadline is not None and deadline < now:
            missed.append(job)
    inboxes = (job for _key, job in takecount(queue.waiting(), LOOK_AT_MOST) if not is_broken(job))
    missed += [job for job in inboxes if job._begin_by is not None and job.deadline() < now and job not in missed]
    if missed:
        yield Finding(
            "deadline",
            f"{len(missed)} jobs have missed the time by which they had to begin",
            "the next claim of a dispatcher ends them with a TimeoutError; if none runs, start one",
            queue.name,
            ids(missed),
        )


def _held(queue: Any) -> list[Any]:
    return [job for job, _uuid, _agent in queue.running() if not is_broken(job) and job._status_id != 3]


def overdue_jobs(queue: Any) -> list[Any]:
    """Jobs that run longer than their timeout."""
    return [job for job in _held(queue) if job.overdue]


def needy_jobs(queue: Any) -> list[Any]:
    """Jobs that fail again and again and go on trying: those that run, and the first that wait for their next try."""
    waiting = (job for _due, job in takecount(queue.later_jobs(), LOOK_AT_MOST) if not is_broken(job))
    return [job for job in (*_held(queue), *waiting) if job.needs_attention]


def _of_running(queue: Any) -> Iterator[Finding]:
    late = overdue_jobs(queue)
    if late:
        yield Finding(
            "overdue",
            f"{len(late)} jobs run longer than their timeout: {', '.join(job.task for job in late[:NAMED])}",
            "they were asked to stop; look what they do (zcasync job ID), or restart the worker",
            queue.name,
            ids(late),
        )
    inner = list(takecount(queue.awaiting(), LOOK_AT_MOST))
    if inner:
        yield Finding(
            "awaiting",
            f"{jobs_text(len(inner))} for other jobs, among them {oid_text(inner[0][0])} for {oid_text(inner[0][1])}",
            "nothing: they end when those do",
            queue.name,
            ids(outer for outer, _inner in inner),
            problem=False,
        )
    needy = needy_jobs(queue)
    if needy:
        yield Finding(
            "attention",
            f"{len(needy)} jobs fail again and again, among them {needy[0].task}: {_last_trouble(needy[0])}",
            "look at them (zcasync job ID); mend the cause, or cancel them",
            queue.name,
            ids(needy),
        )


def _last_trouble(job: Any) -> str:
    return job.attempt_log[-1][2] if job.attempt_log else job.error


def _of_quarantine(queue: Any) -> Iterator[Finding]:
    by_reason: dict[str, list[Any]] = {}
    for reason, job in queue.quarantined():
        by_reason.setdefault(reason, []).append(job)
    for reason, jobs in by_reason.items():
        yield Finding(
            "quarantine",
            f"{len(jobs)} job{'s were' if len(jobs) > 1 else ' was'} set aside: {reason}",
            "mend the cause and zcasync release ID, or zcasync discard ID",
            queue.name,
            ids(jobs),
        )
