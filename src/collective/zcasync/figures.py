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
from collective.zcasync.queue import get_queues
from collective.zcasync.utils import takecount
from dataclasses import dataclass
from dataclasses import field
from typing import Any

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"

#: The queue without a name, whose label would be none.
DEFAULT_QUEUE = "default"

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

    def add(self, number: Any, *values: str) -> None:
        self.samples.append((values, number))

    @property
    def shared(self) -> bool:
        """Whether all processes on one database tell the same."""
        return DATABASE in self.labels


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
        queue = (DATABASE, "queue")
        self.jobs = Figure(
            "zcasync_jobs", GAUGE, "Jobs in a state; those that have ended, while kept.", (*queue, "state")
        )
        self.oldest = Figure(
            "zcasync_oldest_waiting_seconds", GAUGE, "Since when the job that waits longest could have begun.", queue
        )
        self.attention = Figure(
            "zcasync_attention_jobs",
            GAUGE,
            "Jobs that need a person: failing again and again, overdue, or set aside (quarantined).",
            (*queue, "reason"),
        )
        self.hour = Figure(
            "zcasync_last_hour_jobs", GAUGE, "What happened to jobs in the last 60 minutes.", (*queue, "what")
        )
        self.paused = Figure("zcasync_queue_paused", GAUGE, "1: a person has paused the queue.", queue)
        self.filled = Figure("zcasync_quota_running", GAUGE, "Jobs that hold a place of a quota.", (*queue, "quota"))
        self.size = Figure("zcasync_quota_size", GAUGE, "Places of a quota.", (*queue, "quota"))
        self.serving = Figure("zcasync_queue_dispatchers", GAUGE, "Dispatchers that take jobs of the queue.", queue)
        self.dispatchers = Figure(
            "zcasync_dispatchers", GAUGE, "Dispatchers that are registered; silent ones seem dead.", (DATABASE, "state")
        )
        self.threads = Figure(
            "zcasync_dispatcher_threads", GAUGE, "Jobs that all dispatchers at work may run at once.", (DATABASE,)
        )
        self.skew = Figure(
            "zcasync_clock_skew_seconds", GAUGE, "By how much the worst clock of a dispatcher is wrong.", (DATABASE,)
        )

    def figures(self) -> list[Figure]:
        return list(vars(self).values())

    def read(self, database: str, queues: Any) -> None:
        for queue in joblists.all_queues(queues):
            self._read_queue(database, queue)
        rows = processes.processes(queues)
        for state in (processes.ACTIVE, processes.PAUSED, processes.LEAVING, processes.SILENT):
            self.dispatchers.add(sum(row.state == state for row in rows), database, state)
        alive = [row for row in rows if row.state in (processes.ACTIVE, processes.PAUSED)]
        self.threads.add(sum(row.threads for row in alive), database)
        self.skew.add(max((abs(row.row.skew) for row in alive if row.row.skew is not None), default=0.0), database)

    def _read_queue(self, database: str, queue: Any) -> None:
        where = database, _shown(queue.name)
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


def of_databases(connection: Any) -> list[Figure]:
    """What the database of a connection, and those that are open beside it, know of their queues. Reads only, and looks
    at a bounded number of jobs of each queue."""
    shelf = _Shelf()
    for name in sorted(connection.db().databases):
        queues = get_queues(connection.get_connection(name))
        if queues is not None:
            shelf.read(name, queues)
    return shelf.figures()


# Of this process


def of_process() -> list[Figure]:
    """What this process knows by itself; reads memory only."""
    return [*_of_counters(), *_of_dispatcher(inprocess.get())]


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
        runs.add(spread, _shown(queue), task)
    waits = Figure(
        "zcasync_process_wait_seconds",
        HISTOGRAM,
        "From when a job could begin until a thread began with it.",
        ("queue",),
    )
    for queue, spread in sorted(counters.waits.items()):
        waits.add(spread, _shown(queue))
    commits, jobs = counters.shares
    yield from (events, runs, waits)
    yield _one("zcasync_process_shared_commits", COUNTER, "Commits that have stored jobs that run in groups.", commits)
    yield _one("zcasync_process_shared_jobs", COUNTER, "Jobs that were stored by these commits.", jobs)
    info = Figure("zcasync_process_info", GAUGE, "The version of collective.zcasync.", ("version",))
    info.add(1, str(process_identity()["version"]))
    yield info


def _of_dispatcher(dispatcher: Any) -> Iterator[Figure]:
    """Of the dispatcher that runs here; None: zeros tell that there is none."""
    works = dispatcher is not None and bool(dispatcher.activated)
    threads = Figure("zcasync_process_threads", GAUGE, "Job threads of an agent, at most.", ("queue", "agent"))
    busy = Figure("zcasync_process_threads_busy", GAUGE, "Job threads that run a job.", ("queue", "agent"))
    for queue, pools in sorted(dispatcher.queues.items()) if works else ():
        for agent, pool in sorted(pools.items()):
            threads.add(pool.size, _shown(queue), agent)
            busy.add(len(pool.active()), _shown(queue), agent)
    yield _one("zcasync_process_dispatcher", GAUGE, "1: this process runs a dispatcher.", int(works))
    yield _one(
        "zcasync_process_held",
        GAUGE,
        "1: the dispatcher is held and runs no jobs: this seems to be a copy or a restored database.",
        int(works and bool(getattr(dispatcher, "held", False))),
    )
    yield from (threads, busy)
    skew = Figure("zcasync_process_clock_skew_seconds", GAUGE, "How far the clock is ahead of the storage's.")
    if works and dispatcher.heartbeat.skew is not None:
        skew.add(dispatcher.heartbeat.skew)
    yield skew


def _shown(queue: str) -> str:
    return queue or DEFAULT_QUEUE


def _one(name: str, kind: str, help: str, number: float) -> Figure:
    return Figure(name, kind, help, samples=[((), number)])
