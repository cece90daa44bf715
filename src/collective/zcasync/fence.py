"""The fence: no transaction of an attempt commits once the job has another owner, whatever the job's code does."""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync.exceptions import InGroupError
from collective.zcasync.exceptions import ReassignedError
from transaction._transaction import Status
from transaction.interfaces import ISynchronizer
from typing import Any
from zope.interface import implementer


def reassigned(job: Any) -> ReassignedError:
    """What an attempt gets that has lost its job."""
    return ReassignedError(f"the job {job.id} belongs to another claim now")


def check_owner(job: Any, token: str | None) -> None:
    """ReassignedError if the job, as this transaction sees it, belongs to another claim than that of ``token``."""
    if job.token != token:
        raise reassigned(job)


class Refuse:
    """A data manager that lets a transaction abort, but not commit.

    It refuses in ``commit``: refusing in ``tpc_begin`` would make other connections log errors in ``tpc_abort``.
    """

    def __init__(self, why: Exception) -> None:
        self.why = why

    def sortKey(self) -> str:
        return ""  # before any storage gets work

    def commit(self, txn: Any) -> None:
        raise self.why

    def abort(self, txn: Any) -> None:
        """Nothing was done."""

    tpc_begin = tpc_vote = tpc_finish = tpc_abort = abort


@implementer(ISynchronizer)
class Guard:
    """Watches the manager of an attempt's thread.

    Every commit, also those of the job's own code, writes the job's record: a takeover since the transaction's
    snapshot then conflicts. A takeover before the snapshot (the job's code had committed or aborted meanwhile) shows
    in the token. A read check on the record would save writing it, but does nothing in a transaction that changes
    other databases only.
    """

    def __init__(self, job: Any, token: str | None, commits: Callable[[Any], None] = lambda job: None) -> None:
        self.job = job
        self.token = token
        #: Called with the job before each commit, when the hooks before it have run; it may look, and must not raise.
        self._commits = commits
        #: Whether the commit that comes is the engine's own.
        self.finishing = False
        #: Whether the attempt is over: the engine then looks at the owner itself, and may give the job away.
        self.over = False
        #: Whether the job's code has committed: such a job is no longer all or nothing.
        self.committed = False

    def beforeCompletion(self, txn: Any) -> None:
        # Called before aborts too, and cannot tell: it must not raise here, hence the data manager. A transaction that
        # has failed takes no changes any more, and can only be aborted.
        if self.over or txn.status != Status.ACTIVE:
            return
        self._commits(self.job)
        self.job._p_changed = True
        if self.job.token != self.token:
            txn.join(Refuse(reassigned(self.job)))
        elif not self.finishing and not self.committed and self.job._p_jar is not None:
            # In that very commit, so that it is known whatever becomes of the attempt. An abort takes it back.
            self.job.remember("committed", "what it had done by then is stored: not all or nothing", clock.utcnow())

    def afterCompletion(self, txn: Any) -> None:
        if not self.finishing and txn.status == Status.COMMITTED:
            self.committed = True

    def newTransaction(self, txn: Any) -> None:
        """Nothing to do."""


@implementer(ISynchronizer)
class GroupGuard:
    """Watches the manager of a thread that runs several jobs in one transaction.

    Their only commit is the engine's: it writes all their records, and is refused if one of them has another owner.
    What their code does about transactions would concern the others too: it is refused, and remembered, since the code
    may catch what it gets for that.
    """

    def __init__(self) -> None:
        #: The jobs, each with its token.
        self.members: list[tuple[Any, str]] = []
        #: Whether the commit that comes is the engine's own.
        self.finishing = False
        #: Whether all is over: what then completes is the engine's.
        self.over = False
        #: What the code of the job that runs got for its commit, abort or begin.
        self.refused: InGroupError | None = None

    def beforeCompletion(self, txn: Any) -> None:
        # An abort goes on all the same, and raises this in the end: the group is broken in any case.
        if self.over or txn.status != Status.ACTIVE:
            return
        if not self.finishing:
            task = self.members[-1][0].task if self.members else "a job"
            self.refused = InGroupError(
                f"{task} commits, aborts or begins a transaction that it shares with other jobs. Leave that to the"
                " engine, or take groupable=True from the task"
            )
            raise self.refused
        for job, token in self.members:
            job._p_changed = True
            if job.token != token:
                txn.join(Refuse(reassigned(job)))

    def afterCompletion(self, txn: Any) -> None:
        """Nothing to do."""

    newTransaction = afterCompletion
