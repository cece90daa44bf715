"""What both models of the engine know of their world, beside its database, and what jobs and people do in it."""

from BTrees.IOBTree import IOBTree
from collections.abc import Callable
from collective.zcasync import api
from collective.zcasync.interfaces import KEY
from collective.zcasync.job import Job
from collective.zcasync.queue import Queue
from collective.zcasync.queue import Queues
from collective.zcasync.threadlocal import local
from persistent.mapping import PersistentMapping
from typing import Any
from ZODB.POSException import ConflictError

import transaction


class Hooked(RuntimeError):
    """What a hook raises that never lets a commit pass."""


class Known:
    """What the checks compare with the database. ``work``: the code of all jobs and callbacks."""

    #: A client of its own, through which the database is looked at.
    observer: Any

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        self.faults: list[str] = []
        #: number -> oid of the jobs and callbacks whose put was committed, and the other way about.
        self.oids: dict[int, bytes] = {}
        self.numbers: dict[bytes, int] = {}
        self.mains: list[int] = []
        self.removed: set[int] = set()
        #: Jobs that were cancelled together with their callbacks.
        self.dropped: set[int] = set()
        #: Numbers of the jobs and callbacks that have returned a job, and wait for it or have ended with it.
        self.outers: set[int] = set()
        #: number -> token of the claim that was asked to stop it.
        self.asked: dict[int, str | None] = {}
        self.calls: dict[int, int] = {}
        #: (oid, token) -> what the claim said is to be done with the job, and the quotas that it saw: name -> oid.
        self.kinds: dict[tuple[bytes, str], tuple[str, dict[str, bytes]]] = {}
        self.serial = self.last = 0

    @staticmethod
    def make_queue(root: Any) -> Any:
        """The queue, with two quotas, and where jobs leave their effects."""
        root[KEY] = fresh = Queues()
        root._p_jar.add(fresh)
        fresh[""] = queue = Queue()
        root._p_jar.add(queue)
        root["effects"], root["hot"] = IOBTree(), PersistentMapping()
        root["effects"][0] = (0, "none")
        for name in ("a", "b"):
            queue.quotas.create(name, 1)
        return queue

    def look(self) -> Any:
        """The queue as committed now."""
        self.observer.manager.begin()
        return self.observer.queue

    def committed_token(self, oid: bytes) -> str | None:
        self.observer.manager.begin()
        token: str | None = self.observer.connection.get(oid).token
        return token

    def new_job(self, policy: str | None = None, **options: Any) -> Any:
        """A job with a number, not yet put."""
        self.last += 1
        job = Job(self._work, self.last)
        job.retry_policy_factory = policy
        for name, value in options.items():
            setattr(job, name, value)
        return job

    def learned(self, job: Any) -> bool:
        """The job's put or adding is committed; False if it was dropped again in the same transaction."""
        if job._p_oid is None:
            return False
        number = job.args[0]
        self.oids[number] = job._p_oid
        self.numbers[job._p_oid] = number
        if not job.is_callback:
            self.mains.append(number)
        return True

    def begins(self, number: int, claimed: Any) -> None:
        """A job's code begins. ``claimed``: what has the token of its claim."""
        self.calls[number] = self.calls.get(number, 0) + 1
        if number in self.asked and number in self.mains and self.asked[number] != claimed.token:
            self.faults.append(f"stop: job {number} begins in a new claim although it was asked to stop")

    def effect(self, root: Any, number: int, kind: str) -> None:
        """Under a key of its own, so that nothing but the fence keeps it out."""
        self.serial += 1
        root["effects"][self.serial] = (number, kind)


def follow(outcome: str, number: int, world: Known, root: Any, write: Callable[[str], None]) -> None:
    """What a job's code does whose outcome is to be that one, up to what it returns. ``write``: an effect of a kind."""
    if outcome == "exit":
        raise SystemExit
    if outcome == "conflict":
        raise ConflictError("said the script")
    if outcome == "raise":
        raise ValueError("said the script")
    if outcome == "hot":
        root["hot"]["touched"] = number
    if outcome in ("commit", "commit and raise"):
        write("partial")
        transaction.commit()
    if outcome == "commit and raise":
        raise ValueError("after a commit")
    if outcome == "checkpoint":
        write("partial")
        api.checkpoint(world.serial)
    if outcome == "progress":
        api.progress(1, 2)
    if outcome == "annotate":
        local.setLiveAnnotation("last", number)
    if outcome == "abort":
        transaction.abort()
        transaction.begin()
    write("final")
    if outcome == "hook":
        transaction.get().addBeforeCommitHook(_refuse)


def _refuse() -> None:
    raise Hooked("no commit today")


def set_queue(queue: Any, what: str, quota: str) -> None:
    """A person changes the queue, or the quota of that name, if there is one."""
    if what in ("pause", "resume"):
        queue.paused = what == "pause"
    elif what == "hold":
        queue.hold_group("g")
    elif what == "release":
        queue.release_group("g")
    elif what == "touch":
        queue._p_jar.root()["hot"]["touched"] = "by a client"
    elif what == "create":
        queue.quotas.create(quota, 1)
    elif quota in queue.quotas:
        if what == "remove":
            queue.quotas.remove(quota)
        else:
            queue.quotas.resize(quota, 3 if what == "grow" else 1)
