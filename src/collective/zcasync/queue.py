"""The queue: where jobs are put and wait, and the mapping of all queues."""

from BTrees.OOBTree import OOBTree
from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import events
from collective.zcasync import execution
from collective.zcasync import filing
from collective.zcasync import notify
from collective.zcasync import waiting
from collective.zcasync.dispatchers import DispatcherAgents as DispatcherAgents
from collective.zcasync.dispatchers import Dispatchers
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotInQueue as JobNotInQueue
from collective.zcasync.exceptions import NotHere
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import IUUID
from collective.zcasync.interfaces import KEY
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import SCHEMA
from collective.zcasync.job import Job
from collective.zcasync.lookup import main_of
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.persistence import whole
from collective.zcasync.places import my_shard
from collective.zcasync.places import Places
from collective.zcasync.queues import get_queue as get_queue
from collective.zcasync.queues import get_queues as get_queues
from collective.zcasync.queues import getDefaultQueue as getDefaultQueue
from collective.zcasync.quota import Quota as Quota
from collective.zcasync.quota import Quotas
from datetime import datetime
from datetime import timedelta
from persistent import Persistent
from typing import Any
from zope.component import queryUtility
from zope.interface import implementer

import logging
import zope.event

logger = logging.getLogger("collective.zcasync.events")

#: A put that finds more than this in its inbox goes to the overflow: no dispatcher is at work.
INBOX_FULL = 256

#: Seconds that a job whose code nobody has waits before it is set aside.
CODE_WAIT = 3600.0


class Site(Persistent):
    """What the queues know of one group: a site. Written by people's changes only; conflicts are not resolved."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.paused = False


class Template(Persistent):
    """What an agent of one role begins with. Written by people's changes only; conflicts are not resolved."""

    def __init__(self, size: int, weight: int, prefetch: int) -> None:
        self.size = size
        self.weight = weight
        self.prefetch = prefetch


@implementer(IQueue)
class Queue(Places):
    """See IQueue.

    The record itself is written by people's changes only. A put writes an inbox (which always merges, see
    persistence.SENTINEL) or its overflow; no caller's transaction ever writes a tree that claims also write. All
    other trees are written by claims.
    """

    name = ""
    paused = False
    retention_days = 7
    failed_days = 30
    code_wait = CODE_WAIT
    owner = ""
    quotas: Quotas

    def __init__(self) -> None:
        super().__init__()
        self.owners: Any = OOBTree()
        #: role -> agent name -> Template
        self.templates: Any = OOBTree()
        self.quotas = Quotas()
        self.quotas.parent = self
        self.dispatchers = Dispatchers()
        self.dispatchers.parent = self

    # Putting

    def put(
        self,
        item: Any,
        begin_after: datetime | None = None,
        begin_by: timedelta | None = None,
        failure_log_level: int | None = None,
        retry_policy_factory: Any = None,
        run_as: str | None = None,
    ) -> Any:
        """See IQueue. Raises InvalidJobError, InvalidArgumentError, InvalidValueError, QuotaNotFound or PutRefused,
        all before anything is stored."""
        job = Job.adapt(item)
        if job.status != NEW or job.parent is not None:
            raise InvalidValueError(f"only a NEW job that nobody holds can be put; {job!r} is {job.status}")
        connection = self._p_jar
        if job._p_jar is not None and connection is not None and job._p_jar is not connection:
            raise PutRefused(
                f"{job!r} is stored by a connection to {job._p_jar.db().database_name!r}; use a queue of that one"
            )
        job.check_quotas(job.quota_names, self)
        if begin_after is not None:
            job.begin_after = begin_after
        if begin_by is not None:
            job.begin_by = begin_by
        if failure_log_level is not None:
            job.failure_log_level = failure_log_level
        if retry_policy_factory is not None:
            job.retry_policy_factory = retry_policy_factory
        job.seal(None if connection is None else connection.db().database_name, run_as)
        job.put_at = clock.utcnow()
        if job.assignerUUID is None:
            job.assignerUUID = queryUtility(IUUID)
        if job._begin_after is None and job._begin_by is not None:
            job._begin_after = job.put_at
        job._wait_in(self)
        if connection is not None and job._p_jar is None:
            connection.add(job)
        place = self._enter(job, make_key(job._begin_after, job.priority))
        if connection is not None:
            context = queryUtility(IJobContext)
            if context is not None and hasattr(context, "stored"):
                self._ask(context, job, place)
            connection.transaction_manager.get().addAfterCommitHook(
                events.tell_put, (job.id, job.task, self.name, bool(self.dispatchers.active()))
            )
        return job

    def _ask(self, context: Any, job: Any, place: Any) -> None:
        """Let the context look at what was written; if it refuses, nothing stays in the queue."""
        try:
            context.stored(job, [job, place, *([job._payload] if job._payload is not None else [])])
        except BaseException:
            del place[job.key]
            job.parent = job.key = job.put_at = None
            raise

    def _enter(self, job: Any, key: int) -> Any:
        """Enter the job into this thread's inbox, or its overflow when nobody empties it; return the place."""
        shard = my_shard(len(self.inboxes))
        place = self.inboxes[shard]
        if len(place) > INBOX_FULL:
            place = self.overflows[shard]
        job.key = insert(place, key, job)
        job.shard = shard
        notify.tell_at_commit(self._p_jar)
        return place

    def give_back(self, job: Any, front: bool = False) -> None:
        """A claimed job waits again (or has callbacks left, or is to be filed away): through an inbox, like a put.

        ``front``: before all others. Job threads and takeovers use it; a caller's tree is never written.
        """
        if job._status_id >= 2 and job.parent is self:
            self._leave_entry(job)
        job._wait_in(self)
        self._enter(job, make_key(job.not_before(), job.priority, put_back=front))

    def putBack(self, item: Any) -> None:
        """See IQueue."""
        if not IJob.providedBy(item):
            raise InvalidJobError(f"only jobs can be put back, not {item!r}")
        if item._status_id != 0 or item.parent is self:
            raise BadStatusError(f"only a job that does not run can be put back, this one is {item.status}")
        self.give_back(item, front=True)

    # Taking out

    def claim(self, filter: Callable[[Any], bool] | None = None, default: Any = None) -> Any:
        """See IQueue. Dispatchers claim in batches (claims.Taker); this takes one, for choosers and tests.

        A job whose begin_by has passed comes wrapped: a job that ends it with a TimeoutError. Raises what the filter
        raised if it accepts nothing else.
        """
        if filter is not None and not callable(filter):
            raise InvalidTypeError(f"a filter is called with a job and answers true or false; {filter!r} is none")
        taker = claims.Taker(self, getattr(self, "_v_slot", None), everyones=True)
        taken = taker.take(1, filter)
        if not taken:
            if taker.trouble is not None:
                raise taker.trouble
            return default
        job, kind = taken[0]
        job.parent = None
        if kind == "expire":
            wrapper = Job(execution.expire_waiting, job, self)
            wrapper.begin_after = clock.utcnow()
            return wrapper
        return job

    def pull(self, index: int = 0) -> Any:
        """See IQueue."""
        job = self[index]
        self.remove(job)
        return job

    def remove(self, item: Any) -> None:
        """See IQueue."""
        if not IJob.providedBy(item) or not self.take_out(item):
            raise JobNotInQueue("item not in queue", item)
        filing.leave_quotas(self, item)  # a job that was put back kept its places
        item.parent = None
        item.assignerUUID = None
        waiting.ended_elsewhere(self, item)

    def cancel(self, job: Any, callbacks: bool = True) -> str:
        """End a waiting job with a Failure of CancelledError; ask a running one to stop.

        Answers "cancelled", "stopping" or "finished". ``callbacks``: whether those of the job run. Writes the job's
        record and an inbox; the claim that finds it there takes the old entry out of the trees, which callers never
        write. A job that was set aside leaves the quarantine by it.
        """
        if job._status_id >= 2:
            return "finished"
        owned = main_of(job)
        if owned.token is not None and owned.agent is not None and owned.agent.slot is not None:
            owned.agent.slot.send(job, ("stop", ""), True)
            return "stopping"
        if owned is not job:  # a callback: it is in no queue itself
            waits = waiting.waiter(owned) is job
            job._cancel(clock.utcnow())
            if waits and owned.parent is self:
                self.give_back(owned, front=True)  # what it waited for will tell nobody of its end any more
            return "cancelled"
        aside = self.quarantine_key(job)
        if aside is not None:
            self.leave_quarantine(aside)
        if not callbacks:
            job._callbacks = ()
        self.end(job, Failure.from_exception(CancelledError(CancelledError.__doc__)), "cancelled")
        return "cancelled"

    def end(self, job: Any, failure: Failure, outcome: str | None = None, resume_at: datetime | None = None) -> None:
        """End a waiting job. It goes through an inbox once more, to have its callbacks run and be filed away.

        ``resume_at``: before that no claim runs its callbacks; the caller does.
        """
        job._finish(failure, clock.utcnow(), outcome)
        job.resume_at = resume_at
        self.give_back(job)

    def _leave_entry(self, job: Any) -> None:
        """Take the job's entry out of its inbox; in a tree, which callers never write, it stays until a claim."""
        old = self._find(job)
        if old is not None and old.place.kind in ("inbox", "overflow"):
            del old.place.tree[old.at]
        elif old is not None:
            job.former_key = old.key

    # Settings

    def set_template(self, role: str, name: str, size: int = 3, weight: int = 1, prefetch: int = 32) -> None:
        """What an agent ``name`` of dispatchers in ``role`` begins with; existing agents of that role follow."""
        for what, value, least in (("size", size, 1), ("weight", weight, 1), ("prefetch", prefetch, 0)):
            whole(least)(value, f"{what} of agent {name!r}")
        if role not in self.templates:
            self.templates[role] = OOBTree()
        self.templates[role][name] = Template(size, weight, prefetch)
        for da in self.dispatchers.active():
            if da.process.get("role") == role and name in da:
                da[name].size, da[name].weight, da[name].prefetch = size, weight, prefetch

    def remove_template(self, role: str, name: str) -> None:
        """Forget a template; running agents stay until their dispatcher stops."""
        if name in self.templates.get(role, {}):
            del self.templates[role][name]
            if not self.templates[role]:
                del self.templates[role]

    def hold_group(self, group: str) -> None:
        """Keep a group's waiting jobs from running until it is released; what runs goes on."""
        if group not in self.held_groups:
            self.held_groups = (*self.held_groups, group)

    def release_group(self, group: str) -> None:
        """Let a held group's jobs run again."""
        if group in self.held_groups:
            self.held_groups = tuple(held for held in self.held_groups if held != group)


class Queues(Base):
    """``root[KEY]``: name -> Queue, and what all queues share. Written by people's changes only."""

    def __init__(self) -> None:
        self.schema = SCHEMA
        self.deployment: str | None = None
        self.policies: Any = OOBTree()
        self.schedules: Any = OOBTree()
        #: group -> Site
        self.sites: Any = OOBTree()
        self._queues: Any = OOBTree()

    def __getitem__(self, name: str) -> Queue:
        if name not in self:
            raise NotHere(f"no queue is named {name!r}; there are: {', '.join(map(repr, self.keys()))}")
        return self._queues[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._queues.get(name, default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._queues

    def __iter__(self) -> Iterator[str]:
        return iter(self._queues)

    def __len__(self) -> int:
        return len(self._queues)

    def __bool__(self) -> bool:
        return True

    def keys(self) -> list[str]:
        return list(self._queues.keys())

    def values(self) -> list[Queue]:
        return list(self._queues.values())

    def items(self) -> list[tuple[str, Queue]]:
        return list(self._queues.items())

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise InvalidTypeError(f"a queue's name must be a text, not {name!r}")
        if not IQueue.providedBy(value):
            raise InvalidValueError(f"value must be IQueue, not {value!r}")
        if name in self._queues:
            del self[name]
        value.name = name
        value.parent = self
        self._queues[name] = value

    def __delitem__(self, name: str) -> None:
        queue = self[name]
        queue.parent = None
        queue.name = ""
        del self._queues[name]


def install(
    connection: Any, names: tuple[str, ...] = ("",), factory: Callable[[Any, str], Any] | None = None
) -> Queues:
    """Create what is missing, in the present transaction: the mapping, and a queue for each name.

    ConfigurationError if the queues of this database are in another one, to which its root refers.
    """
    root = connection.root()
    queues = root.get(KEY)
    if queues is not None and queues._p_jar is not connection:
        home = queues._p_jar.db().database_name
        raise ConfigurationError(f"the queues are in the database {home!r}: name it, in zope.conf with db-name {home}")
    if queues is None:
        queues = root[KEY] = Queues()
        connection.add(queues)
        zope.event.notify(events.ObjectAdded(queues, root, KEY))
        logger.info("queues added to the database %r", connection.db().database_name)
    for name in names:
        if name not in queues:
            queues[name] = queue = Queue() if factory is None else factory(connection, name)
            connection.add(queue)
            zope.event.notify(events.ObjectAdded(queue, queues, name))
            logger.info("queue %r added", name)
    return queues
