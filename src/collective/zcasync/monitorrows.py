"""What is told of jobs and queues: plain rows, and the states in which a person sees a job."""

from collective.zcasync.interfaces import _
from dataclasses import dataclass
from datetime import datetime

WAITING = "waiting"
SCHEDULED = "scheduled"
RUNNING = "running"
FAILED = "failed"
FINISHED = "finished"
CANCELLED = "cancelled"
QUARANTINED = "quarantined"

#: The states in which a person sees a job, in the order of its life, with their labels.
STATES = {
    WAITING: _("state_waiting", default="Waiting"),
    SCHEDULED: _("state_scheduled", default="Scheduled"),
    RUNNING: _("state_running", default="Running"),
    FAILED: _("state_failed", default="Failed"),
    FINISHED: _("state_finished", default="Finished"),
    CANCELLED: _("state_cancelled", default="Cancelled"),
    QUARANTINED: _("state_quarantined", default="Quarantined"),
}

RETRYING = "retrying"
ATTENTION = "attention"

#: The lists of jobs, with their labels: the states, and two that pick some out of them. Jobs that are tried again are
#: scheduled; those that need attention run, are scheduled or quarantined.
LISTS = {
    WAITING: STATES[WAITING],
    SCHEDULED: STATES[SCHEDULED],
    RUNNING: STATES[RUNNING],
    RETRYING: _("state_retrying", default="Retrying"),
    ATTENTION: _("state_attention", default="Need attention"),
    FAILED: STATES[FAILED],
    FINISHED: STATES[FINISHED],
    CANCELLED: STATES[CANCELLED],
    QUARANTINED: STATES[QUARANTINED],
}

#: State of a finished job by its outcome.
STATE_OF_OUTCOME = {"succeeded": FINISHED, "failed": FAILED, "cancelled": CANCELLED}
OUTCOME_OF_STATE = {state: outcome for outcome, state in STATE_OF_OUTCOME.items()}


#: How a dispatcher fares: at work, told to take no more jobs, held, on its way out, without a sign of life, gone.
ACTIVE, PAUSED, HELD, LEAVING, SILENT, ENDED = "active", "paused", "held", "leaving", "silent", "ended"


@dataclass(frozen=True)
class JobRow:
    """One line of a list of jobs."""

    id: str
    state: str
    task: str = ""
    title: str = ""
    user: str = ""
    group: str = ""
    queue: str = ""
    put_at: datetime | None = None
    due: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    attempts: int = 0
    error: str = ""
    path: str = ""
    #: Why it waits, or where it runs: ``quota:``, ``group:`` or ``queue:`` and the name of what is full or paused;
    #: reason of the quarantine; agent.
    detail: str = ""
    needs_attention: bool = False
    #: A dispatcher has taken it ahead, and no job thread has begun it.
    claimed: bool = False
    #: It has run longer than its timeout, and was asked to stop.
    overdue: bool = False
    #: How far it says that it is: done, total, text.
    progress: tuple[float, float | None, str | None] | None = None
    #: The job's class is gone: only ``id`` and ``task`` (the class' name) are known.
    broken: bool = False
    #: Of a failed job: what failures of one cause have in common.
    cause: str = ""

    @property
    def time(self) -> datetime | None:
        """The time that says most about the job in its state."""
        if self.state == SCHEDULED:
            return self.due
        if self.state == RUNNING:
            return self.started
        return self.ended or self.started or self.put_at


#: Entries of a list after which nobody is led on: the keys of all before them are read, each time anew.
LAST_SKIP = 100_000


def next_skip(seen: int) -> int | None:
    """Where a look at a list goes on that has seen so many of its entries; None: so far nobody is led."""
    return seen if seen <= LAST_SKIP else None


@dataclass(frozen=True)
class Page:
    """Some rows of a list, from ``start`` on."""

    rows: tuple[JobRow, ...]
    start: int = 0
    #: Whether rows follow.
    more: bool = False
    #: False if the list was longer than what a page may look at.
    complete: bool = True
    #: How many entries of the list were not looked at, as they stand before this page, and how many were.
    skip: int = 0
    looked: int = 0

    @property
    def seen(self) -> int:
        """How many entries of the list lie before the end of this page."""
        return self.skip + self.looked

    @property
    def goes_on(self) -> bool:
        """Whether there is more of the list."""
        return self.more or not self.complete

    @property
    def next(self) -> int | None:
        """Where the next page begins: ``skip`` of it. None at the end, and where nobody is led on."""
        return next_skip(self.seen) if self.goes_on else None

    @property
    def too_far(self) -> bool:
        """Whether nobody is led on though there is more."""
        return self.goes_on and self.next is None


@dataclass(frozen=True)
class FailureRow:
    """Jobs that failed in one way."""

    group: str
    task: str
    #: "KeyError in import_member"; see Failure.fingerprint.
    cause: str
    number: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Count:
    """How many; with ``more``, at least so many."""

    number: int = 0
    more: bool = False

    def __add__(self, other: "Count") -> "Count":
        return Count(self.number + other.number, self.more or other.more)


@dataclass(frozen=True)
class QuotaRow:
    """One quota of a queue."""

    name: str
    size: int
    filled: bool = False


@dataclass(frozen=True)
class AgentRow:
    """One agent template of a queue."""

    role: str
    name: str
    size: int
    weight: int = 1
    prefetch: int = 0


@dataclass(frozen=True)
class DispatcherRow:
    """One dispatcher, as one queue knows it."""

    uuid: str
    activated: datetime | None = None
    last_ping: datetime | None = None
    dead: bool = False
    leaving: bool = False
    running: int = 0
    role: str = ""
    host: str = ""
    pid: str = ""
    version: str = ""
    #: Bytes in use, and by how many seconds its clock is ahead of the storage's, at its last ping; None: not known.
    memory: int | None = None
    skew: float | None = None
    #: How often its content jobs let a request go first, at its last ping.
    gave_way: int = 0
    #: The share of one processor that its jobs take beside requests, at its last ping, if that is much.
    work: float = 0.0
    #: Why it may not take jobs until a person decides; empty: it may. See ownership.
    held: str = ""

    @property
    def alive(self) -> bool:
        """Whether it runs jobs, or ends those that it runs."""
        return self.activated is not None and not self.dead

    @property
    def state(self) -> str:
        """ACTIVE, HELD, LEAVING, SILENT or ENDED."""
        if self.activated is None:
            return ENDED
        if self.dead:
            return SILENT
        if self.held:
            return HELD
        return LEAVING if self.leaving else ACTIVE


@dataclass(frozen=True)
class QueueRow:
    """One queue."""

    name: str
    counts: dict[str, int]
    paused: bool = False
    owner: str = ""
    quotas: tuple[QuotaRow, ...] = ()
    agents: tuple[AgentRow, ...] = ()
    dispatchers: tuple[DispatcherRow, ...] = ()

    @property
    def served(self) -> bool:
        """Whether a dispatcher that is alive serves it, and is not held."""
        return any(one.alive and not one.held for one in self.dispatchers)
