"""The layers in which jobs run by themselves: at each commit, or in dispatchers on real storages."""

from collective.zcasync import api as jobs
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync.exceptions import ContentGone
from collective.zcasync.testing import get_poll
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import wait_for_result
from plone import api
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from plone.testing.zope import Browser
from Products.Five.browser import BrowserView
from typing import Any
from ZEO.ClientStorage import ClientStorage
from zope.component import getGlobalSiteManager
from zope.component.hooks import getSite
from zope.globalrequest import getRequest
from zope.interface import Interface
from zope.publisher.interfaces.browser import IBrowserRequest

import threading
import transaction


def rename(title: str) -> tuple[str, str, str]:
    """Changes the site, and tells as whom, where and in which thread."""
    site = getSite()
    site.setTitle(title)
    return api.user.get_current().getId(), "/".join(site.getPhysicalPath()), threading.current_thread().name


def make_page(folder: Any) -> str:
    page = api.content.create(folder, "Document", "page", title="made by a job")
    page.reindexObject()
    return "/".join(page.getPhysicalPath())


def remove(page: Any) -> None:
    api.content.delete(page)


class PutView(BrowserView):
    """Puts a job, and answers before the commit."""

    def __call__(self) -> str:
        jobs.put(rename, self.request.form["title"])
        return "title before: " + self.context.title


def here() -> str:
    return threading.current_thread().name


class TestInline:
    """INLINE_TESTING."""

    def test_a_commit_runs_the_jobs_in_its_thread_as_the_user_in_the_site(self, inline: Any) -> None:
        portal = inline["portal"]
        job = jobs.put(rename, "renamed")
        assert portal.title == "Plone site"
        transaction.commit()
        assert job.result == (TEST_USER_ID, "/plone", here())
        assert portal.title == "renamed"  # seen at once
        assert put_jobs(portal) == []

    def test_the_test_before_left_nothing(self, inline: Any) -> None:
        assert inline["portal"].title == "Plone site"
        assert put_jobs(inline["portal"]) == []

    def test_what_jobs_make_is_in_the_catalog(self, inline: Any) -> None:
        setRoles(inline["portal"], TEST_USER_ID, ["Manager"])
        folder = api.content.create(inline["portal"], "Folder", "folder")
        job = jobs.put(make_page, folder)
        transaction.commit()
        assert job.result == "/plone/folder/page"
        assert [brain.getPath() for brain in api.content.find(portal_type="Document", Title="made")] == [job.result]

    def test_a_job_whose_content_is_gone_fails_alone(self, inline: Any) -> None:
        setRoles(inline["portal"], TEST_USER_ID, ["Manager"])
        page = api.content.create(inline["portal"], "Document", "page")
        transaction.commit()
        first, second = jobs.put(remove, page), jobs.put(remove, page)
        transaction.commit()
        assert first.result is None
        assert second.result.check(ContentGone)

    def test_the_world_of_the_test_is_as_it_was(self, inline: Any) -> None:
        world = getSite(), getRequest(), api.user.get_current().getId()
        jobs.put(rename, "renamed")
        transaction.commit()
        assert (getSite(), getRequest(), api.user.get_current().getId()) == world

    def test_a_request_ends_when_its_jobs_have_run(self, inline: Any) -> None:
        view = (PutView, (Interface, IBrowserRequest), Interface, "put-inline")
        getGlobalSiteManager().registerAdapter(*view)
        try:
            browser = Browser(inline["app"])
            browser.handleErrors = False
            browser.post("http://nohost/plone/put-inline", "title=by+a+request")
        finally:
            getGlobalSiteManager().unregisterAdapter(*view)
        assert browser.contents == "title before: Plone site"
        transaction.begin()
        assert inline["portal"].title == "by a request"


class TestDispatcher:
    """DISPATCHER_TESTING."""

    def test_a_dispatcher_works_on_files_beside_the_test(self, dispatcher: Any) -> None:
        (one,) = dispatcher["dispatchers"]
        assert dispatchers.serving(dispatcher["zodbDB"]) is one
        job = jobs.put(rename, "renamed")
        transaction.commit()
        user, path, thread = wait_for_result(job, 30)
        assert (user, path) == (TEST_USER_ID, "/plone")
        assert thread != here()
        assert dispatcher["portal"].title == "renamed"

    def test_each_test_has_files_and_a_dispatcher_of_its_own(self, dispatcher: Any) -> None:
        assert dispatcher["portal"].title == "Plone site"
        assert get_poll(dispatcher["dispatchers"][0], 0)[""] is not None
        assert len([one for one in dispatchers._dispatchers.values() if one.activated]) == 1


class TestZEO:
    """ZEO_TESTING."""

    def test_two_dispatchers_share_the_jobs_over_zeo(self, zeo: Any) -> None:
        one, two = zeo["dispatchers"]
        storages = [one.db.storage, two.db.storage, zeo["zodbDB"].storage]
        assert {type(storage) for storage in storages} == {ClientStorage}
        assert len({id(storage) for storage in storages}) == 3
        setRoles(zeo["portal"], TEST_USER_ID, ["Manager"])
        folder = api.content.create(zeo["portal"], "Folder", "folder")
        transaction.commit()
        waiting = [jobs.put(rename, "renamed"), jobs.put(make_page, folder)]
        transaction.commit()
        results = [wait_for_result(job, 30) for job in waiting]
        assert results[1] == "/plone/folder/page"
        assert zeo["portal"].title == "renamed"
        ran = {job.agent.parent.UUID for job in waiting}
        assert ran <= {one.UUID, two.UUID}

    def test_both_dispatchers_are_registered_in_the_queue(self, zeo: Any) -> None:
        transaction.begin()
        queue = jobs.put(rename, "never").queue
        assert {one.UUID for one in zeo["dispatchers"]} == {da.UUID for da in queue.dispatchers.active()}

    def test_after_the_test_no_thread_is_left(self, zeo: Any) -> None:
        alive = [one for one in dispatchers._dispatchers.values() if one.activated]
        assert sorted(map(id, alive)) == sorted(map(id, zeo["dispatchers"]))
