"""What the doctor finds: one thing that keeps jobs from running, and how such things are told."""

from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync.jobdetail import oid_text
from dataclasses import dataclass
from dataclasses import replace
from itertools import islice
from typing import Any

#: Jobs that one finding names, and findings of one kind.
NAMED = 10


@dataclass(frozen=True)
class Finding:
    """One thing that keeps jobs from running. ``kind``: a word for programs; ``what``, ``way_out``: for people.

    ``jobs``: ids of those concerned, some of them if there are many. ``problem``: False for what is as it should be,
    and explains why jobs wait.
    """

    kind: str
    what: str
    way_out: str
    queue: str | None = None
    jobs: tuple[str, ...] = ()
    problem: bool = True


def bounded(findings: list[Finding]) -> Iterator[Finding]:
    """Of each kind the first few, and how many more there are."""
    kinds: dict[tuple[str, bool], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.kind, finding.problem), []).append(finding)
    for some in kinds.values():
        yield from some[:NAMED]
        if len(some) > NAMED:
            yield replace(
                some[NAMED],
                what=f"and {len(some) - NAMED} more of this kind, among them: {some[NAMED].what}",
            )


def jobs_text(number: int) -> str:
    """How many jobs wait, in words."""
    return "1 job waits" if number == 1 else f"{number} jobs wait"


def ids(jobs: Iterable[Any]) -> tuple[str, ...]:
    """The ids of the first jobs."""
    return tuple(oid_text(job) for job in islice(jobs, NAMED))
