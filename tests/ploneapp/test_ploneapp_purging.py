"""What a job queues in plone.cachepurging is purged after its commit, as after a request."""

from collective.zcasync import api
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from plone import api as plone_api
from plone.app.testing import login
from plone.app.testing import TEST_USER_ID
from plone.cachepurging.hooks import KEY
from plone.cachepurging.interfaces import ICachePurgingSettings
from plone.cachepurging.purger import DEFAULT_PURGER
from plone.registry.interfaces import IRegistry
from z3c.caching.purge import Purge
from zope.annotation.interfaces import IAnnotations
from zope.component import getUtility
from zope.component.hooks import site as local_site
from zope.configuration import xmlconfig
from zope.event import notify

import plone.cachepurging
import pytest
import transaction


def purge(page):
    notify(Purge(page))


def purge_and_fail(page):
    notify(Purge(page))
    raise RuntimeError("so nothing changed")


@pytest.fixture
def told(monkeypatch):
    """The URLs that caches are told to forget."""
    urls = []
    monkeypatch.setattr(DEFAULT_PURGER, "purgeAsync", urls.append)
    return urls


@pytest.fixture
def page(functional, told):
    with local_site(None):
        xmlconfig.file("configure.zcml", plone.cachepurging, context=functional["configurationContext"])
    settings = getUtility(IRegistry).registerInterface(ICachePurgingSettings)
    settings = getUtility(IRegistry).forInterface(ICachePurgingSettings)
    settings.enabled = True
    settings.cachingProxies = ("http://cache:6081",)
    plone_api.user.grant_roles(TEST_USER_ID, roles=["Contributor", "Reader"])
    login(functional["portal"], "test-user")
    page = plone_api.content.create(functional["portal"], "Document", id="page")
    transaction.commit()
    return page


def test_it_is_purged_after_the_commit(functional, page, told):
    job = api.put(purge, page)
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]):
        wait_for_result(job)
    assert job.error == ""
    assert "http://cache:6081/page" in told or "http://cache:6081/plone/page" in told


def test_nothing_is_purged_if_the_job_fails(functional, page, told):
    job = api.put(purge_and_fail, page)
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]):
        wait_for_result(job)
    assert job.error == "RuntimeError: so nothing changed"
    assert told == []


def test_a_cache_that_cannot_be_told_does_not_harm_the_job(functional, page, monkeypatch, caplog):
    monkeypatch.setattr(DEFAULT_PURGER, "purgeAsync", None)
    job = api.put(purge, page)
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]):
        wait_for_result(job)
    assert job.error == ""
    assert "The caches could not be told" in caplog.text


def test_inside_a_request_the_request_purges_at_its_end(functional, page, told):
    api.put(purge, page)
    run_jobs(functional["portal"])
    assert told == []
    assert any(path.endswith("/page") for path in IAnnotations(functional["request"])[KEY])
