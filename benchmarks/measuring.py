"""How much is measured, and how numbers of several rounds become one with its spread."""

from benchmarks.rates import Rate
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import statistics


@dataclass(frozen=True)
class Scale:
    """How much is measured. ``LONG`` takes most of an hour, ``QUICK`` four minutes for two storages."""

    #: Rounds of limit and ours in turn, and the seconds that each limit or put takes.
    rounds: int = 5
    seconds: float = 0.5
    #: Jobs that each drain runs, and puts whose way to their start is timed.
    drained: int = 1500
    latencies: int = 200
    #: Seconds of a job -> such jobs that each thread runs.
    lasting: Mapping[float, int] = field(default_factory=lambda: {0.02: 40, 0.2: 10})
    #: Waiting jobs: at the first number figures are taken, at the others they are compared with these.
    sizes: Sequence[int] = (1000, 100_000, 1_000_000)
    #: The same where claims look at each job once: behind a full quota, and behind a filter. Only FileStorage, which is
    #: filled the quickest, gets more than the first.
    rejected: Sequence[int] = (100_000, 1_000_000)
    #: Jobs that wait, and as many that have ended, at which the panel's pages are measured.
    paged: Sequence[int] = (100_000, 1_000_000)
    #: Jobs in history beside them, and samples of each figure.
    finished: int = 1_000_000
    samples: int = 40
    #: Seconds in which processes that put and dispatchers meet, and how many of each.
    conflicts: float = 60
    putters: int = 8
    dispatchers: int = 4
    #: Jobs that wait before they meet, where the queue is to be full.
    backlog: int = 40_000


LONG = Scale()
QUICK = Scale(
    rounds=5,
    seconds=0.1,
    drained=200,
    latencies=60,
    lasting={0.02: 8, 0.2: 2},
    sizes=(1000, 10_000),
    rejected=(5000,),
    paged=(100_000,),
    finished=5000,
    samples=15,
    conflicts=4,
    backlog=2000,
)


def in_turn(limit: Callable[[], Rate], ours: Mapping[str, Callable[[], Rate]], rounds: int) -> dict[str, Any]:
    """Measure the limit before and after each of ours, round after round: what else the machine does meets both.

    ``ratio``: ours to the limit beside it, the median; ``spread``: the lowest and the highest. ``rate``: a second,
    medians. ``cpu_ms``: of the processor, medians.
    """
    ratios: dict[str, list[float]] = {name: [] for name in ours}
    rates: dict[str, list[Rate]] = {name: [] for name in ("limit", *ours)}
    before = limit()
    for _ in range(rounds):
        for name, measure in ours.items():
            mine, after = measure(), limit()
            ratios[name].append(2 * mine.each_second / (before.each_second + after.each_second))
            rates[name].append(mine)
            rates["limit"].append(after)
            before = after
    return {
        "ratio": {name: rounded(statistics.median(found)) for name, found in ratios.items()},
        "spread": {name: [rounded(min(found)), rounded(max(found))] for name, found in ratios.items()},
        "rate": {name: rounded(statistics.median(rate.each_second for rate in some)) for name, some in rates.items()},
        "cpu_ms": {name: rounded(statistics.median(rate.cpu for rate in some)) for name, some in rates.items()},
    }


def quantiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, 95 % and 99 %."""
    ordered = sorted(milliseconds)
    most = len(ordered) - 1
    found = {"median": statistics.median(ordered), "p95": ordered[int(most * 0.95)], "p99": ordered[int(most * 0.99)]}
    return {name: rounded(value) for name, value in found.items()}


def rounded(value: float) -> float:
    """Three digits that mean something."""
    return float(f"{value:.3g}") if value < 1000 else round(value)
