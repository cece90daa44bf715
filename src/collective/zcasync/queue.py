"""The queue: where jobs are put and wait, and the mapping of all queues."""

from BTrees.OOBTree import OOBTree
from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import events
from collective.zcasync import execution
from collective.zcasync import filing
from collective.zcasync import instanceuuid
from collective.zcasync import interfaces
from collective.zcasync import rightofway
from collective.zcasync import schema
from collective.zcasync import waiting
from collective.zcasync.dispatchers import DispatcherAgents as DispatcherAgents
from collective.zcasync.dispatchers import Dispatchers
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotInQueue as JobNotInQueue
from collective.zcasync.exceptions import NotHere
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import KEY
from collective.zcasync.job import Job
from collective.zcasync.lookup import main_of
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import Moment
from collective.zcasync.persistence import whole
from collective.zcasync.puts import Puts
from collective.zcasync.queues import get_queue as get_queue
from collective.zcasync.queues import get_queues as get_queues
from collective.zcasync.queues import getDefaultQueue as getDefaultQueue
from collective.zcasync.quota import Quota as Quota
from collective.zcasync.quota import Quotas
from datetime import datetime
from persistent import Persistent
from typing import Any
from zope.interface import implementer

import logging
import zope.event

logger = logging.getLogger("collective.zcasync.events")

#: Seconds that a job whose code nobody has waits before it is set aside.
CODE_WAIT = 3600.0


class Site(Persistent):
    """What the queues know of one group: a site. Written by people's changes, and when an alarm begins or ends;
    conflicts are not resolved: of two that tell of one alarm the second finds it told."""

    #: key of an alarm -> its text, of those that a mail has told of.
    alarms: dict[str, str] = {}

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
class Queue(Puts):
    """See IQueue.

    The record itself is written by people's changes only. A put writes an inbox (which always merges, see
    persistence.SENTINEL) or its overflow; no caller's transaction ever writes a tree that claims also write. All
    other trees are written by claims.
    """

    name = ""
    paused = False
    #: Days that finished jobs are kept, and failed ones; and how many of each outcome at most.
    retention_days = 7
    failed_days = 30
    retention_jobs = 100_000
    code_wait = CODE_WAIT
    #: Of jobs that name no priority, and seconds after which those of tasks without a timeout are asked to stop.
    default_priority = 0
    time_limit: float | None = None
    #: When a person changed a number, a quota or an agent last; dispatchers that have looked in since know it.
    changed: Any = Moment()
    owner = ""
    #: While jobs are moved to another database, see queuemoves: id there -> job, of those that come and do not wait
    #: yet; and id -> new id, of those that have left. None: none ever did.
    arriving: Any = None
    departed: Any = None
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

    def cancel(self, job: Any, callbacks: bool = True, by: str = "") -> str:
        """End a waiting job with a Failure of CancelledError; ask a running one to stop.

        Answers "cancelled", "stopping" or "finished". ``callbacks``: whether those of the job run. ``by``: who asked,
        for the timeline. Writes the job's record and an inbox; the claim that finds it there takes the old entry out
        of the trees, which callers never write. A job that was set aside leaves the quarantine by it.
        """
        if job._status_id >= 2:
            return "finished"
        owned = main_of(job)
        if owned.token is not None and owned.agent is not None and owned.agent.slot is not None:
            owned.agent.slot.send(job, ("stop", ""), (clock.utcnow(), by))
            return "stopping"
        if owned is not job:  # a callback: it is in no queue itself
            waits = waiting.waiter(owned) is job
            job._cancel(clock.utcnow())
            if waits and owned.parent is self:
                self.give_back(owned, front=True)  # what it waited for will tell nobody of its end any more
            return "cancelled"
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

    # Settings

    def set_template(self, role: str, name: str, size: int = 3, weight: int = 1, prefetch: int = 64) -> None:
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
    """``root[KEY]``: name -> Queue, and what all queues share. Written by people's changes, once by a claim."""

    #: The version of this package that has raised the schema to what it is; "" where that is not known.
    schema_by = ""

    #: Whether a job has ever waited for one of another queue: until then no claim looks into all of them for such jobs.
    crossed = False

    #: Which sites' requests go first; see rightofway. None: no dispatcher that knows of it has worked here yet.
    right_of_way: Any = None

    def __init__(self) -> None:
        self.schema = interfaces.SCHEMA
        self.schema_by = instanceuuid.version()
        #: A Deployment, which says who owns the queues; None: no dispatcher has come to them yet.
        self.deployment: Any = None
        self.policies: Any = OOBTree()
        self.schedules: Any = OOBTree()
        #: group -> Site
        self.sites: Any = OOBTree()
        self.right_of_way = rightofway.new_record()
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

    def site_path(self, group: str) -> str:
        """Path of the site whose jobs are of that group; the group itself where no such site is known."""
        site = self.sites.get(group)
        return group if site is None else str(site.path)

    def is_site_paused(self, group: str) -> bool:
        """Whether a person has paused all jobs of that site."""
        site = self.sites.get(group)
        return site is not None and bool(site.paused)


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
            schema.check(queues)
            queues[name] = queue = Queue() if factory is None else factory(connection, name)
            connection.add(queue)
            zope.event.notify(events.ObjectAdded(queue, queues, name))
            logger.info("queue %r added", name)
    return queues
