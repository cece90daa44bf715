"""The request that a job runs under: as near to the one that put it as plain data can bring it."""

from Acquisition import aq_chain
from Acquisition import aq_inner
from collections.abc import Mapping
from collective.zcasync.ploneapp.interfaces import IJobRequest
from OFS.interfaces import IApplication
from plone.browserlayer import layer as browserlayer
from plone.browserlayer.interfaces import ILocalBrowserLayerType
from plone.theme import layer as theme
from Testing.makerequest import makerequest
from typing import Any
from urllib.parse import urlsplit
from zope.component import getAllUtilitiesRegisteredFor
from zope.event import notify
from zope.interface import alsoProvides
from zope.interface import directlyProvidedBy
from zope.interface import directlyProvides
from zope.traversing.interfaces import BeforeTraverseEvent

#: Host of the URLs in jobs that were put without a request.
NO_URL = "http://nohost"

#: What requests provide when their site has marked them, by what they provided before, layers and skin. To work it out
#: anew for each job takes a fifth of the time of entering and leaving a site.
_marks: dict[tuple[Any, ...], tuple[Any, ...]] = {}

#: So many are kept. A site has few.
MARKS = 500


def remember(site: Any, request: Any) -> tuple[tuple[str, Any], ...]:
    """What a job has to know of the request that put it: plain data, without what is the usual."""
    facts: dict[str, Any] = {
        "url": request.get("SERVER_URL"),
        "root": tuple(request.get("VirtualRootPhysicalPath", ("",))),
        "script": tuple(getattr(request, "_script", ())),
        "language": request.get("LANGUAGE"),
    }
    if site is not None:
        skin = site.getCurrentSkinName()
        if skin != site.portal_skins.getDefaultSkin():
            facts["skin"] = skin
    return tuple((name, value) for name, value in facts.items() if value and value != ("",))


def make(app: Any, facts: Mapping[str, Any]) -> Any:
    """The application root under a new request with that server URL and language."""
    url = facts.get("url", NO_URL)
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    app = makerequest(
        app,
        environ={
            "SERVER_URL": url,
            "SERVER_NAME": parts.hostname or "nohost",
            "SERVER_PORT": str(port),
            "HTTP_HOST": parts.netloc,
            "HTTP_ACCEPT_LANGUAGE": facts.get("language", ""),
        },
    )
    alsoProvides(app.REQUEST, IJobRequest)
    app.REQUEST["PARENTS"] = [app]
    app.REQUEST.setVirtualRoot("/".join(facts.get("script", ())))
    return app


def enter_site(request: Any, site: Any, was: str, facts: Mapping[str, Any]) -> None:
    """Give the request what publishing through the site would have given it. ``was``: the site's path at the put."""
    request["PARENTS"] = [_moved(site, was, facts.get("root", ("",)))]
    request.setVirtualRoot("/".join(facts.get("script", ())))
    chain = list(aq_chain(aq_inner(site)))
    end = next(number for number, item in enumerate(chain) if IApplication.providedBy(item))
    request["PARENTS"] = chain[: end + 1]
    request["URL"] = request["ACTUAL_URL"] = site.absolute_url()
    # Without the request: it would clear the skin when it is closed, which may be that of an outer request by then.
    site.changeSkin(facts.get("skin"))
    event = BeforeTraverseEvent(site, request)
    _mark(site, event)
    notify(event)  # language, theme
    language = facts.get("language")
    if language:
        request["LANGUAGE"] = language
        binding = request.get("LANGUAGE_TOOL")
        if binding is not None:
            binding.LANGUAGE = language


def _mark(site: Any, event: Any) -> None:
    """Let the request provide the browser layers and the skin. The event's subscribers do so once in a request."""
    request, skin = event.request, site.getCurrentSkinName()
    known = (request.__provides__, skin, *getAllUtilitiesRegisteredFor(ILocalBrowserLayerType))
    if known in _marks:
        request._plonebrowserlayer_ = request._plonetheme_ = True
        directlyProvides(request, *_marks[known])
        return
    browserlayer.mark_layer(site, event)
    theme.mark_layer(site, event)
    if len(_marks) >= MARKS:
        _marks.clear()
    _marks[known] = tuple(directlyProvidedBy(request))


def _moved(site: Any, was: str, root: tuple[str, ...]) -> Any:
    """The object that was the virtual root at the put, also if the site was renamed since."""
    path = "/".join(root)
    if path == was:
        return site
    if path.startswith(f"{was}/"):
        return site.unrestrictedTraverse(path[len(was) + 1 :], site)
    return site.getPhysicalRoot().unrestrictedTraverse(path, site.getPhysicalRoot())
