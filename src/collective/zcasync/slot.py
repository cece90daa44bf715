"""A slot: what one dispatcher holds in one queue, written by its claims only."""

from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync.history import History
from collective.zcasync.history import OUTCOMES
from collective.zcasync.history import PERIOD
from collective.zcasync.jobinfo import End
from collective.zcasync.lookup import main_of
from collective.zcasync.readchecks import read_current
from datetime import datetime
from persistent import Persistent
from typing import Any

#: What a slot counts. A count may be negative in one slot: only the sum over a queue's slots means something.
COUNTS = ("backlog", "later", "parked", "awaiting", "quarantined", "succeeded", "failed", "cancelled")


class Slot(Persistent):
    """The record that each claim writes, and the trees beside it.

    One dispatcher owns it at a time; a takeover frees it, with all that lies in it, for the next. So there is nothing
    to resolve: two writers would be two owners, and the later one loses. A changed dict is always a copy that is
    assigned: an abort must not leave a changed dict in the cache.
    """

    #: oid -> (job, agent name): their code has run, and a Deferred of the dispatcher's process will tell the result.
    deferreds: dict[bytes, tuple[Any, str]] = {}
    #: outcome -> jobs filed since the history's last period began.
    filed: dict[str, int] = {}
    #: outcome -> jobs that were in the history, and are forgotten.
    dropped: dict[str, int] = {}
    #: minute -> how the slot stood as it began; see series. None: no claim has written it yet.
    series: Any = None
    #: Jobs that were given to threads, milliseconds that they had waited, and the most of these since the last row.
    tally: tuple[int, int, int] = (0, 0, 0)

    def __init__(self, number: int) -> None:
        self.number = number
        #: UUID of the dispatcher that owns the slot, as text; None: free.
        self.owner: str | None = None
        #: group -> key -> job: what claims found beyond the first 64 of an inbox.
        self.backlogs: Any = OOBTree()
        #: oid -> (job, agent name): claimed and not yet swept.
        self.running: dict[bytes, tuple[Any, str]] = {}
        #: oids of jobs that were claimed ahead and have started since.
        self.started: frozenset[bytes] = frozenset()
        #: (oid, kind, name) -> value: what others tell running jobs. The owner reads it; tellers write it, and merge.
        self.mailbox: Any = OOBTree()
        self.counts: dict[str, int] = {}
        self.history = History()

    # Each claim writes this record: a running job takes a third of the room under its agent's name alone.

    def __getstate__(self) -> Any:
        held: dict[str, list[Any]] = {}
        for job, agent in self.running.values():
            held.setdefault(agent, []).append(job)
        return {**super().__getstate__(), "running": tuple((agent, tuple(jobs)) for agent, jobs in held.items())}

    def __setstate__(self, state: Any) -> None:
        held = state["running"]
        if not isinstance(held, dict):  # as records from before this have it
            held = {job._p_oid: (job, agent) for agent, jobs in held for job in jobs}
        super().__setstate__({**state, "running": held})

    def count(self, kind: str, change: int) -> None:
        """Add to one of COUNTS."""
        if change:
            self.counts = {**self.counts, kind: self.counts.get(kind, 0) + change}
        if change < 0 and kind in OUTCOMES:
            self.dropped = {**self.dropped, kind: self.dropped.get(kind, 0) - change}

    def file(self, job: Any, outcome: str, ended: datetime, group: str | None = None) -> None:
        """Enter a finished job into the history. ``group``: the job's, so that it need not be loaded."""
        self.filed = self._enter(self.filed, job, outcome, ended, group)
        self.count(outcome, 1)

    def file_ended(self, ended: Iterable[tuple[Any, End]]) -> None:
        """The same for jobs that it holds, and that are looked at no more: (job, end). It holds them no longer."""
        filed, counts, oids = self.filed, dict(self.counts), set()
        for job, end in ended:
            filed = self._enter(filed, job, end.outcome, end.moment, end.group)
            counts[end.outcome] = counts.get(end.outcome, 0) + 1
            oids.add(job._p_oid)
        if oids:
            self.filed, self.counts = filed, counts
            self._let_go(oids)

    def _enter(
        self, filed: dict[str, int], job: Any, outcome: str, ended: datetime, group: str | None
    ) -> dict[str, int]:
        """Enter a job into the history; what ``filed`` is by that."""
        number = filed.get(outcome, 0)
        fresh = self.history.add(job, outcome, ended, number >= PERIOD, group)
        return {**filed, outcome: 1 if fresh else number + 1}

    def backlog(self, group: str) -> Any:
        """The backlog of one group, made if it is missing."""
        tree = self.backlogs.get(group)
        if tree is None:
            tree = self.backlogs[group] = LOBTree()
            if self._p_jar is not None:
                self._p_jar.add(tree)  # rejections know it by its oid
        return tree

    def hold(self, agent: str, jobs: Iterable[Any]) -> None:
        """Hold these jobs for an agent. One that comes back for its callbacks waits for its Deferred no longer."""
        held = {job._p_oid: (job, agent) for job in jobs}
        self.running = {**self.running, **held}
        if not held.keys().isdisjoint(self.deferreds):
            self.deferreds = {oid: row for oid, row in self.deferreds.items() if oid not in held}

    def release(self, oid: bytes) -> None:
        """Hold the job no longer."""
        self._let_go((oid,))

    def _let_go(self, oids: Collection[bytes]) -> None:
        self.running = {other: row for other, row in self.running.items() if other not in oids}
        if any(oid in self.deferreds for oid in oids):
            self.deferreds = {other: row for other, row in self.deferreds.items() if other not in oids}
        if not self.started.isdisjoint(oids):
            self.started = self.started.difference(oids)

    def send(self, job: Any, subject: tuple[str, str], value: Any) -> None:
        """Put a letter for a running job into the mailbox.

        The read check makes the sender conflict, and try again, if the job ends meanwhile: a letter is never lost.
        """
        job._p_jar.readCurrent(job)
        job._p_jar.readCurrent(main_of(job))  # with its owner the slot changes, also for its callbacks
        self.mailbox[(job._p_oid, *subject)] = value

    def letters(self, oid: bytes, kind: str) -> Iterator[tuple[str, Any]]:
        """(name, value) of the letters of one kind for one job."""
        for (_oid, _kind, name), value in self.mailbox.items((oid, kind), (oid, kind + "\0")):
            yield name, value

    def has_mail(self, oid: bytes) -> bool:
        """Whether somebody has written to the job itself."""
        return bool(self.mailbox) and any(True for _key in self.mailbox.keys((oid,), (oid + b"\0",)))

    def hold_mail(self) -> None:
        """Let the present transaction conflict with any letter that arrives before its commit.

        For whoever takes a job from its owner that had not ended: its letters go elsewhere from then on. Also if other
        letters are taken out meanwhile, with which it would be merged.
        """
        read_current(self.mailbox)

    def open_mail(self, oid: bytes) -> list[tuple[str, str, Any]]:
        """Take all letters for a job out: (kind, name, value). For the claim that sweeps it."""
        found = [(key, value) for key, value in self.mailbox.items((oid,), (oid + b"\0",))]
        for key, _value in found:
            del self.mailbox[key]
        return [(key[1], key[2], value) for key, value in found]
