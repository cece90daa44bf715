"""A content rule whose action puts a job: what an editor does in a folder goes on in the background."""

from collective.zcasync import api
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from OFS.SimpleItem import SimpleItem
from plone import api as plone_api
from plone.app.contentrules.api import assign_rule
from plone.app.contentrules.rule import Rule
from plone.app.testing import login
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from plone.app.testing import TEST_USER_PASSWORD
from plone.contentrules.engine.interfaces import IRuleStorage
from plone.contentrules.rule.interfaces import IExecutable
from plone.contentrules.rule.interfaces import IRuleElementData
from plone.testing.zope import Browser
from zope.component import getGlobalSiteManager
from zope.component import getUtility
from zope.event import notify
from zope.interface import implementer
from zope.interface import Interface
from zope.lifecycleevent import ObjectModifiedEvent
from zope.lifecycleevent.interfaces import IObjectAddedEvent
from zope.lifecycleevent.interfaces import IObjectModifiedEvent

import pytest
import transaction

#: The ids of the jobs that rules have put.
ids = []


class IPutAction(Interface):
    """Marks the action: the job that it puts is always the same."""


@implementer(IPutAction, IRuleElementData)
class PutAction(SimpleItem):
    """What is stored with the rule."""

    element = "tests.put"
    summary = "Greet what was added, in the background"


@implementer(IExecutable)
class PutActionExecutor:
    """Runs in the request of the editor: puts, and is done."""

    def __init__(self, context, element, event):
        self.event = event

    def __call__(self):
        ids.append(api.put(greet, self.event.object).id)
        return True


def greet(page):
    site = "/".join(plone_api.portal.get().getPhysicalPath())
    user = plone_api.user.get_current().getId()
    page.setDescription(f"{page.Description()} Greetings from {user} in {site}.".strip())
    page.reindexObject()


def touch(pages):
    """Change pages in a way that rules see."""
    for page in pages:
        notify(ObjectModifiedEvent(page))


@pytest.fixture
def action():
    registry = getGlobalSiteManager()
    registry.registerAdapter(PutActionExecutor, (Interface, IPutAction, Interface), IExecutable)
    yield
    registry.unregisterAdapter(PutActionExecutor, (Interface, IPutAction, Interface), IExecutable)


@pytest.fixture
def layer(functional, action):
    """A layer whose site has a folder with the rule; the test's user may add to it."""
    portal = functional["portal"]
    plone_api.user.grant_roles(TEST_USER_ID, roles=["Contributor", "Editor", "Reader"])
    login(portal, "test-user")
    plone_api.content.create(portal, "Folder", id="folder")
    add_rule(portal["folder"], IObjectAddedEvent)
    transaction.commit()
    return functional


def add_rule(folder, event):
    rule = Rule()
    rule.title = "Greet"
    rule.event = event
    rule.actions = [PutAction()]
    getUtility(IRuleStorage)[rule_name(event)] = rule
    assign_rule(folder, rule_name(event))


def rule_name(event):
    return f"rule-{event.__name__.lower()}"


def test_what_a_rule_puts_by_the_api_runs_in_the_site_as_the_same_user(layer):
    page = plone_api.content.create(layer["portal"]["folder"], "Document", title="A page")
    (job,) = put_jobs(layer["portal"])
    assert job.where.startswith("/plone/folder/")
    assert page.Description() == ""
    run_jobs(layer["portal"])
    assert page.Description() == f"Greetings from {TEST_USER_ID} in /plone."


def test_what_a_rule_puts_in_a_request_runs_in_a_thread_as_the_same_user(layer):
    folder = layer["portal"]["folder"]
    browser = Browser(layer["app"])
    browser.addHeader("Authorization", f"Basic {TEST_USER_NAME}:{TEST_USER_PASSWORD}")
    browser.open(f"{folder.absolute_url()}/++add++Document")
    browser.getControl(name="form.widgets.IDublinCore.title").value = "From a form"
    browser.getControl("Save").click()
    transaction.begin()
    (job,) = put_jobs(layer["portal"])
    assert job.user == f"/plone/acl_users:{TEST_USER_ID}"
    with running_dispatcher(layer["zodbDB"]):
        wait_for_result(job)
    assert job.error == ""
    (brain,) = plone_api.content.find(folder, portal_type="Document")
    assert brain.getPath() == "/plone/folder/from-a-form"
    assert brain.Description == f"Greetings from {TEST_USER_ID} in /plone."


def test_outside_the_folder_the_rule_puts_nothing(layer):
    plone_api.content.create(layer["portal"], "Document", title="A page")
    assert put_jobs(layer["portal"]) == []


def test_rules_see_what_each_job_of_a_thread_does_to_the_same_page(layer):
    """Rules act once on a page in a request, and keep that in the thread until the request ends: so do jobs."""
    folder = layer["portal"]["folder"]
    page = plone_api.content.create(folder, "Document", title="A page")
    run_jobs(layer["portal"])
    add_rule(folder, IObjectModifiedEvent)
    transaction.commit()
    with running_dispatcher(layer["zodbDB"], threads=1):
        for number in range(1, 3):
            job = api.put(touch, [page, page])
            transaction.commit()
            wait_for_result(job)
            wait_for_result(api.job(ids[-1]))
            assert page.Description().count("Greetings") == 1 + number
