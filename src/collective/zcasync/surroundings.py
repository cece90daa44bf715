"""What surrounds a run: the process around it, and the context of whoever put the job."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import transactions
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.exceptions import UnreadableArgumentsError
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.neighbours import Neighbour
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.politeness import Politeness
from contextlib import AbstractContextManager
from contextlib import contextmanager
from contextlib import nullcontext
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from zope.component import queryUtility

import threading
import ZODB.broken

#: Seconds that jobs may share one transaction before it ends, unless somebody knows better.
BUNDLE = 0.2


def bundle(who: tuple[str, str]) -> float:
    """BUNDLE, for all jobs."""
    return BUNDLE


@dataclass
class Surroundings:
    """What a run knows of the process around it. The defaults are those of a job that is called directly."""

    database: Any = None
    neighbours: Neighbours | None = None
    #: The requests of this process, if its jobs let them go first.
    politeness: Politeness | None = None
    #: The dispatcher's Mail: what is written for others meanwhile, and what they tell.
    mail: Any = None
    #: What waits for the Deferreds that jobs return, and the reactor that fires them; None: whoever fires them.
    deferreds: Any = None
    reactor: Any = None
    stopping: threading.Event = field(default_factory=threading.Event)
    #: Called with an error of the job's code, before its transaction is aborted: for somebody who looks at it.
    debug: Callable[[Exception], None] | None = None
    #: For a job's group and task: the seconds after which a transaction that it shares takes up no more jobs.
    bundle: Callable[[tuple[str, str]], float] = bundle
    #: Whether runs have connections that are opened for them, and closed after them.
    own: bool = False

    @contextmanager
    def attempt(self, who: Neighbour, again: bool) -> Iterator[bool]:
        """Around one attempt: it begins when nobody has to go first. ``again``: whether it follows a conflict.

        Yields whether it may have had to wait.
        """
        if again and self.neighbours is not None:
            self.neighbours.give_way(who)  # the first attempt was given a thread only when it might begin
        with (
            nullcontext() if self.neighbours is None else self.neighbours.attempt(who[0], again) as waited,
            nullcontext() if self.politeness is None else self.politeness.turn() as polite,
        ):
            yield again or bool(waited) or bool(polite)

    @property
    def goes_on(self) -> bool:
        """Whether another job may begin in a transaction at once: no request has come meanwhile that goes first."""
        return self.politeness is None or not self.politeness.serving

    def commit(self, manager: Any, job: Any) -> None:
        """The last commit of an attempt; of jobs that share it, any of them has the same context."""
        if self.own and job.context_data is None and not job._has_hooks:
            transactions.commit_last(manager, job._p_jar)
        else:
            manager.commit()  # code of the application follows, and may look at what others have changed

    def commits(self, who: Neighbour, job: Any) -> None:
        """An attempt is about to commit: learn whether such jobs write content, for they let requests go first then."""
        if self.neighbours is not None and who[0] and job._p_jar is not None and _writes_content(job):
            self.neighbours.write_content(who)

    def belongs_elsewhere(self, who: Neighbour) -> bool:
        """Whether such jobs are to run in another process, as they would conflict with those there."""
        return self.neighbours is not None and who in self.neighbours.elsewhere

    def learn(self, who: Neighbour, conflict: bool, collided: str = "", attempts: int = 1) -> bool:
        """Tell how so many attempts ended; whether such jobs conflict with another process again and again."""
        return self.neighbours is not None and self.neighbours.learn(who, conflict, collided, attempts)


def _writes_content(job: Any) -> bool:
    """Whether a job changes more than jobs, and the queues' trees where it puts some. After a savepoint: perhaps."""
    changed = [each for each in job._p_jar._registered_objects if each is not job]
    modules = {type(each).__module__ for each in changed}
    own = {name for name in modules if name.startswith("collective.zcasync.")}
    trees = {name for name in modules if name.startswith("BTrees.")} if own else set()
    return bool(modules - own - trees) or job._p_jar._savepoint_storage is not None


def entered(job: Any) -> AbstractContextManager[Any]:
    """The context that was captured when the job was put; nothing where nothing was captured."""
    context = queryUtility(IJobContext)
    if context is None or job.context_data is None:
        return nullcontext()
    return context.enter(job, job._p_jar)


def after_job(job: Any) -> None:
    """After the code of a job that shares a transaction with others, inside the context."""
    context = queryUtility(IJobContext)
    if context is not None and job.context_data is not None:
        context.after_job(job)


def lets_pass(participant: Any) -> bool:
    """Whether others may follow a job that has left this data manager or hook in the transaction that they share."""
    if (getattr(participant, "__module__", None) or "").startswith("collective.zcasync."):
        return True
    context = queryUtility(IJobContext)
    return context is not None and bool(context.lets_pass(participant))


def unshelve(value: Any) -> Any:
    """A stored value as the job's code sees it."""
    if isinstance(value, ZODB.broken.Broken):
        raise UnreadableArgumentsError(
            f"the class {type(value).__module__}.{type(value).__name__} of an argument is gone; install its code"
            " and retry the job, or discard it"
        )
    context = queryUtility(IJobContext)
    return value if context is None else context.unshelve(value)


def shelve_result(value: Any) -> Any:
    """A result as it is stored."""
    context = queryUtility(IJobContext)
    try:
        return value if context is None else context.shelve(value)
    except InvalidArgumentError:
        return value  # an outcome cannot fail because of the outcome: what cannot be stored is kept as text
