"""Content as argument, as owner of a method and as result; and what of Plone is refused at the put."""

from Acquisition import aq_base
from collective.zcasync import api
from collective.zcasync.exceptions import ContentGone
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.ploneapp.references import ContentReference
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from dataclasses import dataclass
from plone import api as plone_api
from plone.app.testing import login
from plone.app.testing import TEST_USER_ID
from Products.Five import BrowserView
from zope.lifecycleevent import ObjectAddedEvent

import pytest
import transaction


def describe(page):
    return "/".join(page.getPhysicalPath()), page.absolute_url(), page.Title(), page.REQUEST is not None


def describe_all(pages, by_name=None):
    return [page.getId() for page in pages], {name: page.getId() for name, page in (by_name or {}).items()}


def give_back(page):
    return page


def make(title):
    return plone_api.content.create(plone_api.portal.get(), "Document", title=title)


def give_back_request():
    return plone_api.portal.get().REQUEST


def title_of(result):
    return result.Title()


@dataclass
class Holder:
    page: object


@pytest.fixture
def portal(integration):
    portal = integration["portal"]
    become(portal, "Contributor", "Editor", "Reader")
    return portal


def become(portal, *roles):
    plone_api.user.grant_roles(TEST_USER_ID, roles=list(roles))
    login(portal, "test-user")


@pytest.fixture
def page(portal):
    return plone_api.content.create(portal, "Document", id="page", title="Page")


@pytest.fixture
def folder(portal):
    return plone_api.content.create(portal, "Folder", id="folder")


class TestArguments:
    def test_content_comes_back_in_its_folders_under_the_request_of_the_job(self, portal, page):
        job = api.put(describe, page)
        run_jobs(portal)
        assert job.result == ("/plone/page", page.absolute_url(), "Page", True)

    def test_it_is_stored_by_uid_path_and_weak_reference(self, page):
        job = api.put(describe, page)
        (stored,) = job.args
        assert isinstance(stored, ContentReference)
        assert (stored.UID, stored.path) == (page.UID(), "/plone/page")
        assert stored.ref() is aq_base(page)

    def test_the_job_says_where_the_content_stands(self, page):
        assert api.put(describe, page).where == "/plone/page"
        assert api.put(describe_all, [], by_name=page).where == "/plone/page"
        assert api.put(page.reindexObject).where == "/plone/page"
        assert api.put(describe_all, []).where == ""

    def test_content_in_lists_and_dicts_is_found_too(self, portal, page, folder):
        job = api.put(describe_all, [page, folder], by_name={"a": page})
        run_jobs(portal)
        assert job.result == (["page", "folder"], {"a": "page"})

    def test_content_that_was_renamed_comes_back_from_where_it_is(self, portal, page):
        job = api.put(describe, page)
        plone_api.content.rename(page, "renamed")
        run_jobs(portal)
        assert job.result[0] == "/plone/renamed"

    def test_content_that_was_moved_comes_back_from_where_it_is(self, portal, page, folder):
        job = api.put(describe, page)
        plone_api.content.move(page, folder)
        run_jobs(portal)
        assert job.result[0] == "/plone/folder/page"

    def test_content_whose_folder_was_renamed_comes_back_from_where_it_is(self, portal, folder):
        inner = plone_api.content.create(folder, "Document", id="page")
        job = api.put(describe, inner)
        plone_api.content.rename(folder, "renamed")
        run_jobs(portal)
        assert job.result[0] == "/plone/renamed/page"

    def test_another_page_under_the_old_name_is_not_taken_for_it(self, portal, page):
        job = api.put(describe, page)
        plone_api.content.delete(page)
        plone_api.content.create(portal, "Document", id="page", title="Another")
        run_jobs(portal, raises=False)
        assert job.result.check(ContentGone)

    def test_deleted_content_is_a_clear_failure(self, portal, page):
        job = api.put(describe, page)
        plone_api.content.delete(page)
        run_jobs(portal, raises=False)
        assert job.result.check(ContentGone)
        assert "The content at /plone/page was deleted" in job.error

    def test_content_that_the_user_may_not_view_is_a_clear_failure(self, portal, page):
        job = api.put(describe, page)
        page.manage_permission("View", roles=["Manager"], acquire=False)
        run_jobs(portal, raises=False)
        assert job.result.check(ContentGone)
        assert "'test-user' may not view /plone/page" in job.error

    def test_the_site_itself_can_be_an_argument(self, portal):
        job = api.put(describe, portal)
        run_jobs(portal)
        assert job.result[0] == "/plone"

    def test_content_made_in_this_very_transaction_is_accepted(self, portal):
        fresh = plone_api.content.create(portal, "Document", id="fresh")
        job = api.put(describe, fresh)
        run_jobs(portal)
        assert job.result[0] == "/plone/fresh"


class TestMethods:
    def test_reindexing_by_a_job_updates_the_catalog(self, portal, page):
        job = api.put(page.reindexObject)
        page.title = "Silently changed"
        run_jobs(portal)
        assert not job.failed
        assert [brain.id for brain in plone_api.content.find(Title="Silently")] == ["page"]

    def test_it_works_also_after_a_rename(self, portal, page):
        job = api.put(page.reindexObject, idxs=["Title"])
        plone_api.content.rename(page, "renamed")
        portal["renamed"].title = "Silently changed"
        run_jobs(portal)
        assert not job.failed
        assert [brain.id for brain in plone_api.content.find(Title="Silently")] == ["renamed"]

    @pytest.mark.parametrize("kind", ["functional", "filestorage"])
    def test_it_works_in_a_thread(self, kind, request):
        layer = request.getfixturevalue(kind)
        portal = layer["portal"]
        become(portal, "Contributor", "Editor", "Reader")
        page = plone_api.content.create(portal, "Document", id="page", title="Page")
        transaction.commit()
        page.title = "Silently changed"
        job = api.put(page.reindexObject)
        plone_api.content.rename(page, "renamed")
        transaction.commit()
        portal["renamed"].title = "Changed again"
        transaction.commit()
        with running_dispatcher(layer["zodbDB"]):
            wait_for_result(job)
        assert job.error == ""
        assert [brain.id for brain in plone_api.content.find(Title="again")] == ["renamed"]


class TestResults:
    def test_content_is_a_reference_that_callbacks_get_as_content(self, portal, page):
        job = api.put(give_back, page)
        callback = job.addCallback(title_of)
        run_jobs(portal)
        assert isinstance(job.result, ContentReference)
        assert callback.result == "Page"

    @pytest.mark.parametrize("kind", ["functional", "filestorage"])
    def test_content_that_the_job_made_is_its_result(self, kind, request):
        layer = request.getfixturevalue(kind)
        become(layer["portal"], "Contributor")
        job = api.put(make, "New page")
        callback = job.addCallback(title_of)
        transaction.commit()
        with running_dispatcher(layer["zodbDB"]):
            assert wait_for_result(job).path == "/plone/new-page"
        assert callback.result == "New page"

    def test_what_cannot_be_stored_is_kept_as_text_and_the_work_stands(self, functional):
        job = api.put(give_back_request)
        transaction.commit()
        with running_dispatcher(functional["zodbDB"]):
            result = wait_for_result(job)
        assert job.error == ""
        assert result.startswith("<HTTPRequest")


class TestRefused:
    def refused(self, *args):
        with pytest.raises(InvalidArgumentError) as caught:
            api.put(describe, *args)
        return str(caught.value)

    def test_content_that_stands_in_no_folder_yet(self, portal):
        from plone.dexterity.utils import createContent

        assert "stands in no folder yet" in self.refused(createContent("Document", id="lonely"))
        assert "stands in no folder yet" in self.refused(createContent("Document", id="lonely").__of__(portal))

    def test_content_without_its_folders(self, page):
        assert "stands in no folder yet" in self.refused(aq_base(page))

    def test_content_of_another_database(self, portal, page):
        import ZODB

        database = ZODB.DB(None, database_name="other")
        connection = database.open()
        stranger = aq_base(page).__class__("page")
        connection.root()["page"] = stranger
        connection.add(stranger)
        portal._delObject("page")
        portal._tree["page"] = stranger
        portal._count.change(1)
        try:
            assert "belongs to the database 'other'" in self.refused(portal["page"])
        finally:
            transaction.abort()
            connection.close()
            database.close()

    def test_the_request(self, integration):
        assert "it ends with the request" in self.refused(integration["request"])
        assert "it ends with the request" in self.refused([integration["request"].response])

    def test_views_and_their_methods(self, integration, portal):
        view = BrowserView(portal, integration["request"])
        assert "get the view in the job" in self.refused(view)
        with pytest.raises(InvalidArgumentError, match="get the view in the job"):
            api.put(portal.restrictedTraverse("@@plone").getCurrentUrl)

    def test_forms(self, integration, portal):
        from plone.dexterity.browser.edit import DefaultEditForm

        assert "the values from extractData()" in self.refused(DefaultEditForm(portal, integration["request"]))

    def test_events_that_hold_content(self, page):
        assert "an argument of its own" in self.refused(ObjectAddedEvent(page, page.__parent__, "page"))

    def test_search_results(self, portal, page):
        brains = portal.portal_catalog(portal_type="Document")
        assert "brain.getObject()" in self.refused(brains[0])
        assert "brain.UID for brain in" in self.refused(brains)

    def test_tools(self, portal):
        assert "api.portal.get_tool('portal_catalog')" in self.refused(portal.portal_catalog)
        assert "api.portal.get_tool('portal_registry')" in self.refused(portal.portal_registry)
        with pytest.raises(InvalidArgumentError, match="get_tool"):
            api.put(portal.portal_catalog.clearFindAndRebuild)

    def test_users(self, portal):
        assert "run_as" in self.refused(plone_api.user.get_current())
        assert "run_as" in self.refused(plone_api.user.get_current().getUser())

    def test_content_inside_an_object_of_ones_own(self, page):
        assert "an argument of its own" in self.refused(Holder(page))
