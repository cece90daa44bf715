"""Content as argument: stored by UID, path and weak reference, so that it comes back where it stands then."""

from AccessControl import getSecurityManager
from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from collective.zcasync.exceptions import ContentGone
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.ploneapp.refusals import why_not
from collective.zcasync.ploneapp.sites import path_of
from OFS.interfaces import IItem
from persistent.wref import WeakRef
from plone.app.uuid.utils import uuidToPhysicalPath
from plone.base.interfaces import IPloneSiteRoot
from plone.uuid.interfaces import IUUID
from Products.CMFCore.interfaces import IContentish
from typing import Any
from zope.component import queryUtility
from zope.component.hooks import getSite

#: What the job's user needs on the content: whoever may not look at it gets it from no job either.
VIEW = "View"


class ContentReference:
    """Stands for content in a stored job. Plain data and a weak reference: it keeps no deleted page alive."""

    def __init__(self, uid: str | None, path: str, ref: WeakRef) -> None:
        self.UID = uid
        self.path = path
        self.ref = ref

    def __repr__(self) -> str:
        return f"<content {self.path}>"


def shelve(value: Any) -> Any:
    """A reference, if the value is content; else the value. InvalidArgumentError if it can never come back."""
    if isinstance(value, str | bytes | int | float | None):
        return value
    why = why_not(value)
    if why is not None:
        raise InvalidArgumentError(f"{_kind(value)} cannot be stored with a job: {why}")
    if not (IContentish.providedBy(value) or IItem.providedBy(value)):
        return value
    container = aq_parent(aq_inner(value))
    if container is None or not _holds(container, value):
        raise InvalidArgumentError(
            f"{_kind(value)} {value.getId()!r} stands in no folder yet, so a job could not find it: add it to its"
            " folder first, and pass the object that you get from there (folder['id'], api.content.create)"
        )
    base = aq_base(value)
    if base._p_jar is None:
        aq_base(container)._p_jar.add(base)
    _check_database(value, base._p_jar)
    return ContentReference(IUUID(value, None), path_of(value), WeakRef(base))


def unshelve(value: Any) -> Any:
    """What the reference stands for, in its acquisition chain under the present request; ContentGone if it is gone."""
    if not isinstance(value, ContentReference):
        return value
    content = _find(value)
    if content is None:
        raise ContentGone(
            f"The content at {value.path} was deleted, or moved to where the catalog does not know it. Bring it back"
            " and retry the job, or put a new job with content that is there."
        )
    manager = getSecurityManager()
    if not manager.checkPermission(VIEW, content):
        raise ContentGone(
            f"The job's user {manager.getUser().getUserName()!r} may not view {path_of(content)}. Grant that and"
            " retry the job, or put it anew as someone who may: api.options(run_as='...').put(...)"
        )
    return content


def place_of(job: Any) -> str:
    """Where the content stands that a job is about: the owner of the method, else the first such argument."""
    for value in (job._owner(), *job.args, *job.kwargs.values()):
        if isinstance(value, ContentReference):
            return value.path
    return ""


def _find(reference: ContentReference) -> Any:
    base = reference.ref()
    if base is None:
        return None
    site = getSite()
    paths = [reference.path]
    if reference.UID is not None:
        current = uuidToPhysicalPath(reference.UID)
        if current is not None:
            paths.insert(0, current)
    for path in paths:
        content = _traverse(site, path)
        # A name that nobody has any more may find something else, even a view.
        if getattr(aq_base(content), "_p_oid", None) == base._p_oid:
            return content
    if IPloneSiteRoot.providedBy(base) and base._p_oid == aq_base(site)._p_oid:
        return site
    return None


def _traverse(site: Any, path: str) -> Any:
    if site is None:
        return None
    return site.getPhysicalRoot().unrestrictedTraverse(path, None)


def _holds(container: Any, value: Any) -> bool:
    """Whether the folder has the value under its id, and does not merely stand before it in a chain."""
    get = getattr(aq_base(container), "_getOb", None)
    if get is None:
        return False
    found = container._getOb(value.getId(), None)
    return found is not None and aq_base(found) is aq_base(value)


def _check_database(value: Any, jar: Any) -> None:
    """Content of the site may stand beside the queues (db-name); that of other databases belongs to other sites."""
    site = getSite()
    source = queryUtility(IConnectionSource)
    connections = [source() if source is not None else None, site._p_jar if site is not None else None]
    databases = [connection.db() for connection in connections if connection is not None]
    if not databases or jar.db() in databases:
        return
    raise InvalidArgumentError(
        f"{_kind(value)} {path_of(value)} belongs to the database {jar.db().database_name!r}, and the job to"
        f" {databases[0].database_name!r}: put the job from the site that the content belongs to, or pass its UID and"
        " look it up in the job"
    )


def _kind(value: Any) -> str:
    kind = type(aq_base(value))
    return f"{kind.__module__}.{kind.__qualname__}"
