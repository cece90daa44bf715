"""The plan of a storm: what goes wrong, and when. It depends on the seed alone, so a seed repeats it."""

from random import Random
from typing import NamedTuple

#: Kinds of faults, and how often they come. These kill a process.
KILLS = {"kill worker": 60, "reboot": 8, "kill client": 8, "kill server": 8}

#: These last a while: a machine freezes or wakes up, its network fails, its clock is wrong; the server freezes, or its
#: disk is full.
OTHERS = {
    "freeze machine": 10,
    "slow network": 4,
    "hold network": 4,
    "drop network": 4,
    "reset network": 4,
    "wrong clock": 5,
    "freeze server": 4,
    "full disk": 4,
    "stop worker": 4,
}

#: Those of both where one process has the storage.
ALONE = {"kill worker": 10, "freeze machine": 1, "wrong clock": 1, "full disk": 2, "stop worker": 1}

#: Seconds before a fault, at most: short, so that most processes die young, and some do not.
PAUSE = 1.0

#: Seconds that a fault lasts, at least and at most: longer than it takes to be taken for dead, or not.
LASTING = (0.5, 7.0)

#: Seconds that a clock is wrong, at most.
SKEW = 300.0


class Fault(NamedTuple):
    """``pause``: seconds before it. ``what``: its kind. ``which``: a number that chooses whom it hits. ``strength``:
    between 0 and 1."""

    pause: float
    what: str
    which: int
    strength: float

    @property
    def kills(self) -> bool:
        return self.what in KILLS

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return LASTING[0] + self.strength * (LASTING[1] - LASTING[0])

    @property
    def skew(self) -> float:
        """How wrong a clock is."""
        return (2 * self.strength - 1) * SKEW


def plan(seed: str, kills: int, shared: bool, only_kills: bool = False) -> list[Fault]:
    """Faults in their order, until there are so many kills. ``shared``: whether there are several machines."""
    random = Random(seed)
    kinds = {**KILLS, **OTHERS} if shared else ALONE
    if only_kills:
        kinds = {kind: weight for kind, weight in kinds.items() if kind in KILLS}
    faults: list[Fault] = []
    while sum(fault.kills for fault in faults) < kills:
        (what,) = random.choices(list(kinds), list(kinds.values()))
        faults.append(Fault(random.random() ** 2 * PAUSE, what, random.randrange(1000), random.random()))
    return faults
