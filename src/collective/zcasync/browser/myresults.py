"""What has come of an own job, for the person who started it: a text, a link, or a file to download."""

from collective.zcasync.exceptions import ContentGone
from collective.zcasync.interfaces import _
from collective.zcasync.readable import shorten
from collective.zcasync.surroundings import unshelve
from dataclasses import dataclass
from plone.namedfile.interfaces import INamedTyped
from plone.namedfile.utils import set_headers
from plone.namedfile.utils import stream_data
from Products.CMFCore.interfaces import IContentish
from typing import Any
from zExceptions import NotFound
from zope.i18nmessageid import Message

#: Characters of a result that is only shown.
TEXT_LIMIT = 500


@dataclass(frozen=True)
class Outcome:
    """``url``: empty for what is only a text. ``file``: whether the URL is a download."""

    text: str
    url: str = ""
    file: bool = False


def outcome_of(job: Any, view: Any) -> Outcome | None:
    """What a finished job has returned, for the page of ``view``; None if that is nothing that a person can use."""
    try:
        result = unshelve(job.result)
    except ContentGone:
        gone = _("outcome_gone", default="What it made was removed since, or you may not see it.")
        return Outcome(view.translate(gone))
    except Exception as error:  # its class may be gone, or its record: the page must not break by it
        return Outcome(f"{type(error).__name__}: {error}"[:TEXT_LIMIT])
    if INamedTyped.providedBy(result):
        name = result.filename or view.translate(_("outcome_file", default="File"))
        return Outcome(name, view.page_url("zcasync-my-result", id=job.id), True)
    if IContentish.providedBy(result):
        return Outcome(str(result.Title() or result.getId()), result.absolute_url())
    if isinstance(result, Message):
        return Outcome(view.translate(result))
    if isinstance(result, str):
        return Outcome(shorten(result, TEXT_LIMIT), _own_url(result, view.site_url))
    return Outcome(str(result)) if isinstance(result, int | float) and not isinstance(result, bool) else None


def _own_url(text: str, site: str) -> str:
    """The text, if it is a URL of this site: no job's result leads elsewhere by a click."""
    return text if (text == site or text.startswith(f"{site}/")) and not set(text) & set(" \t\r\n") else ""


def download(job: Any, response: Any) -> Any:
    """The file that the job has returned, to be saved and not to be opened; NotFound if it is none."""
    result = job.result if job is not None and job.outcome == "succeeded" else None
    if not INamedTyped.providedBy(result):
        raise NotFound("This job has returned no file, or it is none of yours.")
    set_headers(result, response, filename=result.filename or "result")
    # Whatever it is: neither the browser nor Plone's own transforms are to take it for a page of this site.
    response.setHeader("Content-Type", "application/octet-stream")
    response.setHeader("X-Content-Type-Options", "nosniff")
    response.setHeader("Cache-Control", "no-store")
    return stream_data(result)
