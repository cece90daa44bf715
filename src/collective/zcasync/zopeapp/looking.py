"""The commands of ``zcasync`` that look: each puts what the engine knows into an Answer."""

from collections.abc import Iterable
from collective.zcasync import clock
from collective.zcasync import doctor
from collective.zcasync import joblists
from collective.zcasync import monitordb
from collective.zcasync.exceptions import QueueNotFound
from collective.zcasync.monitorrows import LAST_SKIP
from collective.zcasync.plaindata import interval
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import get_queues
from collective.zcasync.queues import shown_queue
from collective.zcasync.queues import stored_queue
from collective.zcasync.zopeapp.answers import Answer
from collective.zcasync.zopeapp.answers import Table
from collective.zcasync.zopeapp.opening import Opened
from dataclasses import asdict
from typing import Any

#: States of jobs that have not ended: what ``zcasync jobs`` shows if no state is named.
UNFINISHED = (joblists.RUNNING, joblists.WAITING, joblists.SCHEDULED, joblists.QUARANTINED)

#: The states of which jobs need a person.
NEEDY = (joblists.QUARANTINED,)


def status(place: Opened) -> Answer:
    """How many jobs are in each state, who runs them, and how many things need attention."""
    counts = joblists.counts(place.connection)
    rows = joblists.queues(place.connection)
    findings = _findings(place)
    problems = [finding for finding in findings if finding.problem]
    alive = {one.uuid for row in rows for one in row.dispatchers if one.alive}
    held = next((finding.what for finding in findings if finding.kind == "held"), None)
    data = {
        "counts": {state: count.number for state, count in counts.items()},
        "queues": [_queue_data(row) for row in rows],
        "dispatchers": len(alive),
        "held": held,
        "problems": len(problems),
    }
    words = [f"{count.number}{'+' if count.more else ''} {state}" for state, count in counts.items()]
    lines = [
        f"Jobs: {', '.join(words)}",
        f"Queues: {', '.join(shown_queue(row.name) + (' (paused)' if row.paused else '') for row in rows) or 'none'}",
        f"Dispatchers that are alive: {len(alive)}",
        *([f"They are HELD, and take no jobs: {held}"] if held else []),
    ]
    if problems:
        lines.append(f"Things that need attention: {len(problems)}; zcasync doctor lists them")
    return Answer(data, lines, attention=bool(problems))


def jobs(
    place: Opened,
    states: Iterable[str] = (),
    queue: str | None = None,
    site: str | None = None,
    start: int = 0,
    limit: int = 50,
    skip: int = 0,
    oldest: bool = False,
    since: str | None = None,
    until: str | None = None,
    **texts: str | None,
) -> Answer:
    """Lists of jobs, a list a state. ``site``: only jobs of the site with that path. ``texts``, ``since`` and
    ``until`` (intervals before now): what joblists.Search looks for."""
    wanted = tuple(states) or UNFINISHED
    search = joblists.Search(
        since=None if since is None else clock.utcnow() - interval(since),
        until=None if until is None else clock.utcnow() - interval(until),
        **{name: text for name, text in texts.items() if text is not None},
    )
    options: dict[str, Any] = {"search": search, "oldest": oldest, "start": start, "skip": skip, "limit": limit}
    options |= meant(place, queue, site)
    pages = {state: joblists.jobs(place.connection, state, **options) for state in wanted}
    data = {
        state: {"jobs": [asdict(row) for row in page.rows], "more": page.more}
        | ({} if page.complete else {"complete": False, "next": page.next})
        for state, page in pages.items()
    }
    blocks: list[str | Table] = []
    for state, page in pages.items():
        if page.rows:
            blocks += [_job_table(state, page), ""]
        if page.too_far:
            blocks.append(f"Lists are followed for {LAST_SKIP} entries: search with --task, --user or --since.")
        elif not page.complete:
            blocks.append(f"{page.seen} entries of the list {state} were looked at; to go on: --skip {page.next}")
        elif page.more:
            blocks.append(f"There are more: --start {start + len(page.rows)}")
    needy = any(row.needs_attention or row.overdue for page in pages.values() for row in page.rows)
    needy = needy or any(pages[state].rows for state in NEEDY if state in pages)
    return Answer(data, blocks or ["No such jobs."], attention=needy)


def job(place: Opened, id: str) -> Answer:
    """All about one job."""
    found = joblists.find(place.connection, id)
    detail = joblists.job(place.connection, id)
    row = detail.row
    facts = [
        ("id", row.id),
        ("task", row.title or row.task),
        ("state", row.state + (f" ({row.detail})" if row.detail else "")),
        ("queue", shown_queue(row.queue)),
        ("site", row.group),
        ("user", row.user),
        ("put", row.put_at),
        ("starts", row.due),
        ("started", row.started),
        ("ended", row.ended),
        ("attempts", row.attempts or ""),
        ("policy", detail.policy),
        ("priority", detail.priority or ""),
        ("quotas", ", ".join(detail.quotas)),
        ("overdue", row.overdue),
        ("asked to stop", detail.stop_requested),
        ("needs attention", row.needs_attention),
        ("retry of", detail.retry_of),
        ("retried as", detail.retried_as),
        *((f"argument {name}", text) for name, text in detail.arguments),
        ("result", detail.result),
        ("error", row.error),
        *(("problem", problem) for problem in detail.problems),
    ]
    shown = [(name, value) for name, value in facts if value not in (None, "", False)]
    blocks: list[str | Table] = [Table(("", ""), shown)]
    if detail.timeline:
        blocks += ["", Table(("when", "what", ""), [(one.when, one.what, one.text) for one in detail.timeline])]
    if detail.traceback:
        blocks += ["", detail.traceback]
    data = {"job": asdict(detail), "details": monitordb.jobsummary(found)}
    return Answer(data, blocks, attention=row.needs_attention or row.overdue or row.state in NEEDY)


def traceback(place: Opened, id: str, detail: str = "default") -> Answer:
    """The traceback of a failed job."""
    text = monitordb.traceback(place.connection, id, detail=detail)
    return Answer({"traceback": text}, [f"Job {id} has not failed." if text is None else text.rstrip("\n")])


def queues(place: Opened) -> Answer:
    """The queues with their numbers, quotas and agent templates."""
    rows = joblists.queues(place.connection)
    states = ("waiting", "later", "parked", "running", "failed", "succeeded", "cancelled", "quarantined")
    table = Table(
        ("queue", "paused", "served", *states),
        [(shown_queue(row.name), row.paused, row.served, *(row.counts[state] for state in states)) for row in rows],
    )
    quotas = [(shown_queue(row.name), quota.name, quota.size, quota.filled) for row in rows for quota in row.quotas]
    agents = [
        (shown_queue(row.name), one.role, one.name, one.size, one.weight, one.prefetch)
        for row in rows
        for one in row.agents
    ]
    blocks: list[str | Table] = [table]
    if quotas:
        blocks += ["", Table(("queue", "quota", "size", "full"), quotas)]
    if agents:
        blocks += ["", Table(("queue", "role", "agent", "size", "weight", "prefetch"), agents)]
    stuck = any(row.paused or not row.served for row in rows if row.counts["waiting"] or row.counts["parked"])
    return Answer([_queue_data(row) for row in rows], blocks, attention=stuck or not rows)


def dispatchers(place: Opened) -> Answer:
    """The dispatchers, as each queue knows them."""
    now = clock.utcnow()
    found = [(row.name, one) for row in joblists.queues(place.connection) for one in row.dispatchers]
    rows = [
        (
            shown_queue(queue),
            one.uuid,
            f"{one.role} {one.host} {one.pid}".strip(),
            one.state,
            "" if one.last_ping is None else f"{(now - one.last_ping).total_seconds():.0f} s ago",
            one.running,
            one.version,
            "" if one.memory is None else f"{one.memory / 2**20:.0f} MB",
            "" if one.skew is None else f"{one.skew:+.1f} s",
        )
        for queue, one in found
    ]
    data = [{"queue": queue, **asdict(one), "state": one.state} for queue, one in found]
    columns = ("queue", "dispatcher", "process", "state", "ping", "jobs", "version", "memory", "clock")
    blocks: list[str | Table] = (
        [Table(columns, rows)] if rows else ["No dispatcher is registered. Start one: zcasync worker."]
    )
    attention = not any(one.state == "active" for _queue, one in found)
    skewed = any(one.skew is not None and abs(one.skew) > doctor.SKEW for _queue, one in found)
    blocks += [f"Held: {reason}" for reason in {one.held for _queue, one in found if one.held and one.alive}]
    return Answer(data, blocks, attention=attention or skewed or any(one.state == "silent" for _queue, one in found))


def examine(place: Opened) -> Answer:
    """All that keeps jobs from running, each with the way out."""
    findings = _findings(place)
    blocks: list[str] = []
    for finding in findings:
        where = "" if finding.queue is None else f"[{shown_queue(finding.queue)}] "
        blocks.append(f"{'!' if finding.problem else '-'} {where}{finding.what}")
        if finding.jobs:
            blocks.append(f"    jobs: {', '.join(finding.jobs)}")
        blocks.append(f"    way out: {finding.way_out}")
    problems = any(finding.problem for finding in findings)
    if not problems:
        blocks.append("Nothing keeps jobs from running.")
    return Answer([asdict(finding) for finding in findings], blocks, attention=problems)


def failures(place: Opened, queue: str | None = None, site: str | None = None) -> Answer:
    """How many jobs failed in which way, those of the latest first."""
    rows = joblists.failures(place.connection, **meant(place, queue, site))
    table = Table(
        ("jobs", "task", "cause", "first", "last"),
        [(row.number, row.task, row.cause, row.first, row.last) for row in rows],
    )
    return Answer([asdict(row) for row in rows], [table] if rows else ["No failed jobs are kept."])


def meant(place: Opened, queue: str | None, site: str | None) -> dict[str, str | None]:
    """Name of the queue and group of the site that people have named; None: any. QueueNotFound, see ``named_queue``."""
    return {
        "queue": None if queue is None else named_queue(place, queue).name,
        "group": None if site is None else group_at(place, site),
    }


def group_at(place: Opened, path: str) -> str:
    """The group of the site's jobs; the path itself where no site of that path has ever put any."""
    queues = get_queues(place.connection)
    found = (group for group, site in queues.sites.items() if site.path == path) if queues is not None else iter(())
    return next(found, path)


def named_queue(place: Opened, name: str) -> Any:
    """A queue by the name that people write; QueueNotFound, naming those that exist, if there is none."""
    try:
        return get_queue(place.connection, stored_queue(name))
    except QueueNotFound:
        queues = joblists.all_queues(place.connection)
        if not queues:
            raise
        known = ", ".join(shown_queue(queue.name) for queue in queues)
        raise QueueNotFound(f"there is no queue {name!r}; there are: {known}") from None


def _findings(place: Opened) -> list[doctor.Finding]:
    """The engine's findings, and what this zope.conf adds to one of them."""
    found = doctor.examine(place.connection)
    if not place.settings.dispatcher and any(finding.kind == "no-dispatcher" for finding in found):
        found.append(
            doctor.Finding(
                "dispatcher-off",
                "this zope.conf says dispatcher off, or nothing",
                "dispatcher on in <product-config collective.zcasync>, or zcasync worker",
                problem=any(finding.kind == "no-dispatcher" and finding.problem for finding in found),
            )
        )
    return sorted(found, key=lambda finding: not finding.problem)


def _queue_data(row: joblists.QueueRow) -> dict[str, Any]:
    return {**asdict(row), "served": row.served}


def _why(row: joblists.JobRow) -> str:
    return row.error or ("overdue, " if row.overdue else "") + row.detail


def _job_table(state: str, page: joblists.Page) -> Table:
    rows = [
        (row.id, row.title or row.task, shown_queue(row.queue), row.group, row.user, row.time, _why(row))
        for row in page.rows
    ]
    return Table(("job", "task", "queue", "site", "user", "time", ""), rows, title=state)
