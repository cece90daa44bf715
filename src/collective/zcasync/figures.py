"""What there is to tell of jobs, queues and dispatchers in numbers, whoever collects them; names of people and of
content are none of it. The numbers of the database are those that the panels show."""

from collections.abc import Iterator
from collective.zcasync import activity
from collective.zcasync import alarms
from collective.zcasync import clock
from collective.zcasync import inprocess
from collective.zcasync import joblists
from collective.zcasync import processes
from collective.zcasync.counters import BOUNDS
from collective.zcasync.counters import counters
from collective.zcasync.counters import Spread
from collective.zcasync.doctor import LOOK_AT_MOST
from collective.zcasync.doctor import needy_jobs
from collective.zcasync.doctor import overdue_jobs
from collective.zcasync.instanceuuid import process_identity
from collective.zcasync.monitorrows import ACTIVE
from collective.zcasync.monitorrows import HELD
from collective.zcasync.monitorrows import LEAVING
from collective.zcasync.monitorrows import PAUSED
from collective.zcasync.monitorrows import SILENT
from collective.zcasync.queue import get_queues
from collective.zcasync.queues import shown_queue
from collective.zcasync.utils import takecount
from dataclasses import dataclass
from dataclasses import field
from typing import Any

#: How dispatchers fare that are told of; those that have ended are not.
STATES = (ACTIVE, PAUSED, HELD, LEAVING, SILENT)

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"

#: Label of the database that holds the queue, on all that is of the database.
DATABASE = "database"


@dataclass(frozen=True)
class Figure:
    """One number, or one for each value of its labels. ``kind``: GAUGE, COUNTER or HISTOGRAM. ``samples``: the values
    of the labels, and the number; a Spread of a HISTOGRAM."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    samples: list[tuple[tuple[str, ...], Any]] = field(default_factory=list)
    #: Whether all processes on one database tell the same.
    shared: bool = False

    def add(self, number: Any, *values: str) -> None:
        self.samples.append((values, number))


def bounds_of(spread: Spread) -> Iterator[tuple[str, int]]:
    """The upper bounds of a Spread, the last one +Inf, and how many were at most that."""
    total = 0
    for bound, number in zip((*map(str, BOUNDS), "+Inf"), spread.numbers, strict=True):
        total += number
        yield bound, total


# Of a database


class _Shelf:
    """The figures of all queues of several databases, as they are read."""

    def __init__(self) -> None:
        self.jobs = _of_all("zcasync_jobs", "Jobs in a state; those that have ended, while kept.", "queue", "state")
        self.oldest = _of_all(
            "zcasync_oldest_waiting_seconds", "Since when the job that waits longest could have begun.", "queue"
        )
        self.attention = _of_all(
            "zcasync_attention_jobs",
            "Jobs that need a person: failing again and again, overdue, or set aside (quarantined).",
            *("queue", "reason"),
        )
        self.hour = _of_all("zcasync_last_hour_jobs", "What happened to jobs in the last 60 minutes.", "queue", "what")
        self.paused = _of_all("zcasync_queue_paused", "1: a person has paused the queue.", "queue")
        self.filled = _of_all("zcasync_quota_running", "Jobs that hold a place of a quota.", "queue", "quota")
        self.size = _of_all("zcasync_quota_size", "Places of a quota.", "queue", "quota")
        self.serving = _of_all("zcasync_queue_dispatchers", "Dispatchers that take jobs of the queue.", "queue")
        self.dispatchers = _of_all(
            "zcasync_dispatchers", "Dispatchers that are registered; silent ones seem dead.", "state"
        )
        self.threads = _of_all("zcasync_dispatcher_threads", "Jobs that all dispatchers at work may run at once.")
        self.skew = _of_all("zcasync_clock_skew_seconds", "By how much the worst clock of a dispatcher is wrong.")

    def figures(self) -> list[Figure]:
        return list(vars(self).values())

    def read(self, database: str, queues: Any) -> None:
        for queue in joblists.all_queues(queues):
            self._read_queue(database, queue)
        rows = processes.processes(queues)
        for state in STATES:
            self.dispatchers.add(sum(row.state == state for row in rows), database, state)
        alive = [row for row in rows if row.state in (ACTIVE, PAUSED, HELD)]
        self.threads.add(sum(row.threads for row in alive if row.state != HELD), database)
        self.skew.add(max((abs(row.row.skew) for row in alive if row.row.skew is not None), default=0.0), database)

    def _read_queue(self, database: str, queue: Any) -> None:
        where = database, shown_queue(queue.name)
        for state, count in joblists.counts(queue.parent, queue=queue.name).items():
            self.jobs.add(count.number, *where, state)
        oldest = alarms.oldest_waiting(queue)
        lasted = 0.0 if oldest is None else (clock.utcnow() - oldest).total_seconds()
        self.oldest.add(max(lasted, 0.0), *where)
        self.attention.add(len(needy_jobs(queue)), *where, "failing")
        self.attention.add(len(overdue_jobs(queue)), *where, "overdue")
        self.attention.add(sum(1 for _ in takecount(queue.quarantined(), LOOK_AT_MOST)), *where, joblists.QUARANTINED)
        hour = activity.last_hour(queue.parent, queue.name)
        for what in ("put", "started", "succeeded", "failed", "cancelled"):
            self.hour.add(getattr(hour, what), *where, what)
        self.paused.add(int(queue.paused), *where)
        for name, quota in sorted(queue.quotas.items()):
            self.filled.add(len(quota), *where, name)
            self.size.add(quota.size, *where, name)
        self.serving.add(sum(1 for da in queue.dispatchers.active() if alarms.takes_jobs(da)), *where)


def _of_all(name: str, help: str, *labels: str) -> Figure:
    return Figure(name, GAUGE, help, (DATABASE, *labels), shared=True)


def of_databases(connection: Any) -> list[Figure]:
    """What the database of a connection, and those that are open beside it, know of their queues. Reads only, and looks
    at a bounded number of jobs of each queue."""
    shelf = _Shelf()
    for name in sorted(connection.db().databases):
        beside = connection.get_connection(name)
        queues = get_queues(beside)
        if queues is not None and queues._p_jar is beside:  # else the root refers to those of another database
            shelf.read(name, queues)
    return shelf.figures()


# Of this process


def of_process() -> list[Figure]:
    """What this process knows by itself; reads memory only."""
    return [*_of_counters(), *_of_dispatchers(inprocess.active())]


def _of_counters() -> Iterator[Figure]:
    events = Figure("zcasync_process_job_events", COUNTER, "What happened to jobs in this process.", ("what", "task"))
    for (what, task), number in sorted(counters.jobs.items()):
        events.add(number, what, task)
    runs = Figure(
        "zcasync_process_run_seconds",
        HISTOGRAM,
        "From when a thread began with a job until it had done with it.",
        ("queue", "task"),
    )
    for (queue, task), spread in sorted(counters.runs.items()):
        runs.add(spread, shown_queue(queue), task)
    waits = Figure(
        "zcasync_process_wait_seconds",
        HISTOGRAM,
        "From when a job could begin until a thread began with it.",
        ("queue",),
    )
    for queue, spread in sorted(counters.waits.items()):
        waits.add(spread, shown_queue(queue))
    commits, jobs = counters.shares
    yield from (events, runs, waits)
    yield _one("zcasync_process_shared_commits", COUNTER, "Commits that have stored jobs that run in groups.", commits)
    yield _one("zcasync_process_shared_jobs", COUNTER, "Jobs that were stored by these commits.", jobs)
    info = Figure("zcasync_process_info", GAUGE, "The version of collective.zcasync.", ("version",))
    info.add(1, str(process_identity()["version"]))
    yield info


def _of_dispatchers(dispatchers: list[Any]) -> Iterator[Figure]:
    """Of those that are at work here: one for each database."""
    agent = (DATABASE, "queue", "agent")
    threads = Figure("zcasync_process_threads", GAUGE, "Job threads of an agent, at most.", agent)
    busy = Figure("zcasync_process_threads_busy", GAUGE, "Job threads that run a job.", agent)
    held = Figure(
        "zcasync_process_held",
        GAUGE,
        "1: the dispatcher is held and runs no jobs: this seems to be a copy or a restored database.",
        (DATABASE,),
    )
    skew = Figure(
        "zcasync_process_clock_skew_seconds", GAUGE, "How far the clock is ahead of the storage's.", (DATABASE,)
    )
    for one in dispatchers:
        database = one.db.database_name
        held.add(int(one.held is not None), database)
        if one.heartbeat.skew is not None:
            skew.add(one.heartbeat.skew, database)
        for queue, pools in sorted(one.queues.items()):
            for name, pool in sorted(pools.items()):
                threads.add(pool.size, database, shown_queue(queue), name)
                busy.add(len(pool.active()), database, shown_queue(queue), name)
    yield _one("zcasync_process_dispatchers", GAUGE, "Dispatchers at work in this process.", len(dispatchers))
    yield from (held, threads, busy, skew)


def _one(name: str, kind: str, help: str, number: float) -> Figure:
    return Figure(name, kind, help, samples=[((), number)])
