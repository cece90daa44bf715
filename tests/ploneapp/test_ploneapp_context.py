"""The world that a job finds: site, user, request, language, skin; and what is left of it afterwards."""

from AccessControl import getSecurityManager
from AccessControl import Unauthorized
from AccessControl.SecurityManagement import noSecurityManager
from collective.zcasync import api
from collective.zcasync.agentclaims import execution_items
from collective.zcasync.claims import Taker
from collective.zcasync.exceptions import ContentGone
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.exceptions import UserGone
from collective.zcasync.groups import Group
from collective.zcasync.ploneapp import requests
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp.interfaces import IBrowserLayer
from collective.zcasync.ploneapp.interfaces import IJobRequest
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queues
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from enginejobs import make_agent
from OFS.Application import Application
from plone import api as plone_api
from plone.app.testing import login
from plone.app.testing import logout
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import TEST_USER_ID
from plone.browserlayer.utils import register_layer
from plone.browserlayer.utils import unregister_layer
from plone.testing import zope
from Products.CMFCore.indexing import getQueue
from Products.CMFCore.Skinnable import SKINDATA
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.event import notify
from zope.globalrequest import getRequest
from zope.globalrequest import setRequest
from zope.interface import directlyProvidedBy
from zope.interface import Interface
from zope.security.management import queryInteraction
from zope.traversing.interfaces import BeforeTraverseEvent

import logging
import pytest
import threading
import transaction
import ZODB


def world():
    """What a job sees, as plain values."""
    request = getRequest()
    site = plone_api.portal.get()
    return {
        "site": "/".join(site.getPhysicalPath()),
        "url": site.absolute_url(),
        "user": getSecurityManager().getUser().getId(),
        "name": getSecurityManager().getUser().getUserName(),
        "language": plone_api.portal.get_current_language(),
        "layer": IBrowserLayer.providedBy(request),
        "job": IJobRequest.providedBy(request),
        "skin": site.getCurrentSkinName(),
        "actual": request["ACTUAL_URL"],
        "parents": [item.getId() for item in request["PARENTS"]],
    }


class IAnotherLayer(Interface):
    """A browser layer."""


def provided():
    """The names of what the request provides, in their order."""
    return [interface.__name__ for interface in directlyProvidedBy(getRequest())]


def create(title):
    page = plone_api.content.create(plone_api.portal.get(), "Document", title=title)
    return page.Creator(), page.getOwner().getId(), page.absolute_url()


def change_title_before_the_commit(result=None):
    """Let a hook, which runs when the job's function has returned, say where and as whom it runs."""
    site = getSite()

    def hook():
        path = "/".join(getSite().getPhysicalPath())
        site.title = f"{site.title}, {getSecurityManager().getUser().getId()} in {path}"

    transaction.get().addBeforeCommitHook(hook)
    return site.title


def leave_a_mess():
    """Change everything that a thread keeps, and fail."""
    request = getRequest()
    setSite(None)
    noSecurityManager()
    SKINDATA[threading.get_ident()] = ("a skin", "of this job", {}, {})
    request.response.redirect("http://elsewhere")
    setRequest(None)
    raise RuntimeError("a mess is left")


def surroundings():
    """What must be the same before and after a job."""
    return (
        getRequest(),
        getSite(),
        getSecurityManager(),
        SKINDATA.get(threading.get_ident()),
        queryInteraction(),
    )


@pytest.fixture
def portal(integration):
    return integration["portal"]


def run(portal, *args):
    """Put a job, run it in this thread, and return its result."""
    job = api.put(*args)
    assert run_jobs(portal) == [job]
    return job.result


class TestUser:
    def test_a_job_runs_as_the_user_who_put_it(self, portal):
        job = api.put(world)
        assert job.user == f"/plone/acl_users:{TEST_USER_ID}"
        logout()
        run_jobs(portal)
        assert job.result["user"] == TEST_USER_ID

    def test_a_user_of_the_root_folder_is_found_there(self, integration, portal):
        with plone_api.env.adopt_user(SITE_OWNER_NAME):
            job = api.put(world)
        assert job.user == f"/acl_users:{SITE_OWNER_NAME}"
        run_jobs(portal)
        assert job.result["user"] == SITE_OWNER_NAME

    def test_what_anonymous_puts_in_a_request_runs_as_anonymous(self, portal):
        logout()
        job = api.put(world)
        assert job.user == "Anonymous"
        login(portal, "test-user")
        run_jobs(portal)
        assert (job.result["user"], job.result["name"]) == (None, "Anonymous User")

    def test_without_request_and_user_a_put_is_refused_with_advice(self, portal):
        logout()
        setRequest(None)
        with pytest.raises(PutRefused, match="collective.zcasync.service_user .Site Setup, Background jobs"):
            api.put(world)

    def test_without_request_and_user_a_job_runs_as_the_service_user(self, portal):
        plone_api.portal.set_registry_record("collective.zcasync.service_user", TEST_USER_ID)
        logout()
        setRequest(None)
        job = api.put(world)
        run_jobs(portal)
        assert job.result["user"] == TEST_USER_ID

    def test_a_service_user_who_does_not_exist_is_refused(self, portal):
        plone_api.portal.set_registry_record("collective.zcasync.service_user", "nobody-there")
        logout()
        setRequest(None)
        with pytest.raises(PutRefused, match="has no such user"):
            api.put(world)

    def test_without_a_site_a_script_is_told_to_set_it(self, portal):
        logout()
        setRequest(None)
        queue = get_queues(portal._p_jar)[""]
        setSite(None)
        with pytest.raises(PutRefused, match="setSite"):
            queue.put(world)

    def test_adopted_roles_are_not_carried_over_and_the_log_says_so(self, portal, caplog):
        with plone_api.env.adopt_roles(["Manager"]):
            job = api.put(create, "Not allowed")
        assert "run_as" in caplog.text
        run_jobs(portal, raises=False)
        assert job.result.check(Unauthorized)

    def test_permissions_are_those_at_run_time(self, portal):
        refused = api.put(create, "Refused")
        run_jobs(portal, raises=False)
        assert refused.failed
        assert "refused" not in portal
        allowed = api.put(create, "Allowed")
        plone_api.user.grant_roles(TEST_USER_ID, roles=["Contributor"], obj=portal)
        run_jobs(portal)
        assert allowed.result == (TEST_USER_ID, TEST_USER_ID, f"{portal.absolute_url()}/allowed")

    def test_a_vanished_user_is_a_clear_failure(self, portal):
        job = api.put(world)
        portal.acl_users.userFolderDelUsers([TEST_USER_ID])
        run_jobs(portal, raises=False)
        assert job.result.check(UserGone)
        assert job.error == (
            f"UserGone: The user '{TEST_USER_ID}' is not in /plone/acl_users any more. Create the user again and"
            " retry the job, or put it anew as someone else: api.options(run_as='...').put(...)"
        )


class TestRunAs:
    def test_it_needs_the_permission(self, portal):
        add_user(portal, "carol")
        with pytest.raises(PutRefused, match="lacks the permission 'collective.zcasync: Run as another user'"):
            api.options(run_as="carol").put(world)

    def test_with_the_permission_the_job_runs_as_the_other(self, portal):
        add_user(portal, "carol")
        become(portal, "Site Administrator")
        job = api.options(run_as="carol").put(world)
        assert job.user == "/plone/acl_users:carol"
        run_jobs(portal)
        assert job.result["user"] == "carol"

    def test_only_a_manager_lends_the_rights_of_a_manager(self, portal):
        add_user(portal, "carol", ["Manager"])
        become(portal, "Site Administrator")
        with pytest.raises(PutRefused, match="only a Manager"):
            api.options(run_as="carol").put(world)
        with pytest.raises(PutRefused, match="lacks the permission"):
            api.options(run_as=SITE_OWNER_NAME).put(world)
        become(portal, "Manager")
        assert api.options(run_as="carol").put(world).user == "/plone/acl_users:carol"

    def test_an_unknown_user_is_refused(self, portal):
        with pytest.raises(PutRefused, match="neither the site nor the root"):
            api.options(run_as="nobody-there").put(world)

    def test_oneself_needs_no_permission(self, portal):
        assert api.options(run_as=TEST_USER_ID).put(world).user == f"/plone/acl_users:{TEST_USER_ID}"


def become(portal, role):
    plone_api.user.grant_roles(TEST_USER_ID, roles=[role])
    login(portal, "test-user")  # a user object remembers its roles


def add_user(portal, name, roles=("Member",)):
    portal.acl_users.userFolderAddUser(name, "a-long-password", list(roles), [])


class TestRequest:
    def test_a_job_has_a_request_of_its_own_with_the_layers_of_the_site(self, portal):
        result = run(portal, world)
        assert (result["site"], result["layer"], result["job"]) == ("/plone", True, True)
        assert result["parents"] == ["plone", ""]

    def test_a_request_provides_the_same_whether_its_marks_are_known_or_not(self, portal, monkeypatch):
        monkeypatch.setattr(requests, "_marks", {})
        published = requests.make(portal.aq_parent, {}).REQUEST
        notify(BeforeTraverseEvent(portal, published))
        expected = [interface.__name__ for interface in directlyProvidedBy(published)]
        assert {"IJobRequest", "IBrowserLayer"} < set(expected)
        assert [run(portal, provided), run(portal, provided)] == [expected, expected]
        assert len(requests._marks) == 1

    def test_a_layer_that_comes_or_goes_is_seen_by_the_next_job(self, portal):
        before = run(portal, provided)
        register_layer(IAnotherLayer, "another")
        assert set(run(portal, provided)) - set(before) == {"IAnotherLayer"}
        unregister_layer("another")
        assert run(portal, provided) == before

    def test_few_marks_are_kept(self, portal, monkeypatch):
        monkeypatch.setattr(requests, "_marks", {("what was there",): ()})
        monkeypatch.setattr(requests, "MARKS", 1)
        run(portal, provided)
        assert len(requests._marks) == 1

    def test_urls_are_those_of_the_virtual_host(self, integration, portal):
        request = integration["request"]
        request.setServerURL("https", "www.example.com", "8443")
        request["PARENTS"] = [portal]
        request.setVirtualRoot("intranet")
        job = api.put(world)
        request.setServerURL("http", "nohost", "80")
        request["PARENTS"] = [integration["app"]]
        request.setVirtualRoot("")
        run_jobs(portal)
        assert job.result["url"] == job.result["actual"] == "https://www.example.com:8443/intranet"

    def test_the_language_is_that_of_the_put(self, integration, portal):
        plone_api.portal.set_registry_record("plone.available_languages", ["en", "de"])
        integration["request"]["LANGUAGE"] = "de"
        integration["request"]["LANGUAGE_TOOL"].LANGUAGE = "de"
        job = api.put(world)
        integration["request"]["LANGUAGE_TOOL"].LANGUAGE = "en"
        run_jobs(portal)
        assert job.result["language"] == "de"

    def test_the_skin_is_that_of_the_put(self, portal):
        skins = portal.portal_skins
        skins.addSkinSelection("Other", skins.getSkinPath(skins.getDefaultSkin()))
        portal.changeSkin("Other")
        job = api.put(world)
        portal.changeSkin(skins.getDefaultSkin())
        run_jobs(portal)
        assert job.result["skin"] == "Other"

    def test_a_job_that_a_job_puts_finds_the_same_world(self, integration, portal):
        integration["request"].setServerURL("https", "www.example.com", 443)
        outer = api.put(put_inner)
        jobs = run_jobs(portal)
        assert jobs[0] is outer
        assert jobs[1].result["url"] == "https://www.example.com/plone"
        assert (jobs[1].user, jobs[1].group) == (outer.user, outer.group)

    def test_a_job_that_is_put_at_the_zope_root_runs_without_a_site(self, integration):
        integration["request"]["PARENTS"] = [integration["app"]]
        setSite(None)
        job = api.put(world_of_root)
        assert (job.group, job.user) == ("", f"/plone/acl_users:{TEST_USER_ID}")
        run_jobs(integration["app"])
        assert job.result == (None, TEST_USER_ID, getRequest().SERVER_URL)

    def test_what_is_remembered_is_plain_and_short(self, portal):
        job = api.put(world)
        assert job.group == sites.group_of(portal)
        assert job.context_data == (("site", "/plone"), ("url", getRequest().SERVER_URL), ("language", "en"))


def world_of_root():
    return getSite(), getSecurityManager().getUser().getId(), getRequest().PARENTS[-1].absolute_url()


def put_inner():
    api.put(world)


class TestSurroundings:
    def test_they_are_the_same_after_a_job_as_before(self, portal):
        before = surroundings()
        run(portal, world)
        assert surroundings() == before
        assert getRequest().get("PARENTS")

    def test_they_are_the_same_after_a_job_that_left_a_mess(self, portal):
        before = surroundings()
        api.put(leave_a_mess)
        later = api.put(world)
        run_jobs(portal, raises=False)
        assert surroundings() == before
        assert later.result["user"] == TEST_USER_ID

    def test_they_are_the_same_after_a_job_that_could_not_be_entered(self, portal):
        before = surroundings()
        job = api.put(world)
        portal.acl_users.userFolderDelUsers([TEST_USER_ID])
        run_jobs(portal, raises=False)
        assert job.failed
        assert surroundings() == before

    def test_what_waits_for_the_index_around_a_job_is_not_lost(self, portal):
        portal.setTitle("Changed")
        portal.reindexObject()
        waiting = getQueue().length()
        assert waiting
        run(portal, world)
        assert getQueue().length() == waiting

    def test_in_a_bare_thread_nothing_is_left(self, functional):
        context, job, app = put_for_thread(functional)
        found = in_thread(enter_once, context, job)
        assert found == [(None, None, None, None, 0)]

    def test_index_operations_of_others_are_dropped_with_a_warning(self, functional, caplog):
        context, job, app = put_for_thread(functional)
        found = in_thread(enter_with_leftovers, context, job)
        assert found == [0, 0]
        assert "index operations were left in this thread before a job" in caplog.text


def find_or_create(title):
    """Create a page, unless the catalog has one; how many it had."""
    found = len(plone_api.content.find(Title=title))
    if not found:
        with plone_api.env.adopt_roles(["Manager"]):
            plone_api.content.create(plone_api.portal.get(), "Document", title=title)
    return found


class TestSharedTransactions:
    def test_what_one_job_has_made_is_in_the_catalog_for_the_next_and_both_are_one_commit(self, functional):
        jobs = [api.put(find_or_create, "Shared") for _ in range(3)]
        for job in jobs:
            job.groupable = True
        transaction.commit()
        found = in_thread(share, [job._p_oid for job in jobs])
        transaction.begin()

        assert found == [3]
        assert [job.result for job in jobs] == [0, 1, 1]
        assert len({job._p_serial for job in jobs}) == 1


def share(connection, found, oids):
    """Claim the jobs, and run them in one transaction."""
    queue = get_queues(connection)[""]
    taken = [one for one in Taker(queue).take(len(oids)) if one.job._p_oid in oids]
    agent = make_agent(queue)
    for job, _kind in taken:
        agent.hold(job, False)
    transaction.commit()
    first, *rest = execution_items(taken, False, "")
    others = iter(rest)
    database = connection.db()
    around = Surroundings(database, bundle=lambda who: 60.0)
    done = Group(database, around, lambda: next(others, None)).perform(first)
    found.append(len(done.ended))


def put_for_thread(layer):
    from collective.zcasync.interfaces import IJobContext
    from zope.component import getUtility

    job = api.put(world)
    transaction.commit()
    return getUtility(IJobContext), job._p_oid, layer["app"]


def in_thread(function, *args):
    """What the function appends to a list, in a thread with its own connection."""
    found = []

    def target():
        import Zope2

        connection = Zope2.DB.open()
        try:
            function(connection, found, *args)
        except BaseException as error:
            found.append(error)
        finally:
            transaction.abort()
            connection.close()

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return found


def enter_once(connection, found, context, oid):
    with context.enter(connection.get(oid), connection):
        world()
        assert queryInteraction() is not None
    site_info = (getRequest(), getSite(), queryInteraction(), SKINDATA.get(threading.get_ident()))
    found.append((*site_info, getQueue().length()))


def enter_with_leftovers(connection, found, context, oid):
    getQueue().queue.append((0, "left", None, None))
    with context.enter(connection.get(oid), connection):
        found.append(getQueue().length())
    found.append(getQueue().length())


class TestSites:
    def test_the_jobs_of_a_renamed_site_go_on(self, integration, portal):
        job = api.put(world)
        with plone_api.env.adopt_user(SITE_OWNER_NAME):
            integration["app"].manage_renameObject("plone", "renamed")
        run_jobs(portal)
        assert job.result["site"] == "/renamed"
        assert job.result["user"] == TEST_USER_ID
        queues = get_queues(portal._p_jar)
        assert queues.sites[job.group].path == "/renamed"

    def test_a_renamed_site_is_found_also_without_what_the_queues_know(self, integration, portal):
        job = api.put(world)
        queues = get_queues(portal._p_jar)
        with plone_api.env.adopt_user(SITE_OWNER_NAME):
            integration["app"].manage_renameObject("plone", "renamed")
        del queues.sites[job.group]
        run_jobs(portal)
        assert job.result["site"] == "/renamed"

    def test_a_site_that_vanished_is_a_clear_failure(self, integration, portal):
        job = api.put(world)
        integration["app"]._delObject("plone", suppress_events=True)
        run_jobs(portal, raises=False)
        assert job.result.check(ContentGone)
        assert "The site /plone of this job was removed" in job.error

    def test_removing_a_site_cancels_its_jobs_without_callbacks(self, integration, portal, caplog):
        caplog.set_level(logging.INFO)
        job = api.put(world)
        callback = job.addCallback(leave_a_mess)
        queues = get_queues(portal._p_jar)
        setSite(None)
        zope.login(integration["app"].acl_users, SITE_OWNER_NAME)
        integration["app"].manage_delObjects(["plone"])
        assert (job.outcome, job.status) == ("cancelled", "completed-status")
        assert (callback.outcome, callback.attempts, job.callbacks) == (None, 0, ())
        assert "/plone was removed: 1 waiting jobs cancelled" in caplog.text
        assert queues.policies["default"].owner == ""

    def test_the_application_is_found_from_a_database_beside_it(self):
        databases = {}
        main = ZODB.DB(None, databases=databases, database_name="main")
        beside = ZODB.DB(None, databases=databases, database_name="jobs")
        connection = beside.open()
        try:
            with pytest.raises(ContentGone, match="the database 'jobs'"):
                sites.application(connection)
            connection.get_connection("main").root()["Application"] = app = Application()
            assert sites.application(connection) is app
        finally:
            transaction.abort()
            connection.close()
            main.close()
            beside.close()


@pytest.mark.parametrize("kind", ["functional", "filestorage"])
class TestThreads:
    def test_a_job_runs_in_a_thread_and_its_work_is_committed(self, kind, request):
        layer = request.getfixturevalue(kind)
        plone_api.user.grant_roles(TEST_USER_ID, roles=["Contributor"], obj=layer["portal"])
        job = api.put(create, "Made in a thread")
        transaction.commit()
        with running_dispatcher(layer["zodbDB"]):
            result = wait_for_result(job)
        assert result == (TEST_USER_ID, TEST_USER_ID, f"{layer['portal'].absolute_url()}/made-in-a-thread")
        assert [brain.getId for brain in plone_api.content.find(portal_type="Document")] == ["made-in-a-thread"]

    def test_hooks_before_the_commit_see_the_site_and_the_user(self, kind, request):
        layer = request.getfixturevalue(kind)
        job = api.put(change_title_before_the_commit)
        job.addCallback(change_title_before_the_commit)
        transaction.commit()
        with running_dispatcher(layer["zodbDB"]):
            assert wait_for_result(job) == "Plone site"
        seen = f"{TEST_USER_ID} in /plone"
        assert layer["portal"].title == f"Plone site, {seen}, {seen}"

    def test_the_history_of_the_database_tells_who_and_what(self, kind, request):
        layer = request.getfixturevalue(kind)
        job = api.put(world)
        transaction.commit()
        with running_dispatcher(layer["zodbDB"]):
            wait_for_result(job)
        (entry,) = layer["zodbDB"].storage.history(job._p_oid)
        assert entry["user_name"].decode() == f"/plone/acl_users {TEST_USER_ID}"
        assert entry["description"].decode() == f"job {job.id} test_ploneapp_context.world"

    def test_a_job_that_cannot_be_entered_ends_in_a_failure(self, kind, request):
        layer = request.getfixturevalue(kind)
        job = api.put(world)
        layer["portal"].acl_users.userFolderDelUsers([TEST_USER_ID])
        transaction.commit()
        with running_dispatcher(layer["zodbDB"]):
            assert wait_for_result(job).check(UserGone)
        assert (job.outcome, job.attempts) == ("failed", 1)

    def test_a_dispatcher_leaves_no_thread(self, kind, request):
        layer = request.getfixturevalue(kind)
        before = set(threading.enumerate())
        with running_dispatcher(layer["zodbDB"]):
            assert set(threading.enumerate()) > before
        assert set(threading.enumerate()) == before

    def test_a_thread_that_ran_a_messy_job_is_clean_for_the_next(self, kind, request):
        layer = request.getfixturevalue(kind)
        messy = api.put(leave_a_mess)
        clean = api.put(world)
        transaction.commit()
        with running_dispatcher(layer["zodbDB"], threads=1):
            assert wait_for_result(messy).getErrorMessage() == "a mess is left"
            result = wait_for_result(clean)
        assert (result["site"], result["user"], result["layer"]) == ("/plone", TEST_USER_ID, True)
