"""How many jobs of one group and task run at once in this process: learned from their conflicts.

Jobs that write the same objects conflict nearly always, and several threads then do less than one. So the number that
may run at once is halved at a conflict and grows by one after some attempts without; and an attempt after a conflict
runs alone in its group: first attempts share a lock, later ones hold it. Tasks that do not conflict keep all threads.

An attempt that conflicts although no other one of its group ran here meanwhile conflicts with another process: those
who do so again and again are suspected to need a lane, see laning.
"""

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

import threading
import time

#: Attempts without a conflict after which one more may run at once. Each time that this one more brings conflicts the
#: number is doubled, to this many at most, and halved when it does not: jobs that always conflict are seldom tried
#: side by side, for that costs more than the conflict itself (each thread's cache loses what the others write).
GROW_AFTER, LONGEST_PATIENCE = 50, 1600

#: Conflicts with other processes that make suspicious if no more attempts and seconds lie between them.
SUSPICIOUS, SUSPICIOUS_ATTEMPTS, SUSPICIOUS_IN = 2, 20, 60.0

Neighbour = tuple[str, str]  # group and task, or group and lane


class _Limit:
    """What is known of one group and task."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.running = 0
        self.smooth = 0
        self.patience = GROW_AFTER
        self.grown = False
        #: Attempts that have ended, and of those that conflicted with other processes: (which, when).
        self.attempts = 0
        self.outside: list[tuple[int, float]] = []

    def admits(self) -> bool:
        return self.running < max(1, int(self.limit))

    @property
    def held(self) -> bool:
        """Whether conflicts keep some of the threads from such jobs."""
        return self.limit < self.most

    @property
    def unremarkable(self) -> bool:
        """Whether a new one would know as much. There may be any number of tasks, most of which never conflict."""
        return not (self.running or self.held or self.grown or self.outside) and self.patience == GROW_AFTER

    @property
    def suspicious(self) -> bool:
        """Whether it conflicts with other processes again and again."""
        oldest, first = time.monotonic() - SUSPICIOUS_IN, self.attempts - SUSPICIOUS_ATTEMPTS
        return sum(number >= first and when > oldest for number, when in self.outside) >= SUSPICIOUS

    def learn(self, conflict: bool, outside: bool, attempts: int) -> None:
        self.attempts += attempts
        if outside:
            self.outside = [*self.outside, (self.attempts, time.monotonic())][-SUSPICIOUS:]
        if conflict:
            if self.grown:
                self.patience = min(self.patience * 2, LONGEST_PATIENCE)
            self.limit = max(1.0, min(self.limit, self.most) / 2)
            self.smooth, self.grown = 0, False
            return
        self.smooth += attempts
        if self.smooth >= self.patience and self.held:
            if self.grown:
                self.patience = max(self.patience // 2, GROW_AFTER)
            self.limit = min(float(self.most), self.limit + 1)
            self.smooth, self.grown = 0, True


class Neighbours:
    """The limits and locks of one dispatcher. All methods may be called from any thread."""

    def __init__(self, most: int, threads: int | None = None) -> None:
        self.most = most
        #: Jobs of all kinds that may run at once, and that run.
        self.threads = threads
        self.running = 0
        self.changed = threading.Condition()
        self._limits: dict[Neighbour, _Limit] = {}
        self._sharers: dict[str, int] = {}
        self._alone: dict[str, int] = {}  # group -> threads that wait to be alone, or are
        self._holder: set[str] = set()
        #: group -> how many attempts have begun; a thread's own attempt: (that number, whether others ran).
        self._begun: dict[str, int] = {}
        self._mine = threading.local()
        self._laned: set[Neighbour] = set()
        self._suspected: set[Neighbour] = set()
        #: Those whose jobs were seen to write more than records of the queues.
        self._content: set[Neighbour] = set()
        #: Whether jobs of the lanes of a group, and others that write content, may begin now. Who changes what it
        #: answers notifies ``changed``.
        self.lanes_may_begin: Callable[[str], bool] = lambda group: True
        #: Called, in a job thread, when somebody has become suspicious.
        self.suspicion: Callable[[], None] = lambda: None
        #: Those that belong into a lane which another dispatcher holds; set by claims.
        self.elsewhere: frozenset[Neighbour] = frozenset()
        #: (group, task) -> class of the object that collided last; for the panels.
        self.collisions: dict[Neighbour, str] = {}

    def _limit(self, who: Neighbour) -> _Limit:
        limit = self._limits.get(who)
        if limit is None:
            limit = self._limits[who] = _Limit(self.most)
        return limit

    def enter(self, who: Neighbour, beside: bool = False) -> bool:
        """Take a place for a job if one is free; call with ``changed`` held. Each entered job must ``leave``.

        ``beside``: its thread has a place for another one already, with which the job shares a transaction.
        """
        limit = self._limit(who)
        full = self.threads is not None and self.running >= self.threads and not beside
        if full or not limit.admits() or not self.follows(who):
            return False
        limit.running += 1
        self.running += not beside
        return True

    def follows(self, who: Neighbour) -> bool:
        """Whether a job may begin in a place that another of its kind has; call with ``changed`` held."""
        return not self._alone.get(who[0]) and not self._stands(who)

    def room(self, who: Neighbour) -> int:
        """How many more may begin now. A large number where nothing is known against it."""
        with self.changed:
            limit = self._limits.get(who)
            if not self.follows(who):
                return 0
            return max(1, int(limit.limit)) - limit.running if limit is not None and limit.held else 1000

    def _stands(self, who: Neighbour) -> bool:
        """Whether no content job may begin now, and theirs are."""
        return (who in self._laned or who in self._content) and not self.lanes_may_begin(who[0])

    def narrow(self, who: Neighbour) -> None:
        """Jobs of a lane: they begin one at a time until it is seen that they do not conflict."""
        with self.changed:
            if who not in self._laned:
                self._laned.add(who)
                self._limit(who).limit = 1.0

    def write_content(self, who: Neighbour) -> None:
        """Their jobs write what requests may write as well."""
        self._content.add(who)

    def writes_content(self, group: str) -> bool:
        """Whether there are such jobs of that group. With ``changed`` held."""
        return any(who[0] == group for known in (self._laned, self._content) for who in list(known))

    def give_way(self, who: Neighbour) -> None:
        """Return when such jobs may begin."""
        with self.changed:
            while self._stands(who):
                self.changed.wait(0.1)

    def leave(self, who: Neighbour, beside: bool = False) -> None:
        """Give the place back."""
        with self.changed:
            limit = self._limit(who)
            full = not limit.admits() or self.threads is not None and self.running >= self.threads
            limit.running -= 1
            if limit.unremarkable:
                del self._limits[who]
            self.running -= not beside
            if full:  # else nobody waits for that
                self.changed.notify_all()

    def learn(self, who: Neighbour, conflict: bool, collided: str = "", attempts: int = 1) -> bool:
        """Tell how so many attempts, that share one transaction, ended; whether that has become suspicious.

        ``collided``: name of the object's class.
        """
        with self.changed:
            limit, outside = self._limit(who), conflict and self._from_outside(who[0])
            before = limit.limit
            limit.learn(conflict, outside, attempts)
            if conflict:
                self.collisions[who] = collided
            suspicious = outside and limit.suspicious and who not in self._laned
            if limit.limit > before:
                self.changed.notify_all()
            if suspicious:
                self._suspected.add(who)
        if suspicious:
            self.suspicion()
        return suspicious

    def _from_outside(self, group: str) -> bool:
        """Whether no other attempt of the group ran here during this thread's own."""
        begun, shared = getattr(self._mine, "attempt", (0, True))
        return not shared and begun == self._begun.get(group)

    def suspects(self) -> list[Neighbour]:
        """Those who conflict with other processes again and again."""
        with self.changed:
            self._suspected = {who for who in self._suspected if self._limit(who).suspicious}
            return list(self._suspected)

    def limits(self) -> dict[Neighbour, int]:
        """How many may run at once now, where that is less than the number of threads."""
        with self.changed:
            return {who: max(1, int(limit.limit)) for who, limit in self._limits.items() if limit.limit < self.most}

    @contextmanager
    def attempt(self, group: str, again: bool) -> Iterator[bool]:
        """Around one attempt: the first shares the group with others, a later one has it for itself.

        Yields whether it had to wait.
        """
        waited = False
        with self.changed:
            if again:
                self._alone[group] = self._alone.get(group, 0) + 1
                while group in self._holder or self._sharers.get(group, 0):
                    waited = True
                    self.changed.wait()
                self._holder.add(group)
            else:
                while group in self._holder or self._alone.get(group, 0):
                    waited = True
                    self.changed.wait()
                self._sharers[group] = self._sharers.get(group, 0) + 1
            self._begun[group] = self._begun.get(group, 0) + 1
            self._mine.attempt = self._begun[group], self._sharers.get(group, 0) > (0 if again else 1)
        try:
            yield waited
        finally:
            with self.changed:
                if again:
                    self._holder.discard(group)
                    self._alone[group] -= 1
                else:
                    self._sharers[group] -= 1
                if again or self._alone.get(group, 0):  # else nobody waits for that
                    self.changed.notify_all()
