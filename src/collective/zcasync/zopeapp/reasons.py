"""Why a job does not run, in words, for the pages of Zope and of Plone."""

from collections.abc import Callable
from collective.zcasync import ownership
from collective.zcasync.alarms import HELD_ADVICE
from collective.zcasync.alarms import held_text
from collective.zcasync.alarms import is_served
from collective.zcasync.interfaces import _
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.monitorrows import RUNNING
from collective.zcasync.monitorrows import WAITING
from typing import Any


def reason_text(queues: Any, row: JobRow, translate: Callable[[Any], str]) -> str:
    """Why the job does not run; empty if nothing keeps it. ``queues``: the Queues that hold it."""
    if row.state == RUNNING:
        claimed = _("detail_claimed", default="Claimed by a dispatcher: begins as soon as a job thread is free")
        return translate(claimed) if row.claimed else ""
    kind, _colon, name = row.detail.partition(":")
    if kind == "quota":
        return translate(_("detail_quota", default="Waits for the quota ${name}", mapping={"name": name}))
    if kind == "queue":
        return translate(_("detail_queue_paused", default="Its queue is paused"))
    if kind == "group":
        if queues.is_site_paused(name):
            return translate(_("detail_site_paused", default="Paused with all jobs of its site"))
        return translate(_("detail_held", default="Held until the add-on is installed again in its site"))
    return row.detail


def full_reason_text(queues: Any, job: Any, row: JobRow, translate: Callable[[Any], str]) -> str:
    """The same of one job; of one that waits also that no dispatcher takes jobs of its queue, and what to do if all are
    held."""
    found = reason_text(queues, row, translate)
    if found or row.state != WAITING or job.queue is None or is_served(job.queue):
        return found
    return held_reason(queues, translate) or translate(_("detail_unserved", default="No dispatcher serves its queue"))


def held_reason(queues: Any, translate: Callable[[Any], str]) -> str:
    """Why all dispatchers are held, and what a person can do; empty if they are not."""
    held = ownership.held(queues)
    return "" if held is None else f"{translate(held_text(held))} {translate(HELD_ADVICE)}"
