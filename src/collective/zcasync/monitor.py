"""zc.async's tools ``async``: what the dispatcher of this process knows, as plain data. They read memory only.

Call them in the process that runs the dispatcher (a debugger, a page, a test); from elsewhere ``monitordb`` and the
console script ``zcasync`` look into the database.
"""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import dispatcher
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.plaindata import moment
from collective.zcasync.plaindata import plain
from collective.zcasync.plaindata import whole
from typing import Any

import inspect
import uuid as uuidlib

#: How many polls are told if nothing says how many.
POLLS = 3


class NoDispatcher(ZCAsyncError, LookupError):
    """No such dispatcher is in this process. Start one, or look into the database with monitordb or zcasync."""


def UUID(uuid: Any = None) -> str:
    """The UUID of the dispatcher in this process."""
    return str(_dispatcher(uuid).UUID)


def utcnow(uuid: Any = None) -> Any:
    """The present moment by the clock of this process, in UTC."""
    return plain(clock.utcnow())


def status(uuid: Any = None) -> Any:
    """State of the dispatcher: its status, poll interval, time since the last poll, uptime and UUID.

    The status is STARTING, RUNNING, STUCK (a poll is overdue) or STOPPED.
    """
    return plain(_dispatcher(uuid).getStatusInfo())


def jobs(queue: str | None = None, agent: str | None = None, uuid: Any = None) -> Any:
    """The jobs that the dispatcher's threads run now, newest first, each as [oid, database name].

    ``queue``, ``agent``: only those of the queue or agent with that name.
    """
    return plain(_dispatcher(uuid).getActiveJobIds(queue, agent))


def job(OID: Any, database: str | None = None, uuid: Any = None) -> Any:
    """What the dispatcher remembers of a job that it has claimed.

    ``OID``: the number. ``database``: its name, needed if jobs of several databases have that number.
    """
    return plain(_dispatcher(uuid).getJobInfo(whole(OID, "OID"), database))


def jobstats(
    at: Any = None,
    before: Any = None,
    since: Any = None,
    queue: str | None = None,
    agent: str | None = None,
    uuid: Any = None,
) -> Any:
    """Numbers about the jobs that ran in a window of polls.

    ``at`` or ``before``: the newest poll at or before, or before, a moment; ``since``: the oldest poll. Each an
    interval before now ([nD][nH][nM][nS]), a poll's key, or a datetime. ``queue``, ``agent``: names.
    """
    return plain(_dispatcher(uuid).getStatistics(moment(at), moment(before), moment(since), queue, agent))


def poll(at: Any = None, before: Any = None, uuid: Any = None) -> Any:
    """One poll: its key, time and results; the newest one, or that at or before (or before) a moment.

    ``at``, ``before``: an interval before now ([nD][nH][nM][nS]), a poll's key, or a datetime.
    """
    return _told(_dispatcher(uuid).getPollInfo(moment(at), moment(before)))


def polls(at: Any = None, before: Any = None, since: Any = None, count: Any = None, uuid: Any = None) -> Any:
    """Polls, newest first: the three newest, or all ``since`` a moment, or ``count``.

    ``at``, ``before``, ``since``: an interval before now ([nD][nH][nM][nS]), a poll's key, or a datetime.
    """
    if count is None and since is None:
        count = POLLS
    found = _dispatcher(uuid).iterPolls(moment(at), moment(before), moment(since), whole(count, "count"))
    return [_told(one) for one in found]


def help(tool: str | None = None) -> Any:
    """The tools with their first lines; of one tool, all that there is to say."""
    return helped(TOOLS, tool)


def helped(tools: dict[str, Callable[..., Any]], tool: str | None) -> Any:
    """What ``help`` of a set of tools tells."""
    if tool is None:
        return [f"{name}: {(inspect.getdoc(one) or '').splitlines()[0]}" for name, one in sorted(tools.items())]
    if tool not in tools:
        return f"Tool not found: {tool}"
    return inspect.getdoc(tools[tool])


TOOLS: dict[str, Callable[..., Any]] = {
    one.__name__: one for one in (UUID, help, job, jobs, jobstats, poll, polls, status, utcnow)
}


def _told(one: Any) -> Any:
    return plain({"key": one.key, "time": one.utc_timestamp, "results": dict(one)})


def _dispatcher(uuid: Any) -> Any:
    """The dispatcher of that UUID (also as text), or the one of this process."""
    try:
        key = uuidlib.UUID(uuid) if isinstance(uuid, str) else uuid
    except ValueError:
        raise InvalidValueError(f"{uuid!r} is not a UUID") from None
    found = dispatcher.get(key)
    if found is None:
        raise NoDispatcher(*(() if uuid is None else (f"no dispatcher {uuid} is in this process",)))
    return found
