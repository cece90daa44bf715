"""Write the table of measured numbers in docs/concepts/performance.md from a results file of `make bench`.

Usage: .venv/bin/python scripts/benchtable.py [benchmarks/results/DATE.json]

Without a file it is the one that the page names already.
"""

from pathlib import Path
from typing import Any

import json
import re
import sys

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs" / "concepts" / "performance.md"

#: What is written here stands between these, and the first names the file.
BLOCK = re.compile(r"<!-- numbers of (?P<file>\S+) -->\n.*?<!-- end of numbers -->", re.DOTALL)

STORAGES = {"filestorage": "FileStorage", "zeo": "ZEO", "relstorage": "RelStorage"}

#: What has a rate and a ratio: key -> label.
RATES = {
    "put": "put, one a transaction",
    "put_100": "put, 100 a transaction",
    "drain_default": "run, default",
    "drain_no_prefetch": "run, `prefetch` 0",
    "drain_group": "run, group commit",
}

STARTS = {"local": "start, same process", "remote": "start, other process", "notify": "start, other process, NOTIFY"}

#: What was measured in a Plone site over ZEO.
SITE = {
    "context_ms": "entering and leaving a job's context, ms",
    "content_ratio_4_threads": "content jobs in 4 threads, to 1",
    "content_ratio_2_processes": "content jobs in 2 processes, to 1",
    "content_max_attempts": "attempts of a content job, at most",
    "drain_rate": "jobs that do nothing, a second",
    "editor_failed_share": "requests of editors that fail beside content jobs",
    "editor_tries": "tries of such a request",
    "editor_p95_ms": "its time, 95 %, ms",
    "page_factor": "a page beside a busy embedded dispatcher, to one without",
}

#: What was measured of one job's life, alone and under load.
LIVES = {"bytes_per_job": "bytes a job", "records_per_job": "records a job", "commits_per_job": "commits a job"}


def number(value: Any) -> str:
    """Three digits that mean something, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def look(results: dict[str, Any], *path: str) -> Any:
    """What stands at the end of the path, or None."""
    found: Any = results
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def rows(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(label, a cell for each storage)."""
    kinds = [kind for kind in STORAGES if kind in results]

    def cells(*path: str) -> list[str]:
        return [number(look(results[kind], *path)) for kind in kinds]

    def pairs(first: tuple[str, ...], second: tuple[str, ...], pattern: str) -> list[str]:
        found = zip(cells(*first), cells(*second), strict=True)
        return ["–" if one == "–" else pattern.format(one, other) for one, other in found]

    table = [("commits a second, 1 thread / 4", pairs(("rate", "limit"), ("rate", "limit_4"), "{} / {}"))]
    for suffix, who in (("", ""), ("_2", ", 2 processes")):
        for key, label in RATES.items():
            name = key + suffix
            table.append((label + who, pairs(("rate", name), ("ratio", name), "{}/s ({})")))
    for key, label in STARTS.items():
        path = ("latency_ms", key)
        table.append((f"{label}: median / 99 %", pairs((*path, "median"), (*path, "p99"), "{} / {} ms")))
    for key, label in LIVES.items():
        table.append((f"{label}, alone / under load", pairs((key,), (f"{key}_load",), "{} / {}")))
    table += long_queues(results, kinds)
    for who, label in (("putters", "commits of requests that conflict"), ("claims", "claims that conflict")):
        shares = [look(results[kind], "conflict_share", who) for kind in kinds]
        table.append((label, ["–" if share is None else f"{100 * share:.3g} %" for share in shares]))
    return [(label, found) for label, found in table if set(found) != {"–"}]


def long_queues(results: dict[str, Any], kinds: list[str]) -> list[tuple[str, list[str]]]:
    """What the longest queue that was measured costs, as factors; lists and memory."""
    table = []
    sizes = {kind: list(look(results[kind], "growth") or {}) for kind in kinds}
    for size in sorted({size for some in sizes.values() for size in some}, key=int):
        for what, label in (("put", "put"), ("claim", "claim"), ("first_page", "first page"), ("drain", "run")):
            found = [number(look(results[kind], "growth", size, what)) for kind in kinds]
            table.append((f"{label} with {int(size):,} waiting, to 1,000", found))
    sizes = {kind: list(look(results[kind], "memory_mb") or {}) for kind in kinds}
    for size in sorted({size for some in sizes.values() for size in some}, key=int):
        found = [number(look(results[kind], "memory_mb", size)) for kind in kinds]
        cells = [cell if cell == "–" else f"{cell} MB" for cell in found]
        table.append((f"memory of a worker, {int(size):,} waiting", cells))
    sizes = {kind: look(results[kind], "pages_ms") or {} for kind in kinds}
    for size in sorted({size for some in sizes.values() for size in some}, key=int):
        slowest = [max(sizes[kind].get(size, {}).values(), default=None) for kind in kinds]
        cells = ["–" if one is None else f"{number(one)} ms" for one in slowest]
        table.append((f"slowest page, {int(size):,} waiting and finished", cells))
    return table


def block(file: str, results: dict[str, Any]) -> str:
    """What stands in the page, with its markers."""
    kinds = [label for kind, label in STORAGES.items() if kind in results]
    machine, versions = results["machine"], results["versions"]
    quick = ", the quick way" if results["quick"] else ""
    python, zodb, zeo, relstorage, postgresql = (
        versions[name] for name in ("Python", "ZODB", "ZEO", "RelStorage", "PostgreSQL")
    )
    said = (
        f"Measured on {results['date'][:10]}{quick}: {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_gb']} GB, load {machine['load']:g} at the beginning; Python {python}, ZODB {zodb},"
        f" ZEO {zeo}, RelStorage {relstorage} on PostgreSQL {postgresql}."
        " In brackets: the ratio to the one-record commits of one thread beside it."
    )
    lines = [f"| | {' | '.join(kinds)} |", "| --- |" + " --- |" * len(kinds)]
    lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in rows(results)]
    site = [(label, look(results, "site", key)) for key, label in SITE.items()]
    if "site" in results:
        lines += ["", "| in a Plone site | |", "| --- | --- |"]
        lines += [f"| {label} | {number(value)} |" for label, value in site if value is not None]
        for size, pages in (look(results, "site", "panel_ms") or {}).items():
            searches = [value for name, value in pages.items() if name.startswith("search ")]
            slowest = max(value for name, value in pages.items() if not name.startswith("search "))
            lines.append(
                f"| slowest page of the panel, {int(size):,} jobs waiting and finished, ms | {number(slowest)} |"
            )
            lines.append(f"| the same of a search that looks at 10,000 jobs, ms | {number(max(searches))} |")
    return "\n".join((f"<!-- numbers of {file} -->", "", said, "", *lines, "", "<!-- end of numbers -->"))


def filled(text: str, file: str = "") -> str:
    """The page's text with the numbers of that file, or of the one that it names."""
    named = BLOCK.search(text)
    assert named is not None, f"{PAGE.name} has no place for the numbers"
    file = file or named["file"]
    results = json.loads((REPOSITORY / file).read_text())
    return text[: named.start()] + block(file, results) + text[named.end() :]


if __name__ == "__main__":
    told = Path(sys.argv[1]).resolve().relative_to(REPOSITORY).as_posix() if sys.argv[1:] else ""
    PAGE.write_text(filled(PAGE.read_text(), told))
