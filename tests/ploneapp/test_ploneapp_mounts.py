"""A site in a mount point: its jobs live in the database of its content, and those of others do not get in."""

from collective.zcasync import api
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import get_queues
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.zopeapp import connection as connections
from collective.zcasync.zopeapp.config import Settings
from OFS.Folder import Folder
from plone import api as plone_api
from plone.app.testing import SITE_OWNER_NAME
from plone.testing import zope
from Products.CMFPlone.factory import addPloneSite
from typing import Any
from ZODB.DB import DB
from zope.component.hooks import setSite
from zope.component.hooks import site as local_site

import pytest
import transaction

PROFILE = "profile-collective.zcasync:default"


def where() -> str:
    return "/".join(plone_api.portal.get().getPhysicalPath())


def describe(page: Any) -> str:
    page.setDescription(f"Described in {where()}")
    page.reindexObject()
    return page.absolute_url()


def put_into(path: str) -> None:
    with local_site(plone_api.portal.get().getPhysicalRoot().unrestrictedTraverse(path)):
        api.put(where)


@pytest.fixture
def layer(functional):
    """A layer with a second database, in which a second site stands: /mounted/other."""
    main = functional["zodbDB"]
    DB(None, databases=main.databases, database_name="beside")
    app = functional["app"]
    connection = app._p_jar.get_connection("beside")
    connection.root()["folder"] = folder = Folder("mounted")
    connection.add(folder)
    app._setObject("mounted", folder)
    zope.login(app.acl_users, SITE_OWNER_NAME)
    other = addPloneSite(app["mounted"], "other", title="Other", extension_ids=("plone.app.contenttypes:default",))
    transaction.commit()
    with local_site(other):
        other.portal_setup.runAllImportStepsFromProfile(PROFILE)
    transaction.commit()
    yield functional
    # It lives in memory; closing it would close the layer's own connection, which belongs with that of this database.
    transaction.abort()


@pytest.fixture
def other(layer):
    """The mounted site, as the current site."""
    other = layer["app"]["mounted"]["other"]
    with local_site(other):
        yield other


@pytest.fixture
def page(other):
    return plone_api.content.create(other, "Document", id="page", title="Page")


def test_the_mounted_site_has_queues_of_its_own_beside_its_content(layer, other):
    assert other._p_jar.db().database_name == "beside"
    queues = get_queues(other._p_jar)
    assert [site.path for site in queues.sites.values()] == ["/mounted/other"]
    assert [site.path for site in get_queues(layer["portal"]._p_jar).sites.values()] == ["/plone"]


def test_a_put_goes_into_the_queue_of_the_database_in_which_the_site_is(layer, page, other):
    job = api.put(describe, page)
    transaction.commit()
    assert job._p_jar.db().database_name == "beside"
    assert put_jobs(other) == [job]
    assert put_jobs(layer["portal"]) == []
    run_jobs(other)
    assert page.Description() == "Described in /mounted/other"


def test_the_id_of_a_job_names_its_database_and_finds_it_from_everywhere(layer, other):
    job = api.put(where)
    assert job.id.endswith("@beside")
    transaction.commit()
    assert api.job(job.id) is job
    with local_site(layer["portal"]):
        assert api.job(job.id).task == job.task


def test_its_jobs_run_in_a_thread_in_the_mounted_site(layer, page, other):
    job = api.put(describe, page)
    transaction.commit()
    with running_dispatcher(layer["zodbDB"].databases["beside"]):
        assert wait_for_result(job) == page.absolute_url()
    assert job.error == ""
    with local_site(other):
        (brain,) = plone_api.content.find(Description="Described")
    assert brain.getPath() == "/mounted/other/page"


def test_content_of_another_database_is_refused_with_the_name_of_the_right_one(layer, page):
    with local_site(layer["portal"]):
        for call in ((describe, page), (page.reindexObject,)):
            with pytest.raises(InvalidArgumentError) as caught:
                api.put(*call)
            assert "/mounted/other/page belongs to the database 'beside', and the job to 'unnamed'" in str(caught.value)
            assert "put the job from the site that the content belongs to" in str(caught.value)
        assert put_jobs(layer["portal"]) == []


def test_a_put_into_the_queue_of_another_database_is_refused_with_the_name_of_the_right_one(layer, other):
    queue = get_queue(layer["portal"]._p_jar)
    with pytest.raises(PutRefused) as caught:
        queue.put(where)
    assert str(caught.value) == (
        "test_ploneapp_mounts.where cannot be put into a queue of the database 'unnamed': the site /mounted/other"
        " stands in 'beside', and its jobs with it, so that a job and its work are stored in one commit. Put it there:"
        " collective.zcasync.queue.get_queue(site._p_jar).put(...)"
    )
    assert len(queue) == 0
    assert get_queue(other._p_jar).put(where).status == "pending-status"


def test_a_job_of_one_database_that_puts_for_a_site_in_another_is_refused(layer):
    with local_site(layer["portal"]):
        job = api.put(put_into, "/mounted/other")
    run_jobs(layer["portal"], raises=False)
    assert job.result.check(PutRefused)
    assert "the site /mounted/other stands in 'beside'" in job.error


def test_with_a_database_for_all_queues_every_site_puts_there(layer, other, monkeypatch):
    monkeypatch.setattr(connections, "get_settings", lambda: Settings(db_name="unnamed"))
    job = api.put(where)
    assert job._p_jar.db().database_name == "unnamed"
    assert run_jobs(layer["portal"]) == [job]
    assert job.result == "/mounted/other"


def test_removing_the_mounted_site_cancels_its_jobs_in_its_database(layer, other):
    job = api.put(where)
    group = sites.group_of(other)
    setSite(None)
    layer["app"]["mounted"].manage_delObjects(["other"])
    assert (job.group, job.outcome) == (group, "cancelled")
