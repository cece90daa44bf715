"""What the profiles do beyond their files: the site's entry in the queues, and its jobs at uninstall and reinstall."""

from Acquisition import aq_inner
from Acquisition import aq_parent
from collective.zcasync.ploneapp import desk
from collective.zcasync.ploneapp import grouped
from collective.zcasync.ploneapp import permissions
from collective.zcasync.ploneapp import purge
from collective.zcasync.ploneapp import sites
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Site
from plone.base.interfaces import INonInstallable
from typing import Any
from zope.interface import implementer

import logging

logger = logging.getLogger("collective.zcasync.profile")


@implementer(INonInstallable)
class HiddenProfiles:
    """Keeps the uninstall profile out of lists of things to install."""

    def getNonInstallableProfiles(self) -> list[str]:
        """See INonInstallable."""
        return ["collective.zcasync:uninstall"]

    def getNonInstallableProducts(self) -> list[str]:
        """See INonInstallable."""
        return []


def install(setup_tool: Any) -> None:
    """After the import of the default profile."""
    site = aq_parent(aq_inner(setup_tool))
    queues = get_queues(sites.connection_of(site))
    note_path(queues, site)
    group = sites.group_of(site)
    released = 0 if queues.sites[group].paused else grouped.release(queues, group)
    if released:
        logger.info("%s: %d jobs that waited since the uninstall go on", sites.path_of(site), released)


def uninstall(setup_tool: Any) -> None:
    """Before the import of the uninstall profile. Queues stay, and jobs too: see ``zcasync purge``."""
    site = aq_parent(aq_inner(setup_tool))
    for permission in permissions.ALL:
        # As it was before the profile named roles: what the container says.
        site.manage_permission(permission, roles=[], acquire=1)
    desk.clear_all(site)
    queues = get_queues(sites.connection_of(site))
    if queues is None:
        return
    group, path = sites.group_of(site), sites.path_of(site)
    schedules = purge.remove_schedules(queues, group)
    found = grouped.hold(queues, group)
    logger.info(
        "%s: %d waiting jobs are held until the product is installed again, %d running jobs go on to their end, %d"
        " schedules removed. To delete the jobs of this site: zcasync purge --site %s",
        path,
        found["held"],
        found["running"],
        schedules,
        path,
    )


def note_path(queues: Any, site: Any) -> None:
    """Let the queues know where a site stands: for its jobs, and for people."""
    group, path = sites.group_of(site), sites.path_of(site)
    known = queues.sites.get(group)
    if known is None:
        queues.sites[group] = Site(path)
    elif known.path != path:
        known.path = path
