"""What is good enough, and what of a run's results is not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import operator


@dataclass(frozen=True)
class Goal:
    """One number of the results and its bound. ``path``: keys from the storage's (or ``site``) object on."""

    storage: str
    path: tuple[str, ...]
    bound: float
    least: bool = False

    @property
    def text(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.bound:g}"

    def met(self, value: float) -> bool:
        return (operator.ge if self.least else operator.le)(value, self.bound)


@dataclass(frozen=True)
class Miss:
    """A goal that was not reached; ``value`` None: not measured."""

    goal: Goal
    value: float | None

    def __str__(self) -> str:
        measured = "not measured" if self.value is None else f"{self.value:g}"
        return f"{self.goal.storage} {' '.join(self.goal.path)}: {measured}, goal {self.goal.text}"


#: storage -> (default, without prefetch, group), with one process and with two.
DRAINS = {
    "filestorage": ((0.45, 0.28, 1.2), ()),
    "zeo": ((0.6, 0.4, 1.9), (0.8, 0.5, 1.9)),
    "relstorage": ((1.0, 0.65, 4), ()),
}

#: storage -> where the job is put -> (median, 99 %), milliseconds from commit() to the first line.
STARTS = {
    "filestorage": {"local": (3, 10)},
    "zeo": {"remote": (8, 20)},
    "relstorage": {"remote": (15, 30), "notify": (10, 20)},
}

#: What may grow by this factor at most while the queue grows from a thousand jobs.
GROWTH = 1.5
GROWING = ("put", "claim", "first_page")
BEHIND = tuple(f"{what}_behind_{head}" for head in ("full_quota", "filter") for what in ("put", "claim"))

#: Milliseconds for whatever a person waits for.
LIST_MS = 50

#: Milliseconds for a page of the panel, up to so many waiting and as many finished jobs, and beyond.
PAGE_MS, PAGE_JOBS, LARGE_PAGE_MS = 200, 100_000, 300

#: The same for a search that no structure answers: it looks at 10,000 jobs, however many there are.
SEARCH_MS = 500

#: Shares of commits that conflict, of putters and of claims.
CONFLICTS = {"putters": 0.001, "claims": 0.05}

#: What may not happen at all while they meet, and the milliseconds that no job may wait while threads are free.
NEVER = ("lost", "run_twice")
WAIT_MS = 100

#: Bytes of a job's whole life.
BYTES = {"bytes_per_job": 3200, "bytes_per_job_load": 2300}

#: The Plone part. Reported without a goal: the drain inside a site.
SITE = (
    Goal("site", ("context_ms",), 0.5),
    Goal("site", ("content_ratio_4_threads",), 0.9, True),
    Goal("site", ("content_ratio_2_processes",), 0.9, True),
    Goal("site", ("content_max_attempts",), 3),
    Goal("site", ("editor_failed_share",), 0),
    Goal("site", ("editor_tries",), 1.5),
    Goal("site", ("editor_p95_ms",), 1500),
    Goal("site", ("page_factor",), 1.8),
)


def goals(storage: str, results: dict[str, Any]) -> Iterator[Goal]:
    """All that hold for one storage, or for the site; of long queues those lengths that were measured."""
    if storage == "site":
        yield from SITE
        yield from page_goals(storage, "panel_ms", results)
        return
    for suffix, bounds in zip(("", "_2"), DRAINS[storage], strict=True):
        for name, bound in zip(("drain_default", "drain_no_prefetch", "drain_group"), bounds, strict=False):
            yield Goal(storage, ("ratio", name + suffix), bound, True)
    for where, (median, p99) in STARTS[storage].items():
        yield Goal(storage, ("latency_ms", where, "median"), median)
        yield Goal(storage, ("latency_ms", where, "p99"), p99)
    for size, factors in results.get("growth", {}).items():
        behind = [name for name in BEHIND if name in factors]
        for name in (*GROWING, *behind):
            yield Goal(storage, ("growth", size, name), GROWTH)
    for size, lists in results.get("lists_ms", {}).items():
        for name in lists:
            yield Goal(storage, ("lists_ms", size, name), LIST_MS)
    yield from page_goals(storage, "pages_ms", results)
    for who, share in CONFLICTS.items():
        yield Goal(storage, ("conflict_share", who), share)
    for case in ("backlog", "empty"):
        for name in NEVER:
            yield Goal(storage, ("conflict_share", case, name), 0)
    if storage != "filestorage":
        yield Goal(storage, ("conflict_share", "empty", "wait_ms", "most"), WAIT_MS)
    for name, bound in BYTES.items():
        yield Goal(storage, (name,), bound)


def page_goals(storage: str, key: str, results: dict[str, Any]) -> Iterator[Goal]:
    """Those of the panel's pages, at each number of jobs that was measured."""
    for size, pages in results.get(key, {}).items():
        bound = PAGE_MS if int(size) <= PAGE_JOBS else LARGE_PAGE_MS
        for name in pages:
            yield Goal(storage, (key, size, name), SEARCH_MS if name.startswith("search ") else bound)


def value_of(results: dict[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = results
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, int | float) else None


def misses(results: dict[str, Any]) -> list[Miss]:
    """The goals of what was measured that are not reached."""
    found = []
    for storage, own in results.items():
        if storage in DRAINS or storage == "site":
            for goal in goals(storage, own):
                if goal.path[0] not in own:
                    continue  # its part was not asked for; a part that failed is told elsewhere
                value = value_of(own, goal.path)
                if value is None or not goal.met(value):
                    found.append(Miss(goal, value))
    return found
