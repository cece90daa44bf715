"""The ZCML directive ``<zcasync:task />``: a function becomes a task without a change to its code."""

from collections.abc import Callable
from collective.zcasync import callables
from collective.zcasync import tasks
from typing import Any
from zope.component import queryUtility
from zope.configuration.exceptions import ConfigurationError
from zope.configuration.fields import Bool
from zope.configuration.fields import GlobalObject
from zope.configuration.fields import MessageID
from zope.interface import Interface
from zope.schema import Float
from zope.schema import TextLine
from zope.security.interfaces import IPermission
from zope.security.zcml import Permission

#: Order of our action: after all definitions of permissions, which other packages may add later in the same run.
LAST = 9999999


class ITaskDirective(Interface):
    """Register a task: a function that jobs call, known by a name."""

    handler = GlobalObject(
        title="Handler", description="The function, by its dotted name. It must be found again under that name."
    )
    name = TextLine(
        title="Name", description="The task's name; without it module and name of the function.", required=False
    )
    title = MessageID(title="Title", description="What people read in lists of jobs.", required=False)
    permission = Permission(
        title="Permission",
        description="Id of the permission that starting the task from the web needs.",
        required=False,
    )
    queue = TextLine(title="Queue", description="The queue's name; without it the default queue.", required=False)
    policy = TextLine(title="Policy", description="The name of its retry policy.", required=False)
    timeout = Float(
        title="Timeout", description="Seconds after which the job is asked to stop.", min=0.0, required=False
    )
    transactional = Bool(
        title="Transactional",
        description="False for a task with effects outside the database that must not happen twice.",
        required=False,
        default=True,
    )
    groupable = Bool(
        title="Groupable", description="Whether several such jobs may share one commit.", required=False, default=False
    )
    safe_in_get = Bool(
        title="Safe in GET", description="Whether a GET request may put it.", required=False, default=False
    )
    lane = TextLine(
        title="Lane",
        description="Jobs of one site in one lane write the same objects: they run in one process at a time.",
        required=False,
    )
    visible = Bool(
        title="Visible", description="Whether people see such jobs among their own.", required=False, default=False
    )
    content_rule = Bool(
        title="Content rule",
        description="Whether content rules may put it; its first argument is the object.",
        required=False,
        default=False,
    )


def task(
    _context: Any,
    handler: Callable[..., Any],
    name: str | None = None,
    title: str | None = None,
    permission: str | None = None,
    queue: str | None = None,
    policy: str | None = None,
    timeout: float | None = None,
    transactional: bool = True,
    groupable: bool = False,
    safe_in_get: bool = False,
    lane: str | None = None,
    visible: bool = False,
    content_rule: bool = False,
) -> None:
    """Handler of the directive. Two directives for one name are a conflict, as everywhere in ZCML."""
    if isinstance(handler, tasks.Task):
        raise ConfigurationError(
            f"{handler.name} is a task already, by its decorator; give its options there, and leave out this directive"
        )
    name = name or callables.dotted(f"{handler.__module__}:{handler.__qualname__}")
    _context.action(
        discriminator=("zcasync:task", name),
        callable=_register,
        args=(handler, name, permission),
        kw={
            "title": title,
            "queue": queue or "",
            "policy": policy,
            "timeout": timeout,
            "transactional": transactional,
            "groupable": groupable,
            "safe_in_get": safe_in_get,
            "lane": lane or "",
            "visible": visible,
            "content_rule": content_rule,
        },
        order=LAST,
    )


def _register(handler: Callable[..., Any], name: str, permission: str | None, **options: Any) -> None:
    tasks.register(tasks.Task(handler, name=name, permission=_permission_title(permission), **options))


def _permission_title(permission: str | None) -> str | None:
    """Tasks carry what Zope's own security machinery checks: the title of a permission, not its id."""
    if permission is None:
        return None
    found = queryUtility(IPermission, permission)
    if found is None:
        raise ConfigurationError(
            f"permission {permission!r} cannot be checked; name one that is defined by a <permission /> directive"
        )
    return found.title
