"""Who of the siblings is dead: told from pings that stand still, by this process' monotonic clock alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: Seconds beyond its grace that a dispatcher which leaves gets, before others take over what it holds.
BEYOND_GRACE = 1.0


@dataclass
class _Sight:
    """What was seen of one sibling in one queue."""

    count: int
    since: float
    limit: float
    #: When it had been silent for too long, and the first own ping after that.
    suspected: float | None = None
    proved: float | None = None

    @property
    def wait(self) -> float:
        """Seconds that it gets to ping once the database has answered again: a storage that stood still held up all."""
        return min(3.0, max(1.0, self.limit / 20))

    def due(self) -> float | None:
        """When to look at it again; None: after the next own ping."""
        if self.suspected is None:
            return self.since + self.limit
        return None if self.proved is None else self.proved + self.wait


class Observer:
    """Not persistent. ``heartbeat``'s thread tells of own pings, the claim thread asks who is dead.

    Only time counts in which this process' own pings were committed without a gap: after its start, a disconnect or a
    gap it counts anew. Else an outage of a minute would make all bury all. And whoever has been silent for too long is
    buried only if it stays silent after a further ping of this process, which proves that the database can be written.
    """

    def __init__(self, now: float, interval: float = 30.0) -> None:
        #: (queue, UUID) -> what was seen. Each queue counts for itself.
        self._seen: dict[tuple[str, str], _Sight] = {}
        #: When the time of those that leave is over.
        self._ends: dict[tuple[str, str], float] = {}
        self._beat = now
        self._interval = interval

    def forget(self) -> None:
        """Count anew."""
        self._seen, self._ends = {}, {}

    def beat(self, now: float, interval: float) -> None:
        """An own ping was committed. ``interval``: seconds until the next one."""
        if now - self._beat > 1.5 * self._interval + 1:
            self.forget()
        self._beat, self._interval = now, interval
        for sight in list(self._seen.values()):
            if sight.suspected is not None and sight.proved is None:
                sight.proved = now

    def dead(self, siblings: list[Any], now: float) -> list[Any]:
        """Those that count as dead. ``now``: this process' monotonic seconds."""
        found = []
        for da in siblings:
            sight, limit = self._seen.get(_who(da)), da.ping_death_interval.total_seconds()
            if sight is None or sight.count != da.last_ping.count or sight.limit != limit:
                since = now if sight is None or sight.count != da.last_ping.count else sight.since
                self._seen[_who(da)] = _Sight(da.last_ping.count, since, limit)
            elif sight.suspected is None:
                if now - sight.since > limit:
                    sight.suspected = now
            elif sight.proved is not None and now - sight.proved > sight.wait:
                found.append(da)
        return found

    def overstayed(self, siblings: list[Any], now: float) -> list[Any]:
        """Those that said that they leave, and are still there after their grace: their processes hang."""
        found = []
        for da in siblings:
            if da.leaving is None:
                self._ends.pop(_who(da), None)
            elif now > self._ends.setdefault(_who(da), now + da.leaving_grace + BEYOND_GRACE):
                found.append(da)
        return found

    def keep(self, queue: str, dispatchers: Iterable[Any]) -> None:
        """Forget all others of that queue."""
        known = {_who(da) for da in dispatchers}
        for who in [who for who in [*self._seen, *self._ends] if who[0] == queue and who not in known]:
            self._seen.pop(who, None)
            self._ends.pop(who, None)

    def due(self, now: float) -> bool:
        """Whether it is time to look at the siblings again, without waiting for the next poll."""
        return any(now > when for when in self._times())

    def rest(self, now: float, longest: float) -> float:
        """Seconds until there is something to do for the heartbeat, at most ``longest``."""
        return 0.0 if self.wants_ping() else max(0.0, min([longest, *(when - now for when in self._times())]))

    def _times(self) -> list[float]:
        """When to look at the siblings again."""
        times = [sight.due() for sight in list(self._seen.values())]
        return [when for when in (*times, *list(self._ends.values())) if when is not None]

    def wants_ping(self) -> bool:
        """Whether an own ping would tell more about a sibling that is silent."""
        return any(sight.suspected is not None and sight.proved is None for sight in list(self._seen.values()))


def _who(da: Any) -> tuple[str, str]:
    return "" if da.queue is None else da.queue.name, da.name
