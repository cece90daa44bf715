"""What of Zope and Plone cannot be an argument of a job, and what to pass in its place."""

from AccessControl.users import BasicUser
from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from collective.zcasync import door
from OFS.interfaces import IItem
from Products.CMFCore.interfaces import IContentish
from Products.CMFCore.interfaces import ISiteRoot
from Products.CMFCore.MemberDataTool import MemberAdapter
from Products.CMFCore.utils import UniqueObject
from Products.ZCatalog.interfaces import ICatalogBrain
from typing import Any
from z3c.form.interfaces import IForm
from zope.interface import providedBy
from zope.publisher.interfaces import IRequest
from zope.publisher.interfaces.browser import IBrowserView
from ZPublisher.BaseResponse import BaseResponse
from ZTUtils.Lazy import Lazy

_REQUEST = "it ends with the request; pass the values that the job needs, or call getRequest() in the job for its own"
_VIEW = (
    "a view lives as long as its request; pass its context, and get the view in the job with"
    " api.content.get_view(name, context)"
)

_BY_INTERFACE: tuple[tuple[Any, str], ...] = (
    (IRequest, _REQUEST),
    (IForm, "a form lives as long as its request; pass its context and the values from extractData()"),
    (IBrowserView, _VIEW),
    (ICatalogBrain, "a search result is out of date when the job runs; pass brain.getObject(), or brain.UID as text"),
)

_BY_CLASS: tuple[tuple[Any, str], ...] = (
    (BaseResponse, _REQUEST),
    (Lazy, "a search result is out of date when the job runs; pass [brain.UID for brain in ...], or search in the job"),
    ((BasicUser, MemberAdapter), "a user is known to its site only; pass user.getId(), or say run_as=... at the put"),
)


def register() -> None:
    """Ask these questions at the engine's door."""
    for question in (why_not, why_not_nested):
        if question not in door.refusals:
            door.refusals.append(question)


def why_not(value: Any) -> str | None:
    """Why the value can never come back in a job, with the way out; None if it may."""
    base = aq_base(value)
    if isinstance(base, UniqueObject) or _is_part_of_site(value):
        return f"a tool is at hand in every job; get it there with api.portal.get_tool({base.getId()!r})"
    for kind, why in _BY_CLASS:
        if isinstance(base, kind):
            return why
    provided = providedBy(base)
    for interface, why in _BY_INTERFACE:
        if interface in provided.flattened():
            return why
    if IRequest.providedBy(getattr(base, "__dict__", {}).get("request")):
        return "it holds the request, which ends before the job runs; pass what it was made from"
    return None


def _is_part_of_site(value: Any) -> bool:
    """Whether it stands in the site's root and is no content: registry, user folder, setup tool and the like."""
    if not IItem.providedBy(value) or IContentish.providedBy(value) or ISiteRoot.providedBy(value):
        return False
    return ISiteRoot.providedBy(aq_parent(aq_inner(value)))


def why_not_nested(value: Any) -> str | None:
    """Content is stored by reference, which the engine can do in lists, tuples, sets and dicts only."""
    if IContentish.providedBy(value) or ISiteRoot.providedBy(value):
        return (
            "content inside an object of your own would come back without its folders; pass it as an argument of its"
            " own, or in a list, tuple or dict"
        )
    return None
