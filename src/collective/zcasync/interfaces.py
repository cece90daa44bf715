"""The contracts of the engine and its constants. Start reading here."""

# Errors and events are here too, where zc.async had them.
from collective.zcasync.events import DatabaseOpened as DatabaseOpened
from collective.zcasync.events import DispatcherActivated as DispatcherActivated
from collective.zcasync.events import DispatcherDeactivated as DispatcherDeactivated
from collective.zcasync.events import DispatcherReactivated as DispatcherReactivated
from collective.zcasync.events import DispatcherRegistered as DispatcherRegistered
from collective.zcasync.events import DispatcherUnregistered as DispatcherUnregistered
from collective.zcasync.events import IDatabaseOpenedEvent as IDatabaseOpenedEvent
from collective.zcasync.events import IDispatcherActivated as IDispatcherActivated
from collective.zcasync.events import IDispatcherDeactivated as IDispatcherDeactivated
from collective.zcasync.events import IDispatcherReactivated as IDispatcherReactivated
from collective.zcasync.events import IDispatcherRegistered as IDispatcherRegistered
from collective.zcasync.events import IDispatcherUnregistered as IDispatcherUnregistered
from collective.zcasync.events import IObjectAdded as IObjectAdded
from collective.zcasync.events import ObjectAdded as ObjectAdded
from collective.zcasync.exceptions import AbortedError as AbortedError
from collective.zcasync.exceptions import BadStatusError as BadStatusError
from collective.zcasync.exceptions import FullError as FullError
from collective.zcasync.exceptions import ReassignedError as ReassignedError
from collective.zcasync.exceptions import TimeoutError as TimeoutError
from collective.zcasync.i18n import _
from zope.interface import Attribute
from zope.interface import Interface

#: Where the queues live: ``connection.root()[KEY]``.
KEY = "collective.zcasync"

#: Version of the stored structures; see DESIGN, "Schema".
SCHEMA = 1

# Statuses. They equal plain strings, and can be translated.
NEW = _("new-status", default="New")  #: nobody runs it, no queue holds it
PENDING = _("pending-status", default="Pending")  #: a queue holds it
ASSIGNED = _("assigned-status", default="Assigned")  #: an agent has claimed it
ACTIVE = _("active-status", default="Active")  #: a job thread runs it
CALLBACKS = _("callback-status", default="Performing Callbacks")  #: it ran; its callbacks run
COMPLETED = _("completed-status", default="Completed")  #: all is done


class IReactor(Interface):
    """What a dispatcher needs of a reactor; Twisted's have it. Nobody has to declare it."""

    def callFromThread(callable, *args, **kw):
        """Run the callable in the reactor's thread."""

    def callInThread(callable, *args, **kw):
        """Run the callable in a thread of the reactor's pool."""

    def callLater(seconds, callable, *args, **kw):
        """Run the callable in the reactor's thread after so many seconds."""

    def addSystemEventTrigger(phase, event, callable, *args, **kw):
        """Run the callable at a system event; ('before', 'shutdown') must be known."""

    def callWhenRunning(callable, *args, **kw):
        """Run the callable as soon as the reactor runs."""


class IRetryPolicy(Interface):
    """Decides what follows trouble. It never sleeps and never commits.

    Answers: false, no retry; true, retry (in the same thread; first in line after an interruption); a timedelta
    or an aware datetime, retry then. A naive datetime is read as UTC.
    """

    def jobError(failure, data_cache):
        """The call raised. ``data_cache``: a dict of plain values that lives until the job ends."""

    def commitError(failure, data_cache):
        """The commit raised."""

    def interrupted():
        """The job's dispatcher stopped or died during the job."""

    def updateData(data_cache):
        """A commit comes: the policy may store what it has counted."""


class IAbstractJob(Interface):
    """What jobs and callback proxies have in common."""

    parent = Attribute("Queue, agent or job that holds this one")
    status = Attribute("One of the statuses of this module; read only")
    result = Attribute("None until the end, then a value or a Failure; read only")
    callbacks = Attribute("The callbacks, in order; read only")

    def addCallback(callback, failure_log_level=None, retry_policy_factory=None):
        """Add something adaptable to IJob that is called with the result; return its job."""

    def addCallbacks(success=None, failure=None, failure_log_level=None, retry_policy_factory=None):
        """Add one callback for success and one for failure; return their proxy."""


class IJob(IAbstractJob):
    """A call that is stored, run later, and remembered with its outcome."""

    id = Attribute("Text that names the job: its oid in hex; None before it is stored")
    callable = Attribute("What is called")
    args = Attribute("Positional arguments; mutable until the start")
    kwargs = Attribute("Keyword arguments; mutable until the start")
    annotations = Attribute("Mapping for the application")
    begin_after = Attribute("Aware UTC datetime before which the job does not start")
    begin_by = Attribute("timedelta from begin_after after which the job does not start any more")
    quota_names = Attribute("Names of the quotas that the job falls under")
    failure_log_level = Attribute("Level at which a failure is logged; None: ERROR")
    active_start = Attribute("Aware UTC datetime of the last start, or None")
    active_end = Attribute("Aware UTC datetime of the end of the call, or None")
    initial_callbacks_end = Attribute("Aware UTC datetime at which the callbacks of the time had ended, or None")
    retry_policy_factory = Attribute("Name of a policy or adapter, or of a class as module:qualname; None: the default")
    assignerUUID = Attribute("UUID of the process that put the job, or None")
    queue = Attribute("The queue that holds the job, directly or through others")
    agent = Attribute("The agent that holds the job, directly or through others")

    def __call__(*args, **kwargs):
        """Run the job in this thread, with commits."""

    def getRetryPolicy():
        """The IRetryPolicy that decides about this job."""

    def setUp():
        """For subclasses: called before each attempt; what it returns goes to tearDown."""

    def tearDown(setup_info):
        """For subclasses: called after the commit or abort of each attempt."""

    def fail(e=None):
        """End a job that has not started with a Failure around ``e`` (a TimeoutError by default)."""

    def handleInterrupt():
        """Ask the policy what becomes of a job whose dispatcher is gone, and do it."""

    def resumeCallbacks():
        """Go on with the callbacks that have not run."""


class ICallbackProxy(IAbstractJob):
    """Stands for one of several callbacks until the result is known."""

    job = Attribute("The chosen callback, or None")

    def getJob(result):
        """Choose the callback for this result and return it."""


class ISizedSequence(Interface):
    """A finite sequence."""

    def __len__():
        """How many."""

    def __iter__():
        """All, in order."""

    def __getitem__(index):
        """The one at that place, also counted from the end; IndexError if there is none."""

    def __bool__():
        """Whether there are any: an empty one is false, so ask a lookup for None."""


class IQueue(ISizedSequence):
    """Jobs that wait. Iterates over them in the order in which they are offered."""

    name = Attribute("The queue's name; '' is the default queue")
    parent = Attribute("The Queues mapping")
    quotas = Attribute("Mapping name -> quota")
    dispatchers = Attribute("Mapping UUID -> IDispatcherAgents")

    def put(item, begin_after=None, begin_by=None, failure_log_level=None, retry_policy_factory=None):
        """Store a job, to be run after the commit of this transaction; return it."""

    def putBack(item):
        """Put a claimed job in front of all others."""

    def pull(index=0):
        """Remove the job at that place of the order, and return it; IndexError if there is none."""

    def remove(item):
        """Remove the job; LookupError if it does not wait here."""

    def claim(filter=None, default=None):
        """Take the first job that may start now and that the filter accepts."""


class IQuota(ISizedSequence):
    """At most so many jobs at once, in all processes."""

    name = Attribute("Name")
    parent = Attribute("The queue's Quotas")
    size = Attribute("How many jobs may run at once")
    filled = Attribute("Whether so many run now")

    def add(item):
        """Enter a job; ValueError if the quota is filled or the job does not name it."""

    def clean():
        """Forget members that run no longer."""


class IAgent(ISizedSequence):
    """Claims jobs of one queue for one dispatcher. A finite sequence of the jobs it holds, oldest claim first."""

    size = Attribute("How many jobs it holds at most")
    name = Attribute("Its key in the dispatcher's agents")
    parent = Attribute("The IDispatcherAgents")
    queue = Attribute("The queue")
    completed = Attribute("Finished jobs, newest first")

    def claimJob():
        """Take one job, or None."""

    def jobCompleted(job):
        """Move a finished job to ``completed``."""

    def index(item):
        """The place of a job; ValueError if it is not held here."""

    def pull(index=0):
        """Let go and return the job at that place."""

    def remove(item):
        """Let the job go; its parent becomes None."""

    def __delitem__(index):
        """Let the job at that place go."""


class IFilterAgent(IAgent):
    """An agent without a chooser."""

    filter = Attribute("Callable job -> bool, or None to accept all")


class ICompletedCollection(Interface):
    """Finished jobs, newest first."""

    def add(job):
        """Add a job that is COMPLETED."""

    def iter(start=None, stop=None):
        """Those that ended at or before ``start`` and after ``stop``."""

    def first(start=None):
        """The newest that ended at or before ``start``; ValueError if there is none."""

    def last(stop=None):
        """The oldest that ended after ``stop``; ValueError if there is none."""

    def __iter__():
        """All."""

    def __len__():
        """How many."""

    def __bool__():
        """Whether there are any."""


class IDispatcherAgents(Interface):
    """What a dispatcher is in one queue: mapping agent name -> IAgent."""

    UUID = Attribute("UUID of the dispatcher")
    activated = Attribute("Aware UTC datetime, or None")
    last_ping = Attribute("Object whose ``value`` is the time of the last ping, or None")
    dead = Attribute("Whether the last ping is too long ago by this clock; for display only")

    def activate():
        """Begin; ValueError if active."""

    def deactivate():
        """End, and give all jobs back; ValueError if not active."""


class IDispatchers(Interface):
    """Mapping UUID -> IDispatcherAgents."""

    def register(uuid):
        """Add a dispatcher; ValueError if it is there."""

    def unregister(uuid):
        """Remove a dispatcher that is not active, and return it."""

    def ping(uuid):
        """Say that the dispatcher is alive."""


class IUUID(Interface):
    """Marker of the utility that is this process' UUID."""


class IJobContext(Interface):
    """What outer rings remember of the caller, and set up again around each attempt.

    Ring 1 registers none: then a job has no group, no user, and its arguments are stored as they are.
    """

    def capture(job, run_as=None):
        """Return ``(group, user, data)`` of the present caller: two texts, and plain data (nested tuples of None,
        bool, numbers, str, bytes, datetimes) that ``enter`` needs. Called at each put, in the caller's thread,
        with the job's task name known; raises PutRefused if the caller may not put this here."""

    def enter(job, connection):
        """A context manager: enter the captured context for one attempt and restore what was before, after the
        commit or abort. ``connection``: the ZODB connection that the job was loaded from."""

    def after_job(job):
        """Inside the entered context, after each job that shares a transaction with others: do what the job has left
        to its commit (indexing, for one), so that an error in it is the job's, and let nothing of it reach the next.
        """

    def lets_pass(participant):
        """Whether others may follow a job that has left this in the transaction that they share: a data manager, or
        the function of a hook. What is unknown may have effects elsewhere, and is the last of its transaction."""

    def shelve(value):
        """Return what to store in place of ``value``: a reference object if ``value`` is content, else ``value``
        itself. Raises InvalidArgumentError if it can never come back."""

    def unshelve(value):
        """The reverse of ``shelve``, inside the entered context; raises ContentGone."""


class IConnectionSource(Interface):
    """Where ``api`` finds the ZODB connection of its caller. Outer rings register one."""

    def __call__():
        """Return the connection of the running request, site or job, or None."""
