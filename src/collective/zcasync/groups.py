"""Group commit: several short jobs of one context in one transaction; if anything goes wrong, each runs by itself."""

from collections import Counter
from collections.abc import Callable
from collective.zcasync import events
from collective.zcasync import outcomes
from collective.zcasync import retry
from collective.zcasync import tracing
from collective.zcasync import transactions
from collective.zcasync.attempts import Run
from collective.zcasync.counters import counters
from collective.zcasync.entries import Item
from collective.zcasync.execution import close
from collective.zcasync.execution import open_for
from collective.zcasync.fence import GroupGuard
from collective.zcasync.lookup import ghost_of
from collective.zcasync.surroundings import after_job
from collective.zcasync.surroundings import entered
from collective.zcasync.surroundings import lets_pass
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.threadlocal import local
from typing import Any
from typing import NamedTuple

import contextvars
import logging
import threading
import time
import transaction

#: Jobs that share one transaction, at most.
MOST = 16

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")


def bundle_of(job: Any, ahead: bool = False) -> Any:
    """What a job that a claim has taken has in common with those whose transaction it may share: who put it, and where.

    None for one that runs by itself: its task is not ``groupable``, it may not run twice, has hooks of its own around
    each attempt, or has failed or died before, so that others would suffer from it. ``ahead``: whether it is known that
    it may run twice.
    """
    if not job.groupable or job.attempts or job.deaths or job.interrupted_by or job.goes_on or job._cursor is not None:
        return None
    if job._has_hooks:
        return None
    return (job.group, job.user, job.context_data) if ahead or retry.retries_interruptions(job) else None


class Done(NamedTuple):
    """What has become of jobs that were to share a transaction."""

    #: Those that were committed, each with what to report of it.
    ended: list[tuple[Item, str]]
    #: Those that have still to run, each by itself.
    alone: list[Item]
    #: The task whose code has tried to commit, abort or begin a transaction, if one has.
    refused: str = ""


class Sizes:
    """How many jobs share a transaction: fewer where such transactions have failed."""

    def __init__(self) -> None:
        self._most: dict[tuple[str, str], int] = {}
        self._refused: set[str] = set()

    def most(self, item: Item) -> int:
        """1: the job runs by itself."""
        if item.bundle is None or item.task in self._refused:
            return 1
        return self._most.get(item.who, MOST)

    def learn(self, who: tuple[str, str], done: Done) -> None:
        """Half as many as have failed together, and one more after each success; tasks that commit by themselves
        never."""
        if done.refused:
            self._refused.add(done.refused)
            logger.warning(
                "%s commits, aborts or begins transactions: its jobs share none any more, in this process. Take"
                " groupable=True from the task",
                done.refused,
            )
            return
        most = self._most.get(who, MOST)
        self._most[who] = min(most + 1, MOST) if done.ended else max(min(most, len(done.alone)) // 2, 2)


class Group:
    """The jobs that one thread runs in one transaction.

    ``more``: gives the next of them, or None; called after each, until there are ``most`` or the time is over that
    ``around.bundle`` says.
    """

    def __init__(self, database: Any, around: Surroundings, more: Callable[[], Item | None], most: int = MOST) -> None:
        self.database = database
        self.around = around
        self.more = more
        self.most = most
        self.manager: Any = transaction.manager
        self.guard = GroupGuard()
        #: All that it has taken up, in turn; those of them that have begun; and those that have to run by themselves.
        self.taken: list[Item] = []
        self.runs: list[tuple[Item, Run]] = []
        self._spans: list[tuple[tracing.Span, Run]] = []
        self.alone: list[Item] = []
        #: What was in the transaction before the first job: those who surround the jobs have put it there.
        self._known: set[int] = set()
        self._connection: Any = None

    def perform(self, first: Item) -> Done:
        """Run ``first`` and those that follow it; on a connection and the default manager of this thread."""
        return contextvars.copy_context().run(self._perform, first)

    def _perform(self, first: Item) -> Done:
        self._connection = open_for(self.database, first.oid, self.around.stopping, first.cls)
        self.taken.append(first)
        try:
            try:
                stored = self._attempt(first)
            finally:
                for _item, run in self.runs:
                    run.running.leave()
            for span, run in self._spans:
                tracing.end(span, run.job) if stored else span.end(tracing.ALONE)
            if not stored:  # not even begun may be one whose record could not be read, or all if the context has failed
                return Done([], self.taken, self.runs[-1][1].task if self.guard.refused else "")
            return self._ended()
        finally:
            close(self._connection, self.manager)

    def _attempt(self, first: Item) -> bool:
        """Run and commit them; whether that is stored. Whatever went wrong, each job will meet it again by itself."""
        with self.around.attempt(first.who, False) as waited:
            if waited:
                self.manager.begin()
            self.manager.registerSynch(self.guard)
            try:
                job = ghost_of(self._connection, first.oid, first.cls)
                if job.token != first.token:
                    return False
                with entered(job):
                    self._call_and_commit(first, job)
            except BaseException as error:
                if not self._trouble(error):
                    return False
            finally:
                self.manager.unregisterSynch(self.guard)
            for who, count in Counter(item.who for item, _run in self.runs).items():
                self.around.learn(who, False, attempts=count)
        return True

    def _call_and_commit(self, first: Item, job: Any) -> None:
        before, end = (local.job, local.running), time.monotonic() + self.around.bundle(first.who)
        self._strangers()
        try:
            item: Item | None = first
            while item is not None:
                goes_on = self._run(item) and len(self.runs) < self.most and time.monotonic() < end
                item = self.more() if goes_on else None
                self.taken += [item] if item is not None else []
            self.guard.finishing = True
            for who, one in {item.who: run.job for item, run in self.runs}.items():
                self.around.commits(who, one)
            self.around.commit(self.manager, job)
        except BaseException:
            self.guard.over = True
            transactions.abort(self.manager)  # inside the context: the site must be set until after the abort
            raise
        finally:
            local.job, local.running = before
        self.guard.over = True

    def _run(self, item: Item) -> bool:
        """Run one job, if it is still ours; whether others may follow."""
        try:
            job = ghost_of(self._connection, item.oid, item.cls)
            fits = job.token == item.token and job._status_id < 2
        except KeyError:  # no record; the run by itself will tell
            fits = False
        if not fits:
            self.alone.append(item)
            return True
        run = Run(lambda: job, self.manager, self.around)
        run.running.enter(job)
        if run.running.leaves:
            run.running.leave()
            self.alone.append(item)
            return True
        tracelog.info("starting %r in thread %s, with %d before it", job, threading.get_ident(), len(self.runs))
        self.runs.append((item, run))  # from now on it is left again whatever comes
        item.info.begin(job)
        self.guard.members.append((job, item.token))
        local.job, local.running = job, run.running
        run.take_up()
        span = tracing.begin(job, 1)
        if span is None:
            contextvars.copy_context().run(run.call)
        else:
            self._spans.append((span, run))
            contextvars.copy_context().run(span.call, run.call)
        after_job(job)
        run.running.timeout = None  # the time of those that follow is not its own
        if self.guard.refused is not None:  # and its code has let that pass
            raise self.guard.refused
        return not self._strangers()

    def _strangers(self) -> bool:
        """Whether the last job has left something in the transaction that may have effects elsewhere."""
        txn = self.manager.get()
        found = [*txn._resources]
        for hooks in (txn._before_commit, txn._after_commit, txn._before_abort, txn._after_abort):
            found += [hook[0] for hook in hooks]
        new = [one for one in found if id(one) not in self._known]
        if not new:
            return False
        ours = list(self._connection.connections.values())
        self._known.update(map(id, new))
        return not all(lets_pass(one) for one in new if one not in ours)

    def _trouble(self, error: BaseException) -> bool:
        """Whether the jobs have been stored all the same."""
        kind = retry.trouble(error)
        if self.guard.finishing and self._is_stored():
            return True
        tracelog.info("%d jobs that shared a transaction run one by one now: %r", len(self.runs), error)
        for _item, run in self.runs:
            run.forget()
        if kind == "conflict":
            for who in {item.who for item, _run in self.runs}:
                self.around.learn(who, True, getattr(error, "class_name", None) or type(error).__name__)
            met = {item.oid for item, _run in self.runs}
            self.taken = [item._replace(conflicts=1) if item.oid in met else item for item in self.taken]
        return False

    def _is_stored(self) -> bool:
        """Whether the commit went through, and only the answer to it was lost, or what came after it has failed."""
        if not transactions.wait_for_database(self.database, self.around.stopping):
            return False
        self.manager.begin()
        item, run = self.runs[0]
        return run.job.token == item.token and outcomes.left(run.job) is not None

    def _ended(self) -> Done:
        """After the commit."""
        counters.shared(len(self.runs))
        ended, alone = [], self.alone
        for item, run in self.runs:
            events.tell(events.JobStarted(run.running.id, run.task))
            run.report()
            item.info.end(run.job)
            if run.job._status_id == 2:
                alone.append(item._replace(kind="callbacks"))
            else:
                ended.append((item, run.ended))
        return Done(ended, alone)
