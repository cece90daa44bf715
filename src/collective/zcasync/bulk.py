"""What is done with all jobs that match: in batches, each with a commit of its own, so that nothing grows with
their number, and a claim that takes one of them costs a batch its second try at most.

Changes are made in a connection of its own: a caller sees them in its next transaction, and loses nothing of this one.
Each place is read backwards, from what was newest in it at the beginning: claims take jobs from the other end, and
what is put meanwhile is left alone. Claims move jobs from inboxes to backlogs, and from there to other places, and in
that order the places are read. A job that goes the other way meanwhile (put back, rescheduled) may be missed.
"""

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import actions
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync import transactions
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotInQueue
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.jobsearch import NOTHING
from collective.zcasync.jobsearch import Search
from collective.zcasync.lookup import loads
from collective.zcasync.monitorrows import OUTCOME_OF_STATE
from collective.zcasync.persistence import SENTINEL
from collective.zcasync.plaindata import connection_of
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import get_queues
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from typing import TypedDict
from typing import Unpack

import logging
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: What can be cancelled, what can be retried, what can be moved or removed, and what can be deleted.
CANCELLABLE = (joblists.WAITING, joblists.SCHEDULED, joblists.RUNNING)
RETRIABLE = (joblists.FAILED, joblists.CANCELLED)
MOVABLE = CANCELLABLE[:2]
DELETABLE = (joblists.FAILED, joblists.CANCELLED, joblists.FINISHED)

#: Jobs that one transaction changes, and entries that it looks at for them.
BATCH, LOOK = 100, 1000

#: The name of the task that does all this as a job; none of its own jobs is ever meant.
TASK = "collective.zcasync.change_jobs"

Progress = Callable[[Counter[str]], Any]
Move = Callable[[Any, str], Any]
Shelves = Callable[[Any, "_Wanted"], Iterator[Any]]
Verb = Callable[[Any, Any, "_Wanted"], Iterator[str]]


class Which(TypedDict, total=False):
    """Which jobs are meant, and who asks. ``queue``: name; ``group``: of a site; ``task``: name of the task or
    callable, a pattern with * and ?; None: any. ``search``: what else has to hold of them. ``by``: who asks."""

    queue: str | None
    group: str | None
    task: str | None
    search: Search
    by: str


def cancel_all(
    context: Any,
    states: tuple[str, ...] = CANCELLABLE[:2],
    *,
    progress: Progress | None = None,
    **which: Unpack[Which],
) -> Counter[str]:
    """Cancel all jobs in some states, of CANCELLABLE, that match; how many were "cancelled" and are "stopping".

    ``context``: leads to a connection, see plaindata.connection_of. ``progress``: called after each commit with the
    numbers so far; what it raises ends the work. QueueNotFound or InvalidValueError before anything is done.
    """
    wanted = _Wanted(states, CANCELLABLE, **which)
    last = _running if joblists.RUNNING in states else None
    return _Work(context, wanted, progress).do(_held, _cancel, last)


def retry_all(
    context: Any,
    states: tuple[str, ...] = RETRIABLE[:1],
    *,
    progress: Progress | None = None,
    **which: Unpack[Which],
) -> Counter[str]:
    """Put all jobs in some states, of RETRIABLE, that match once more, oldest first; how many were "retried", and how
    many "refused" because they cannot be put (the log tells why). Who was retried already is left out.

    Looks at jobs that are in the history. For the rest see ``cancel_all``.
    """
    wanted = _Wanted(states, RETRIABLE, **which)
    return _Work(context, wanted, progress).do(_filed, _retry)


def delete_all(
    context: Any,
    states: tuple[str, ...],
    *,
    progress: Progress | None = None,
    **which: Unpack[Which],
) -> Counter[str]:
    """Forget all jobs in some states, of DELETABLE, that match and are in the history; how many were "deleted"."""
    wanted = _Wanted(states, DELETABLE, **which)
    return _Work(context, wanted, progress).do(_filed, _delete)


def remove_all(context: Any, *, progress: Progress | None = None, **which: Unpack[Which]) -> Counter[str]:
    """Forget all waiting jobs that match, as if nobody had put them; how many were "removed"."""
    return _Work(context, _Wanted(MOVABLE, MOVABLE, **which), progress).do(_held, _remove)


def move_all(
    context: Any,
    verb: Move,
    states: tuple[str, ...] = MOVABLE,
    *,
    progress: Progress | None = None,
    **which: Unpack[Which],
) -> Counter[str]:
    """Move all waiting jobs, in states of MOVABLE, that match; how many were "moved".

    ``verb``: called with a job and ``by``, as actions.run_now is; for a job that is where it is wanted it does nothing,
    and answers False.
    """
    wanted = _Wanted(states, MOVABLE, **which)
    return _Work(context, wanted, progress).do(_held, partial(_move, verb))


@dataclass(frozen=True)
class _Wanted:
    """Which jobs are meant, see Which; ``states``, of those ``allowed``."""

    states: tuple[str, ...]
    allowed: tuple[str, ...]
    queue: str | None = None
    group: str | None = None
    task: str | None = None
    search: Search = NOTHING
    by: str = ""

    def __post_init__(self) -> None:
        for state in self.states:
            if state not in self.allowed:
                raise InvalidValueError(f"jobs that are {state!r} cannot be meant here: use {', '.join(self.allowed)}")

    def fits(self, job: Any) -> bool:
        if not loads(job) or self.group is not None and job.group != self.group:
            return False
        names = {job.task, callables.dotted(job.callable_name)}
        if self.task is not None and not any(fnmatchcase(name, self.task) for name in names):
            return False
        return job.task != TASK and self.search.fits(job)

    def __str__(self) -> str:
        told = {"queue": self.queue, "site": self.group, "task": self.task}
        return ", ".join([*self.states, *(f"{name} {value!r}" for name, value in told.items() if value is not None)])


class _Work:
    """One call: what is done with which jobs."""

    def __init__(self, context: Any, wanted: _Wanted, progress: Progress | None) -> None:
        self.db = connection_of(context).db()
        self.wanted, self.progress = wanted, progress
        self.size = BATCH
        self.done: Counter[str] = Counter()

    def do(self, shelves: Shelves, verb: Verb, last: Callable[[Any], Iterator[Any]] | None = None) -> Counter[str]:
        """Go through all shelves, then through those that came meanwhile, then through what is in no tree."""
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)
        try:
            seen: set[bytes] = set()
            while new := list(self._new(shelves, seen)):
                for queue, tree, key in new:
                    self._clear(queue, tree, key, verb)
            if last is not None:
                for queue in self._queues():
                    self._commit(partial(self._each, queue, last, verb))
        finally:
            self.manager.abort()
            self.connection.close()
        told = ", ".join(f"{number} {word}" for word, number in sorted(self.done.items()))
        logger.info("Many jobs on request (%s): %s", self.wanted, told or "none")
        return self.done

    def _queues(self) -> list[Any]:
        if self.wanted.queue is not None:
            return [actions.check_writable(get_queue(self.connection, self.wanted.queue))]
        found = get_queues(self.connection)
        return [] if found is None else [actions.check_writable(queue) for queue in found.values()]

    def _new(self, shelves: Shelves, seen: set[bytes]) -> Iterator[tuple[Any, Any, Any]]:
        """Queue, tree and last key of the shelves that were not seen yet."""
        self.manager.begin()
        for queue in self._queues():
            for tree in shelves(queue, self.wanted):
                if tree._p_oid not in seen:
                    seen.add(tree._p_oid)
                    if tree:
                        yield queue, tree, tree.maxKey()

    def _clear(self, queue: Any, tree: Any, key: Any, verb: Verb) -> None:
        """Batch by batch, do what is to be done with the jobs of one shelf."""
        while key is not None:
            key = self._commit(partial(self._batch, queue, tree, key, verb))

    def _commit(self, change: Callable[[], tuple[Counter[str], Any]]) -> Any:
        """One batch; with fewer jobs, if others change the same ones. ``change`` answers with what it did, and with
        what is to be returned."""
        for attempt in range(actions.TRIES):
            self.manager.begin()
            try:
                done, answer = change()
                self.manager.commit() if done else self.manager.abort()
                break
            except Exception as error:
                self.manager.abort()
                if attempt == actions.TRIES - 1 or not transactions.is_conflict(error):
                    raise
                self.size = max(1, self.size // 2)
                transactions.conflict_pause(attempt + 1, None)
        self.size = min(BATCH, self.size * 2)
        self.connection.cacheGC()
        self.done.update(done)
        if done and self.progress is not None:
            self.progress(self.done.copy())
        return answer

    def _batch(self, queue: Any, tree: Any, key: Any, verb: Verb) -> tuple[Counter[str], Any]:
        """What was done, and the key at which the next batch begins; None at the end."""
        done: Counter[str] = Counter()
        for _number in range(LOOK):
            key = _at_most(tree, key)
            if key is None or done.total() >= self.size:
                break
            done.update(verb(queue, tree[key], self.wanted))
            key = _before(key)
        return done, key

    def _each(self, queue: Any, jobs: Callable[[Any], Iterator[Any]], verb: Verb) -> tuple[Counter[str], None]:
        return Counter(word for job in list(jobs(queue)) for word in verb(queue, job, self.wanted)), None


def _at_most(tree: Any, key: Any) -> Any:
    """The last key of the tree that is not behind ``key``; None if there is none."""
    try:
        found = tree.maxKey(key)
    except ValueError:
        return None
    return None if found == SENTINEL else found


def _before(key: Any) -> Any:
    return key - 1 if isinstance(key, int) else (*key[:-1], key[-1] - 1)


def _held(queue: Any, wanted: _Wanted) -> Iterator[Any]:
    """Where jobs wait, and then those that wait for another job: in the order in which they go."""
    if {joblists.WAITING, joblists.SCHEDULED}.intersection(wanted.states):
        yield from (*queue.inboxes, *queue.overflows)
        yield from (place.tree for place in queue.places((), None, None))
    if joblists.RUNNING in wanted.states:
        yield queue.waiting_for


def _running(queue: Any) -> Iterator[Any]:
    return (job for job, _uuid, _agent in queue.running())


def _cancel(queue: Any, entry: Any, wanted: _Wanted) -> Iterator[str]:
    """``entry``: a job, or the jobs that wait for one."""
    for job in entry if isinstance(entry, tuple) else (entry,):
        if wanted.fits(job) and job._status_id < 2 and _state_of(job) in wanted.states:
            answer = queue.cancel(job, by=wanted.by)
            if answer == "cancelled" and wanted.by:
                job.remember("by_cancel", wanted.by, clock.utcnow())
            yield answer


def _state_of(job: Any) -> str:
    if job.token is not None or job._status_id == 1:
        return joblists.RUNNING
    due = job.not_before()
    return joblists.SCHEDULED if due is not None and due > clock.utcnow() else joblists.WAITING


def _filed(queue: Any, wanted: _Wanted) -> Iterator[Any]:
    """The history, oldest first."""
    for slot in queue.slots.values():
        for outcome in map(OUTCOME_OF_STATE.__getitem__, wanted.states):
            for name in reversed(slot.history.names(outcome)):
                for group, tree in slot.history.periods[name].items():
                    if wanted.group in (None, group):
                        yield tree


def _retry(queue: Any, job: Any, wanted: _Wanted) -> Iterator[str]:
    if not wanted.fits(job) or job.retried_as:
        return
    try:
        actions.put_again(queue, job, wanted.by)
    except ZCAsyncError as error:
        logger.warning("Job %s (%s) cannot be put again: %s", job.id, job.task, error)
        yield "refused"
    else:
        yield "retried"


def _delete(queue: Any, job: Any, wanted: _Wanted) -> Iterator[str]:
    if wanted.fits(job) and queue.delete(job):
        job.parent = None
        yield "deleted"


def _remove(queue: Any, job: Any, wanted: _Wanted) -> Iterator[str]:
    if wanted.fits(job) and job.token is None:
        try:
            queue.remove(job)
        except JobNotInQueue:
            return  # an entry that the job has left behind
        yield "removed"


def _move(verb: Move, queue: Any, job: Any, wanted: _Wanted) -> Iterator[str]:
    if wanted.fits(job) and job._status_id == 0 and job.token is None and _state_of(job) in wanted.states:
        if job.key is not None and verb(job, wanted.by) is not False:
            yield "moved"
