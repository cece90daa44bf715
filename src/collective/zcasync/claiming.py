"""One dispatcher's claims: which jobs it takes in one transaction, and what it files away with them."""

from collections import deque
from collective.zcasync import claims
from collective.zcasync import sweeping
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.agentclaims import AgentClaims
from collective.zcasync.agentclaims import Claim
from collective.zcasync.agentclaims import Given
from collective.zcasync.failure import Failure
from collective.zcasync.laning import Laning
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.queue import get_queues
from collective.zcasync.threadpool import AgentThreadPool
from collective.zcasync.upkeep import STALE_AFTER
from collective.zcasync.upkeep import Upkeep
from functools import partial
from typing import Any

import logging
import random
import time

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: Finished jobs that are filed away together, and the seconds that one of them waits at most.
SWEEP_AT, SWEEP_AFTER = 32, 1.0

#: Claims of one transaction that may conflict in a row before the next wake-up has to try again.
CLAIM_TRIES = 20


class Claimer:
    """The part of the claim thread that claims. Only ``report`` may be called from other threads."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        #: queue name -> numbers of the inboxes whose jobs this dispatcher takes at once.
        self.homes: dict[str, list[int]] = {}
        self._reports: dict[str, deque[tuple[float, bytes, str]]] = {}
        #: The queues in which nothing waits for the end of a certain job.
        self._patient: set[str] = set()
        self.agents = AgentClaims(dispatcher, self.homes)
        self.upkeep = Upkeep(dispatcher)
        self.laning = Laning(dispatcher)

    def report(self, queue: str, oid: bytes, report: str) -> bool:
        """A job thread is done with a job; whether a claim should look at that before a thread needs one.

        Each look costs as much as a short job: those that have ended can wait for each other, but for the first, from
        which their time counts.
        """
        if queue not in self.homes:
            return True  # the queue was removed: there is nothing to file the job in
        reports = self._reports.setdefault(queue, deque())
        reports.append((time.monotonic(), oid, report))
        return report != FINISHED or len(reports) in (1, SWEEP_AT) or queue not in self._patient

    def forget(self, name: str) -> None:
        """A queue is gone: nothing of it is due any more."""
        self.homes.pop(name, None)
        self._reports.pop(name, None)
        self._patient.discard(name)
        self.agents.forget(name)
        self.upkeep.forget(name)
        self.laning.forget(name)
        self.dispatcher.shares.forget(name)

    def due(self) -> list[float]:
        """Monotonic times at which there is something to do: a sweep, a job's time, a job to give back."""
        sweeps = [reports[0][0] + SWEEP_AFTER for reports in list(self._reports.values()) if reports]
        stale = [when for when in map(self.upkeep.stale_at, self.homes) if when is not None]
        return [*sweeps, *stale, *self.upkeep.due.values(), *self.laning.due()]

    def claim(self, name: str, full: bool, look: bool, poll_id: int) -> dict[str, Any] | None:
        """Claim for all agents of one queue, in one transaction; what the poll remembers of it.

        ``poll_id``: the key of the poll that counts what is claimed.
        """
        limit, last = 1000, None
        for attempt in range(CLAIM_TRIES):
            reports = self.take_reports(name)
            began = time.monotonic()
            self.dispatcher.manager.begin()
            try:
                info, items = self._claim_once(name, reports, full, look, limit)
                if items is None:
                    self.dispatcher.manager.abort()
                    self._give_reports(name, reports)
                    return info
                self.dispatcher.manager.commit()
            except Exception as error:
                self._give_reports(name, reports)
                self.dispatcher.manager.abort()
                if not transactions.is_conflict(error) or transactions.is_disconnect(error):
                    self.upkeep.doubtful.add(name)
                    raise
                last = error
                tracelog.debug("a claim in queue %r conflicted: %s", name, error)
                limit = max(1, min(limit, 32) // 2)
                if look:  # what this one has seen abroad is too new to be taken by the next try
                    look = False
                    self.agents.abroad.set()
                self.dispatcher.around.stopping.wait(random.random() * 0.002 * 2 ** min(attempt, 5))
                continue
            took = min(time.monotonic() - began, STALE_AFTER / 2)
            self.agents.mean = 0.9 * self.agents.mean + 0.1 * took if self.agents.mean else took
            self.upkeep.stored(name)
            self.laning.committed()
            for pool in self._pools(name):
                pool.forget_started()
            for pool, some in items:
                self.dispatcher.shares.took(pool, len(some), self._pools(name))
                self.dispatcher.remember_jobs(some, poll_id)
                pool.give(some)
            if limit < 1000 and items:
                self.dispatcher._wake.set()  # it took less than there are threads, so as not to conflict again
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

    def take_reports(self, name: str) -> list[tuple[float, bytes, str]]:
        reports = self._reports.get(name)
        return [reports.popleft() for _ in range(len(reports))] if reports else []

    def _give_reports(self, name: str, reports: list[tuple[float, bytes, str]]) -> None:
        if reports:
            self._reports[name].extendleft(reversed(reports))

    def _claim_once(
        self, name: str, reports: list[tuple[float, bytes, str]], full: bool, look: bool, limit: int
    ) -> tuple[dict[str, Any] | None, Given | None]:
        queues = get_queues(self.dispatcher.connection)
        queue = None if queues is None else queues.get(name)
        da = None if queue is None else queue.dispatchers.get(self.dispatcher.UUID)
        if queue is None or da is None or da.slot is None or not self.dispatcher.membership.is_own(da):
            queue = None
        if queue is None or da is None or da.activated is None:
            self.dispatcher._full.set()  # registered anew, or brought back, by the poll that follows
            return None, None
        slot = da.slot
        now = time.monotonic()
        hurried = bool(queue.parked) or not all(agent.batches for agent in da.values())  # what choosers' agents hold
        if hurried or not waiting.is_patient(queue):
            self._patient.discard(name)
        else:
            self._patient.add(name)
        urgent = full or hurried or len(reports) >= SWEEP_AT
        urgent = urgent or any(now - when >= SWEEP_AFTER or what != FINISHED for when, _oid, what in reports)
        urgent = urgent or bool(reports) and waiting.awaited(queue, slot, [oid for _when, oid, _what in reports])
        if urgent and reports:
            sweeping.sweep(queue, slot, [(oid, what) for _when, oid, what in reports])
        if full:
            for quota in queue.quotas.values():
                if quota.filled:
                    quota.clean()  # else members leave when they are swept, after their callbacks
        lanes = self.laning.begin(queue, slot)
        taker = claims.Taker(queue, slot, self.homes[name], lanes=lanes)
        info: dict[str, Any] = {}
        given: Given = []
        if not self.dispatcher._leaving and self.dispatcher.heartbeat.may_claim():
            given = self.agents.claim(Claim(name, queue, da, slot, taker, info, full, limit), look)

        def told() -> set[bytes]:
            return {oid for _when, oid, _what in (*reports, *list(self._reports.get(name, ())))}

        tidied = self.upkeep.see_to(name, queue, slot, full, told)
        done = told() - {item.oid for _pool, items in given for item in items}  # what came back may be taken again
        tidied = self.laning.end(slot, full, done, partial(self.agents.refused, name)) or tidied
        self.upkeep.note_due(name, queue, taker.now)
        if not given and not taker.changed and not (urgent and reports) and not tidied:
            return info, None
        if reports and not urgent:
            sweeping.sweep(queue, slot, [(oid, what) for _when, oid, what in reports])
        started = [oid for pool in self._pools(name) for oid in pool.started()]
        if started:
            slot.started = frozenset(oid for oid in (*slot.started, *started) if oid in slot.running)
        return info, given

    def _pools(self, name: str) -> list[AgentThreadPool]:
        return list(self.dispatcher.queues.get(name, {}).values())
