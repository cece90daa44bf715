"""The agent: claims jobs of one queue for one dispatcher, by filter or chooser."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import events
from collective.zcasync import filing
from collective.zcasync import letters
from collective.zcasync import sweeping
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.history import Completed
from collective.zcasync.interfaces import IAgent
from collective.zcasync.interfaces import IFilterAgent
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import Checked
from collective.zcasync.persistence import item_at
from collective.zcasync.persistence import whole
from typing import Any
from zope.interface import alsoProvides
from zope.interface import implementer
from zope.interface import noLongerProvides

import secrets

#: Jobs at once, unless the template or the site says otherwise.
DEFAULT_SIZE = 3

#: Jobs that may be claimed ahead of free threads, at most; 0 switches it off.
DEFAULT_PREFETCH = 64

DEFAULT_WEIGHT = 1

#: Random bytes of a claim's token: no two claims of one job may have the same. Jobs that are taken together have one.
TOKEN = 8


@implementer(IAgent)
class Agent(Base):
    """See IAgent. A finite sequence of the jobs that it holds, oldest claim first.

    The record holds settings only, written by people; what runs lies in the slot of the dispatcher. Write conflicts
    are not resolved.
    """

    name = ""
    size: Any = Checked(whole(0), DEFAULT_SIZE)
    weight: Any = Checked(whole(1), DEFAULT_WEIGHT)
    prefetch: Any = Checked(whole(0), DEFAULT_PREFETCH)
    #: Whether a person has stopped it: what runs goes on, and nothing more begins.
    paused = False
    _chooser: str | None = None
    _filter: str | None = None

    def __init__(
        self,
        chooser: Callable[[Any], Any] | None = None,
        filter: Callable[[Any], bool] | None = None,
        size: int = DEFAULT_SIZE,
    ) -> None:
        if chooser is not None and filter is not None:
            raise InvalidValueError("cannot set both chooser and filter")
        self.size = size
        self.chooser = chooser
        self.filter = filter

    # Functions are kept by name, so that the record stays readable when their module is gone.

    @property
    def chooser(self) -> Callable[[Any], Any] | None:
        return None if self._chooser is None else callables.resolve(self._chooser)

    @chooser.setter
    def chooser(self, value: Callable[[Any], Any] | None) -> None:
        if value is not None and self._filter is not None:
            raise InvalidValueError("cannot set both chooser and filter")
        self._chooser = None if value is None else callables.describe(value)[0]
        if value is None:
            alsoProvides(self, IFilterAgent)
        elif IFilterAgent.providedBy(self):
            noLongerProvides(self, IFilterAgent)

    @property
    def filter(self) -> Callable[[Any], bool] | None:
        return None if self._filter is None else callables.resolve(self._filter)

    @filter.setter
    def filter(self, value: Callable[[Any], bool] | None) -> None:
        if value is not None and self._chooser is not None:
            raise InvalidValueError("cannot set both chooser and filter")
        self._filter = None if value is None else callables.describe(value)[0]

    @property
    def places(self) -> int:
        """How many jobs it may hold now."""
        return 0 if self.paused else int(self.size)

    @property
    def queue(self) -> Any:
        return None if self.parent is None else self.parent.queue

    @property
    def slot(self) -> Any:
        return None if self.parent is None else self.parent.slot

    @property
    def completed(self) -> Completed:
        return Completed(self)

    def jobs(self) -> list[Any]:
        """The jobs that it holds."""
        slot = self.slot
        return [] if slot is None else [job for job, name in slot.running.values() if name == self.name]

    def __len__(self) -> int:
        slot = self.slot
        return 0 if slot is None else sum(1 for _job, name in slot.running.values() if name == self.name)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self.jobs())

    def __getitem__(self, index: int) -> Any:
        return item_at(self.jobs(), index)

    def __contains__(self, job: object) -> bool:
        return any(held is job for held in self.jobs())

    def index(self, item: Any) -> int:
        for index, job in enumerate(self.jobs()):
            if job is item:
                return index
        raise InvalidValueError(f"{item!r} is not held by this agent")

    def remove(self, item: Any) -> None:
        """Let the job go; its parent becomes None."""
        self.index(item)
        self.slot.release(item._p_oid)
        letters.deliver(item, self.slot)
        item.parent = None

    def pull(self, index: int = 0) -> Any:
        """Let go and return the job at that place."""
        job = self[index]
        self.remove(job)
        return job

    def __delitem__(self, index: int) -> None:
        self.pull(index)

    def claimJob(self) -> Any:
        """Take one job, or None if there is none, no place for it, or the dispatcher is not active."""
        job = self.choose()
        if job is not None:
            self.hold(job, active=False)
        return job

    def choose(self) -> Any:
        """What ``claimJob`` takes, before the agent holds it."""
        da, queue = self.parent, self.queue
        if da is None or da.activated is None or da.silent or len(self) >= self.places:
            return None
        queue._v_slot = self.slot  # so that what is counted is counted for this dispatcher
        try:
            return self._choose()
        finally:
            queue._v_slot = None

    def _choose(self) -> Any:
        """The next job, or None. Subclasses may choose otherwise."""
        chooser = self.chooser
        return self.queue.claim(self.filter) if chooser is None else chooser(self)

    def hold(self, job: Any, active: bool) -> None:
        """Enter a job that was taken out of the queue."""
        self.hold_all([(job, active)])

    def hold_all(self, taken: Iterable[tuple[Any, bool]]) -> None:
        """Enter jobs that were taken out of the queue, each with whether it is ACTIVE now."""
        now, token, jobs = clock.utcnow(), secrets.token_hex(TOKEN), []
        for job, active in taken:
            if job._p_oid is None:
                self._p_jar.add(job)
            job._claim(self, token, now, active)
            jobs.append(job)
        if jobs:
            self.slot.hold(self.name, jobs)

    def jobCompleted(self, job: Any) -> None:
        """Move a finished job to ``completed``; back to the queue, if its mail brings it another callback."""
        if job._p_oid in self.slot.running:
            sweeping.sweep(self.queue, self.slot, [(job._p_oid, FINISHED)])
        else:
            filing.file_away(self.queue, self.slot, job)

    @property
    def batches(self) -> bool:
        """Whether claims may take many jobs at once for this agent: it chooses by filter only."""
        return self._chooser is None and type(self)._choose is Agent._choose


def addMainAgentActivationHandler(event: events.DispatcherActivated) -> None:
    """Subscriber for IDispatcherActivated: give the dispatcher an agent "main" if it has none of that name."""
    if "main" not in event.object:
        event.object["main"] = Agent()


def chooseFirst(agent: Agent) -> Any:
    """The first job that may start now: what an agent without a chooser does too. For zc.async's users."""
    return agent.queue.claim()
