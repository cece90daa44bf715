"""What a person can do with jobs of which list, with what words, and whether it is asked twice."""

from collective.zcasync import actions
from collective.zcasync import joblists
from collective.zcasync import manyjobs
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.interfaces import _
from collective.zcasync.joblists import LISTS
from dataclasses import dataclass
from typing import Any

_WAITING = (joblists.WAITING, joblists.SCHEDULED, joblists.RETRYING)


@dataclass(frozen=True)
class Verb:
    """One thing to do."""

    name: str
    label: Any
    #: The question before it is done, with ${jobs}; empty: it is done at once for the jobs that were ticked.
    question: Any
    #: What was done, with ${number}.
    done: Any
    #: The lists in which it is offered.
    lists: tuple[str, ...]
    css: str = "btn-outline-secondary"
    #: What has to be given: "", "time" or "priority".
    wants: str = ""

    @property
    def all_of(self) -> tuple[str, ...]:
        """The lists of which it can be done with all jobs at once."""
        many = manyjobs.VERBS.get(self.name, ())
        return tuple(name for name in self.lists if _state(name) in many)


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "retry",
            _("verb_retry", default="Retry"),
            _("ask_retry", default="Put ${jobs} once more?"),
            _("done_retry", default="Jobs put again: ${number}."),
            (joblists.FAILED, joblists.CANCELLED),
            "btn-primary",
        ),
        Verb(
            "release",
            _("verb_release", default="Release"),
            _("ask_release", default="Let ${jobs} run again?"),
            _("done_release", default="Jobs released: ${number}."),
            (joblists.QUARANTINED,),
            "btn-primary",
        ),
        Verb(
            "run",
            _("verb_run", default="Run now"),
            _("ask_run", default="Send ${jobs} to the front?"),
            _("done_run", default="Jobs sent to the front: ${number}."),
            _WAITING,
            "btn-primary",
        ),
        Verb(
            "schedule",
            _("verb_schedule", default="Reschedule"),
            _("ask_schedule", default="When may ${jobs} begin?"),
            _("done_schedule", default="Jobs rescheduled: ${number}."),
            _WAITING,
            wants="time",
        ),
        Verb(
            "priority",
            _("verb_priority", default="Change priority"),
            _("ask_priority", default="Which priority shall ${jobs} have?"),
            _("done_priority", default="Jobs with another priority: ${number}."),
            _WAITING,
            wants="priority",
        ),
        Verb(
            "cancel",
            _("verb_cancel", default="Cancel"),
            _("ask_cancel", default="Cancel ${jobs}? Those that run are asked to stop."),
            _("done_cancel", default="Jobs cancelled, or asked to stop: ${number}."),
            (*_WAITING, joblists.RUNNING),
            "btn-outline-danger",
        ),
        Verb(
            "delete",
            _("verb_delete", default="Delete"),
            _("ask_delete", default="Delete ${jobs} for good? This cannot be undone."),
            _("done_delete", default="Jobs deleted: ${number}."),
            (joblists.FAILED, joblists.FINISHED, joblists.CANCELLED, joblists.QUARANTINED),
            "btn-outline-danger",
        ),
    )
}

#: Verbs about which nobody is asked again for a few jobs: they can be undone, or harm nothing.
HARMLESS = ("retry", "release", "run")


def verbs_of(name: str) -> list[Verb]:
    """What is offered in one list, each with its button."""
    return [verb for verb in VERBS.values() if name in verb.lists]


def do(name: str, job: Any, by: str, value: Any = None) -> Any:
    """Do it with one job. Raises BadStatusError, InvalidValueError or what a put raises."""
    if name == "cancel":
        answer = actions.cancel(job, by)
        if answer == "finished":
            raise BadStatusError(f"Job {job.id} had ended before it could be cancelled.")
        return answer
    if name == "schedule":
        return actions.reschedule(job, value, by)
    if name == "priority":
        return actions.change_priority(job, value, by)
    plain = {"retry": actions.retry, "release": actions.release, "run": actions.run_now, "delete": actions.delete}
    return plain[name](job, by)


def states_of(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The states, and the fields of a Search, that say for the engine which jobs stand in a list."""
    return (_state(name),), {"attempts": 1} if name == joblists.RETRYING else {}


def _state(name: str) -> str:
    return joblists.SCHEDULED if name == joblists.RETRYING else name


assert all(name in LISTS for verb in VERBS.values() for name in verb.lists)
