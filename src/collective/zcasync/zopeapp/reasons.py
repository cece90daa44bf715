"""Why a job does not run, in words, for the pages of Zope and of Plone."""

from collections.abc import Callable
from collective.zcasync.interfaces import _
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.monitorrows import RUNNING
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
