"""Who may start which task from the web: a name from outside is looked up among the registered ones, never imported."""

from collective.zcasync.ploneapp.permissions import MANAGE_JOBS
from collective.zcasync.tasks import Task
from plone import api
from typing import Any
from zope.component import queryUtility
from zope.security.interfaces import IPermission


def permission_of(task: Task) -> str:
    """Title of the permission that starting the task needs: its own, named by title or by id, or that of managers."""
    if task.permission is None:
        return MANAGE_JOBS
    found = queryUtility(IPermission, task.permission)
    return task.permission if found is None else str(found.title)


def may_start(site: Any, task: Task) -> bool:
    """Whether the current user may start the task in the site."""
    return not api.user.is_anonymous() and bool(api.user.has_permission(permission_of(task), obj=site))
