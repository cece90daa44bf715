"""What can be asked of a dispatcher about itself: its state, its polls, the jobs of its threads. Reads memory only."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync.entries import Item
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.pollinfo import PollInfo
from collective.zcasync.pollinfo import Polls
from collective.zcasync.pollinfo import Rolling
from collective.zcasync.threadpool import AgentThreadPool
from collective.zcasync.utils import takecount
from datetime import datetime
from datetime import timedelta
from typing import Any

import uuid as uuidlib

STOPPED, RUNNING, STUCK, STARTING = "STOPPED", "RUNNING", "STUCK", "STARTING"

#: A poll may be late by this many intervals before the dispatcher is called stuck: it is counted from the end of the
#: last one, so each comes a little later than its interval says.
LATE = 2

#: How jobs are named here: (oid as a number, name of the database).
JobId = tuple[int, str]


class JobInfoNotFound(JobNotFound, KeyError):
    """This dispatcher does not remember that job: it runs elsewhere, or its entry has made room for newer ones."""


class Introspection:
    """The base of Dispatcher that answers questions. All times are aware datetimes in UTC; naive ones are read as UTC.

    What is asked in other threads than the dispatcher's is a view of a moment.
    """

    db: Any
    UUID: uuidlib.UUID
    activated: datetime | None
    poll_interval: float
    polls: Polls
    #: (oid, database name) -> JobInfo
    jobs: Rolling
    queues: dict[str, dict[str, AgentThreadPool]]

    def _pools(self) -> list[AgentThreadPool]:
        return [pool for pools in list(self.queues.values()) for pool in list(pools.values())]

    def remember_jobs(self, items: list[Item], poll_id: int | None) -> None:
        """A claim was stored: ``items`` go to their threads."""
        for item in items:
            item.info["poll id"] = poll_id
            self.jobs[int.from_bytes(item.oid, "big"), self.db.database_name] = item.info

    def getStatusInfo(self) -> dict[str, Any]:
        """``status``: STOPPED, STARTING (no poll yet), RUNNING, or STUCK (a poll is overdue). ``poll interval``,
        ``time since last poll`` and ``uptime``: timedeltas or None. ``uuid``."""
        now = clock.utcnow()
        since = uptime = None
        interval = timedelta(seconds=self.poll_interval)
        activated = self.activated
        if not activated:
            status = STOPPED
        else:
            last = next(iter(self.polls), None)
            since = now - (activated if last is None else last.utc_timestamp)
            status = STUCK if since > LATE * interval else STARTING if last is None else RUNNING
            uptime = None if last is None else now - activated
        return {
            "status": status,
            "poll interval": interval,
            "time since last poll": since,
            "uptime": uptime,
            "uuid": self.UUID,
        }

    def getActiveJobIds(self, queue: str | None = None, agent: str | None = None) -> list[JobId]:
        """What the job threads run at this moment, newest first; of one queue or agent, by name."""
        running = [
            found
            for pool in self._pools()
            if queue in (None, pool.queue_name) and agent in (None, pool.name)
            for found in pool.active()
        ]
        return [(int.from_bytes(oid, "big"), self.db.database_name) for _began, oid in sorted(running, reverse=True)]

    def getJobInfo(self, oid: int, database_name: str | None = None) -> dict[str, Any]:
        """A copy of what is remembered of a job; see JobInfo for its keys. ``oid``: a number.

        A job that has not ended here, and that the database did not count among this dispatcher's at the newest poll,
        has ``reassigned`` True. Without a database name: InvalidValueError (a ValueError) if none or several are known
        of that oid; with one: JobInfoNotFound (a KeyError) if there is none.
        """
        if database_name is None:
            names = [name for known, name in list(self.jobs) if known == oid]
            if len(names) != 1:
                raise InvalidValueError(
                    f"no job with the oid {oid!r} is remembered here"
                    if not names
                    else f"several databases have a job with the oid {oid}: name one of {', '.join(sorted(names))}"
                )
            database_name = names[0]
        info = self.jobs.get((oid, database_name))
        if info is None:
            raise JobInfoNotFound(f"no job with the oid {oid!r} of the database {database_name!r} is remembered here")
        answer = dict(info)
        if not info.over and self._is_lost((oid, database_name), info):
            answer["reassigned"] = True
        return answer

    def _is_lost(self, job_id: JobId, info: Any) -> bool:
        """Whether the newest poll would have met the job, and did not."""
        poll = next(iter(self.polls), None)
        if poll is None or info.claimed >= poll.utc_timestamp:
            return False
        agents = poll.get(info["queue"], {})
        if agents is None:  # the database did not know this dispatcher as active
            return True
        entry = agents.get(info["agent"])
        return entry is not None and job_id not in (*entry["active jobs"], *entry["new jobs"])

    def getPollInfo(self, at: Any = None, before: Any = None) -> PollInfo:
        """The newest poll; or the newest one at or before ``at``, or before ``before``: a poll's key or a datetime.

        InvalidValueError if both are given, or if there is no such poll.
        """
        for poll in self.polls.between(at, before):
            return poll
        raise InvalidValueError("no such poll is remembered", at if before is None else before)

    def iterPolls(
        self, at: Any = None, before: Any = None, since: Any = None, count: int | None = None
    ) -> Iterator[PollInfo]:
        """Polls from the newest to the oldest: as in getPollInfo, back to ``since`` (included), ``count`` at most.

        They are those that are remembered at the call, whatever the dispatcher does meanwhile.
        """
        return takecount(self.polls.between(at, before, since), count)

    def getStatistics(
        self, at: Any = None, before: Any = None, since: Any = None, queue: str | None = None, agent: str | None = None
    ) -> dict[str, Any]:
        """Numbers about the jobs that ran in a window of polls, see iterPolls; of one queue or agent, by name.

        ``started`` (all that a thread has begun), of which ``successful``, ``failed``, and ``unknown`` (forgotten
        since); ``shortest`` and ``longest`` ``successful``, ``failed`` and ``active``: (oid, database name) or None;
        ``statistics start`` and ``end``: times of the oldest and of the newest poll, or None without polls.
        """
        polls = list(self.iterPolls(at, before, since))
        ids: dict[JobId, None] = {}
        omitted = 0
        for poll in polls:
            for name, agents in poll.items():
                for key, entry in (agents or {}).items() if queue in (None, name) else ():
                    if agent in (None, key):
                        ids.update(dict.fromkeys(entry["new jobs"]))
                        ids.update(dict.fromkeys(entry["active jobs"] if poll is polls[-1] else ()))
                        omitted += poll.omitted.get((name, key), 0)
        counts = {"started": omitted, "successful": 0, "failed": 0, "unknown": omitted}
        durations: dict[str, list[tuple[timedelta, JobId]]] = {"successful": [], "failed": [], "active": []}
        now = clock.utcnow()
        for job_id in ids:
            info = self.jobs.get(job_id)
            if info is None:
                counts["started"] += 1
                counts["unknown"] += 1
            elif info["started"] is not None:
                counts["started"] += 1
                if info["completed"] is not None:
                    outcome = "failed" if info["failed"] else "successful"
                    counts[outcome] += 1
                    durations[outcome].append((info["completed"] - info["started"], job_id))
                elif not info.over:
                    durations["active"].append((now - info["started"], job_id))
        answer: dict[str, Any] = {
            **counts,
            "statistics start": polls[-1].utc_timestamp if polls else None,
            "statistics end": polls[0].utc_timestamp if polls else None,
        }
        for kind, found in durations.items():
            answer[f"shortest {kind}"] = min(found)[1] if found else None
            answer[f"longest {kind}"] = max(found)[1] if found else None
        return answer
