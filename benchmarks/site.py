"""What is measured in a Plone site, in processes of its own: context, content jobs, editors and pages beside them, and
the pages of the panel with many jobs."""

from benchmarks import sitejobs
from benchmarks import sitepages
from benchmarks.measuring import quantiles
from benchmarks.measuring import rounded
from benchmarks.siteclients import Editor
from benchmarks.siteclients import Reader
from benchmarks.siteclients import Server
from benchmarks.siteprocesses import Node
from benchmarks.siteprocesses import Site
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import statistics
import tempfile
import time

KINDS = ("bench.create", "bench.edit", "bench.wait_and_edit", "bench.unnamed")

#: Seconds that jobs may take to end before something is wrong.
PATIENCE = 120


@dataclass(frozen=True)
class Scale:
    """How much is measured: in less than ten minutes, the quick way in three."""

    rounds: int = 5
    #: Content jobs of a kind in a round, no-op jobs that are drained, and contexts entered.
    jobs: int = 60
    drained: int = 600
    contexts: int = 1000
    #: Seconds that editors edit, and that jobs run without them.
    edits: float = 40
    alone: float = 8
    #: Pages of each gap beside each kind of jobs in a round.
    pages: int = 15
    #: Jobs that wait, and as many that have ended, at which the panel's pages are measured; and how often each.
    paged: Sequence[int] = (100_000,)
    shown: int = 10


QUICK = Scale(rounds=1, jobs=24, drained=100, contexts=200, edits=12, alone=3, pages=10, paged=(20_000,), shown=5)

#: As a part of all that is measured: some minutes more, to fill a database with two million jobs.
LONG = Scale(paged=(100_000, 1_000_000))


def run(quick: bool, alone: bool) -> dict[str, Any]:
    """All of it; ``alone``: not as a part of a long run. See ``goals`` for what is expected."""
    return measure(QUICK if quick else Scale() if alone else LONG)


def measure(scale: Scale) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="zcasync-bench-site-") as folder, Site(Path(folder)) as site:
        nodes = [site.node(), site.node()]
        nodes[0].do("prepare")
        results = {"context_ms": rounded(nodes[0].do("context", samples=scale.contexts))}
        finish(nodes[:1], 1, 1)
        results |= content(nodes, scale)
        with site.server() as server:
            results |= editors(nodes[0], server, scale)
        with site.server(embedded=True) as server:
            results |= pages(server, scale)
        return results | sitepages.measure(site.files(), scale.paged, scale.shown)


# Content jobs


def finish(nodes: Sequence[Node], jobs: int, *threads: int) -> dict[str, Any]:
    """Let the nodes run so many jobs that wait, each in so many threads: jobs a second, and the most attempts."""
    for node in nodes:
        node.do("done", forget=True)
    began = time.time()
    for node, count in zip(nodes, threads, strict=True):
        node.do("dispatch", threads=count)
    until = began + PATIENCE
    done = [node.do("done") for node in nodes]
    while sum(each["ended"] for each in done) < jobs:
        if time.time() > until:
            raise RuntimeError(f"of {jobs} jobs only {[each['ended'] for each in done]} have ended")
        time.sleep(0.02)
        done = [node.do("done") for node in nodes]
    for node in nodes:
        node.do("rest")
    tries = sum((Counter(each["tries"]) for each in done), Counter())
    return {
        "rate": jobs / (max(each["last"] for each in done) - began),
        "most": max(tries.values()),
        "conflicts": (tries.total() - len(tries)) / jobs,
        "failed": sum(each["failed"] for each in done),
    }


def content(nodes: Sequence[Node], scale: Scale) -> dict[str, Any]:
    """Content jobs with one thread, with four, and in two processes with two each, in turn; and no-op jobs."""
    ways: dict[str, tuple[int, ...]] = {"1_thread": (1,), "4_threads": (4,), "2_processes": (2, 2)}
    found: dict[str, dict[str, list[dict[str, Any]]]] = {kind: {way: [] for way in ways} for kind in KINDS}
    for _round in range(scale.rounds):
        for kind, rounds in found.items():
            for way, threads in ways.items():
                nodes[0].do("put", task=kind, count=scale.jobs)
                rounds[way].append(finish(nodes[: len(threads)], scale.jobs, *threads))
    nodes[0].do("put", task="bench.nothing", count=scale.drained)
    results: dict[str, Any] = {"drain_rate": rounded(finish(nodes[:1], scale.drained, 4)["rate"])}
    details: dict[str, Any] = {}
    for kind, rounds in found.items():
        for way, figures in rounds.items():
            details.setdefault(kind.removeprefix("bench."), {})[way] = {
                "rate": rounded(statistics.median(each["rate"] for each in figures)),
                "most": max(each["most"] for each in figures),
                "conflicts": rounded(statistics.mean(each["conflicts"] for each in figures)),
                "failed": sum(each["failed"] for each in figures),
            }
    for way in ("4_threads", "2_processes"):
        ratios = {
            kind: statistics.median(
                ours["rate"] / one["rate"] for ours, one in zip(rounds[way], rounds["1_thread"], strict=True)
            )
            for kind, rounds in found.items()
        }
        for kind, ratio in ratios.items():
            details[kind.removeprefix("bench.")][way]["ratio"] = rounded(ratio)
        results[f"content_ratio_{way}"] = rounded(min(ratios[kind] for kind in KINDS[:3]))
    results["content_max_attempts"] = max(
        details[kind.removeprefix("bench.")][way]["most"] for kind in KINDS[:3] for way in ways
    )
    return {**results, "content": details}


# Editors


def editors(node: Node, server: Server, scale: Scale) -> dict[str, Any]:
    """An editor who saves each half second: alone, and beside jobs without a pause, which commit one by one or in
    bundles, and let requests go first or not."""
    found = {"without_jobs": edited(node, server, scale.alone)}
    for name, task in (("", "bench.create"), ("bundled_", "bench.bundled")):
        node.do("dispatch", threads=3)
        node.do("feed", task=task)
        nobody = jobs_in(node, scale.alone)
        ways = {"with_right_of_way": scale.edits, "without_right_of_way": scale.edits / 2}
        for way, seconds in ways.items():
            node.do("ignore_right_of_way", ignore=way == "without_right_of_way")
            found[name + way] = beside = edited(node, server, seconds)
            beside["jobs_alone"], beside["jobs_share"] = rounded(nobody), rounded(beside["jobs"] / nobody)
        node.do("fed")
        node.do("rest")
    ours = found["bundled_with_right_of_way"]
    return {
        "editor_failed_share": ours["failed"],
        "editor_tries": ours["tries"],
        "editor_p95_ms": ours["ms"]["p95"],
        "editors": found,
    }


def jobs_in(node: Node, seconds: float) -> float:
    """Jobs a second that end meanwhile; one at least, on a machine that is busy."""
    before, began = node.do("done")["ended"], time.monotonic()
    ended = 0
    while not ended:
        time.sleep(seconds)
        ended = node.do("done")["ended"] - before
    return ended / (time.monotonic() - began)


def edited(node: Node, server: Server, seconds: float) -> dict[str, Any]:
    before, began = node.do("done"), time.monotonic()
    saved = Editor(server).work(seconds)
    after, took = node.do("done"), time.monotonic() - began
    return {
        "requests": len(saved),
        "failed": rounded(sum(each.failed for each in saved) / len(saved)),
        "tries": rounded(statistics.mean(each.tries for each in saved)),
        "ms": quantiles([each.ms for each in saved]),
        "jobs": rounded((after["ended"] - before["ended"]) / took),
        "given": after["given"] - before["given"],
    }


# Pages


def pages(server: Server, scale: Scale) -> dict[str, Any]:
    """A page of the site again and again: alone, beside a busy job thread of its server, and beside a polite one.

    Its navigation shows nothing of what the jobs make.
    """
    server.bench(polite="on")
    ways = {"alone": {"chains": "0"}, "impolite": {"chains": "2", "polite": "off"}, "polite": {"polite": "on"}}
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    jobs: dict[tuple[str, float], list[float]] = {}
    reader = Reader(server, f"{sitejobs.READERS}/page")
    for _page in range(5):
        reader.read()
    for _round in range(scale.rounds):
        for way, told in ways.items():
            server.bench(**told)
            reader.read()
            for gap in (0.01, 0.1):
                before, began = server.bench()["ended"], time.monotonic()
                found.setdefault((way, gap), []).extend(reader.read(gap) for _page in range(scale.pages))
                rate = (server.bench()["ended"] - before) / (time.monotonic() - began)
                jobs.setdefault((way, gap), []).append(rate)
    server.bench(chains="0")
    table: dict[str, Any] = {}
    factors = []
    for (way, gap), taken in found.items():
        own, base = (quantiles([ms for ms, _cpu in each]) for each in (taken, found["alone", gap]))
        works, alone = (statistics.median(cpu for _ms, cpu in each) for each in (taken, found["alone", gap]))
        row = table.setdefault(f"gap_{1000 * gap:.0f}_ms", {}).setdefault(way, {})
        row.update(own, jobs=rounded(statistics.median(jobs[way, gap])), cpu_factor=rounded(works / alone))
        if way != "alone":
            row["factor"], row["factor_p95"] = (rounded(own[key] / base[key]) for key in ("median", "p95"))
        if way == "polite":
            factors.append(row["factor"])
    return {"page_factor": max(factors), "pages": table}
