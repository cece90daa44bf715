"""Where a put finds its database connection: the running job's, the site's, or the request's."""

from Acquisition import aq_base
from Acquisition import aq_parent
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.threadlocal import local
from collective.zcasync.zopeapp.config import get_settings
from typing import Any
from zope.component.hooks import getSite
from zope.globalrequest import getRequest
from zope.interface import implementer


@implementer(IConnectionSource)
class ConnectionSource:
    """See IConnectionSource. A site in a mounted database leads to the queues in that database."""

    def __call__(self) -> Any:
        """See IConnectionSource."""
        for find in (of_job, of_site, of_request):
            connection = find()
            if connection is not None:
                return _to_queues(connection)
        return None


def of_content(context: Any) -> Any:
    """The connection to the database in which the jobs of this content belong, whoever asks; None if it has none."""
    connection = _of_object(context)
    return None if connection is None else _to_queues(connection)


def of_job() -> Any:
    """The connection of the job that runs in this thread."""
    job = local.getJob()
    return None if job is None else getattr(job, "_p_jar", None)


def of_site() -> Any:
    """The connection of the current site."""
    return _of_object(getSite())


def of_request() -> Any:
    """The connection that serves the current request."""
    request = getRequest()
    parents = request.get("PARENTS") if request is not None else None
    for parent in parents or ():
        connection = _of_object(parent)
        if connection is not None:
            return connection
    return None


def _to_queues(connection: Any) -> Any:
    db_name = get_settings().db_name
    return connection.get_connection(db_name) if db_name else connection


def _of_object(context: Any) -> Any:
    # What was added in this very transaction may have none of its own yet: then its container's.
    while context is not None:
        connection = getattr(aq_base(context), "_p_jar", None)
        if connection is not None:
            return connection
        context = aq_parent(context)
    return None
