"""Tells from begins and ends that jobs with a quota have written down whether there were ever too many at once."""

from chaos.ledger import Ledger
from chaos.ledger import QUOTAS
from chaos.ledger import read
from collections.abc import Iterator
from typing import NamedTuple


class Stay(NamedTuple):
    """One run of a job with a quota, as long as its place was surely its own."""

    quota: str
    name: str
    begin: float
    end: float


def exceeded(files: Ledger) -> list[str]:
    """What is wrong, as texts. A job has one place, however often it runs: those of one name count once."""
    found = []
    for quota, size in QUOTAS.items():
        moments = []
        for stay in stays(files):
            if stay.quota == quota:
                moments += [(stay.begin, 1, stay.name), (stay.end, 0, stay.name)]
        inside: dict[str, int] = {}
        for moment, begins, name in sorted(moments):
            inside[name] = inside.get(name, 0) + (1 if begins else -1)
            names = sorted(name for name, runs in inside.items() if runs)
            if begins and len(names) > size:
                found.append(f"quota {quota} of size {size} held {', '.join(names)} at {moment:.3f}")
    return found


def stays(files: Ledger) -> Iterator[Stay]:
    """All runs.

    A run ends when it says so, when its process is killed or cut off (whoever takes its job over has its place from
    then on), or when the job runs elsewhere, if nothing else is known.
    """
    ends: dict[str, list[float]] = {}
    for _what, pid, moment in read(files.ends):
        ends.setdefault(pid, []).append(float(moment))
    begun: dict[tuple[str, ...], float] = {}
    runs: list[tuple[tuple[str, ...], float, float]] = []
    begins: dict[str, list[float]] = {}
    for word, *run, moment in read(files.stays):
        key, when = tuple(run), float(moment)
        if word == "in":
            begun[key] = when
            begins.setdefault(run[1], []).append(when)
        else:
            runs.append((key, begun.pop(key), when))
    runs += [(key, when, float("inf")) for key, when in begun.items()]
    for (quota, name, pid, _token), begin, end in runs:
        cut = min((moment for moment in ends.get(pid, ()) if moment >= begin), default=end)
        again = min((moment for moment in begins[name] if moment > begin), default=end)
        yield Stay(quota, name, begin, max(begin, min(end, cut, again)))
