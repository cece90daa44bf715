"""The words and colours of the lists of jobs, by list."""

from collective.zcasync import joblists
from collective.zcasync.interfaces import _

#: Heading of the column with the time, by state.
TIME_LABELS = {
    joblists.WAITING: _("time_put", default="Put"),
    joblists.SCHEDULED: _("time_due", default="Starts"),
    joblists.RUNNING: _("time_started", default="Started"),
    joblists.RETRYING: _("time_again", default="Tried again"),
    joblists.ATTENTION: _("time_last", default="Last seen"),
    joblists.FAILED: _("time_ended", default="Ended"),
    joblists.FINISHED: _("time_ended", default="Ended"),
    joblists.CANCELLED: _("time_ended", default="Ended"),
    joblists.QUARANTINED: _("time_put", default="Put"),
}

#: What an empty tab says: why it is empty and what to do next.
EMPTY_TEXTS = {
    joblists.WAITING: _(
        "empty_waiting",
        default="No job waits. Jobs appear here when something puts them, for example an add-on or a content rule,"
        " and leave as soon as a dispatcher takes them.",
    ),
    joblists.SCHEDULED: _(
        "empty_scheduled",
        default="No job is to start later. Jobs that were put with a start time, and those that are tried again after"
        " a pause, wait here.",
    ),
    joblists.RUNNING: _(
        "empty_running",
        default="No job runs now. If jobs wait all the same, look at the queues: a dispatcher may be missing.",
    ),
    joblists.RETRYING: _(
        "empty_retrying",
        default="No job waits to be tried again. Jobs whose retry policy lets them wait after a failed attempt are"
        " here.",
    ),
    joblists.ATTENTION: _(
        "empty_attention",
        default="No job needs a person. Jobs that fail again and again, run longer than they may, or were set aside"
        " are here.",
    ),
    joblists.FAILED: _(
        "empty_failed",
        default="No job has failed. A job that fails is kept here with its traceback, and can be retried.",
    ),
    joblists.FINISHED: _(
        "empty_finished",
        default="No finished job is kept. Finished jobs stay for some days; look at those that wait or run.",
    ),
    joblists.CANCELLED: _(
        "empty_cancelled",
        default="No job was cancelled. To cancel one that waits, open it and press Cancel.",
    ),
    joblists.QUARANTINED: _(
        "empty_quarantined",
        default="No job is set aside. Jobs whose code is missing, or that took their process down again and again,"
        " are kept here until you decide.",
    ),
}

#: Bootstrap's colour of the badge of each state that calls for one.
BADGES = {
    joblists.FAILED: "text-bg-danger",
    joblists.ATTENTION: "text-bg-warning",
    joblists.QUARANTINED: "text-bg-warning",
    joblists.RUNNING: "text-bg-primary",
}

#: Class of the badge of all other states.
PLAIN_BADGE = "text-bg-secondary"

#: Class of the badge in the open tab, which is coloured itself.
CURRENT_BADGE = "text-bg-light"


def badge_of(state: str) -> str:
    """Class of the badge of one job: what has ended well is told apart, which in a tab would be but a number."""
    return "text-bg-success" if state == joblists.FINISHED else BADGES.get(state, PLAIN_BADGE)
