"""As whom a job runs: decided at the put, and looked up again when it starts."""

from AccessControl import getSecurityManager
from AccessControl.SpecialUsers import nobody
from AccessControl.users import emergency_user
from AccessControl.users import UnrestrictedUser
from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.exceptions import UserGone
from collective.zcasync.ploneapp.interfaces import PREFIX
from collective.zcasync.ploneapp.permissions import RUN_AS
from collective.zcasync.ploneapp.sites import path_of
from plone.registry.interfaces import IRegistry
from typing import Any
from zope.component import queryUtility

import logging

logger = logging.getLogger("collective.zcasync")

#: How a job says that it runs as nobody; all others are "path of the user folder:user id".
ANONYMOUS = "Anonymous"


def choose(site: Any, request: Any, run_as: str | None, task: str) -> str:
    """The user for a job that is put here and now, as text; PutRefused if there is none, or it is not allowed."""
    if run_as is not None:
        return _other(site, run_as, task)
    manager = getSecurityManager()
    user = aq_base(manager.getUser())
    made_up = isinstance(user, UnrestrictedUser) and user is not emergency_user
    name = person(site, manager.getUser())
    if name is None and made_up and request is not None:
        name = person(site, request.get("AUTHENTICATED_USER"))
    if name is None:
        return ANONYMOUS if request is not None and not made_up else _service_user(site, task)
    if made_up or any(getattr(item, "_proxy_roles", None) for item in manager._context.stack):
        logger.warning(
            "%s was put under adopted roles; these are not carried over, and the job runs with the roles that %s has"
            " then. Name a user who has them: api.options(run_as='...').put(...)",
            task,
            name,
        )
    return name


def find(app: Any, site: Any, was: str, name: str) -> Any:
    """The user with that name, wrapped in the user folder; UserGone if there is none. ``was``: the site's old path."""
    if name in (ANONYMOUS, ""):
        return nobody.__of__(app.acl_users)
    path, _, user_id = name.partition(":")
    if site is not None and path.startswith(f"{was}/"):
        folder = site.unrestrictedTraverse(path[len(was) + 1 :], None)
    else:
        folder = app.unrestrictedTraverse(path, None)
    user = _wrapped(folder, user_id)
    if user is None:
        raise UserGone(
            f"The user {user_id!r} is not in {path} any more. Create the user again and retry the job, or put it anew"
            " as someone else: api.options(run_as='...').put(...)"
        )
    return user


def person(site: Any, user: Any) -> str | None:
    """The text for a user that a job can be run as later; None for nobody and for Zope's own system user."""
    if user is None or aq_base(user) is nobody:
        return None
    user_id = user.getId()
    special = isinstance(aq_base(user), UnrestrictedUser)
    if user_id is None and not special:
        return None
    folder = aq_parent(aq_inner(user))
    if special or folder is None:
        # Made by hand, or Zope's own: only one that a user folder knows can be found again.
        return _look_up(site, user_id or user.getUserName())
    return f"{path_of(folder)}:{user_id}"


def id_in(name: str) -> str:
    """The id of a user from the text for it, without the path of the folder that it comes from."""
    return name.rpartition(":")[2]


def _look_up(site: Any, name: str) -> str | None:
    """The text for a user id, or for "path:id", looked for in the site and then in the root."""
    if site is None:
        return None
    path, colon, user_id = name.rpartition(":")
    if colon:
        folders = [site.getPhysicalRoot().unrestrictedTraverse(path, None)]
    else:
        folders = [site.acl_users, site.getPhysicalRoot().acl_users]
    for folder in folders:
        if _wrapped(folder, user_id) is not None:
            return f"{path_of(folder)}:{user_id}"
    return None


def _wrapped(folder: Any, user_id: str) -> Any:
    user = folder.getUserById(user_id) if folder is not None else None
    if user is None or hasattr(user, "aq_base"):
        return user
    return user.__of__(folder)


def _service_user(site: Any, task: str) -> str:
    if site is None:
        raise PutRefused(
            f"{task} was put without a request, a logged-in user and a site, so nobody could run it: set the site"
            " first, setSite(app.Plone), or log a user in with newSecurityManager(None, user)"
        )
    registry = queryUtility(IRegistry, context=site)
    user_id = registry.get(f"{PREFIX}.service_user", None) if registry is not None else None
    if not user_id:
        raise PutRefused(
            f"{task} was put without a request and without a logged-in user, and {path_of(site)} names no service"
            f" user: set the registry record {PREFIX}.service_user (Site Setup, Background jobs), log a user in with"
            " newSecurityManager(None, user), or name one: api.options(run_as='...').put(...)"
        )
    name = _look_up(site, user_id)
    if name is None:
        raise PutRefused(
            f"{task} would run as the service user {user_id!r}, but {path_of(site)} has no such user: create it, or"
            f" change the registry record {PREFIX}.service_user (Site Setup, Background jobs)"
        )
    return name


def _other(site: Any, run_as: str, task: str) -> str:
    """``run_as``, if the caller may; nobody can lend a job rights that reach beyond the own ones."""
    name = _look_up(site, run_as)
    if name is None:
        raise PutRefused(
            f"{task} cannot run as {run_as!r}: neither the site nor the root has a user with that id. Name one who"
            " exists, by id rather than by login name"
        )
    manager = getSecurityManager()
    if name == person(site, manager.getUser()):
        return name
    folder_path, _, user_id = name.partition(":")
    root = site.getPhysicalRoot()
    folder = root.unrestrictedTraverse(folder_path)
    place = aq_parent(aq_inner(folder))
    if not manager.checkPermission(RUN_AS, place):
        raise PutRefused(
            f"{task} cannot run as {run_as!r}: {manager.getUser().getUserName()!r} lacks the permission"
            f" {RUN_AS!r} in {path_of(place) or '/'}. Grant it there, or put the job without run_as"
        )
    target = _wrapped(folder, user_id)
    if "Manager" in target.getRoles() and not _is_manager(manager.getUser()):
        raise PutRefused(
            f"{task} cannot run as {run_as!r}: only a Manager can put jobs that run as a Manager. Have a Manager put"
            " it, or name a user without that role"
        )
    return name


def _is_manager(user: Any) -> bool:
    return isinstance(aq_base(user), UnrestrictedUser) or "Manager" in user.getRoles()
