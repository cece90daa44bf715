"""What the measured site runs: tasks, what counts them, and a view that tells a server what to do."""

from collections import Counter
from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync import local
from collective.zcasync.zopeapp import publishing
from collective.zcasync.zopeapp import starting
from contextlib import contextmanager
from plone import api as plone_api
from plone.protect.interfaces import IDisableCSRFProtection
from Products.Five.browser import BrowserView
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile
from typing import Any
from uuid import uuid4
from zope.component.hooks import setSite
from zope.globalrequest import clearRequest
from zope.globalrequest import setRequest
from zope.interface import alsoProvides

import json
import threading
import time
import transaction

#: Where jobs create and edit, and where an editor does; and how many pages there are to be edited.
JOBS, EDITORS, READERS, PAGES = "jobs", "editors", "readers", 40

#: Loaded by every process of the measured site.
ZCML = """\
<configure xmlns="http://namespaces.zope.org/zope" xmlns:browser="http://namespaces.zope.org/browser">
  <include package="plone.restapi" />
  <subscriber for="collective.zcasync.events.IJobFinished" handler="benchmarks.sitejobs.count_end" />
  <subscriber for="collective.zcasync.events.IJobFailed" handler="benchmarks.sitejobs.count_failure" />
  <subscriber for="ZPublisher.interfaces.IPubStart" handler="benchmarks.sitejobs.request_begins" />
  <subscriber for="ZPublisher.interfaces.IPubAfterTraversal" handler="benchmarks.sitejobs.forget_jobs" />
  <subscriber for="ZPublisher.interfaces.IPubBeforeCommit" handler="benchmarks.sitejobs.tell_client" />
  <browser:page name="bench" for="*" class="benchmarks.sitejobs.Bench" permission="cmf.ManagePortal" />
  <browser:page name="bench-empty" for="*" class="benchmarks.sitejobs.Empty" permission="cmf.ManagePortal" />
</configure>
"""

#: id of each job -> how often its code has run in this process.
tries: Counter[str] = Counter()

#: How many jobs have ended in this process, how many of these badly, and when the last one did.
ended = failed = 0
last_end = 0.0

#: How many chains of jobs go on, each job of which puts the next; what ends when this changes.
chains: object = None


def count_end(event: Any) -> None:
    global ended, last_end
    ended, last_end = ended + 1, time.time()


def count_failure(event: Any) -> None:
    global failed
    failed += 1
    count_end(event)


def request_begins(event: Any) -> None:
    event.request.set("bench.began", time.process_time())


def forget_jobs(event: Any) -> None:
    """Load whatever belongs to jobs anew, if the client wants that; the site itself stays in memory. What this takes
    is not the page's."""
    if event.request.get_header("X-Forget"):
        busy = time.process_time()
        cache = event.request["PARENTS"][-1]._p_jar._cache
        for oid, one in list(cache.items()):
            if type(one).__module__.startswith(("collective.zcasync", "BTrees")):
                cache.invalidate(oid)
        event.request.set("bench.began", event.request.get("bench.began") + time.process_time() - busy)


def tell_client(event: Any) -> None:
    """The client of a request learns how often it was tried, and what its process has worked meanwhile."""
    request = event.request
    request.response.setHeader("X-Tries", str(request.retry_count + 1))
    request.response.setHeader("X-Cpu-Ms", f"{1000 * (time.process_time() - request.get('bench.began')):.2f}")


def _folder() -> Any:
    tries[local.getJob().id] += 1
    return plone_api.portal.get()[JOBS]


def _create() -> None:
    plone_api.content.create(_folder(), "Document", id=f"p{uuid4().hex}", title="A page that a job has made")


@api.task(name="bench.nothing")
def nothing() -> None:
    tries[local.getJob().id] += 1


@api.task(name="bench.shown", title="A job that people see", visible=True)
def shown(text: str, number: int) -> None:
    """The jobs of which the panel's pages are full."""


@api.task(name="bench.create", lane="content")
def create(number: int) -> None:
    _create()


@api.task(name="bench.bundled", lane="content", groupable=True)
def create_bundled(number: int) -> None:
    _create()


@api.task(name="bench.edit", lane="content")
def edit(number: int) -> None:
    page = _folder()[f"page{number % PAGES}"]
    page.title = f"A page that a job has edited, {number}"
    page.reindexObject()


@api.task(name="bench.wait_and_edit", lane="content")
def wait_and_edit(number: int) -> None:
    time.sleep(0.04)
    edit(number)


@api.task(name="bench.unnamed")
def create_without_lane(number: int) -> None:
    _create()


@api.task(name="bench.chain")
def chain(number: int) -> None:
    """Creates a page and puts the next one, while the server is to be busy."""
    _create()
    if chains is not None:
        chain.put(number)


@contextmanager
def site(database: Any) -> Iterator[Any]:
    """The site on a connection of its own, for its admin, in a transaction that is committed."""
    from AccessControl.SecurityManagement import newSecurityManager
    from AccessControl.SecurityManagement import noSecurityManager
    from Testing.makerequest import makerequest

    transaction.begin()
    connection = database.open()
    try:
        app = makerequest(connection.root()["Application"])
        app.REQUEST["PARENTS"] = [app]
        setRequest(app.REQUEST)
        setSite(app.Plone)
        newSecurityManager(app.REQUEST, app.acl_users.getUserById("admin").__of__(app.acl_users))
        yield app.Plone
        transaction.commit()
    finally:
        transaction.abort()
        noSecurityManager()
        setSite(None)
        clearRequest()
        connection.close()


def prepare(database: Any) -> None:
    """Make what jobs and editors need."""
    with site(database) as portal:
        fill(portal)


def fill(portal: Any) -> None:
    for name in (JOBS, EDITORS, READERS):
        plone_api.content.create(portal, "Folder", id=name, title=name)
    plone_api.content.create(portal[READERS], "Document", id="page", title="A page that people read")
    for number in range(PAGES):
        plone_api.content.create(portal[JOBS], "Document", id=f"page{number}", title=f"Page {number}")


class Bench(BrowserView):
    """``prepare``: make the content. ``chains``: how many to begin, 0 to end all. ``polite``: on or off. Answers what
    was done so far."""

    def __call__(self) -> str:
        global chains
        alsoProvides(self.request, IDisableCSRFProtection)
        form, running = self.request.form, starting.running()
        if "prepare" in form:
            fill(self.context)
        if "chains" in form:
            chains = threading.Event() if int(form["chains"]) else None
            for number in range(int(form["chains"])):
                chain.put(number)
        if "polite" in form and running is not None:
            polite = publishing.politeness if form["polite"] == "on" else None
            running.dispatcher.around.politeness = polite
        return json.dumps({"ended": ended, "failed": failed})


class Empty(BrowserView):
    """A page of the site with nothing on it: what all pages cost."""

    __call__ = ViewPageTemplateFile("empty.pt")
