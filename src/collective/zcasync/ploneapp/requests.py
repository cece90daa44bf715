"""The request that a job runs under: as near to the one that put it as plain data can bring it."""

from Acquisition import aq_chain
from Acquisition import aq_inner
from collections.abc import Mapping
from collective.zcasync.ploneapp.interfaces import IJobRequest
from OFS.interfaces import IApplication
from Testing.makerequest import makerequest
from typing import Any
from urllib.parse import urlsplit
from zope.event import notify
from zope.interface import alsoProvides
from zope.traversing.interfaces import BeforeTraverseEvent

#: Host of the URLs in jobs that were put without a request.
NO_URL = "http://nohost"


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
    notify(BeforeTraverseEvent(site, request))  # browser layers, language, theme
    language = facts.get("language")
    if language:
        request["LANGUAGE"] = language
        binding = request.get("LANGUAGE_TOOL")
        if binding is not None:
            binding.LANGUAGE = language


def _moved(site: Any, was: str, root: tuple[str, ...]) -> Any:
    """The object that was the virtual root at the put, also if the site was renamed since."""
    path = "/".join(root)
    if path == was:
        return site
    if path.startswith(f"{was}/"):
        return site.unrestrictedTraverse(path[len(was) + 1 :], site)
    return site.getPhysicalRoot().unrestrictedTraverse(path, site.getPhysicalRoot())
