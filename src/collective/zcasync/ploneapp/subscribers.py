"""Sites that are renamed, moved or removed: their jobs go on, or end."""

from collective.zcasync.ploneapp import grouped
from collective.zcasync.ploneapp import purge
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp.setuphandlers import note_path
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Site
from plone.base.interfaces import IPloneSiteRoot
from typing import Any
from zope.component import adapter
from zope.lifecycleevent.interfaces import IObjectMovedEvent

import logging

logger = logging.getLogger("collective.zcasync.profile")


@adapter(IPloneSiteRoot, IObjectMovedEvent)
def site_moved(site: Any, event: Any) -> None:
    """Keep the queues' knowledge of a site; a site that is gone runs no jobs."""
    if event.oldParent is None or getattr(site, "_p_oid", None) is None:
        return
    connection = sites.connection_of(site)
    queues = get_queues(connection) if connection is not None else None
    if queues is None:
        return
    if event.newParent is not None:
        note_path(queues, site)
        return
    _removed(queues, sites.group_of(site), f"{sites.path_of(event.oldParent)}/{event.oldName}")


def _removed(queues: Any, group: str, path: str) -> None:
    found = grouped.cancel(queues, group)
    schedules = purge.remove_schedules(queues, group)
    purge.forget_owner(queues, group)
    if found and group not in queues.sites:
        queues.sites[group] = Site(path)  # so that zcasync purge finds what is kept of its jobs
    logger.info(
        "%s was removed: %d waiting jobs cancelled, %d running ones asked to stop, %d schedules removed",
        path,
        found["cancelled"],
        found["stopping"],
        schedules,
    )
