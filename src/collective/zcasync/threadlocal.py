"""What a job can know of itself: the running job, its queue and dispatcher, and live annotations."""

from collective.zcasync.exceptions import ZCAsyncError
from typing import Any
from typing import cast

import threading
import time
import transaction


class Local(threading.local):
    """One per process; each thread sees its own values. Outside job threads all are None."""

    #: The innermost running job.
    job: Any = None
    #: What that job says and is told; see collective.zcasync.running.
    running: Any = None
    #: The dispatcher whose thread this is.
    dispatcher: Any = None
    #: The name of the agent that claimed the job.
    name: str | None = None

    def getJob(self) -> Any:
        """The innermost job (or callback) that runs in this thread, or None."""
        return self.job

    def getQueue(self) -> Any:
        """The queue of that job; AttributeError outside jobs."""
        return self.job.queue

    def getDispatcher(self) -> Any:
        """The dispatcher of this thread, or None."""
        return self.dispatcher

    def getReactor(self) -> Any:
        """The reactor of this thread's dispatcher; AttributeError outside job threads."""
        return self.dispatcher.reactor

    def getAgentName(self) -> str | None:
        """The name of the agent that claimed the job, or None."""
        return self.name

    def setLiveAnnotation(self, name: str, value: Any, job: Any = None) -> None:
        """Let others see ``value`` under ``name`` before the job commits.

        Written in a connection of its own, by the reactor's thread, into the mailbox beside the job (the job's own
        record is not touched: that would make the job's finish conflict). ``value``: immutable, not persistent.
        """
        if self.dispatcher is None:
            raise ZCAsyncError("setLiveAnnotation works in job threads only; elsewhere use job.annotations")
        target = cast(Any, self.job if job is None else job)
        self.dispatcher.tell_job(target._p_oid, ("annotation", name), value)

    def getLiveAnnotation(
        self, name: str, default: Any = None, timeout: float = 0, poll: float = 1, job: Any = None
    ) -> Any:
        """The annotation as last committed by anybody; waits up to ``timeout`` seconds, looking every ``poll``."""
        target = cast(Any, self.job if job is None else job)
        database, oid = target._p_jar.db(), target._p_oid
        end = time.monotonic() + timeout
        missing = object()
        while True:
            manager = transaction.TransactionManager()
            connection = database.open(manager)
            try:
                value = connection.get(oid).live_annotation(name, missing)
            finally:
                manager.abort()
                connection.close()
            if value is not missing:
                return value
            rest = end - time.monotonic()
            if rest <= 0:
                return default
            time.sleep(min(poll, rest))


local = Local()
