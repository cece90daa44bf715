"""Which jobs a dispatcher's claims take for which of its agents."""

from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import entries
from collective.zcasync import execution
from collective.zcasync import groups
from collective.zcasync import retry
from collective.zcasync import transactions
from collective.zcasync.failure import Failure
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.rejections import Rejections
from collective.zcasync.solitude import Solitude
from collective.zcasync.threadpool import AgentThreadPool
from itertools import islice
from typing import Any
from typing import NamedTuple

import logging
import time

logger = logging.getLogger("collective.zcasync.events")

#: Seconds after which an agent looks again at what it has rejected.
LOOK_ANEW = 60.0

#: And as many more for each rejected job: looking at a long queue anew must not become all that there is to do.
LOOK_ANEW_EACH = 0.01


#: Jobs for the threads of agents.
Given = list[tuple[AgentThreadPool, list[Any]]]


class Claim(NamedTuple):
    """One claim in the making: of one queue, in one transaction.

    ``taker``: takes from the home's places. ``info``: what the poll remembers. ``full``: whether a poll is due.
    ``limit``: how many jobs may be taken.
    """

    name: str
    queue: Any
    da: Any
    slot: Any
    taker: claims.Taker
    info: dict[str, Any]
    full: bool
    limit: int


class AgentClaims:
    """The part of a dispatcher's claims that knows its agents, and what they reject. Used by the claim thread only.

    ``homes``: queue name -> numbers of the inboxes whose jobs the dispatcher takes at once.
    """

    def __init__(self, dispatcher: Any, homes: dict[str, list[int]]) -> None:
        self.dispatcher = dispatcher
        self.homes = homes
        #: queue name -> keys that lay in the inboxes of others at the last look.
        self.seen: dict[str, set[int]] = {}
        #: See Spilling.
        self.tails: dict[bytes, int] = {}
        #: Whether something was told of those inboxes since.
        self.news_abroad = False
        #: Whether the last claim has left something that a thread could take that becomes free.
        self.unfinished = False
        self._skipped: dict[tuple[str, str], tuple[float, Rejections]] = {}
        #: Seconds that a claim takes, as a moving average.
        self.mean = 0.0
        self._solitude = Solitude(dispatcher.role)

    def forget(self, name: str) -> None:
        """A queue is gone."""
        self.seen.pop(name, None)
        for key in [key for key in self._skipped if key[0] == name]:
            del self._skipped[key]

    def sees_abroad(self) -> bool:
        """Whether the last look has seen something in the inboxes of others."""
        return any(self.seen.values())

    def refused(self, name: str, key: int) -> bool:
        """Whether all agents of a queue have rejected the job of that key."""
        some = self._rejections(name)
        return bool(some) and all(key in rejections for rejections in some)

    def claim(self, one: Claim, look: bool) -> Given:
        """Take jobs for all agents of a queue. ``look``: also from the inboxes of others."""
        self._solitude.begin({oid for pool in self.dispatcher._pools() for oid in pool.known()})
        self.unfinished = bool(one.queue.parked)
        given = self._claim_for_agents(one, one.taker)
        self.unfinished = self.unfinished or self._solitude.closed or one.taker.moved > 0
        if look and not given:
            given = self._second_look(one)
        elif look:
            self.dispatcher.news.left_abroad(one.name)  # the threads got jobs from home: look when one is free
        if self._solitude.end():
            self.dispatcher.look_soon()
        return given

    def _claim_for_agents(self, one: Claim, taker: claims.Taker) -> Given:
        given, name, da, full = [], one.name, one.da, one.full and taker is one.taker
        pools, shares = self.dispatcher.membership.pools(name, da), self.dispatcher.shares
        room = shares.room(self.dispatcher._pools())
        for agent in shares.agents_in_turn(name, da.values()):
            pool = pools[agent.name]
            free, ahead = pool.wants(agent.prefetch, self.mean)
            if room is not None:  # what is claimed ahead would keep its threads from others
                free, ahead = min(free, room), 0
            free, ahead = min(free, one.limit), min(ahead, max(one.limit - free, 0))
            if self._solitude.closed:
                free = ahead = 0
            entry = one.info.setdefault(
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
                taker.spill(claims.SPILL)
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
            self.unfinished = self.unfinished or self._leaves(agent, taker, free + ahead, len(items))
            if items:
                entry["new jobs"] = [
                    (int.from_bytes(item.oid, "big"), self.dispatcher.db.database_name) for item in items
                ]
                given.append((pool, items))
                room = None if room is None else max(room - len(items), 0)
        return given

    @staticmethod
    def _leaves(agent: Any, taker: claims.Taker, wanted: int, took: int) -> bool:
        """Whether there may be more for the agent than it has taken."""
        if took >= wanted or taker.more:
            return True
        return bool(taker.passed or taker.lanes.full or taker.lanes.shut)

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
        fits = pool.admits()
        at_once = self._solitude.admits(queue, home, fits)
        # After a death nobody would know whether a job that was claimed ahead had begun.
        later = self._solitude.admits(queue, False, lambda job: retry.retries_interruptions(job) and fits(job))
        taken = taker.take(free, accepts, at_once, ahead, later)
        self._hold(agent, taken[:free], True)
        self._hold(agent, taken[free:], False)
        items = execution_items(taken[:free], True, name)
        return items + execution_items(taken[free:], False, name, ahead=True)

    @staticmethod
    def _tell(queue: str, agent: Any, error: Exception) -> Failure:
        """A filter or chooser has failed: others go on."""
        logger.critical("The filter or chooser of agent %r in queue %r failed", agent.name, queue, exc_info=error)
        return Failure.from_exception(error)

    @staticmethod
    def _hold(agent: Any, taken: list[entries.Taken], active: bool) -> None:
        agent.hold_all((job, active and kind == "run") for job, kind in taken)

    def _choose(self, name: str, agent: Any, free: int) -> list[Any]:
        """For agents with a chooser, or a _choose of their own: one job after the other."""
        items: list[Any] = []
        while len(items) < free and not self._solitude.closed:
            job = agent.choose()
            if job is None:
                break
            late = execution.expired(job) if job.parent is None else None
            taken = entries.Taken(job, "run") if late is None else entries.Taken(late, "expire")
            agent.hold(taken.job, False)
            self._solitude.chosen(taken.job)
            items += execution_items([taken], False, name)
        return items

    def _second_look(self, one: Claim) -> Given:
        """Of foreign inboxes and backlogs take only what lay there one look ago: its home would have taken it, had it a
        thread for it, or an agent that takes it."""
        name, queue, slot = one.name, one.queue, one.slot
        foreign = [shard for shard in range(len(queue.inboxes)) if shard not in self.homes[name]]
        if not foreign:
            return []
        given: Given = []
        seen = self.seen.get(name, set())
        if seen:
            taker = claims.Taker(queue, slot, foreign, only=seen, lanes=one.taker.lanes)
            given = self._claim_for_agents(one, taker)
        places = list(queue.places(foreign, slot, clock.utcnow(), everyones=True))
        backlogs = [place for place in places if not place.mine]
        self.seen[name] = {key for key in seen if any(key in place.tree for place in backlogs)}
        # Backlogs may be long: look at their heads when something was moved there, and into all of them at polls, and
        # while there is something for this one.
        gone = bool(seen) and not self.seen[name]
        rows = None if one.full or given and gone else claims.SPILL if self.news_abroad or gone else 0
        rejections = self._rejections(name)
        for place in places:
            if place.kind in ("inbox", "overflow") or not place.mine:
                keys = (row.key for row in islice(entries.place_rows(place), rows if not place.mine else None))
                wanted = (key for key in keys if not rejections or not all(key in some for some in rejections))
                self.seen[name].update(islice(wanted, claims.SPILL))
        return given


def execution_items(taken: list[Any], active: bool, queue: str, ahead: bool = False) -> list[entries.Item]:
    """Items for jobs that a claim has taken. ``ahead``: it has seen that they are run again after interruptions."""
    now = time.monotonic()
    return [
        entries.Item(
            *(job._p_oid, kind, job.token, job.neighbours, active or kind != "run", now),
            JobInfo(job, queue),
            job.task,
            groups.bundle_of(job, ahead) if kind == "run" else None,
            cls=type(job),
            ahead=ahead,
        )
        for job, kind in taken
    ]


def ids(job: Any, db: Any) -> tuple[int, str]:
    """How zc.async names a job: (oid, database name)."""
    return int.from_bytes(job._p_oid, "big"), db.database_name
