"""The plan of a storm: what goes wrong, and when. It depends on the seed alone, so a seed repeats it."""

from random import Random
from typing import NamedTuple

#: Kinds of faults, and how often they come. Those that kill a process are counted as kills.
KILLS = {"kill worker": 70, "reboot": 10, "kill client": 10, "kill server": 10}

#: The same where one process has the storage.
KILLS_ALONE = {"kill worker": 1}

#: Seconds before a fault, at most: short, so that most processes die young, and some do not.
PAUSE = 1.2


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


def plan(seed: str, kills: int, shared: bool) -> list[Fault]:
    """Faults in their order, until there are so many kills. ``shared``: whether there are several machines."""
    random = Random(seed)
    kinds = KILLS if shared else KILLS_ALONE
    faults: list[Fault] = []
    while sum(fault.kills for fault in faults) < kills:
        (what,) = random.choices(list(kinds), list(kinds.values()))
        faults.append(Fault(random.random() ** 2 * PAUSE, what, random.randrange(1000), random.random()))
    return faults
