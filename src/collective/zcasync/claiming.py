"""One dispatcher's claims: which jobs it takes in one transaction, and what it files away with them."""

from collections import deque
from collections.abc import Iterable
from collective.zcasync import claims
from collective.zcasync import schema
from collective.zcasync import series
from collective.zcasync import sweeping
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.agentclaims import AgentClaims
from collective.zcasync.agentclaims import Claim
from collective.zcasync.agentclaims import Given
from collective.zcasync.entries import Item
from collective.zcasync.failure import Failure
from collective.zcasync.jobinfo import End
from collective.zcasync.laning import Laning
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.queue import get_queues
from collective.zcasync.spilling import SPILL_AT_POLL
from collective.zcasync.threadpool import AgentThreadPool
from collective.zcasync.upkeep import STALE_AFTER
from collective.zcasync.upkeep import Upkeep
from functools import partial
from typing import Any
from typing import NamedTuple

import logging
import random
import time

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: Finished jobs that are filed away together, and the seconds that one of them waits at most. A claim that has other
#: things to store files fewer, but not each single one: each time a part of the history is written.
SWEEP_AT, SWEEP_WITH, SWEEP_AFTER = 32, 16, 1.0

#: Claims of one transaction that may conflict in a row before the next wake-up has to try again.
CLAIM_TRIES = 20


class Report(NamedTuple):
    """What a thread says of a job that it has done with, and when. See Claimer.report."""

    when: float
    oid: bytes
    what: str
    frees: bool
    end: End | None


class _Made(NamedTuple):
    """A claim before its commit. ``info``: what the poll remembers. ``given``: the jobs for threads; None if there is
    nothing to commit. ``swept``: whether it has acted on the reports. ``slot``: its record."""

    info: dict[str, Any] | None
    given: Given | None = None
    swept: bool = False
    slot: Any = None


class Claimer:
    """The part of the claim thread that claims. Only ``report`` may be called from other threads."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        #: queue name -> numbers of the inboxes whose jobs this dispatcher takes at once.
        self.homes: dict[str, list[int]] = {}
        self.news = dispatcher.news
        self._reports: dict[str, deque[Report]] = {}
        #: oid -> token of the last claim of each job that threads have.
        self.tokens: dict[bytes, str] = {}
        #: Queues with reports, and how many of these a claim has looked at and left for the next one.
        self._reported: set[str] = set()
        self._left: dict[str, int] = {}
        #: The queues in which nothing waits for the end of a certain job.
        self._patient: set[str] = set()
        self.agents = AgentClaims(dispatcher, self.homes)
        self.upkeep = Upkeep(dispatcher)
        self.laning = Laning(dispatcher)

    def report(self, queue: str, oid: bytes, report: str, frees: bool = True, end: End | None = None) -> bool:
        """A job thread is done with a job; whether a claim should look at that before a thread needs one.

        Each look costs as much as a short job: those that have ended can wait for each other, but for the first, from
        which their time counts. ``frees``: whether it may have kept others from running. ``end``: of a job at whose
        record the sweep need not look.
        """
        if queue not in self.homes:
            return True  # the queue was removed: there is nothing to file the job in
        reports = self._reports.setdefault(queue, deque())
        reports.append(Report(time.monotonic(), oid, report, frees, end))
        self._reported.add(queue)
        return frees or report != FINISHED or len(reports) in (1, SWEEP_AT) or queue not in self._patient

    def forget(self, name: str) -> None:
        """A queue is gone: nothing of it is due any more."""
        self.homes.pop(name, None)
        for known in (self._reports, self._left):
            known.pop(name, None)
        self._reported.discard(name)
        self._patient.discard(name)
        self.news.forget(name)
        self.agents.forget(name)
        self.upkeep.forget(name)
        self.laning.forget(name)
        self.dispatcher.shares.forget(name)

    def due(self) -> list[float]:
        """Monotonic times at which there is something to do: a sweep, a job's time, a job to give back."""
        reports = [min(self._times(name), default=0.0) for name in self._reported.copy()]
        gathers = [until for name in self.news.queues() if (until := self._gathers(name)) is not None]
        gathers += [*self._stale().values(), *self.upkeep.due.values(), *self.laning.due()]
        return [*filter(None, reports), *gathers]

    def _stale(self) -> dict[str, float]:
        """queue name -> monotonic time at which a job has to be given back that waits for a thread."""
        busy = {name for name, pools in self.dispatcher.queues.items() if any(pool.waiting for pool in pools.values())}
        times = {name: self.upkeep.stale_at(name) for name in busy}
        return {name: when for name, when in times.items() if when is not None}

    def _times(self, name: str) -> list[float]:
        """When reports of threads want a look: the first of all a sweep, and the new ones one at once, if somebody may
        wait for the end of such a job, or there is nothing else to do."""
        reports, left = self._reports.get(name, ()), self._left.get(name, 0)
        times = [reports[0].when + SWEEP_AFTER] if reports else []
        if len(reports) > left:
            patient = name in self._patient and len(reports) < SWEEP_AT
            patient = patient and (any(p.waiting for p in self._pools(name)) or self._gathers(name) is not None)
            new = [reports[at] for at in range(left, len(reports))]
            if not patient or any(one.frees or one.what != FINISHED for one in new):
                times.append(new[0].when)
        return times

    def stirring(self) -> set[str]:
        """The queues in which a claim could find something to do now. Reads memory only."""
        now = time.monotonic()
        found = {name for name in self.news.queues() if self.news.changed(name) or self._wanted(name)}
        found = {name for name in found if self._gathers(name) is None}
        found.update(name for name in self._reported.copy() if min(self._times(name), default=now + 1) <= now)
        found.update(name for times in (self.upkeep.due, self._stale()) for name, when in times.items() if when <= now)
        return found.union(self.upkeep.doubtful, self.laning.queues_due(now))

    def _wanted(self, name: str) -> bool:
        """Whether a thread of the queue's agents is free, or will soon be."""
        pools, mean = self._pools(name), self.agents.mean
        if not pools:
            return True
        if self.dispatcher.shares.room(self.dispatcher._pools()) == 0:
            return False
        return any(any(pool.wants(pool.prefetch, mean)) for pool in pools)

    def _gathers(self, name: str) -> float | None:
        """Until when to wait for more threads before a claim of what the last one has left; None: not at all."""
        pools = self._pools(name)
        if not self.news.left(name) or len(pools) != 1:
            return None
        return pools[0].gathers(self.agents.mean)

    def looks_abroad(self) -> set[str]:
        """The queues whose inboxes of others should be looked at as soon as a thread is free."""
        return self.news.abroad() | {name for name, keys in self.agents.seen.items() if keys}

    def claim(self, name: str, full: bool, look: bool, poll_id: int) -> dict[str, Any] | None:
        """Claim for all agents of one queue, in one transaction; what the poll remembers of it.

        ``poll_id``: the key of the poll that counts what is claimed.
        """
        limit, last = 1000, None
        for attempt in range(CLAIM_TRIES):
            reports = self.take_reports(name)
            began = time.monotonic()
            self.agents.news_abroad = self.news.seen(name, look)
            try:
                self.dispatcher.manager.begin()  # the database may be away: then the reports are kept all the same
                info, items, swept, slot = self._claim_once(name, reports, full, look, limit)
                if items is None:
                    self.dispatcher.manager.abort()
                    self._give_reports(name, reports)
                    if self.agents.unfinished:
                        self.news.more(name)
                    return info
                self.dispatcher.manager.commit()
            except Exception as error:
                unanswered = not transactions.is_conflict(error) or transactions.is_disconnect(error)
                if unanswered:  # it may be stored, and hold the same jobs anew: their records must tell
                    reports = [report._replace(end=None) for report in reports]
                self._give_reports(name, reports)
                self.dispatcher.manager.abort()
                self._forget_look(name, look)
                if unanswered:
                    self.upkeep.doubtful.add(name)
                    raise
                last = error
                tracelog.debug("a claim in queue %r conflicted: %s", name, error)
                limit = max(1, min(limit, 32) // 2)
                look = False  # what this one has seen abroad is too new to be taken by the next try
                self.dispatcher.around.stopping.wait(random.random() * 0.002 * 2 ** min(attempt, 5))
                continue
            self.news.known(name, slot._p_serial)
            took = min(time.monotonic() - began, STALE_AFTER / 2)
            self.agents.mean = 0.9 * self.agents.mean + 0.1 * took if self.agents.mean else took
            self.upkeep.stored(name)
            if swept:
                again = self._known(name)  # taken anew before its last run was reported: that token is of the new one
                for report in reports:
                    if report.oid not in again:
                        self.tokens.pop(report.oid, None)
            else:
                self._give_reports(name, reports)
            self.laning.committed()
            for pool in self._pools(name):
                pool.forget_started()
            for pool, some in items:
                self.dispatcher.shares.took(pool, len(some), self._pools(name))
                self.dispatcher.remember_jobs(some, poll_id)
                self.tokens.update((item.oid, item.token) for item in some)
                pool.give(some)
            if limit < 1000 and items or self.agents.unfinished:
                self.news.more(name)  # also where it took less than there are threads, so as not to conflict again
                if self._wanted(name):
                    self.dispatcher._wake.set()
            return info
        logger.critical(
            "dispatcher %s: %s claims in queue %r conflicted in a row", self.dispatcher.UUID, CLAIM_TRIES, name
        )
        return {} if last is None else self.failed(name, last)

    def failed(self, name: str, error: Exception) -> dict[str, Any]:
        """What the poll remembers of a claim that failed."""
        failure = Failure.from_exception(error)
        return {
            pool.name: {"size": pool.size, "len": 0, "error": failure, "new jobs": [], "active jobs": []}
            for pool in self._pools(name)
        }

    def take_reports(self, name: str) -> list[Report]:
        self._reported.discard(name)
        self._left.pop(name, None)
        reports = self._reports.get(name)
        return [reports.popleft() for _ in range(len(reports))] if reports else []

    def _give_reports(self, name: str, reports: list[Report]) -> None:
        if reports:
            self._reports[name].extendleft(reversed(reports))
            self._reported.add(name)
            self._left[name] = len(reports)

    def _forget_look(self, name: str, look: bool) -> None:
        """A claim was not committed: what it has seen is as new as before."""
        self.news.look_at([name])
        self._left.pop(name, None)
        if look:
            self.news.left_abroad(name)

    def _claim_once(self, name: str, reports: list[Report], full: bool, look: bool, limit: int) -> _Made:
        queues = get_queues(self.dispatcher.connection)
        queue = None if queues is None else queues.get(name)
        da = None if queue is None else queue.dispatchers.get(self.dispatcher.UUID)
        if queue is None or da is None or da.slot is None or not self.dispatcher.membership.is_own(da):
            queue = None
        if queue is None or da is None or da.activated is None:
            self.dispatcher._full.set()  # registered anew, or brought back, by the poll that follows
            return _Made(None)
        slot = da.slot
        may_take = schema.understood(queues)  # else newer code takes the jobs; what has begun here is filed away
        full = full and may_take
        row = series.begin(queue, slot)
        self.agents.unfinished, queue._v_entered = True, False
        now = time.monotonic()
        hurried = bool(queue.parked) or not all(agent.batches for agent in da.values())  # what choosers' agents hold
        if hurried or not waiting.is_patient(queue):
            self._patient.discard(name)
        else:
            self._patient.add(name)
        urgent = full or hurried or len(reports) >= SWEEP_AT
        urgent = urgent or any(now - one.when >= SWEEP_AFTER or one.what != FINISHED for one in reports)
        urgent = urgent or bool(reports) and waiting.awaited(queue, slot, [report.oid for report in reports])
        if urgent and reports:
            self._sweep(queue, slot, reports, ())
        if full:
            for quota in queue.quotas.values():
                if quota.filled:
                    quota.clean()  # else members leave when they are swept, after their callbacks
        lanes = self.laning.begin(queue, slot)
        taker = claims.Taker(queue, slot, self.homes[name], lanes=lanes)
        taker.tails = self.agents.tails
        info: dict[str, Any] = {}
        given: Given = []
        if may_take and not self.dispatcher._leaving and self.dispatcher.heartbeat.may_claim():
            given = self.agents.claim(Claim(name, queue, da, slot, taker, info, full, limit), look)
            if full:
                taker.spill(SPILL_AT_POLL)

        def told() -> set[bytes]:
            return {report.oid for report in (*reports, *list(self._reports.get(name, ())))}

        tidied = self.upkeep.see_to(name, queue, slot, full, told)
        taken = {item.oid for _pool, items in given for item in items}
        taken |= self._known(name)  # asked before the reports: who leaves a pool is told of after that
        done = told() - taken  # what came back may be taken again, by this claim or by one before its report
        tidied = self.laning.end(slot, full, done, partial(self.agents.refused, name)) or tidied
        self.upkeep.note_due(name, queue, taker.now)
        if not given and not taker.changed and not (urgent and reports) and not tidied:
            return _Made(info)
        if not urgent and len(reports) >= SWEEP_WITH:
            self._sweep(queue, slot, reports, given)
            urgent = True
        started = [oid for pool in self._pools(name) for oid in pool.started()]
        if started:
            slot.started = frozenset(oid for oid in (*slot.started, *started) if oid in slot.running)
        self.agents.unfinished = self.agents.unfinished or queue._v_entered
        series.end(slot, row, given)
        return _Made(info, given, urgent, slot)

    def _sweep(self, queue: Any, slot: Any, reports: list[Report], given: Iterable[tuple[Any, list[Item]]]) -> None:
        """File away what threads have done with. ``given``: what this claim takes: perhaps one of those jobs again."""
        again = {item.oid for _pool, items in given for item in items}
        ends = {
            report.oid: report.end
            for report in reports
            if report.end is not None and report.oid not in again and self.tokens.get(report.oid) == report.end.token
        }
        sweeping.sweep(queue, slot, [(report.oid, report.what) for report in reports], ends)

    def _known(self, name: str) -> set[bytes]:
        """oids of the jobs that threads have, or that wait for one."""
        return {oid for pool in self._pools(name) for oid in pool.known()}

    def _pools(self, name: str) -> list[AgentThreadPool]:
        return list(self.dispatcher.queues.get(name, {}).values())
