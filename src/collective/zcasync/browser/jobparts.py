"""What the page about one job is made of, and the words for what happened to it."""

from collective.zcasync import joblists
from collective.zcasync.browser.panel import Moment
from collective.zcasync.interfaces import _
from dataclasses import dataclass
from typing import Any

#: What the user is told after a cancel, by its answer.
CANCEL_ANSWERS = {
    "cancelled": _("said_cancelled", default="The job was cancelled."),
    "stopping": _("said_stopping", default="The job runs already. It was asked to stop at its next checkpoint."),
    "finished": _("said_finished", default="The job had ended before it could be cancelled."),
}

#: Where another job of the tree stands to this one.
KINDS = {
    "main": _("kind_main", default="Belongs to"),
    "sequence": _("kind_sequence", default="Part of"),
    "waiter": _("kind_waiter", default="Awaited by"),
    "part": _("kind_part", default="Part"),
    "awaited": _("kind_awaited", default="Waits for"),
    "callback": _("kind_callback", default="Callback"),
}

#: What the tree says of a job: its outcome, or how far it is.
OUTCOMES = {
    "succeeded": joblists.STATES[joblists.FINISHED],
    "failed": joblists.STATES[joblists.FAILED],
    "cancelled": joblists.STATES[joblists.CANCELLED],
    "pending": joblists.STATES[joblists.WAITING],
    "new": _("status_new", default="Not begun"),
    "assigned": joblists.STATES[joblists.RUNNING],
    "active": joblists.STATES[joblists.RUNNING],
    "callback": joblists.STATES[joblists.RUNNING],
}


@dataclass(frozen=True)
class Action:
    """A button."""

    name: str
    label: Any
    css: str


@dataclass(frozen=True)
class Fact:
    """One line of the description of a job."""

    label: Any
    text: str
    url: str = ""


@dataclass(frozen=True)
class EventLine:
    """One line of the timeline."""

    label: Any
    time: Moment | None
    text: str
    #: Time since the event before.
    after: str = ""


@dataclass(frozen=True)
class LogRow:
    """One line of the log."""

    time: Moment | None
    level: str
    logger: str
    text: str


@dataclass(frozen=True)
class BranchLine:
    """Another job of the tree."""

    url: str
    title: str
    kind: Any
    state: Any
    badge: str
    style: str
    error: str
