"""The job: a call that is stored, run later, and remembered with its outcome."""

from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collections.abc import Mapping
from collective.zcasync import callbacks
from collective.zcasync import clock
from collective.zcasync import direct
from collective.zcasync import running
from collective.zcasync import sequences
from collective.zcasync.callbacks import ConditionalCallbackProxy as ConditionalCallbackProxy
from collective.zcasync.callbacks import isFailure as isFailure
from collective.zcasync.callbacks import SuccessFailureCallbackProxy as SuccessFailureCallbackProxy
from collective.zcasync.calls import Call
from collective.zcasync.ending import Ending
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IAgent
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.persistence import MappingView
from collective.zcasync.persistence import Moment
from collective.zcasync.representation import call_text
from collective.zcasync.retry import callback_retry_policy_factory as callback_retry_policy_factory
from collective.zcasync.retry import NeverRetry as NeverRetry
from collective.zcasync.retry import RetryCommonForever as RetryCommonForever
from collective.zcasync.retry import RetryCommonFourTimes as RetryCommonFourTimes
from collective.zcasync.states import check_step
from collective.zcasync.states import STORED
from datetime import datetime
from typing import Any
from zope.interface import implementer

import logging

logger = logging.getLogger("collective.zcasync.events")

#: Attempts that a job remembers, newest last; a job that is tried for ever must not grow for ever.
REMEMBERED_ATTEMPTS = 20

_STORED = (NEW, ACTIVE, CALLBACKS, COMPLETED)


@implementer(IJob)
class Job(Ending, Call):
    """See IJob.

    The record holds only plain values and references to records of this package, so that it can be loaded and written
    wherever the package is installed, whatever user code is missing. Write conflicts are not resolved, on purpose:
    every change of owner and every commit of a running job writes this record, and the later one loses.
    """

    _status_id = 0
    _callbacks: tuple[Any, ...] = ()
    _annotations: Any = None
    _retry_cache: tuple[tuple[str, Any], ...] = ()
    #: What the job told of its progress last, and the pickle of where its last checkpoint was; see running.
    _progress: running.Said | None = None
    _cursor: bytes | None = None
    is_callback = False
    #: Where the job waits: its key and the number of its inbox.
    key: int | None = None
    shard: int | None = None
    #: The key of the entry that a cancelled job left behind, until a claim takes it out.
    former_key: int | None = None
    #: The claim that owns the job; see fence.Guard.
    token: str | None = None
    agent_name = ""
    put_at: Any = Moment()
    #: Where the put stands in a trace, if somebody followed it; see spans.
    trace_parent = ""
    active_start: Any = Moment()
    #: Microseconds at which earlier attempts began that were given back to the queue, newest last.
    starts: tuple[int, ...] = ()
    #: When a job whose callbacks have to wait goes on.
    resume_at: Any = Moment()
    attempts = 0
    attempt_log: tuple[tuple[datetime, str, str], ...] = ()
    #: What its last attempts have logged; see joblog.
    logs: tuple[tuple[float, Any], ...] = ()
    #: Deaths of processes under this job; stops and disconnects are not counted.
    deaths = 0
    #: By what the last run was cut off, until the policy has answered what becomes of the job; see interruptions.
    interrupted_by = ""
    needs_attention = False
    held_reason = ""
    retried_as = ""
    #: Whether a callback was added after the end, so that the job may be in history while its callbacks run.
    late = False
    where = ""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        if not args:
            raise InvalidJobError("a Job needs something to call: Job(function, *args, **kwargs)")
        call, *rest = args
        self._set_call(call, tuple(rest), kwargs)

    @classmethod
    def bind(cls, /, *args: Any, **kwargs: Any) -> "Job":
        """A job that gets itself as first argument."""
        job = cls(*args, **kwargs)
        job.args.insert(0, job)
        return job

    @staticmethod
    def adapt(item: Any) -> Any:
        """``item`` as a job: a job or callback proxy itself, what is adaptable to IJob, or a function or method."""
        if IJob.providedBy(item) or callbacks.is_proxy(item):
            return item
        adapted = IJob(item, None)
        if adapted is not None:
            return adapted
        if callable(item) and not isinstance(item, type):
            return Job(item)
        raise InvalidJobError(f"{item!r} cannot be a job; wrap it: Job({item!r}, ...)")

    # Where it stands

    @property
    def id(self) -> str | None:
        """The oid in hex, with @database where that is not the main one."""
        if self._p_oid is None:
            return None
        name = self._p_jar.db().database_name
        at = "" if name in ("main", "unnamed") else f"@{name}"
        return f"{int.from_bytes(self._p_oid, 'big'):x}{at}"

    def _climb(self) -> Iterator[Any]:
        """The parents, nearest first; a job may be the parent of itself (its callable is its own method)."""
        seen = {id(self)}
        parent = self.parent
        while parent is not None and id(parent) not in seen:
            seen.add(id(parent))
            yield parent
            parent = getattr(parent, "parent", None)

    @property
    def status(self) -> Any:
        if self._status_id:
            return _STORED[self._status_id]
        for parent in self._climb():
            if IAgent.providedBy(parent):
                return ASSIGNED
            if IQueue.providedBy(parent):
                return PENDING
        return NEW

    @property
    def queue(self) -> Any:
        return next((parent for parent in self._climb() if IQueue.providedBy(parent)), None)

    @property
    def agent(self) -> Any:
        return next((parent for parent in self._climb() if IAgent.providedBy(parent)), None)

    def policies(self) -> Mapping[str, Any]:
        """The named retry policies of the database that holds the job."""
        queue = self.queue
        return queue.parent.policies if queue is not None and queue.parent is not None else {}

    @property
    def callbacks(self) -> tuple[Any, ...]:
        return self._callbacks

    def all_callbacks(self) -> Iterator["Job"]:
        """The callbacks, with those that stand behind proxies."""
        for callback in self._callbacks:
            yield from callbacks.jobs_of(callback)

    @property
    def annotations(self) -> Any:
        """A mapping for the application; it becomes a record when something is written."""
        if self._annotations is not None:
            return self._annotations

        def assign(values: dict[Any, Any]) -> None:
            self._annotations = OOBTree(values)

        return MappingView(lambda: {} if self._annotations is None else self._annotations, assign)

    # Letters from others, while the job runs

    def _letters(self, kind: str) -> Iterator[tuple[Any, Any]]:
        agent = self.agent
        slot = getattr(agent, "slot", None)
        if slot is not None and self._p_oid is not None:
            yield from slot.letters(self._p_oid, kind)

    def live_annotation(self, name: str, default: Any = None) -> Any:
        """The annotation as others see it: from the mailbox while the job runs, then from the job."""
        for key, value in self._letters("annotation"):
            if key == name:
                return value
        return self.annotations.get(name, default)

    @property
    def progress(self) -> running.Progress | None:
        """How far the job said that it is: (done, total, text), live while it runs; None if it said nothing."""
        said = [value for _name, value in self._letters("progress")]
        if self._progress is not None:
            said.append(self._progress)
        return running.progress_of(max(said, key=lambda one: one[0])) if said else None

    @property
    def overdue(self) -> bool:
        """Whether the job runs, and has run longer than its timeout."""
        return self._status_id < 2 and any(value for _name, value in self._letters("overdue"))

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked the running job to stop."""
        return any(True for _ in self._letters("stop"))

    @property
    def stack_asked(self) -> datetime | None:
        """When somebody asked last where the running job is."""
        return self._letter_to_running("ask")

    @property
    def stack(self) -> tuple[datetime, tuple[tuple[str, str, int, str, bool], ...]] | None:
        """When the running job was asked where it is, and where it was; see failuredata.stack_of."""
        return self._letter_to_running("stack")

    def _letter_to_running(self, kind: str) -> Any:
        return next((value for _name, value in self._letters(kind)), None) if self._status_id < 2 else None

    # Callbacks

    def addCallback(self, callback: Any, failure_log_level: int | None = None, retry_policy_factory: Any = None) -> Any:
        """See IAbstractJob. A job that runs elsewhere gets it through its mailbox, and loses nothing by it."""
        return self._add(self.adapt(callback), failure_log_level, retry_policy_factory)

    def addCallbacks(
        self,
        success: Any = None,
        failure: Any = None,
        failure_log_level: int | None = None,
        retry_policy_factory: Any = None,
    ) -> Any:
        """See IAbstractJob."""
        return self._add(callbacks.either(success, failure), failure_log_level, retry_policy_factory)

    def _add(self, callback: Any, failure_log_level: int | None, retry_policy_factory: Any) -> Any:
        if callbacks.add(self, callback, failure_log_level, retry_policy_factory) and self._status_id == 3:
            direct.run_late(self)
        return callback

    def _reopen(self) -> None:
        """A callback came after the end: it has to run, and the job to be filed away no second time."""
        self._become(CALLBACKS)
        self.late = True
        self.resume_at = None  # whoever ran its callbacks last has come to their end

    # Running

    @property
    def _has_hooks(self) -> bool:
        """Whether its class has code around each attempt."""
        return type(self).setUp is not Job.setUp or type(self).tearDown is not Job.tearDown

    def setUp(self) -> Any:
        """For subclasses: called before each attempt; what it returns goes to tearDown."""

    def tearDown(self, setup_info: Any) -> None:
        """For subclasses: called after the commit or abort of each attempt."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run in this thread, with commits on the manager of the job's connection. See IJob."""
        if self._status_id or self.status not in (NEW, ASSIGNED):
            raise BadStatusError(f"only a NEW or ASSIGNED job can be called, this one is {self.status}")
        return direct.call_directly(self, args, kwargs)

    def fail(self, e: BaseException | None = None) -> None:
        """See IJob. A waiting job is taken out of its queue."""
        direct.fail(self, e)

    def handleInterrupt(self) -> None:
        """See IJob."""
        direct.handle_interrupt(self)

    def resumeCallbacks(self) -> None:
        """See IJob."""
        direct.resume_callbacks(self)

    # Changes of state: each is one step of the protocol

    def _become(self, status: Any) -> None:
        """Take one step of states.TRANSITIONS: all that writes _status_id. BadStatusError if there is no such step."""
        check_step(self, status)
        self._status_id = STORED[status]

    def _claim(self, agent: Any, token: str, now: datetime, active: bool) -> None:
        """A dispatcher takes the job."""
        if self._status_id == 0:
            self._become(ASSIGNED)
        self.parent = agent
        self.agent_name = agent.name
        self.token = token
        self.resume_at = None
        if active and self._status_id == 0:
            self._begin(now)

    def _begin(self, now: datetime) -> None:
        """A thread begins the job's first attempt since its claim."""
        self._become(ACTIVE)
        self.active_start = now

    def _wait_in(self, queue: Any) -> None:
        """The job waits again: put back, rescheduled, or with callbacks to resume."""
        if self._status_id < 2 and self.status != PENDING and not self.goes_on:
            self._end_attempt()
        self.parent = queue
        self.token = None

    def _rest(self) -> None:
        """A callback's attempt is over, and another one will follow when its job comes again."""
        if self._status_id == 1:
            self._end_attempt()

    def _end_attempt(self) -> None:
        """Another attempt will follow."""
        self._become(PENDING)
        if self.active_start is not None:
            began = clock.to_microseconds(self.active_start)
            self.starts = (*self.starts[1 - REMEMBERED_ATTEMPTS :], began)
            self.active_start = None

    def _complete(self, now: datetime) -> None:
        """The last callback is done."""
        self._become(COMPLETED)
        self.needs_attention = False
        self.initial_callbacks_end = self.initial_callbacks_end or now

    def remember(self, kind: str, text: str, now: datetime) -> None:
        """Note an attempt that did not end the job."""
        self.attempt_log = (*self.attempt_log[1 - REMEMBERED_ATTEMPTS :], (now, kind, text[:500]))

    def __repr__(self) -> str:
        try:
            return call_text(self)
        except Exception:  # also if its record cannot be loaded any more: whoever logs it must get a text
            return super().__repr__()


def serial(*jobs: Any, **options: Any) -> Job:
    """A job, to be put, that runs ``jobs`` one after the other, whether they succeed or not, and then ``postprocess``.

    ``jobs``, and ``postprocess=``: jobs, functions, or what is adaptable to IJob; InvalidJobError (a TypeError) for
    anything else, and for other keywords. The postprocess is called with its own arguments and then all jobs, which
    have ended, in their order; its result is that of the whole. Without one the result is the tuple of the jobs.

    The jobs are ``args`` of what is returned: more may be appended before the start, by one of the jobs, or by their
    callbacks. It runs them in its own queue, and holds no thread meanwhile. If it is cancelled, what it has put goes
    on.
    """
    made: Job = sequences.make(Job, "serial", jobs, options)
    return made


def parallel(*jobs: Any, **options: Any) -> Job:
    """Like ``serial``, but ``jobs`` are put all at once, and run in any order and side by side."""
    made: Job = sequences.make(Job, "parallel", jobs, options)
    return made


callbacks.make_job = Job.adapt
