"""Requests that have conflicted and are tried again: they claim the right of way for their site."""

from collective.zcasync.ploneapp import sites
from collective.zcasync.rightofway import Claim
from collective.zcasync.zopeapp.connection import of_content
from typing import Any
from ZODB.POSException import ConflictError

import logging
import threading

logger = logging.getLogger("collective.zcasync")

#: ``claim``: that of the request which this thread publishes. All tries of a request run in one thread.
_mine = threading.local()


def request_failed(event: Any) -> None:
    """Subscriber of IPubFailure: content jobs of the site wait for what a conflict has stopped."""
    _end()
    if not event.retry or not issubclass(event.exc_info[0], ConflictError):
        return
    try:
        site = sites.current_site()
        connection = None if site is None else of_content(site)
        if connection is not None:
            _mine.claim = Claim(connection.db(), sites.group_of(site))
    except Exception:  # the request has trouble enough
        logger.warning("A request that conflicted could not claim the right of way", exc_info=True)


def request_succeeded(event: Any) -> None:
    """Subscriber of IPubSuccess."""
    _end()


def _end() -> None:
    claim = getattr(_mine, "claim", None)
    if claim is not None:
        _mine.claim = None
        claim.end()
