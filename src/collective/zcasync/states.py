"""The steps from one status of a job to the next: the code allows no others, and the documentation shows them."""

from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from typing import Any
from typing import NamedTuple


class Transition(NamedTuple):
    """A step that a job may take. ``name``: a word or two for the picture; ``when``: a sentence."""

    before: Any
    after: Any
    name: str
    when: str


TRANSITIONS = (
    Transition(NEW, PENDING, "put", "A queue gets the job, or gets it back from a chooser."),
    Transition(NEW, ASSIGNED, "claimed", "An agent takes what its chooser has taken out of the queue."),
    Transition(NEW, ACTIVE, "called", "The job is called directly, or as a callback of a job that is in no queue."),
    Transition(NEW, CALLBACKS, "failed", "`fail` ends a job that has callbacks."),
    Transition(NEW, COMPLETED, "failed", "`fail` ends a job that has none."),
    Transition(PENDING, NEW, "removed", "`queue.remove` or `pull` takes the job out, or a chooser does."),
    Transition(PENDING, ASSIGNED, "claimed", "A dispatcher takes the job for one of its agents."),
    Transition(PENDING, ACTIVE, "called", "A callback begins whose own job is back in the queue."),
    Transition(PENDING, CALLBACKS, "cancelled", "The job is cancelled or failed, or the end of another job ends it."),
    Transition(PENDING, COMPLETED, "cancelled", "The same, for a job without callbacks."),
    Transition(ASSIGNED, NEW, "removed", "`agent.remove` or `pull` lets the job go."),
    Transition(ASSIGNED, PENDING, "given back", "Nobody began it: its dispatcher stops, or its threads are busy."),
    Transition(ASSIGNED, ACTIVE, "begins", "A thread is free; mostly in the same commit as the claim."),
    Transition(ASSIGNED, CALLBACKS, "too late", "`begin_by` has passed: the job ends with a TimeoutError."),
    Transition(ASSIGNED, COMPLETED, "too late", "The same, for a job without callbacks."),
    Transition(
        ACTIVE, PENDING, "tried again", "The retry policy wants another attempt: later, or after an interruption."
    ),
    Transition(ACTIVE, CALLBACKS, "ends", "The result or failure is stored, together with what the job has changed."),
    Transition(ACTIVE, COMPLETED, "ends", "The same, for a job without callbacks."),
    Transition(CALLBACKS, COMPLETED, "done", "The last callback has ended."),
    Transition(COMPLETED, CALLBACKS, "late callback", "A callback is added to a job that has ended."),
)

#: What is stored of a status. The first three are told apart by what holds the job: nothing, a queue, an agent.
STORED: dict[Any, int] = {NEW: 0, PENDING: 0, ASSIGNED: 0, ACTIVE: 1, CALLBACKS: 2, COMPLETED: 3}

_STEPS = frozenset((step.before, step.after) for step in TRANSITIONS)


def check_step(job: Any, after: Any) -> None:
    """BadStatusError, naming the job and both statuses, if no job may go from its status to ``after``."""
    if (job.status, after) not in _STEPS:
        raise BadStatusError(f"{job!r} is {job.status.default}, from where no job becomes {after.default}")
