"""The parts of a run: each measures one thing on one storage, and tells what it finds."""

from benchmarks import clients
from benchmarks import conflicts
from benchmarks import footprint
from benchmarks import growth
from benchmarks import latency
from benchmarks import pages
from benchmarks import profile
from benchmarks import rates
from benchmarks.measuring import in_turn
from benchmarks.measuring import rounded
from benchmarks.measuring import Scale
from benchmarks.storages import Servers
from collections.abc import Callable
from functools import partial
from typing import Any

#: What a part is called with: servers, kind of storage, how much, and where to tell results.
Part = Callable[[Servers, str, Scale, Callable[[dict[str, Any]], None]], None]


def measure_rates(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """Puts and drains to the storage's limit, with one process and with two."""
    with servers.place(kind) as place, clients.clients(place, 2 if place.shared else 0) as (here, there):
        limit = partial(rates.limit, here, scale.seconds)
        ours: dict[str, Callable[[], rates.Rate]] = {"limit_4": partial(rates.limit, here, scale.seconds, 4)}
        for name, workers in (("", [here]), ("_2", there)):
            if workers:
                ours[f"put{name}"] = partial(rates.put_all, here, workers, scale.seconds)
                ours[f"put_100{name}"] = partial(rates.put_all, here, workers, scale.seconds, 100)
                for drain, (call, template) in rates.DRAINS.items():
                    ours[drain + name] = partial(rates.drain, here, workers, scale.drained, call, template)
        tell(in_turn(limit, ours, scale.rounds))


def measure_latency(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """From commit() to a job's first line, in one process and to another one."""
    for name, others, listens in (("local", 0, False), ("remote", 1, False), ("notify", 1, True)):
        if kind == "filestorage" and others or kind != "relstorage" and listens:
            continue
        with servers.place(kind) as place, clients.clients(place, others, listens=listens) as (here, there):
            tell({"latency_ms": {name: latency.starts(here, (there or [here])[0], scale.latencies)}})


def measure_footprint(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """Commits, records and bytes of a job's life, one by one and under load."""
    with servers.place(kind) as place, clients.clients(place) as (here, _there):
        tell(footprint.lives(here, min(scale.drained, 256), False))
        load = footprint.lives(here, min(scale.drained, 2000), True)
        tell({f"{name}_load": value for name, value in load.items()})


def measure_lasting(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """Jobs that take their time: how near to threads / duration."""
    with servers.place(kind) as place, clients.clients(place) as (here, _there):
        for seconds, each in scale.lasting.items():
            for threads in (1, 4, 16):
                clients.fresh_queue(here, size=threads)
                rates.pause(here, True)
                rates.fill(here, each * threads, rates.jobs.last, seconds)
                rate = rates.run_out(here, [here], each * threads, threads)
                reached = rounded(rate.each_second * seconds / threads)
                tell({"lasting": {str(round(1000 * seconds)): {str(threads): reached}}})


def measure_growth(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """Each figure with many jobs waiting, to that with a thousand; a worker's memory."""
    with servers.place(kind) as place:
        growth.grow(place, scale, tell)
        with clients.clients(place, cache=growth.CACHE, fresh=False) as (here, _there):
            growth.history(here, scale.finished)
            with here.connection() as connection:
                found = growth.lists(connection, scale.samples)
        both = {name: rounded(value) for name, value in found.items()}
        tell({"lists_ms": {f"{scale.sizes[-1]}+{scale.finished}": both}})


def measure_rejected(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """The same behind jobs that nobody can take: of a full quota, or rejected by the filter."""
    for name, quota in (("full_quota", True), ("filter", False)):
        base: dict[str, float] = {}
        for size in (scale.sizes[0], *scale.rejected[: 1 if kind != "filestorage" else None]):
            with servers.place(kind) as place, clients.clients(place, cache=growth.CACHE) as (here, _there):
                figures = growth.behind(here, scale, size, quota)
            if base:
                factors = {f"{what}_behind_{name}": rounded(figures[what] / base[what]) for what in figures}
                tell({"growth": {str(size): factors}})
            base = base or figures


def measure_conflicts(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """Putters and dispatchers that meet: with a backlog, and where each job is claimed at once."""
    found = {}
    for name, full in (("backlog", True), ("empty", False)):
        with servers.place(kind) as place:
            found[name] = conflicts.meet(place, scale, full)
        worst = {who: max(one[who] for one in found.values()) for who in ("putters", "claims")}
        tell({"conflict_share": {**worst, **found}})


def measure_pages(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """The panel's pages with many jobs, from an empty cache: on FileStorage, which is filled the quickest."""
    for size in scale.paged if kind == "filestorage" else ():
        with servers.place(kind) as place, clients.clients(place, cache=growth.CACHE) as (here, _there):
            pages.fill(here, size)
            found = {name: rounded(value) for name, value in pages.measure(here, scale.samples).items()}
        tell({"pages_ms": {str(size): found}})


def measure_profile(servers: Servers, kind: str, scale: Scale, tell: Callable[[dict[str, Any]], None]) -> None:
    """Where the threads of a dispatcher are while it drains: what is not the storage could be saved."""
    with servers.place(kind) as place, clients.clients(place) as (here, _there):
        for name in rates.DRAINS:
            tell({"profile": {name: profile.drain(here, scale.drained, name)}})


#: In the order of a run.
PARTS: dict[str, Part] = {
    "rates": measure_rates,
    "latency": measure_latency,
    "footprint": measure_footprint,
    "lasting": measure_lasting,
    "profile": measure_profile,
    "conflicts": measure_conflicts,
    "growth": measure_growth,
    "rejected": measure_rejected,
    "pages": measure_pages,
}
