"""Puts in requests that plone.protect guards: they are stored, or they fail loudly; none vanishes."""

from collective.zcasync import api
from collective.zcasync import puts
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.testing import put_jobs
from plone.app.testing import TEST_USER_NAME
from plone.app.testing import TEST_USER_PASSWORD
from plone.protect.authenticator import createToken
from plone.protect.interfaces import IDisableCSRFProtection
from plone.testing.zope import Browser
from Products.Five import BrowserView
from zope.component.hooks import site as local_site
from zope.configuration import xmlconfig
from zope.interface import alsoProvides

import pytest
import transaction

VIEWS = """
<configure xmlns:browser="http://namespaces.zope.org/browser">
  <browser:page name="put-by-view" for="*" class="test_ploneapp_csrf.PutView" permission="zope.Public" />
</configure>
"""


def nothing():
    """What the jobs of this module do."""


@api.task(name="test.csrf.safe", safe_in_get=True)
def safe():
    """An idempotent task of the system."""


class PutView(BrowserView):
    def __call__(self):
        if self.request.get("disable"):
            alsoProvides(self.request, IDisableCSRFProtection)
        if self.request.get("write"):
            self.context.written = True
        (safe.put if self.request.get("safe") else lambda: api.put(nothing))()
        return "written"


@pytest.fixture
def layer(functional):
    with local_site(None):  # else the view would be registered in the site, and stored
        xmlconfig.string(VIEWS, context=functional["configurationContext"])
    return functional


@pytest.fixture
def browser(layer):
    """A logged-in browser that raises what the server raises."""
    browser = Browser(layer["app"])
    browser.handleErrors = False
    browser.addHeader("Authorization", f"Basic {TEST_USER_NAME}:{TEST_USER_PASSWORD}")
    return browser


def stored(layer):
    transaction.begin()
    return [job.task for job in put_jobs(layer["portal"])]


def url_of(layer):
    return f"{layer['portal'].absolute_url()}/@@put-by-view"


def test_a_put_in_a_get_fails_and_names_task_url_and_remedy(layer, browser):
    with pytest.raises(PutRefused) as caught:
        browser.open(url_of(layer))
    message = str(caught.value)
    assert message.startswith("test_ploneapp_csrf.nothing was put in a GET request")
    assert url_of(layer) in message
    assert "_authenticator" in message and "safe_in_get=True" in message
    assert stored(layer) == []


def test_the_browser_gets_an_error_not_a_page(layer, browser):
    browser.handleErrors = True
    browser.raiseHttpErrors = False
    browser.open(url_of(layer))
    assert browser.headers["status"].startswith("500")
    assert browser.contents != "written"


def test_a_put_in_a_post_without_a_token_fails_too(layer, browser):
    with pytest.raises(PutRefused, match="was put in a POST request"):
        browser.post(url_of(layer), "a=1")
    assert stored(layer) == []


def test_a_put_in_a_post_with_a_token_is_stored(layer, browser):
    browser.post(url_of(layer), f"_authenticator={createToken()}")
    assert browser.contents == "written"
    assert stored(layer) == ["test_ploneapp_csrf.nothing"]


def test_a_put_in_a_get_of_anonymous_is_stored(layer):
    Browser(layer["app"]).open(url_of(layer))
    assert stored(layer) == ["test_ploneapp_csrf.nothing"]


def test_a_put_in_a_request_that_needs_no_token_is_stored(layer, browser):
    browser.open(f"{url_of(layer)}?disable=1")
    assert stored(layer) == ["test_ploneapp_csrf.nothing"]


def test_a_task_that_is_safe_in_get_is_stored(layer, browser):
    browser.open(f"{url_of(layer)}?safe=1")
    assert browser.contents == "written"
    assert stored(layer) == ["test.csrf.safe"]


def test_a_task_that_is_safe_in_get_is_stored_in_a_large_overflow_too(layer, browser, monkeypatch):
    monkeypatch.setattr(puts, "INBOX_FULL", 0)
    monkeypatch.setattr(puts, "my_shard", lambda count: 0)
    for _number in range(200):  # more than one bucket of the tree
        api.put(nothing)
    transaction.commit()
    browser.open(f"{url_of(layer)}?safe=1")
    assert len(stored(layer)) == 201
    assert "test.csrf.safe" in stored(layer)


def test_only_the_own_records_of_a_safe_task_are_marked(layer, browser):
    browser.open(f"{url_of(layer)}?safe=1&write=1")
    assert stored(layer) == []
    assert not hasattr(layer["portal"].aq_base, "written")
