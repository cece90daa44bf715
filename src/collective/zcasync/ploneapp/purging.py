"""What a job queued for purging in caches, purged after its commit as it would be after a request."""

from typing import Any
from zope.annotation.interfaces import IAnnotations
from ZPublisher.pubevents import PubSuccess

import logging

try:
    from plone.cachepurging import hooks
except ImportError:  # plone.cachepurging comes with plone.app.caching, which not every site has
    hooks = None

logger = logging.getLogger("collective.zcasync")


def after_commit(request: Any, outer: Any) -> None:
    """Purge what was queued under the job's request. Inside another request, hand it on: that one's end purges."""
    if hooks is None:
        return
    paths = IAnnotations(request, {}).get(hooks.KEY)
    if not paths:
        return
    if outer is not None:
        IAnnotations(outer).setdefault(hooks.KEY, set()).update(paths)
        return
    try:
        hooks.purge(PubSuccess(request))
    except Exception:
        # The job is committed: a cache that cannot be told must not make it fail.
        logger.exception(
            "The caches could not be told to forget %d paths, and serve old pages until these expire: look at Site"
            " Setup, Caching, and purge them there: %s",
            len(paths),
            ", ".join(sorted(paths)[:10]),
        )
