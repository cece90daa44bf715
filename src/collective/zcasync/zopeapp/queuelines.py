"""The queues in numbers and words: what a page shows of each, for pages of Zope and of Plone."""

from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync.alarms import oldest_waiting
from collective.zcasync.interfaces import _
from collective.zcasync.readable import span_text
from typing import Any

#: Counts of the table, in its order: key in QueueRow.counts, label, state of the list that it leads to.
COLUMNS = (
    ("waiting", _("state_waiting", default="Waiting"), joblists.WAITING),
    ("parked", _("state_parked", default="Quota full"), joblists.WAITING),
    ("later", _("state_scheduled", default="Scheduled"), joblists.SCHEDULED),
    ("running", _("state_running", default="Running"), joblists.RUNNING),
    ("failed", _("state_failed", default="Failed"), joblists.FAILED),
    ("succeeded", _("state_finished", default="Finished"), joblists.FINISHED),
    ("cancelled", _("state_cancelled", default="Cancelled"), joblists.CANCELLED),
    ("quarantined", _("state_quarantined", default="Quarantined"), joblists.QUARANTINED),
)


def oldest_text(queue: Any) -> str:
    """For how long the oldest waiting job of a queue has waited; an empty text if none waits."""
    since = oldest_waiting(queue)
    return "" if since is None else span_text(max(0.0, (clock.utcnow() - since).total_seconds()))
