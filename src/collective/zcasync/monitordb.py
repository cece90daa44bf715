"""zc.async's tools ``asyncdb``: what the database knows of jobs, queues and dispatchers, as plain data.

``context``: a ZODB connection, what is adaptable to one, or a stored object. All read only. States and filters of
``jobs``, ``count``, ``jobstats``, ``nextpending`` and ``lastcompleted``: see ``help("jobs")``.
"""

from collections.abc import Callable
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.failure import Failure
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jobinfo import bounded
from collective.zcasync.jobselection import dispatcher_of
from collective.zcasync.jobselection import HELD
from collective.zcasync.jobselection import requested_start
from collective.zcasync.jobselection import Selection
from collective.zcasync.jobselection import state_of
from collective.zcasync.monitor import helped
from collective.zcasync.plaindata import connection_of
from collective.zcasync.plaindata import job_id
from collective.zcasync.plaindata import plain
from collective.zcasync.plaindata import whole
from collective.zcasync.queue import get_queues
from collective.zcasync.readable import is_secret
from collective.zcasync.readable import MASK
from collective.zcasync.utils import takecount
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

DETAILS = ("brief", "default", "verbose")


def UUIDs(context: Any) -> Any:
    """The UUIDs of the dispatchers that are active, in any queue."""
    return sorted({da.name for _name, queue in _queues(context) for da in queue.dispatchers.active()})


def status(context: Any, queue: str = "*", agent: str = "*", uuid: Any = "*") -> Any:
    """Queues, their active dispatchers, and the agents of these.

    Of each queue also how many jobs wait for another job (``awaiting``), and which have run longer than their timeout
    (``overdue``); of each dispatcher what its last ping has told: version, memory in bytes, and the seconds by which
    its clock is ahead of the storage's. Null: not known.

    ``queue``, ``agent``, ``uuid``: patterns with * and ?; "THIS" is the dispatcher of this process.
    """
    wanted = Selection(context, HELD, {"queue": queue, "agent": agent, "uuid": uuid})
    return plain(
        {
            name: {
                "len": len(one),
                "awaiting": sum(1 for _ in one.awaiting()),
                "overdue": [job for job, _uuid, _agent in one.running() if not is_broken(job) and job.overdue],
                "dispatchers": {
                    da.name: _dispatcher(da, wanted)
                    for da in one.dispatchers.active()
                    if fnmatchcase(da.name, str(wanted.uuid))
                },
            }
            for name, one in _queues(context)
            if fnmatchcase(name, str(wanted.queue))
        }
    )


def jobs(context: Any, *states: str, display: str = "default", count: Any = None, **filters: Any) -> Any:
    """The jobs in some states that pass all filters.

    States: pending, assigned, active, callbacks, and one of completed, succeeded and failed; at least one.
    ``display``: "default" for [oid, database name], "repr", or "details". ``count``: at most so many.

    Filters: ``callable`` (pattern with * and ?: of the bare name, or with a dot in it of the dotted one), ``queue``,
    ``agent`` (patterns), ``uuid`` (pattern, or "THIS"), and by time ``requested_start``, ``start``, ``end`` and
    ``callbacks_completed``: "sinceX", "beforeX" or both with a comma, where X is an interval before now,
    [nD][nH][nM][nS]. ``agent`` and ``uuid`` choose pending jobs by the filters of those agents.

    Pending jobs come in the order in which they are offered, then those in agents by their start, then finished ones
    newest first.
    """
    show = _display(display)
    return [show(one) for one in takecount(Selection(context, states, filters), whole(count, "count"))]


def count(context: Any, *states: str, **filters: Any) -> int:
    """How many jobs are in some states and pass all filters; see ``help("jobs")``."""
    return sum(1 for _ in Selection(context, states, filters))


def jobstats(context: Any, *states: str, display: str = "default", **filters: Any) -> Any:
    """How many jobs are in each of some states, and which waited or ran longest and shortest.

    States, filters and ``display``: see ``help("jobs")``. Extremes are [duration, job], or null.
    """
    show = _display(display)
    now = clock.utcnow()
    answer: dict[str, Any] = dict.fromkeys((*HELD, "succeeded", "failed"), 0)
    extremes: dict[str, Any] = {}
    for one in Selection(context, states, filters):
        kind = state_of(one)
        answer[kind if kind in answer else "failed" if one.failed else "succeeded"] += 1
        for what, lasted in (("wait", _wait(one, now)), ("active", _active(one, now))):
            if lasted is not None:
                longest, shortest = extremes.get(f"longest {what}"), extremes.get(f"shortest {what}")
                if longest is None or lasted > longest[0]:
                    extremes[f"longest {what}"] = lasted, one
                if shortest is None or lasted < shortest[0]:
                    extremes[f"shortest {what}"] = lasted, one
    for name in ("longest wait", "shortest wait", "longest active", "shortest active"):
        found = extremes.get(name)
        answer[name] = None if found is None else [plain(found[0]), show(found[1])]
    return answer


def job(context: Any, OID: Any, database: str | None = None) -> Any:
    """All about one job. ``OID``: the number, or the text that ``job.id`` gives. ``database``: name of its database."""
    return jobsummary(_find(context, OID, database))


def traceback(context: Any, OID: Any, database: str | None = None, detail: str = "default") -> str | None:
    """The traceback of a job that failed, or null. ``detail``: "brief", "default" or "verbose"."""
    if detail not in DETAILS:
        raise InvalidValueError(f"detail must be one of {', '.join(DETAILS)}, not {detail!r}")
    found = _find(context, OID, database)
    result = None if is_broken(found) or not found.failed else found.result
    if not isinstance(result, Failure):
        return None
    if detail == "brief":
        return result.getBriefTraceback()
    return result.getTraceback(detail=detail)


def nextpending(context: Any, **filters: Any) -> Any:
    """All about the first pending job that passes the filters, or null; see ``help("jobs")``."""
    wrong = [name for name in ("start", "end", "callbacks_completed") if filters.get(name) is not None]
    if wrong:
        raise InvalidValueError(f"a pending job has not got that far: {wrong[0]} cannot choose among them")
    return next(map(jobsummary, Selection(context, ("pending",), filters)), None)


def lastcompleted(context: Any, **filters: Any) -> Any:
    """All about the job that completed last of those that pass the filters, or null; see ``help("jobs")``."""
    return next(map(jobsummary, Selection(context, ("completed",), filters)), None)


def help(context: Any = None, tool: str | None = None) -> Any:
    """The tools with their first lines; of one tool, all that there is to say."""
    return helped(TOOLS, context if isinstance(context, str) else tool)


def jobsummary(job: Any) -> Any:
    """One job as ``job`` tells it. Loads its arguments and its result; what cannot be loaded is told in its place."""
    if is_broken(job):
        return {"repr": f"<{joblists.class_name(job)} (oid {job_id(job)[0]}): its class cannot be loaded>"}
    now = clock.utcnow()
    queue = joblists.queue_of(job)
    agent = job.agent
    return plain(
        {
            "active": _active(job, now),
            "active end": job.active_end,
            "active start": job.active_start,
            "agent": (job.agent_name or None) if agent is None else agent.name,
            "args": _shown(lambda: [bounded(arg) for arg in job.args]),
            "begin after": requested_start(job),
            "callbacks": list(job.all_callbacks()),
            "dispatcher": dispatcher_of(job) or None,
            "failed": bool(job.failed),
            "initial callbacks end": job.initial_callbacks_end,
            "kwargs": _shown(
                lambda: {name: MASK if is_secret(name) else bounded(value) for name, value in job.kwargs.items()}
            ),
            "queue": None if queue is None else queue.name,
            "quota names": job.quota_names,
            "repr": bounded(job),
            "result": _shown(lambda: _result(job)),
            "status": state_of(job),
            "wait": _wait(job, now),
        }
    )


TOOLS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (UUIDs, count, help, job, jobs, jobstats, lastcompleted, nextpending, status, traceback)
}


def _queues(context: Any) -> Any:
    queues = get_queues(connection_of(context))
    return () if queues is None else queues.items()


def _dispatcher(da: Any, wanted: Selection) -> dict[str, Any]:
    ping = da.last_ping.value
    return {
        "last ping": ping,
        "since ping": None if ping is None else clock.utcnow() - ping,
        "dead": da.dead,
        "version": da.last_ping.version or da.process.get("version"),
        "memory": da.last_ping.memory or None,
        "clock skew": da.last_ping.skew,
        "gave way": da.last_ping.gave_way,
        "ping interval": da.ping_interval,
        "ping death interval": da.ping_death_interval,
        "agents": {name: _agent(one) for name, one in da.items() if fnmatchcase(name, str(wanted.agent))},
    }


def _agent(agent: Any) -> dict[str, Any]:
    """The names of filter and chooser are told even where their code is missing."""
    kind, name = ("filter", agent._filter) if agent._chooser is None else ("chooser", agent._chooser)
    return {"size": agent.size, "len": len(agent), kind: None if name is None else callables.dotted(name)}


def _find(context: Any, oid: Any, database: str | None) -> Any:
    id = f"{oid:x}" if type(oid) is int and oid >= 0 else oid
    if database is not None and isinstance(id, str):
        id = f"{id.partition('@')[0]}@{database}"
    return joblists.find(connection_of(context), id)


def _display(name: str) -> Callable[[Any], Any]:
    known: dict[str, Callable[[Any], Any]] = {"default": job_id, "repr": bounded, "details": jobsummary}
    if name not in known:
        raise InvalidValueError(f"display must be one of {', '.join(known)}, not {name!r}")
    return known[name]


def _shown(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _result(job: Any) -> Any:
    if job.outcome is None:
        return None
    result = job.result
    return result.getBriefTraceback() if isinstance(result, Failure) else bounded(result)


def _wait(job: Any, now: datetime) -> Any:
    """How long the job waited, or has waited, since it was to start; None if that moment has not come."""
    since = requested_start(job)
    until = job.active_start or job.active_end or now
    return None if since is None or until < since else until - since


def _active(job: Any, now: datetime) -> Any:
    """How long the job's call took, or takes; None if it has not begun."""
    return None if job.active_start is None else (job.active_end or now) - job.active_start
