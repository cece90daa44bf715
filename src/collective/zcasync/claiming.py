"""One dispatcher's claims: which jobs it takes in one transaction, and what it files away with them."""

from collections import deque
from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import entries
from collective.zcasync import execution
from collective.zcasync import retry
from collective.zcasync import sweeping
from collective.zcasync import transactions
from collective.zcasync import waiting
from collective.zcasync.failure import Failure
from collective.zcasync.lookup import loads
from collective.zcasync.queue import get_queues
from collective.zcasync.rejections import Rejections
from collective.zcasync.solitude import Solitude
from collective.zcasync.threadpool import AgentThreadPool
from collective.zcasync.threadpool import execution_items
from datetime import datetime
from itertools import islice
from typing import Any

import logging
import random
import threading
import time

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: Finished jobs that are filed away together, and the seconds that one of them waits at most.
SWEEP_AT, SWEEP_AFTER = 32, 1.0

#: Claims of one transaction that may conflict in a row before the next wake-up has to try again.
CLAIM_TRIES = 20

#: Seconds after which an agent looks again at what it has rejected.
LOOK_ANEW = 60.0

#: And as many more for each rejected job: looking at a long queue anew must not become all that there is to do.
LOOK_ANEW_EACH = 0.01

#: Seconds that a job claimed ahead waits for a thread before it is given back. A claim counts as half of that at most.
STALE_AFTER = 1.0


class Claimer:
    """The part of the claim thread that claims. Only ``report`` may be called from other threads."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        #: queue name -> numbers of the inboxes whose jobs this dispatcher takes at once.
        self.homes: dict[str, list[int]] = {}
        #: Set when something may lie in the inboxes of others.
        self.abroad = threading.Event()
        self._reports: dict[str, deque[tuple[float, bytes, str]]] = {}
        self._seen: dict[str, set[int]] = {}
        self._skipped: dict[tuple[str, str], tuple[float, Rejections]] = {}
        self._due: dict[str, float] = {}
        #: The inner job at which the last poll has looked last; None: it has seen all.
        self._looked: dict[str, int | None] = {}
        #: Seconds that a claim takes, as a moving average.
        self._mean = 0.0
        #: queue name -> what was taken away from threads and is not given back yet.
        self._back: dict[str, list[Any]] = {}
        #: Queues whose last claim broke off: nobody knows whether its commit was stored.
        self._doubtful: set[str] = set()
        self._solitude = Solitude(dispatcher.role)

    def report(self, queue: str, oid: bytes, report: str) -> None:
        """A job thread is done with a job."""
        if queue not in self.homes:
            return  # the queue was removed: there is nothing to file the job in
        self._reports.setdefault(queue, deque()).append((time.monotonic(), oid, report))

    def forget(self, name: str) -> None:
        """A queue is gone: nothing of it is due any more."""
        for known in (self.homes, self._back, self._reports, self._seen, self._due, self._looked):
            known.pop(name, None)
        self._doubtful.discard(name)
        self.dispatcher.shares.forget(name)
        for key in [key for key in self._skipped if key[0] == name]:
            del self._skipped[key]

    def due(self) -> list[float]:
        """Monotonic times at which there is something to do: a sweep, a job's time."""
        sweeps = [reports[0][0] + SWEEP_AFTER for reports in list(self._reports.values()) if reports]
        return sweeps + list(self._due.values())

    def looks_abroad(self) -> bool:
        """Whether the inboxes of others should be looked at as soon as a thread is free."""
        return self.abroad.is_set() or any(self._seen.values())

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
                    self._doubtful.add(name)
                    raise
                last = error
                tracelog.debug("a claim in queue %r conflicted: %s", name, error)
                limit = max(1, min(limit, 32) // 2)
                self.dispatcher.around.stopping.wait(random.random() * 0.002 * 2 ** min(attempt, 5))
                continue
            took = min(time.monotonic() - began, STALE_AFTER / 2)
            self._mean = 0.9 * self._mean + 0.1 * took if self._mean else took
            self._doubtful.discard(name)
            self._back.pop(name, None)
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
    ) -> tuple[dict[str, Any] | None, list[tuple[AgentThreadPool, list[Any]]] | None]:
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
        urgent = full or len(reports) >= SWEEP_AT or bool(queue.parked)
        urgent = urgent or not all(agent.batches for agent in da.values())  # choosers go by what their agent holds
        urgent = urgent or any(now - when >= SWEEP_AFTER or what != "finished" for when, _oid, what in reports)
        urgent = urgent or bool(reports) and waiting.awaited(queue, slot, [oid for _when, oid, _what in reports])
        if urgent and reports:
            sweeping.sweep(queue, slot, [(oid, what) for _when, oid, what in reports])
        if full:
            for quota in queue.quotas.values():
                if quota.filled:
                    quota.clean()  # else members leave when they are swept, after their callbacks
        taker = claims.Taker(queue, slot, self.homes[name])
        info: dict[str, Any] = {}
        given: list[tuple[AgentThreadPool, list[Any]]] = []
        self._solitude.begin({oid for pool in self.dispatcher._pools() for oid in pool.known()})
        if not self.dispatcher._leaving and self.dispatcher.heartbeat.may_claim():
            given = self._claim_for_agents(name, da, taker, info, limit, full)
            if look and not given:
                given = self._second_look(name, da, queue, slot, info, limit, full)
            elif look:
                self.abroad.set()  # the threads got jobs from home: look again when one is free
            if self._solitude.end():
                self.dispatcher._wake.set()
        tidied = self._give_back_lost(name, queue, slot) if name in self._doubtful else False
        if full:
            tidied = self._stale(name, queue, slot) or tidied
            tidied = self._drop_old(queue, slot) or tidied
            tidied = self._look_at_waiting(name, queue, slot) or tidied
        self._note_due(name, queue, taker.now)
        if not given and not taker.changed and not (urgent and reports) and not tidied:
            return info, None
        if reports and not urgent:
            sweeping.sweep(queue, slot, [(oid, what) for _when, oid, what in reports])
        started = [oid for pool in self._pools(name) for oid in pool.started()]
        if started:
            slot.started = frozenset(oid for oid in (*slot.started, *started) if oid in slot.running)
        return info, given

    def _claim_for_agents(
        self, name: str, da: Any, taker: claims.Taker, info: dict[str, Any], limit: int, full: bool
    ) -> list[tuple[AgentThreadPool, list[Any]]]:
        given = []
        pools, shares = self.dispatcher.membership.pools(name, da), self.dispatcher.shares
        room = shares.room(self.dispatcher._pools())
        for agent in shares.agents_in_turn(name, da.values()):
            pool = pools[agent.name]
            free, ahead = pool.wants(agent.prefetch, self._mean)
            if room is not None:  # what is claimed ahead would keep its threads from others
                free, ahead = min(free, room), 0
            free, ahead = min(free, limit), min(ahead, max(limit - free, 0))
            if self._solitude.closed:
                free = ahead = 0
            entry = info.setdefault(
                agent.name, {"size": agent.size, "len": len(agent), "error": None, "new jobs": [], "active jobs": []}
            )
            if full:  # only polls are remembered
                entry["active jobs"] = [ids(job, self.dispatcher.db) for job in agent.jobs()]
            items = []
            if full and free:
                overdue = taker.overdue(free)
                self._hold(agent, overdue, True)
                items += execution_items(overdue, True, name)
                free -= len(overdue)
            taker.skipped = self._rejected(name, agent, full)
            taker.told = self._rejections(name)
            if not agent.batches:
                taker.spill()
                taker.file_ended()
                before = self.dispatcher.manager.savepoint()
                try:
                    items += self._choose(name, agent, free)
                except Exception as error:
                    if transactions.is_disconnect(error) or transactions.is_conflict(error):
                        raise
                    before.rollback()  # what it had taken out of the queue lies there again
                    entry["error"] = self._tell(name, agent, error)
            elif free or ahead:
                items += self._take(name, agent, taker, free, ahead)
            if taker.trouble is not None:
                entry["error"] = self._tell(name, agent, taker.trouble)
                taker.trouble = None
            if taker.more:
                self.dispatcher._wake.set()  # behind what the filter rejects there may be something for it
            if items:
                entry["new jobs"] = [
                    (int.from_bytes(item.oid, "big"), self.dispatcher.db.database_name) for item in items
                ]
                given.append((pool, items))
                room = None if room is None else max(room - len(items), 0)
        return given

    def _rejected(self, name: str, agent: Any, full: bool) -> Rejections:
        """What the agent does not take; looked at anew now and then, and when it has another filter."""
        key, now = (name, f"{agent.name} {agent._filter}"), time.monotonic()
        since, skipped = self._skipped.get(key, (0.0, Rejections()))
        if full and now - since > LOOK_ANEW + len(skipped) * LOOK_ANEW_EACH:
            since, skipped = now, Rejections()
        self._skipped[key] = since, skipped
        return skipped

    def _rejections(self, name: str) -> list[Rejections]:
        return [skipped for (queue, _agent), (_since, skipped) in self._skipped.items() if queue == name]

    def _pool_of(self, agent: Any) -> AgentThreadPool:
        pool: AgentThreadPool = self.dispatcher.queues[agent.queue.name][agent.name]
        return pool

    def _take(self, name: str, agent: Any, taker: claims.Taker, free: int, ahead: int) -> list[Any]:
        """For agents that choose by filter: for the free threads, and ahead of them what may be run twice."""
        try:
            accepts = agent.filter
        except Exception as error:  # its code is gone: nobody knows what this agent may take
            taker.trouble = error
            return []
        pool, queue, home = self._pool_of(agent), taker.queue, taker.only is None
        taken = taker.take(free, accepts, self._solitude.admits(queue, home, pool.admits()))
        self._hold(agent, taken, True)
        items = execution_items(taken, True, name)
        if ahead and len(taken) == free and not self._solitude.closed:
            # After a death nobody would know whether a job that was claimed ahead had begun.
            more = taker.take(ahead, accepts, self._solitude.admits(queue, False, retry.retries_interruptions))
            self._hold(agent, more, False)
            items += execution_items(more, False, name)
        return items

    @staticmethod
    def _tell(queue: str, agent: Any, error: Exception) -> Failure:
        """A filter or chooser has failed: others go on."""
        logger.critical("The filter or chooser of agent %r in queue %r failed", agent.name, queue, exc_info=error)
        return Failure.from_exception(error)

    @staticmethod
    def _hold(agent: Any, taken: list[entries.Taken], active: bool) -> None:
        for job, kind in taken:
            agent.hold(job, active and kind == "run")

    def _choose(self, name: str, agent: Any, free: int) -> list[Any]:
        """For agents with a chooser, or a _choose of their own: one job after the other."""
        items: list[Any] = []
        while len(items) < free:
            job = agent.choose()
            if job is None:
                break
            late = execution.expired(job) if job.parent is None else None
            taken = entries.Taken(job, "run") if late is None else entries.Taken(late, "expire")
            agent.hold(taken.job, False)
            items += execution_items([taken], False, name)
        return items

    def _second_look(
        self, name: str, da: Any, queue: Any, slot: Any, info: dict[str, Any], limit: int, full: bool
    ) -> list[tuple[AgentThreadPool, list[Any]]]:
        """Of foreign inboxes and backlogs take only what lay there one look ago: its home would have taken it, had it a
        thread for it, or an agent that takes it."""
        foreign = [shard for shard in range(len(queue.inboxes)) if shard not in self.homes[name]]
        if not foreign:
            return []
        given, seen = [], self._seen.get(name, set())
        if seen:
            taker = claims.Taker(queue, slot, foreign, only=seen)
            given = self._claim_for_agents(name, da, taker, info, limit, False)
        places = list(queue.places(foreign, slot, clock.utcnow(), everyones=True))
        backlogs = [place for place in places if not place.mine]
        self._seen[name] = {key for key in seen if any(key in place.tree for place in backlogs)}
        if not full and (not given or self._seen[name]):
            backlogs = []  # they may be long: look into them at polls, and while there is something for this one
        rejections = self._rejections(name)
        for place in [place for place in places if place.kind in ("inbox", "overflow")] + backlogs:
            keys = (row.key for row in entries.place_rows(place))
            wanted = (key for key in keys if not rejections or not all(key in some for some in rejections))
            self._seen[name].update(islice(wanted, claims.SPILL))
        return given

    def _pools(self, name: str) -> list[AgentThreadPool]:
        return list(self.dispatcher.queues.get(name, {}).values())

    def _give_back_lost(self, name: str, queue: Any, slot: Any) -> bool:
        """Give back what a claim took whose commit was stored, but not confirmed: no thread was told of it."""
        known = {oid for pool in self._pools(name) for oid in pool.known()}
        known.update(oid for _when, oid, _what in list(self._reports.get(name, ())))
        lost = [job for oid, (job, _agent) in slot.running.items() if oid not in known and loads(job)]
        lost = [job for job in lost if job.agent is not None and job.agent.slot is slot]
        lost = [job for job in lost if job._status_id != 3 and not waiting.has_left(job)]
        for job in lost:
            logger.warning("Job %s was claimed as the database went away; it is given back", job.id)
            sweeping.put_back(queue, slot, job)
        return bool(lost)

    def _look_at_waiting(self, name: str, queue: Any, slot: Any) -> bool:
        """See to jobs that wait for one whose end nobody has told them of."""
        self._looked[name], changed = waiting.look(queue, slot, self._looked.get(name))
        return changed

    @staticmethod
    def _drop_old(queue: Any, own: Any) -> bool:
        """Forget finished jobs after their time, also those in slots that nobody owns any more."""
        changed = False
        for slot in queue.slots.values():
            if slot is own or slot.owner is None:
                dropped = slot.history.drop_before(clock.utcnow(), queue.retention_days, queue.failed_days)
                for outcome, number in dropped.items():
                    slot.count(outcome, -number)
                    changed = True
        return changed

    def _stale(self, name: str, queue: Any, slot: Any) -> bool:
        """Give back what was claimed ahead and has waited too long: its threads have met long jobs."""
        back = self._back.setdefault(name, [])  # kept until it is committed: no thread has these any more
        for pool in self._pools(name):
            back += pool.take_back(STALE_AFTER)
        for item in back:
            row = slot.running.get(item.oid)
            if row is not None and row[0].token == item.token:
                sweeping.put_back(queue, slot, row[0])
        return bool(back)

    def _note_due(self, name: str, queue: Any, now: datetime) -> None:
        """When the next job for later comes due. What was due ``now`` waits for something else: a thread, a resume."""
        self._due.pop(name, None)
        coming = queue.later.keys((clock.to_microseconds(now) + 1,))
        if coming:
            moment = clock.from_microseconds(coming[0][0])
            seconds = (moment - clock.utcnow()).total_seconds()
            self._due[name] = time.monotonic() + max(seconds, 0.005)


def ids(job: Any, db: Any) -> tuple[int, str]:
    """How zc.async names a job: (oid, database name)."""
    return int.from_bytes(job._p_oid, "big"), db.database_name
