"""The processes that run jobs: a row for each dispatcher, over all queues, and the verbs that stop and start it."""

from collective.zcasync import joblists
from collective.zcasync.exceptions import NotHere
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.monitorrows import ACTIVE
from collective.zcasync.monitorrows import DispatcherRow
from collective.zcasync.monitorrows import ENDED
from collective.zcasync.monitorrows import FAILED
from collective.zcasync.monitorrows import HELD
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.monitorrows import LEAVING
from collective.zcasync.monitorrows import PAUSED
from collective.zcasync.monitorrows import SILENT
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import heapq
import logging

logger = logging.getLogger("collective.zcasync.events")

#: Running jobs that are shown of one process, and jobs that failed there last.
SHOWN, FAILED_SHOWN = 10, 3


@dataclass(frozen=True)
class ProcessRow:
    """One dispatcher. ``state``: active, paused, held, leaving, silent (no sign of life) or ended. ``queues``: names of
    those that it serves. ``threads``: jobs that it may run at once. ``jobs``: some of those that it runs. ``failed``:
    those that failed there last, the latest first. ``error``: the last one that the dispatcher itself has met."""

    row: DispatcherRow
    state: str
    queues: tuple[str, ...]
    threads: int
    running: int
    jobs: tuple[JobRow, ...]
    failed: tuple[JobRow, ...] = ()
    error: str = ""
    error_at: datetime | None = None


def processes(source: Any) -> list[ProcessRow]:
    """All dispatchers that are registered, those that work first. ``source``: a ZODB connection, or the Queues."""
    found: dict[str, list[Any]] = {}
    for queue in joblists.all_queues(source):
        for da in queue.dispatchers.values():
            found.setdefault(da.name, []).append(da)
    rows = [_row(some) for some in found.values()]
    order = (ACTIVE, PAUSED, HELD, LEAVING, SILENT, ENDED)
    return sorted(rows, key=lambda one: (order.index(one.state), one.row.host, one.row.pid))


def pause(source: Any, uuid: str) -> None:
    """Let a dispatcher take no more jobs, in any queue; what runs goes on. NotHere if it is registered nowhere."""
    _set_paused(source, uuid, True)


def resume(source: Any, uuid: str) -> None:
    """Let it take jobs again. NotHere if it is registered nowhere."""
    _set_paused(source, uuid, False)


def is_paused(da: Any) -> bool:
    """Whether a person has stopped all agents of a dispatcher in a queue."""
    agents = da.values()
    return bool(agents) and all(agent.paused for agent in agents)


def state_of(da: Any) -> str:
    """The state of a dispatcher in one queue, as ProcessRow has it."""
    state = joblists.dispatcher_row(da).state
    return PAUSED if state == ACTIVE and is_paused(da) else state


def registrations(source: Any, uuid: str) -> list[Any]:
    """What the queues know of one dispatcher; NotHere if none does."""
    queues = joblists.all_queues(source)
    found = [da for queue in queues for da in queue.dispatchers.values() if da.name == uuid]
    if not found:
        raise NotHere(f"no dispatcher {uuid} is registered; its process may have ended")
    return found


def _set_paused(source: Any, uuid: str, paused: bool) -> None:
    for da in registrations(source, uuid):
        for agent in da.values():
            if agent.paused != paused:
                agent.paused = paused
    logger.info("dispatcher %s: %s on request", uuid, "takes no more jobs" if paused else "takes jobs again")


def _row(some: list[Any]) -> ProcessRow:
    """One dispatcher, as all its queues know it."""
    newest = max(some, key=lambda da: (da.activated is not None, da.last_ping.count))
    active = [da for da in some if da.activated is not None]
    cap = newest.process.get("threads")
    threads = sum(agent.size for da in active for agent in da.values())
    jobs = [job for da in active for agent in da.values() for job in agent.jobs()]
    shown = [job for job in jobs if is_broken(job) or job.status != joblists.COMPLETED][:SHOWN]
    error = newest.last_ping.error
    row = joblists.dispatcher_row(newest)
    return ProcessRow(
        row=row,
        state=PAUSED if row.state == ACTIVE and all(map(is_paused, active)) else row.state,
        queues=tuple(da.queue.name for da in active),
        threads=threads if cap is None else min(threads, cap),
        running=len(jobs),
        jobs=tuple(joblists.row(job) for job in shown),
        failed=tuple(joblists.row(job, FAILED) for job in _failed(active)),
        error="" if error is None else error[1],
        error_at=None if error is None else error[0],
    )


def _failed(active: list[Any]) -> list[Any]:
    """The jobs that failed last in a dispatcher, since it is at work: a slot has those of its earlier owners too."""
    histories = [da.slot.history.rows("failed", span=(da.activated, None)) for da in active if da.slot is not None]
    return [job for _key, job in islice(heapq.merge(*histories, key=lambda row: row[0]), FAILED_SHOWN)]
