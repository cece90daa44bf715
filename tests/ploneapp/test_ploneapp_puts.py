"""Puts from where people write code: a view, a subscriber and a script. Content rules have a file of their own."""

from AccessControl.SecurityManagement import noSecurityManager
from collective.zcasync import api
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from plone import api as plone_api
from plone.app.testing import login
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from plone.app.testing import TEST_USER_PASSWORD
from plone.dexterity.interfaces import IDexterityContent
from plone.testing.zope import Browser
from zope.component import getGlobalSiteManager
from zope.component.hooks import setSite
from zope.lifecycleevent.interfaces import IObjectAddedEvent

import pytest
import threading
import transaction
import Zope2


def say_hello(page):
    page.setDescription(f"Hello from {plone_api.user.get_current().getId()}")
    page.reindexObject()


def count():
    return len(plone_api.content.find())


def when_added(page, event):
    """A subscriber that has more to do than a request should wait for."""
    api.put(say_hello, page)


@pytest.fixture
def subscriber():
    registry = getGlobalSiteManager()
    registry.registerHandler(when_added, (IDexterityContent, IObjectAddedEvent))
    yield
    registry.unregisterHandler(when_added, (IDexterityContent, IObjectAddedEvent))


@pytest.fixture
def portal(functional):
    plone_api.user.grant_roles(TEST_USER_ID, roles=["Contributor", "Editor", "Reader"])
    login(functional["portal"], "test-user")
    transaction.commit()
    return functional["portal"]


def test_from_a_subscriber(portal, subscriber):
    page = plone_api.content.create(portal, "Document", title="A page")
    assert page.getId() == "a-page"  # renamed after the subscriber saw it
    run_jobs(portal)
    assert page.Description() == f"Hello from {TEST_USER_ID}"


def test_from_a_form_in_a_browser_and_run_in_a_thread(functional, portal, subscriber):
    browser = Browser(functional["app"])
    browser.addHeader("Authorization", f"Basic {TEST_USER_NAME}:{TEST_USER_PASSWORD}")
    browser.open(f"{portal.absolute_url()}/++add++Document")
    browser.getControl(name="form.widgets.IDublinCore.title").value = "From a form"
    browser.getControl("Save").click()
    transaction.begin()
    (job,) = put_jobs(portal)
    with running_dispatcher(functional["zodbDB"]):
        wait_for_result(job)
    assert job.error == ""
    assert portal["from-a-form"].Description() == f"Hello from {TEST_USER_ID}"
    (brain,) = plone_api.content.find(portal_type="Document")
    assert brain.Description == f"Hello from {TEST_USER_ID}"


def test_from_a_script_that_only_sets_the_site(functional, portal):
    plone_api.portal.set_registry_record("collective.zcasync.service_user", TEST_USER_ID)
    transaction.commit()
    found = run_script(lambda app: setSite(app["plone"]))
    transaction.begin()
    (job,) = put_jobs(portal)
    assert found == [job.id]
    assert job.user == f"/plone/acl_users:{TEST_USER_ID}"
    with running_dispatcher(functional["zodbDB"]):
        assert wait_for_result(job) == 0


def test_from_a_script_without_a_site_and_a_user_it_is_refused_with_the_way_out(portal):
    (error,) = run_script(lambda app: None)
    assert isinstance(error, PutRefused)


def run_script(prepare):
    """What `bin/instance run` does: a thread of its own, without request and user."""
    found = []

    def script():
        noSecurityManager()
        connection = Zope2.DB.open()
        try:
            prepare(connection.root()["Application"])
            found.append(api.put(count).id)
            transaction.commit()
        except Exception as error:
            found.append(error)
        finally:
            transaction.abort()
            setSite(None)
            connection.close()

    thread = threading.Thread(target=script)
    thread.start()
    thread.join()
    return found


def test_what_is_aborted_was_never_put(portal):
    api.put(count)
    transaction.abort()
    assert put_jobs(portal) == []
