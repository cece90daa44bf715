"""One job thread, two jobs: whatever the first leaves behind in its thread, the second finds a clean world."""

from AccessControl.SecurityManagement import getSecurityManager
from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.SpecialUsers import system
from collective.zcasync import api
from collective.zcasync import events
from collective.zcasync import local
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.testing import wait_for_result
from contextvars import ContextVar
from plone import api as plone_api
from plone.app.contentrules import handlers
from plone.app.testing import login
from plone.app.testing import TEST_USER_ID
from Products.CMFCore.indexing import getQueue
from Products.CMFCore.indexing import REINDEX
from Products.CMFCore.Skinnable import SKINDATA
from Testing.makerequest import makerequest
from zope.annotation.interfaces import IAnnotations
from zope.component import getGlobalSiteManager
from zope.component import getSiteManager
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import getRequest
from zope.globalrequest import setRequest
from zope.security.management import endInteraction
from zope.security.management import newInteraction
from zope.security.management import queryInteraction
from zope.security.testing import Participation

import decimal
import pytest
import threading
import transaction

#: What a library may keep for the code that runs.
trail: ContextVar[str] = ContextVar("trail", default="")

#: Requests that jobs left, kept so that none of them is freed and found again by chance.
kept = []


def look():
    """All that a job can see of its thread, as plain values."""
    request, site, manager = getRequest(), getSite(), getSecurityManager()
    current = transaction.get()
    skin, _skin_object, ignored, _resolved = SKINDATA[threading.get_ident()][:4]
    return {
        "request": (request.SERVER_URL, request.get("URL"), sorted(request.form), sorted(request.cookies)),
        "annotations": sorted(IAnnotations(request)),
        "other": sorted(request.other),
        "response": (request.response.getStatus(), sorted(request.response.headers), sorted(request.response.cookies)),
        "site": ("/".join(site.getPhysicalPath()), getSiteManager() is site.getSiteManager()),
        "user": (manager.getUser().getId(), sorted(manager.getUser().getRoles()), len(manager._context.stack)),
        "interaction": [str(part.principal) for part in queryInteraction().participations],
        "skin": (site.getCurrentSkinName(), str(skin), sorted(ignored)),
        "index": (getQueue().length(), getQueue().tmhook),
        "language": (plone_api.portal.get_current_language(), request.get("LANGUAGE")),
        "transaction": (current.description, current.isDoomed(), sorted(current.extension)),
        "hooks": [len(list(hooks())) for hooks in (current.getBeforeCommitHooks, current.getAfterCommitHooks)],
        "job": local.getJob().task,
        "rules": sorted(handlers._status.rule_filter.executed) if hasattr(handlers._status, "rule_filter") else [],
        "context": (trail.get(), decimal.getcontext().prec),
        "page": (site["page"].title, hasattr(site["page"], "_v_request")),
    }


def leave_another_site():
    setSite(None)


def leave_a_local_site_manager():
    setSite(plone_api.portal.get()["page"].aq_parent)
    getSite().REQUEST.set("URL", "http://elsewhere")


def leave_another_request():
    app = plone_api.portal.get().getPhysicalRoot().aq_base
    kept.append(makerequest(app).REQUEST)
    kept[-1].form["left"] = "here"
    setRequest(kept[-1])


def leave_no_request():
    setRequest(None)


def leave_things_in_the_request():
    request = getRequest()
    request.form["left"] = "here"
    request.cookies["left"] = "here"
    request.set("left", "here")
    request["LANGUAGE"] = "de"
    request.response.redirect("http://elsewhere")
    request.response.setCookie("left", "here")
    plone_api.portal.show_message("left here")
    IAnnotations(request)["plone.memoize"] = {"left": "here"}


def leave_another_language():
    getRequest()["LANGUAGE_TOOL"].LANGUAGE = "de"
    getRequest()["LANGUAGE"] = "de"


def leave_another_user():
    newSecurityManager(getRequest(), system)


def leave_a_user_on_the_stack():
    getSecurityManager().addContext(plone_api.portal.get())


def leave_another_interaction():
    endInteraction()
    newInteraction(Participation("somebody else"))


def leave_no_interaction():
    endInteraction()


def leave_another_skin():
    SKINDATA[threading.get_ident()] = ("left", "here", {"left": 1}, {})


def leave_no_skin():
    del SKINDATA[threading.get_ident()]


def leave_something_for_the_index():
    getQueue().queue.append((REINDEX, plone_api.portal.get()["page"], None, None))


def leave_a_hook_of_the_index():
    getQueue().setHook(bool)


def leave_a_transaction_with_notes():
    current = transaction.get()
    current.note("left here")
    current.setUser("somebody else")
    current.setExtendedInfo("left", "here")
    current.addBeforeCommitHook(bool)
    current.addAfterCommitHook(bool)


def leave_a_transaction_that_was_begun_anew():
    transaction.abort()
    transaction.begin().note("left here")


def leave_values_in_the_context():
    trail.set("left here")
    decimal.getcontext().prec = 3


def leave_rules_that_ran():
    handlers.init()
    handlers._status.rule_filter.executed.add(("left", "here"))
    handlers._status.rule_filter.in_progress = True


def leave_a_changed_page():
    plone_api.portal.get()["page"].__dict__["title"] = "Changed behind the back of the ZODB"
    plone_api.portal.get()["page"]._p_changed = True
    transaction.abort()


MESSES = [value for name, value in list(globals().items()) if name.startswith("leave_")]


def fail(mess):
    """The same, in a job that dooms its transaction and fails."""
    next(one for one in MESSES if one.__name__ == mess)()
    transaction.doom()
    raise ValueError("a mess is left")


def put(task, *args):
    job = api.put(task, *args)
    transaction.commit()
    return job


@pytest.fixture
def layer(filestorage):
    """A layer with one page, whose user runs the jobs."""
    portal = filestorage["portal"]
    plone_api.user.grant_roles(TEST_USER_ID, roles=["Contributor", "Editor", "Reader"])
    login(portal, "test-user")
    plone_api.content.create(portal, "Document", id="page", title="Page")
    transaction.commit()
    return filestorage


def test_nothing_that_a_job_leaves_in_its_thread_reaches_the_next(layer):
    found = {}
    with running_dispatcher(layer["zodbDB"], threads=1):
        clean = wait_for_result(put(look))
        for mess in MESSES:
            first = put(mess)
            wait_for_result(first)
            after_first = wait_for_result(put(look))
            second = put(fail, mess.__name__)
            assert wait_for_result(second).getErrorMessage() == "a mess is left"
            after_second = wait_for_result(put(look))
            found[mess.__name__] = (differences(clean, after_first), differences(clean, after_second))
    assert {name: what for name, what in found.items() if what != ({}, {})} == {}


def differences(one, two):
    return {name: (one[name], two[name]) for name in one if one[name] != two[name]}


class TestSubscribers:
    """Events of jobs are told in the job's thread, outside its world."""

    @pytest.fixture
    def messy(self, layer):
        site, request = layer["portal"], layer["request"]

        def handler(event):
            if local.dispatcher is not None:
                setSite(site)
                setRequest(request)
                newSecurityManager(None, system)
                newInteraction()
                SKINDATA[threading.get_ident()] = ("left", "here", {"left": 1}, {})

        registry = getGlobalSiteManager()
        registry.registerHandler(handler, (events.JobStarted,))
        registry.registerHandler(handler, (events.JobFinished,))
        yield
        registry.unregisterHandler(handler, (events.JobStarted,))
        registry.unregisterHandler(handler, (events.JobFinished,))

    def test_what_they_leave_in_the_thread_reaches_no_job(self, layer, messy):
        with running_dispatcher(layer["zodbDB"], threads=1):
            results = [wait_for_result(put(look)) for _number in range(2)]
            state = wait_for_result(put(index_queue))
        assert [result["user"][0] for result in results] == [TEST_USER_ID, TEST_USER_ID]
        assert results[0] == results[1]
        assert results[0]["skin"][0] != "left"
        assert state == (0, None)

    def test_the_history_of_the_database_tells_who_all_the_same(self, layer, messy):
        with running_dispatcher(layer["zodbDB"], threads=1):
            job = put(look)
            wait_for_result(job)
        (entry,) = layer["zodbDB"].storage.history(job._p_oid)
        assert entry["user_name"].decode() == f"/plone/acl_users {TEST_USER_ID}"


def index_queue():
    return getQueue().length(), getQueue().tmhook
