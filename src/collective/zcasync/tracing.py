"""Where puts and attempts tell of themselves to whoever follows jobs in spans: nobody, unless ``spans`` is switched on.
Until then it costs a look at a variable."""

from collections.abc import Callable
from typing import Any
from typing import Protocol

#: How an attempt has ended that ended no job: it is tried again; its thread or process stops; it waits for a job or a
#: Deferred; or it is to run by itself, as the commit that it shared failed.
RETRIED, INTERRUPTED, WAITING, ALONE = "retried", "interrupted", "waiting", "alone"


class Span(Protocol):
    """One attempt, followed."""

    def call(self, code: Callable[[], Any]) -> Any:
        """Call the code in the span, so that what it does belongs to it."""

    def end(self, outcome: str, error: str = "") -> None:
        """It is over. ``outcome``: that of the job, or one of those above."""


class Tracer(Protocol):
    """Who follows."""

    def put(self, job: Any, queue: str) -> str:
        """A job is put; returns what is stored with it, so that its attempts lead back to the put."""

    def begin(self, job: Any, attempt: int) -> Span | None:
        """An attempt begins; None: nobody wants to know."""

    def failed(self, error: BaseException) -> None:
        """The attempt of this thread has met an error."""


tracer: Tracer | None = None


def put(job: Any, queue: str) -> None:
    """A job that is new is put into a queue."""
    if tracer is not None:
        job.trace_parent = tracer.put(job, queue)


def begin(job: Any, attempt: int) -> Span | None:
    """An attempt begins, the first one is 1."""
    return None if tracer is None else tracer.begin(job, attempt)


def failed(error: BaseException) -> None:
    """The attempt has met an error, whatever becomes of the job."""
    if tracer is not None:
        tracer.failed(error)


def end(span: Span, job: Any) -> None:
    """The attempt has stored what became of the job."""
    span.end(job.outcome or WAITING, (job.error or "") if job.failed else "")
