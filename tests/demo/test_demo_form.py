"""The demo's form, through the publisher."""

from collective.zcasync.testing import put_jobs
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.app.testing import TEST_USER_NAME
from plone.app.testing import TEST_USER_PASSWORD
from plone.testing.zope import Browser
from typing import Any
from urllib.parse import urlencode
from zExceptions import Forbidden
from zExceptions import Unauthorized

import json
import pytest
import transaction


def make_browser(functional: Any, user: str, password: str) -> Browser:
    browser = Browser(functional["app"])
    browser.handleErrors = False
    browser.addHeader("Authorization", f"Basic {user}:{password}")
    return browser


@pytest.fixture
def browser(functional: Any) -> Browser:
    return make_browser(functional, SITE_OWNER_NAME, SITE_OWNER_PASSWORD)


def test_the_form_puts_a_job_for_each_name(functional: Any, browser: Browser) -> None:
    site = functional["portal"]
    browser.open(f"{site.absolute_url()}/@@zcasync-demo")
    browser.getControl("Distributions").value = "pip\nno-such-distribution"
    browser.getControl("Import").click()

    assert browser.url == f"{site.absolute_url()}/distributions"
    assert "The jobs are put" in browser.contents
    transaction.begin()
    assert [job.args[1] for job in put_jobs(site)][:2] == ["no-such-distribution", "pip"]
    browser.open(f"{browser.url}/@@zcasync-demo-status")
    assert json.loads(browser.contents)["put"] == 2
    browser.open(f"{site.absolute_url()}/distributions/@@zcasync-demo-pages")
    assert json.loads(browser.contents) == {"expected": [], "catalogued": []}


def test_the_form_wants_its_token(functional: Any, browser: Browser) -> None:
    site = functional["portal"]
    with pytest.raises(Forbidden):
        browser.post(f"{site.absolute_url()}/@@zcasync-demo", urlencode({"form.buttons.import": "Import"}))
    transaction.begin()
    assert put_jobs(site) == []


@pytest.mark.parametrize("view", ["@@zcasync-demo", "distributions/@@zcasync-demo-status"])
def test_only_those_who_manage_jobs_may_use_it(functional: Any, browser: Browser, view: str) -> None:
    site = functional["portal"]
    browser.open(f"{site.absolute_url()}/@@zcasync-demo")
    browser.getControl("Distributions").value = "pip"
    browser.getControl("Import").click()
    with pytest.raises(Unauthorized):
        make_browser(functional, TEST_USER_NAME, TEST_USER_PASSWORD).open(f"{site.absolute_url()}/{view}")
