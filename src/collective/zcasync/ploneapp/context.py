"""What Plone remembers of the caller of a put, and sets up again around each attempt. See IJobContext."""

from AccessControl import SecurityManagement
from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.SecurityManagement import noSecurityManager
from AccessControl.SecurityManagement import setSecurityManager
from collections.abc import Iterator
from collections.abc import Sequence
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.ploneapp import csrf
from collective.zcasync.ploneapp import ownmail
from collective.zcasync.ploneapp import purging
from collective.zcasync.ploneapp import references
from collective.zcasync.ploneapp import refusals
from collective.zcasync.ploneapp import requests
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp import users
from collective.zcasync.ploneapp.seldom import Seldom
from collective.zcasync.threadlocal import local
from contextlib import contextmanager
from Products.CMFCore.indexing import getQueue
from Products.CMFCore.indexing import processQueue
from Products.CMFCore.indexing import QueueTM
from Products.CMFCore.Skinnable import SKINDATA
from typing import Any
from zope.annotation.interfaces import IAnnotations
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import getRequest
from zope.globalrequest import setRequest
from zope.interface import implementer
from zope.security.management import endInteraction
from zope.security.management import newInteraction
from zope.security.management import queryInteraction

import logging
import threading
import transaction

logger = logging.getLogger("collective.zcasync")

#: Where views remember in their request what they have worked out: what was so for one job may not be so for the next.
MEMOIZED = "plone.memoize"

#: By site: that its jobs wait until the product is installed again.
held_puts = Seldom(60)


@implementer(IJobContext)
class JobContext:
    """See IJobContext. It holds no state: one for the process."""

    def __init__(self) -> None:
        refusals.register()

    def capture(self, job: Any, run_as: str | None = None) -> tuple[str, str, tuple[Any, ...]]:
        site = sites.current_site()
        request = getRequest()
        user = users.choose(site, request, run_as, job.task)
        facts: tuple[Any, ...] = ()
        if request is not None:
            facts = requests.remember(site, request)
        if site is None:
            return "", user, facts
        return sites.group_of(site), user, (("site", sites.path_of(site)), *facts)

    def stored(self, job: Any, records: Sequence[Any]) -> None:
        """Called after a put, with the records that it changed: PutRefused if it is the wrong place for them, or the
        request would lose them."""
        if not job.retry_of:
            sites.check_database(job, sites.current_site())
        csrf.guard(getRequest(), job, records)
        job.where = references.place_of(job)
        ownmail.at_put(job)
        if job.group in job.queue.held_groups:
            path = dict(job.context_data).get("site", "")
            job._p_jar.transaction_manager.get().addAfterCommitHook(_held, (job.id, job.task, path))

    @contextmanager
    def enter(self, job: Any, connection: Any) -> Iterator[None]:
        facts = dict(job.context_data or ())
        outer = _Surroundings()
        request = None
        try:
            app = requests.make(sites.application(connection), facts)
            request = app.REQUEST
            self._set_up(job, connection, app, facts, outer.nested)
            yield
            purging.after_commit(request, outer.request)
        finally:
            outer.restore(request)

    def after_job(self, job: Any) -> None:
        processQueue()
        IAnnotations(getRequest(), {}).pop(MEMOIZED, None)

    def lets_pass(self, participant: Any) -> bool:
        # What waits for the index is processed after each job, so that nothing of it is left.
        return isinstance(getattr(participant, "__self__", participant), QueueTM)

    def shelve(self, value: Any) -> Any:
        return references.shelve(value)

    def unshelve(self, value: Any) -> Any:
        return references.unshelve(value)

    def _set_up(self, job: Any, connection: Any, app: Any, facts: dict[str, Any], nested: bool) -> None:
        request = app.REQUEST
        setRequest(request)
        if queryInteraction() is None:
            newInteraction()
        site, was = None, facts.get("site", "")
        if job.group:
            site = sites.locate(app, connection, job.group, was)
            setSite(site)
            requests.enter_site(request, site, was, facts)
        else:
            setSite(None)
        user = users.find(app, site, was, job.user)
        newSecurityManager(request, user)
        if not nested:
            # As the publisher does: so that the history of the database tells who it was.
            path, _, user_id = job.user.partition(":")
            transaction.get().setUser(user_id or users.ANONYMOUS, path if user_id else "")
        request["AUTHENTICATED_USER"] = user


class _Surroundings:
    """What was set in this thread before the job, to be put back exactly: nothing, or an outer request's world."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        if local.dispatcher is not None and local.job is None:
            self._clear()  # a job thread that runs no job has no world: this was left by a subscriber to an event
        self.request = getRequest()
        self.site = getSite()
        self.security = SecurityManagement._managers.get(self.thread)  # asking for it would make one
        self.skin = SKINDATA.pop(self.thread, None)
        self.interaction = queryInteraction()
        # With a request or site around it, the job shares the caller's transaction, and what waits for the index
        # there is the caller's. Without, the thread is the job's own, and what waits was left behind by mistake.
        self.nested = self.request is not None or self.site is not None
        if not self.nested:
            _clear_index_queue("before")

    def _clear(self) -> None:
        SKINDATA.pop(self.thread, None)
        if queryInteraction() is not None:
            endInteraction()
        setSite(None)
        setRequest(None)
        noSecurityManager()

    def restore(self, request: Any) -> None:
        try:
            if not self.nested:
                _clear_index_queue("after")
            if request is not None:
                request.close()
        finally:
            SKINDATA.pop(self.thread, None)
            if self.skin is not None:
                SKINDATA[self.thread] = self.skin
            if self.interaction is None:
                endInteraction()
            setSite(self.site)
            setRequest(self.request)
            noSecurityManager()
            if self.security is not None:
                setSecurityManager(self.security)


def _held(committed: bool, id: str, task: str, path: str) -> None:
    """After the commit of a put by a site that has the product uninstalled."""
    if committed and held_puts(path):
        logger.warning(
            "Job %s (%s) waits: collective.zcasync is not installed in %s. It runs when the add-on is installed there"
            " again (Site Setup, Add-ons); to delete the site's jobs: zcasync purge --site %s",
            id,
            task,
            path,
            path,
        )


def _clear_index_queue(when: str) -> None:
    """What waits for the index outside a job's transaction would be indexed by the next job, on a closed connection."""
    queue = getQueue()
    if queue.length():
        logger.warning(
            "%d index operations were left in this thread %s a job, outside its transaction; they are dropped. Reindex"
            " what the catalog may be out of date for: %s",
            queue.length(),
            when,
            ", ".join(sorted({str(entry[1]) for entry in queue.getState()})),
        )
    # Also when it is empty: with the hook of a transaction that is gone, it would never be processed again.
    queue.clear()
