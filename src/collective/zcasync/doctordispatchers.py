"""Why the dispatchers of a queue run no jobs: what the doctor finds about them and their agents."""

from collections.abc import Iterator
from collective.zcasync import callables
from collective.zcasync import ownership
from collective.zcasync import rightofway
from collective.zcasync.findings import Finding
from collective.zcasync.findings import jobs_text
from collective.zcasync.heartbeat import SKEW as SKEW
from typing import Any

#: Times in an hour that jobs let requests go first, from which on that is told.
OFTEN = 60


def of_held(queues: Any) -> Iterator[Finding]:
    """Why none of the dispatchers of these queues may work."""
    reason = ownership.held(queues)
    if reason is not None:
        yield Finding(
            "held",
            f"dispatchers are held: {ownership.text_of(reason)}; {jobs_text(ownership.waiting(queues))}",
            "to let the jobs run: zcasync release --deployment; to remove what waits, for good:"
            " zcasync discard --deployment",
        )


def of_requests(queues: Any) -> Iterator[Finding]:
    """Which sites' content jobs wait for people now."""
    for group, number in rightofway.going_first(queues).items():
        yield Finding(
            "right-of-way",
            f"jobs that write content of {queues.site_path(group)} wait: {number} requests of its editors, which have"
            " met such jobs, go first",
            f"nothing: they go on when those are through, after {rightofway.LONGEST:g} s at the latest",
            problem=False,
        )


def of_dispatchers(queue: Any, waits: int) -> Iterator[Finding]:
    """All findings about those of one queue. ``waits``: how many jobs wait in it."""
    active = queue.dispatchers.active()
    alive = [da for da in active if not da.dead and da.leaving is None]
    if not alive:
        yield Finding(
            "no-dispatcher",
            f"no dispatcher serves the queue; {jobs_text(waits)} in it",
            "start one: dispatcher on in the server's zope.conf, or zcasync worker",
            queue.name,
            problem=waits > 0,
        )
    for da in active:
        place = where(da)
        if da.dead:
            yield Finding(
                "silent",
                f"{place} has said nothing since {da.last_ping.value or da.activated:%Y-%m-%d %H:%M:%S} UTC"
                f"{'' if da.silent else ', and its process is gone'}",
                "another dispatcher takes its jobs over; if none runs, start one; if its process still lives, look why"
                " it cannot reach the database",
                queue.name,
            )
            continue
        if da.leaving is not None:
            yield Finding(
                "leaving",
                f"{place} is stopping and takes no more jobs",
                "wait until it has ended",
                queue.name,
                problem=False,
            )
        yield from _of_agents(queue, da, place)
        yield from _of_people(queue, da, place)
        skew = da.last_ping.skew
        if skew is not None and abs(skew) > SKEW:
            yield Finding(
                "clock",
                f"the clock of {place} is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}",
                "let the machine set its clock by NTP; jobs for a time start early or late until then",
                queue.name,
            )
    versions = {version for da in alive if (version := _version(da))}
    if len(versions) > 1:
        yield Finding(
            "versions",
            f"dispatchers of different versions serve the queue: {', '.join(sorted(versions))}",
            "bring all to the newest, and restart them",
            queue.name,
        )


def _of_people(queue: Any, da: Any, place: str) -> Iterator[Finding]:
    """Where its jobs and people are in each other's way."""
    ping = da.last_ping
    if ping.work:
        yield Finding(
            "embedded-work",
            f"the jobs of {place} take {ping.work:.0%} of a processor beside requests, and pages wait for that",
            "run them in a process of their own: zcasync worker, and dispatcher off in the server's zope.conf",
            queue.name,
            problem=False,
        )
    hours = ((ping.value or da.activated) - da.activated).total_seconds() / 3600
    if ping.gave_way >= max(OFTEN, OFTEN * hours):
        yield Finding(
            "gave-way",
            f"jobs of {place} that write content let requests of editors go first {ping.gave_way} times in"
            f" {max(hours, 1):.0f} h: they are slowed down by that",
            "nothing, if they have time: people go first. Else let them begin when nobody edits, or do less in one"
            " transaction",
            queue.name,
            problem=False,
        )


def _version(da: Any) -> str:
    return str(da.last_ping.version or da.process.get("version", ""))


def where(da: Any) -> str:
    """Which dispatcher, and where it runs."""
    process = da.process
    process_text = f" ({process.get('role')} on {process.get('host')}, pid {process.get('pid')})" if process else ""
    return f"dispatcher {da.name}{process_text}"


def _of_agents(queue: Any, da: Any, place: str) -> Iterator[Finding]:
    agents = da.values()
    if not agents:
        yield Finding(
            "no-threads",
            f"{place} has no agent for the queue, and so no thread",
            "give its role an agent template with a size, in Site Setup or zcasync.xml",
            queue.name,
        )
    for agent in agents:
        if agent.paused:
            what = f"agent {agent.name!r} of {place} was told to take no more jobs"
            yield Finding("agent-paused", what, "let it take jobs again, or restart its process", queue.name)
        for what, name in (("filter", agent._filter), ("chooser", agent._chooser)):
            if name is not None and not callables.known(name):
                yield Finding(
                    "agent-code",
                    f"the {what} {callables.dotted(name)} of agent {agent.name!r} of {place} is not found here",
                    "install its code where the dispatcher runs, or set another one",
                    queue.name,
                )
