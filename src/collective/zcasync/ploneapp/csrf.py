"""Puts that plone.protect would roll back: they must fail loudly, or be marked as safe, never vanish."""

from AccessControl import getSecurityManager
from BTrees.LOBTree import LOBTree
from BTrees.LOBTree import LOBucket
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.ploneapp.interfaces import IJobRequest
from collective.zcasync.tasks import registry
from plone.protect.authenticator import check
from plone.protect.authenticator import isAnonymousUser
from plone.protect.auto import CSRF_DISABLED
from plone.protect.interfaces import IDisableCSRFProtection
from plone.protect.utils import SAFE_WRITE_KEY
from typing import Any
from zExceptions import Forbidden
from zope.interface.interfaces import ComponentLookupError


def guard(request: Any, job: Any, records: Iterable[Any]) -> None:
    """Look at the put of a job that changed these records: PutRefused if the end of the request would undo it.

    plone.protect decides when the request ends, with one log line and a page that says nothing. Here the put fails,
    where its author sees it.
    """
    if not would_be_rolled_back(request):
        return
    known = registry.get(job.task)
    if known is None or not known.safe_in_get:
        raise PutRefused(
            f"{job.task} was put in a {request.get('REQUEST_METHOD', 'GET')} request without a valid token, which"
            f" plone.protect would roll back: {request.get('ACTUAL_URL') or request.get('URL')} . Put it from a form"
            " (POST) that carries the field _authenticator. If it is an idempotent task of the system, register it"
            " with safe_in_get=True. If the view cannot be called by strangers, mark the request with plone.protect's"
            " IDisableCSRFProtection before the put."
        )
    safe = request.environ.setdefault(SAFE_WRITE_KEY, [])
    safe.extend(record._p_oid for record in _written(job, records))


def _written(job: Any, records: Iterable[Any]) -> Iterator[Any]:
    """The records, and of a large tree the bucket that took the job: what the put wrote, and nothing else."""
    for record in records:
        yield record
        if isinstance(record, LOBTree):
            for other in record._p_jar._registered_objects:
                if isinstance(other, LOBucket) and other.get(job.key) is job:
                    yield other


def would_be_rolled_back(request: Any) -> bool:
    """Whether plone.protect would undo a write in this request, as far as can be known before its end."""
    if CSRF_DISABLED or not _is_published(request):
        return False
    if IDisableCSRFProtection.providedBy(request) or isAnonymousUser(getSecurityManager().getUser()):
        return False
    try:
        check(request)
    except Forbidden:
        return True
    except ComponentLookupError:  # no keys in this site: plone.protect refuses loudly by itself
        return False
    return False


def _is_published(request: Any) -> bool:
    """Whether the publisher will end this request; requests of jobs, scripts and tests come from no web server."""
    if request is None or IJobRequest.providedBy(request):
        return False
    return "wsgi.version" in (getattr(request, "environ", None) or {})
