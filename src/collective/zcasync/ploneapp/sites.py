"""Sites as jobs know them: by path, and by an oid that survives a rename."""

from Acquisition import aq_base
from Acquisition import aq_chain
from Acquisition import aq_inner
from collective.zcasync.exceptions import ContentGone
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.queue import get_queues
from collective.zcasync.zopeapp.connection import of_content
from plone.base.interfaces import IPloneSiteRoot
from typing import Any
from zope.component import getUtility
from zope.component import hooks


def current_site() -> Any:
    """The Plone site of the caller, also from within a local site below it; None at the Zope root."""
    for item in aq_chain(aq_inner(hooks.getSite())):
        if IPloneSiteRoot.providedBy(item):
            return item
    return None


def path_of(item: Any) -> str:
    """Physical path as text; that of the application root is ''."""
    return "/".join(item.getPhysicalPath())


def group_of(site: Any) -> str:
    """The group of a site's jobs: its oid in hex. A site made in this very transaction is given one."""
    base = aq_base(site)
    if base._p_oid is None:
        aq_inner(site).aq_parent._p_jar.add(base)
    return f"{int.from_bytes(base._p_oid, 'big'):x}"


def connection_of(site: Any) -> Any:
    """The connection to the database that holds the queues for a site."""
    with hooks.site(site):
        return getUtility(IConnectionSource)()


def check_database(job: Any, site: Any) -> None:
    """PutRefused if the job was put into a queue of another database than the one for the site's jobs."""
    right = of_content(site) if site is not None else None
    if right is None or right.db() is job.queue._p_jar.db():
        return
    raise PutRefused(
        f"{job.task} cannot be put into a queue of the database {job.queue._p_jar.db().database_name!r}: the site"
        f" {path_of(site)} stands in {right.db().database_name!r}, and its jobs with it, so that a job and its work are"
        " stored in one commit. Put it there: collective.zcasync.queue.get_queue(site._p_jar).put(...)"
    )


def application(connection: Any) -> Any:
    """Zope's application root, for a connection to its database or to one that is mounted in it."""
    root = connection.root()
    if "Application" in root:
        return root["Application"]
    for name in connection.db().databases:
        root = connection.get_connection(name).root()
        if "Application" in root:
            return root["Application"]
    raise ContentGone(
        f"Neither the database {connection.db().database_name!r} nor one beside it holds a Zope application. Jobs of a"
        " Plone site run only where the site can be reached: give the dispatcher that zope.conf."
    )


def locate(app: Any, connection: Any, group: str, path: str) -> Any:
    """The site that has that oid, in its acquisition chain; ``path`` is where it stood at the put."""
    oid = int(group, 16).to_bytes(8, "big")
    for candidate in _candidates(app, connection, oid, group, path):
        site = app.unrestrictedTraverse(candidate, None)
        # A name that nobody has any more may find something else, even a view.
        if getattr(aq_base(site), "_p_oid", None) == oid:
            return site
    raise ContentGone(f"The site {path} of this job was removed, so the job cannot run: zcasync purge --site {path}")


def _candidates(app: Any, connection: Any, oid: bytes, group: str, path: str) -> Any:
    """Paths at which the site may stand now, the likeliest first."""
    yield path
    queues = get_queues(connection)
    known = queues.sites.get(group) if queues is not None else None
    if known is not None and known.path != path:
        yield known.path
    folder = path.rpartition("/")[0]
    container = app.unrestrictedTraverse(folder, None) if folder else app
    for name, item in container.objectItems() if container is not None else ():
        if aq_base(item)._p_oid == oid:
            yield f"{folder}/{name}"
