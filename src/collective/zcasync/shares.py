"""Who gets the job threads of a process that its agents want more of than there may be: they take turns, by weight."""

from collections.abc import Hashable
from collections.abc import Iterable
from typing import Any


class Turns:
    """Those who take turns. Each job that one takes puts it back by 1 / weight; who waited longest comes first.

    Who wants nothing for a while saves nothing up: it comes first then, but for one turn only.
    """

    def __init__(self) -> None:
        self._times: dict[Hashable, float] = {}
        self._now = 0.0

    def of(self, who: Hashable) -> float:
        """The smaller the number, the sooner its turn."""
        return max(self._times.get(who, 0.0), self._now)

    def took(self, who: Hashable, jobs: int, weight: int) -> None:
        """It had a turn, and took so many jobs."""
        self._now = self.of(who)
        self._times[who] = self._now + jobs / weight


class Shares:
    """The turns of one dispatcher: its queues take turns, and in each queue its agents. Used by the claim thread only.

    ``threads``: job threads of the process at most; None: as many as the agents say. ``neighbours``: knows how many
    jobs run, and lets no more begin.
    """

    def __init__(self, threads: int | None, neighbours: Any) -> None:
        self.threads = threads
        self.neighbours = neighbours
        self._queues = Turns()
        self._agents: dict[str, Turns] = {}

    def room(self, pools: Iterable[Any]) -> int | None:
        """How many jobs may be claimed by all agents together; None: as many as each has threads for."""
        some = list(pools)
        if self.threads is None or sum(pool.size for pool in some) <= self.threads:
            return None
        return max(self.threads - self.neighbours.running - sum(pool.startable() for pool in some), 0)

    def queues_in_turn(self, names: Iterable[str]) -> list[str]:
        """The queues, beginning with the one whose turn it is."""
        return sorted(names, key=self._queues.of)

    def agents_in_turn(self, queue: str, agents: Iterable[Any]) -> list[Any]:
        """The agents of a queue, beginning with the one whose turn it is."""
        turns = self._agents.setdefault(queue, Turns())
        return sorted(agents, key=lambda agent: turns.of(agent.name))

    def took(self, pool: Any, jobs: int, siblings: Iterable[Any]) -> None:
        """An agent got so many jobs. ``siblings``: the pools of all agents of its queue."""
        self._queues.took(pool.queue_name, jobs, sum(one.weight for one in siblings))
        self._agents.setdefault(pool.queue_name, Turns()).took(pool.name, jobs, pool.weight)

    def forget(self, queue: str) -> None:
        """A queue is gone."""
        self._agents.pop(queue, None)
