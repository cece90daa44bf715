"""The right of way: a request that has conflicted goes first, and content jobs of its site wait, in all processes.

A request takes longer than many a job, so a stream of small jobs makes its every try conflict, and the jobs notice
nothing: they win. So the request says that it goes first, in a record that all dispatchers watch.
"""

from BTrees.LLBTree import LLBucket
from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import notify
from collective.zcasync import transactions
from collective.zcasync.neighbours import Neighbour
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.persistence import SENTINEL
from collective.zcasync.queues import get_queues
from collective.zcasync.surroundings import BUNDLE
from typing import Any

import logging
import random
import threading
import time
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Seconds that a conflict holds jobs up at most. Dispatchers count them from when they hear of it.
LONGEST = 3.0

#: Seconds that are left free when the request is through: who has saved is likely to save again soon.
AFTERWARDS = 1.0

#: Seconds after which an entry is removed whose process did not come to do it; by the clock, so generous.
FORGOTTEN = 60.0

#: Seconds that content jobs may share one transaction: fewer commits are fewer to collide with. More, up to
#: LONGEST_BUNDLE, by BUNDLE_MORE for each request that has claimed the right of way in the last PRESSED seconds.
LONGEST_BUNDLE, BUNDLE_MORE, PRESSED = 0.5, 0.1, 30.0

#: Tries to write it down.
TRIES = 5


def new_record() -> Any:
    """What requests write: number -> oid of the site, with a sentinel, so that writes at once are always merged."""
    return LLBucket({SENTINEL: 0})


class Claim:
    """The right of way of one request, after one conflict.

    A thread of its own writes it down, on a connection of its own: the request neither waits for it nor fails with it.
    ``database``: any that leads to the queues. ``group``: the site's.
    """

    def __init__(self, database: Any, group: str) -> None:
        self._database, self._group = database, group
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._hold, name="zcasync-right-of-way", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """The request is through, or has conflicted again."""
        self._over.set()

    def _hold(self) -> None:
        try:
            number = _number()
            if not self._write(lambda record: _enter(record, number, int(self._group, 16))):
                return
            self._over.wait(LONGEST)
            self._write(lambda record: record.pop(number, None))
        except Exception:
            logger.debug("The right of way of a request could not be written down", exc_info=True)

    def _write(self, change: Callable[[Any], Any]) -> bool:
        """Change the record in a transaction; false if there is none, or too many others do so."""
        manager = transaction.TransactionManager()
        connection = self._database.open(manager)
        try:
            for _try in range(TRIES):
                manager.begin()
                queues = get_queues(connection)
                if queues is None or queues.right_of_way is None:
                    return False  # no dispatcher works here that would know what to do with it
                try:
                    change(queues.right_of_way)
                    notify.tell_at_commit(queues._p_jar)
                    manager.commit()
                    return True
                except Exception as error:
                    manager.abort()
                    if not transactions.is_conflict(error):
                        raise
            return False
        finally:
            manager.abort()
            connection.close()


def _number() -> int:
    """A number that nobody else draws, and that tells its time."""
    return clock.microseconds() << 8 | random.getrandbits(8)


def _enter(record: Any, number: int, site: int) -> None:
    oldest = clock.microseconds() - int(FORGOTTEN * 1_000_000) << 8
    for old in list(record.keys(SENTINEL + 1, oldest)):
        del record[old]
    record[number] = site


def going_first(queues: Any) -> Counter[str]:
    """group -> how many of its requests go first now, as the database tells it."""
    record = queues.right_of_way
    oldest = clock.microseconds() - int(LONGEST * 1_000_000) << 8
    return Counter() if record is None else Counter(f"{site:x}" for site in record.values(oldest))


class RightOfWay:
    """What one dispatcher knows of the requests that go first. The claim thread reads it, job threads ask."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        neighbours.lanes_may_begin = self.may_begin
        #: oid of the record, when it is known.
        self.oid: bytes | None = None
        #: Whether the record has to be read.
        self._news = False
        #: number of each entry -> its group.
        self._entries: dict[int, str] = {}
        #: group -> monotonic time until which none of its content jobs begins.
        self._until: dict[str, float] = {}
        #: group -> monotonic times at which the last of its requests have claimed it.
        self._claimed: dict[str, deque[float]] = {}
        #: How often content jobs of this dispatcher had to let a request go first.
        self.given = 0

    def may_begin(self, group: str) -> bool:
        """Whether content jobs of that group may begin now."""
        until = self._until.get(group)
        return until is None or time.monotonic() >= until

    def bundle(self, who: Neighbour) -> float:
        """Seconds that jobs may share one transaction; see Surroundings."""
        oldest = time.monotonic() - PRESSED
        claimed = sum(1 for when in tuple(self._claimed.get(who[0], ())) if when > oldest)
        return min(BUNDLE + BUNDLE_MORE * claimed, LONGEST_BUNDLE)

    def watched(self, queues: Any) -> Iterator[bytes]:
        """The record whose commits this dispatcher has to hear of."""
        if queues.right_of_way is not None:
            self.oid = queues.right_of_way._p_oid
            self._news = True
            yield queues.right_of_way._p_oid

    def heard(self, oids: set[bytes] | None) -> None:
        """Of a commit to these records; None: to any. Any thread, with locks of the storage held."""
        if oids is None or self.oid in oids:
            self._news = True

    def due(self) -> list[float]:
        """Monotonic times at which a look has to be taken."""
        return list(self._until.values())

    def look(self, manager: Any, connection: Any) -> None:
        """Read what is new, and let jobs begin that have waited long enough. In the claim thread, between claims."""
        now = time.monotonic()
        entries = self._entries
        if self._news:
            self._news = False
            manager.begin()
            try:
                queues = get_queues(connection)
                record = None if queues is None else queues.right_of_way
                entries = {} if record is None else {n: f"{site:x}" for n, site in record.items(SENTINEL + 1)}
            finally:
                manager.abort()
        if entries is not self._entries or self._until and min(self._until.values()) <= now:
            with self._neighbours.changed:
                self._learn(entries, now)
                self._neighbours.changed.notify_all()

    def _learn(self, entries: dict[int, str], now: float) -> None:
        new = [group for number, group in entries.items() if number not in self._entries]
        gone = {group for number, group in self._entries.items() if number not in entries} - set(entries.values())
        self._entries = entries
        for group in gone & set(self._until):
            self._until[group] = min(self._until[group], now + AFTERWARDS)
        for group in new:
            self._until[group] = now + LONGEST
            self._claimed.setdefault(group, deque(maxlen=10)).append(now)
            self.given += self._neighbours.writes_content(group)
        self._until = {group: until for group, until in self._until.items() if until > now}
