"""What the current user may see and change of a site's jobs and queues; all faces ask here."""

from AccessControl import getSecurityManager
from Acquisition import aq_inner
from Acquisition import aq_parent
from collections.abc import Iterable
from collective.zcasync import bulk
from collective.zcasync import jobdetail
from collective.zcasync import taskarguments
from collective.zcasync.ploneapp import users
from collective.zcasync.ploneapp.permissions import MANAGE_JOBS
from collective.zcasync.ploneapp.permissions import MANAGE_OWN_JOBS
from collective.zcasync.ploneapp.permissions import VIEW_JOBS
from collective.zcasync.ploneapp.sites import group_of
from collective.zcasync.tasks import Task
from functools import cached_property
from typing import Any
from zope.component import queryUtility
from zope.security.interfaces import IPermission

#: Names of tasks that look at no rights themselves: the faces put them, after they have looked.
INTERNAL = frozenset({bulk.TASK})


class Rights:
    """Those of the user who is logged in now, in one site. Made for one request, and not stored."""

    def __init__(self, site: Any) -> None:
        self.site = site

    def may(self, permission: str) -> bool:
        """Whether the user has the permission of that title in the site."""
        return bool(getSecurityManager().checkPermission(permission, self.site))

    @cached_property
    def group(self) -> str:
        """The site, as jobs name it."""
        return group_of(self.site)

    @cached_property
    def user(self) -> str | None:
        """The user, as jobs name those as whom they run; None: nobody is logged in."""
        return users.person(self.site, getSecurityManager().getUser())

    @cached_property
    def views(self) -> bool:
        """Whether the user may see the site's jobs."""
        return self.may(VIEW_JOBS)

    @cached_property
    def manages(self) -> bool:
        """Whether the user may change the site's jobs, and read arguments and tracebacks."""
        return self.may(MANAGE_JOBS)

    @cached_property
    def owns(self) -> bool:
        """Whether the user may see and cancel the jobs that run as this user."""
        return self.user is not None and self.may(MANAGE_OWN_JOBS)

    @cached_property
    def rules_all(self) -> bool:
        """Whether the user may see and change what belongs to other sites and to the root."""
        return is_root_manager()

    def may_edit(self, owner: str) -> bool:
        """Whether the user may change what belongs to that owner (a site's group, or '' for the root)."""
        return self.rules_all or (self.manages and owner == self.group)

    def may_edit_all(self, owners: Iterable[str]) -> bool:
        """Whether the user may change what belongs to each of these owners; not if there are none."""
        known = set(owners)
        return bool(known) and all(map(self.may_edit, known))

    def sees(self, job: Any) -> bool:
        """Whether the user may know of the job."""
        return self.is_in_reach(job) and self.views or self.is_own(job)

    def changes(self, job: Any) -> bool:
        """Whether the user may do with the job what managers do."""
        return self.is_in_reach(job) and self.manages

    def is_in_reach(self, job: Any) -> bool:
        """Whether the job belongs to this site, or to any for one who rules all."""
        return self.rules_all or jobdetail.group_of(job) == self.group

    def is_own(self, job: Any) -> bool:
        """Whether the job runs as this user in this site, and the user may see and cancel such jobs."""
        return self.owns and not jobdetail.is_broken(job) and (job.user, job.group) == (self.user, self.group)

    def may_start(self, task: Task) -> bool:
        """Whether the user may start the task from the web: by its own permission, else by that of managers."""
        return task.name not in INTERNAL and self.user is not None and self.may(permission_of(task))

    def is_offered(self, task: Task) -> bool:
        """Whether the user may start the task, and all that it needs can be given from outside."""
        return self.may_start(task) and taskarguments.startable(task)


def permission_of(task: Task) -> str:
    """Title of the permission that starting a task from the web needs; a task may name it by title or by id."""
    if task.permission is None:
        return MANAGE_JOBS
    found = queryUtility(IPermission, task.permission)
    return task.permission if found is None else str(found.title)


def is_root_manager() -> bool:
    """Whether the current user is a Manager, and comes from the user folder at the root."""
    user = getSecurityManager().getUser()
    if "Manager" not in user.getRoles():
        return False
    folder = aq_parent(aq_inner(user))
    home = aq_parent(aq_inner(folder)) if folder is not None else None
    return home is not None and tuple(home.getPhysicalPath()) == ("",)
