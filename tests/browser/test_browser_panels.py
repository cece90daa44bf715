"""The pages of Site Setup → Background jobs through the publisher: rights, contents, and what their forms do."""

from collective.zcasync import api as jobs
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync.agent import Agent
from collective.zcasync.ploneapp.sites import group_of
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Site
from collective.zcasync.retry import ConfiguredPolicy
from collective.zcasync.tasks import task
from collective.zcasync.testing import run_jobs
from datetime import timedelta
from plone import api
from typing import Any
from urllib.parse import quote
from visitor import Visitor
from zoneinfo import ZoneInfo
from zope.component.hooks import site as local_site

import pytest
import re
import transaction

#: Every page, with the permission that it wants.
VIEWED = (
    *("@@zcasync-overview", "@@zcasync-dispatchers", "@@zcasync-jobs", "@@zcasync-job?id=1", "@@zcasync-queues"),
    "@@zcasync-queue?name=",
)
MANAGED = (
    *("@@zcasync-policies", "@@zcasync-policy?name=default", "@@zcasync-policy-add"),
    *("@@zcasync-policy-delete?name=default", "@@zcasync-settings", "@@zcasync-queue-add"),
    "@@zcasync-queue-settings?name=",
)


@task(title="Greet somebody")
def greet(who: str, token: str = "") -> str:
    return f"hello {who}"


@task(title="Fail for a reason")
def fail(reason: str) -> None:
    raise ValueError(reason)


@task(title="Look at a page")
def look(page: Any) -> str:
    return str(page.Title())


def put(task: Any, *args: Any, **kwargs: Any) -> Any:
    job = task.put(*args, **kwargs)
    transaction.commit()
    return job


def run(portal: Any) -> None:
    run_jobs(portal, raises=False)
    transaction.commit()


class TestRights:
    @pytest.mark.parametrize(
        ("name", "seen"),
        [
            ("", []),
            ("member", []),
            ("viewer", VIEWED),
            ("siteadmin", [*VIEWED, *MANAGED]),
            ("manager", [*VIEWED, *MANAGED]),
        ],
    )
    def test_each_role_sees_its_pages_and_no_other(self, visit: Any, name: str, seen: list[str]) -> None:
        visitor = visit(name)
        assert [page for page in (*VIEWED, *MANAGED) if visitor.is_let_in(page)] == list(seen)

    def test_the_navigation_leads_only_to_pages_that_one_may_see(self, visit: Any) -> None:
        assert "@@zcasync-policies" not in visit("viewer").open("@@zcasync-jobs")
        assert "@@zcasync-policies" in visit("siteadmin").open("@@zcasync-jobs")

    def test_site_setup_leads_to_the_overview(self, visit: Any) -> None:
        assert "/@@zcasync-overview" in visit("manager").open("@@overview-controlpanel")

    def test_arguments_results_and_tracebacks_are_for_managers_only(self, portal: Any, visit: Any) -> None:
        good, bad = put(greet, "the-argument"), put(fail, "the-reason")
        run(portal)
        page = visit("viewer").open(f"@@zcasync-job?id={good.id}")
        assert "Greet somebody" in page
        assert "the-argument" not in page
        page = visit("viewer").open(f"@@zcasync-job?id={bad.id}")
        assert "Traceback" not in page and 'name="retry"' not in page

    def test_the_form_of_a_page_that_one_may_only_view_does_nothing(self, visit: Any) -> None:
        job = put(greet, "you")
        viewer = visit("viewer")
        assert viewer.post("@@zcasync-job", id=job.id, cancel="1", _authenticator=viewer.token()) == 403
        assert job.outcome is None

    def test_a_post_without_its_token_is_refused(self, admin: Visitor, portal: Any) -> None:
        job = put(greet, "you")
        fields = {"id": job.id, "cancel": "1", "queue": "", "pause": "1", "name": "default"}
        fields |= {"form.buttons.save": "Save", "form.buttons.delete": "Delete", "form.buttons.add": "Add"}
        pages = ("@@zcasync-job", "@@zcasync-queues", "@@zcasync-policy", "@@zcasync-policy-delete")
        for page in (*pages, "@@zcasync-policy-add", "@@zcasync-settings"):
            assert admin.post(page, **fields) == 403, page
        queues = get_queues(portal._p_jar)
        assert job.outcome is None
        assert not queues[""].paused
        assert "default" in queues.policies

    def test_a_get_changes_nothing(self, admin: Visitor, portal: Any) -> None:
        job = put(greet, "you")
        admin.open(f"@@zcasync-job?id={job.id}&cancel=1")
        admin.open("@@zcasync-queues?queue=&pause=1")
        transaction.begin()
        assert job.outcome is None
        assert not get_queues(portal._p_jar)[""].paused


class TestOtherSites:
    @pytest.fixture
    def foreign(self, portal: Any) -> Any:
        """A job of another site of the same database."""
        job = put(greet, "the neighbour")
        job.group = "00000000000000ff"
        get_queues(portal._p_jar).sites[job.group] = Site("/neighbour")
        transaction.commit()
        return job

    def test_their_jobs_are_neither_listed_nor_counted(self, visit: Any, foreign: Any) -> None:
        page = visit("siteadmin").open("@@zcasync-jobs?state=waiting")
        assert "No job waits" in page
        assert foreign.id not in page

    def test_the_page_of_their_job_says_that_there_is_none(self, visit: Any, foreign: Any) -> None:
        visitor = visit("siteadmin")
        assert "There is no such job in this site" in visitor.open(f"@@zcasync-job?id={foreign.id}")
        assert visitor.status == 404

    def test_a_manager_of_the_site_cannot_ask_for_all_sites(self, visit: Any, foreign: Any) -> None:
        page = visit("manager").open("@@zcasync-jobs?state=waiting&all_sites=1")
        assert foreign.id not in page
        assert "Show the jobs of all sites" not in page

    def test_a_manager_of_the_root_can_see_and_cancel_them(self, admin: Visitor, foreign: Any) -> None:
        assert foreign.id not in admin.open("@@zcasync-jobs?state=waiting")
        admin.browser.getLink("Show the jobs of all sites").click()
        assert "/neighbour" in admin.contents
        admin.browser.getLink("Greet somebody").click()
        assert "was cancelled" in admin.press("cancel")
        assert foreign.outcome == "cancelled"

    def test_only_a_manager_of_the_root_pauses_a_queue_of_all_sites(
        self, portal: Any, visit: Any, admin: Visitor
    ) -> None:
        queue = get_queues(portal._p_jar)[""]
        queue.owner = ""
        transaction.commit()
        assert 'name="pause"' not in visit("siteadmin").open("@@zcasync-queues")
        admin.open("@@zcasync-queues")
        admin.press("pause")
        assert queue.paused
        admin.press("resume")
        assert not queue.paused

    def test_a_shared_policy_is_shown_and_not_to_be_edited(self, portal: Any, visit: Any) -> None:
        get_queues(portal._p_jar).policies["default"].owner = ""
        transaction.commit()
        page = visit("siteadmin").open("@@zcasync-policies")
        assert "default" in page and "All sites" in page and "@@zcasync-policy?name=default" not in page
        assert visit("siteadmin").post("@@zcasync-policy?name=default") == 403


class TestList:
    def test_each_state_has_a_tab_with_its_count(self, portal: Any, admin: Visitor) -> None:
        put(fail, "a reason")
        put(greet, "you")
        run(portal)
        put(greet, "later")
        page = " ".join(admin.open("@@zcasync-jobs").split())
        for label, number in (("Waiting", 1), ("Failed", 1), ("Finished", 1), ("Quarantined", 0)):
            assert f">{number}</span>" in page.partition(f">{label} ")[2][:80], label

    def test_a_line_tells_task_error_user_time_and_object(self, portal: Any, admin: Visitor) -> None:
        page = api.content.create(portal, "Document", "autumn", title="Autumn news")
        put(look, page)
        put(fail, "a reason")
        run(portal)
        contents = admin.open("@@zcasync-jobs?state=finished")
        assert "Look at a page" in contents
        assert f'href="{page.absolute_url()}"' in contents and "Autumn news" in contents
        assert "test_user_1_" in contents
        assert clock.utcnow().isoformat()[:13] in contents
        assert "ValueError: a reason" in admin.open("@@zcasync-jobs?state=failed")

    def test_times_are_those_of_the_sites_zone_with_the_exact_one_beside(self, portal: Any, admin: Visitor) -> None:
        api.portal.set_registry_record("plone.portal_timezone", "Asia/Kolkata")
        job = put(greet, "you")
        exact = job.put_at.astimezone(ZoneInfo("Asia/Kolkata"))
        contents = admin.open("@@zcasync-jobs?state=waiting")
        assert f'title="{exact.isoformat(timespec="milliseconds")}"' in contents
        assert exact.strftime("%I:%M %p") in contents

    def test_an_object_that_is_gone_is_named_without_a_link(self, portal: Any, admin: Visitor) -> None:
        page = api.content.create(portal, "Document", "winter", title="Winter news")
        put(look, page)
        run(portal)
        api.content.delete(page, check_linkintegrity=False)
        transaction.commit()
        contents = admin.open("@@zcasync-jobs?state=finished")
        assert "winter" in contents and "/winter" not in contents

    def test_fifty_jobs_are_on_a_page_and_the_others_behind_a_link(self, portal: Any, admin: Visitor) -> None:
        jobs.put_many(greet, [(str(number),) for number in range(60)])
        transaction.commit()
        assert admin.open("@@zcasync-jobs?state=waiting").count("Greet somebody") == 50
        assert "jobs 1 to 50" in admin.contents
        admin.browser.getLink("2").click()
        assert admin.contents.count("Greet somebody") == 10
        assert "jobs 51 to 60" in admin.contents

    def test_an_empty_tab_says_what_it_is_for(self, admin: Visitor) -> None:
        for state in joblists.STATES:
            contents = admin.open(f"@@zcasync-jobs?state={state}")
            assert "zcasync-empty" in contents and "<table" not in contents.partition('id="zcasync-states"')[2], state

    @pytest.mark.parametrize(
        "query", ["state=nonsense", "state=failed&state=waiting", "b_start=-5", "b_start=9e9", "b_start=99999999"]
    )
    def test_a_tampered_address_shows_a_list_all_the_same(self, admin: Visitor, query: str) -> None:
        put(greet, "you")
        assert "Background jobs" in admin.open(f"@@zcasync-jobs?{query}")

    def test_what_jobs_say_is_escaped(self, portal: Any, admin: Visitor) -> None:
        evil = "<script>alert(1)</script>"
        job = put(fail, evil)
        job._title = evil
        run(portal)
        for page in ("@@zcasync-jobs?state=failed", f"@@zcasync-job?id={job.id}"):
            contents = admin.open(page)
            assert evil not in contents
            assert "&lt;script&gt;alert(1)" in contents


class TestJob:
    def test_a_failed_job_shows_its_traceback_and_arguments(self, portal: Any, admin: Visitor) -> None:
        job = put(fail, "a reason")
        run(portal)
        contents = admin.open(f"@@zcasync-job?id={job.id}")
        assert "ValueError" in contents and "a reason" in contents
        assert "raise ValueError(reason)" in contents
        assert "<details>" in contents
        assert "reason" in contents

    def test_a_failed_job_is_retried_by_its_button(self, portal: Any, admin: Visitor) -> None:
        job = put(fail, "a reason")
        run(portal)
        admin.open(f"@@zcasync-job?id={job.id}")
        contents = admin.press("retry")
        assert "The job was put again" in contents
        assert f"id={job.retried_as}" in admin.browser.url
        assert jobs.job(job.retried_as).user == job.user
        assert 'name="retry"' not in admin.open(f"@@zcasync-job?id={job.id}")

    def test_a_waiting_job_is_cancelled_by_its_button(self, admin: Visitor) -> None:
        job = put(greet, "you")
        admin.open(f"@@zcasync-job?id={job.id}")
        assert "The job was cancelled" in admin.press("cancel")
        assert job.outcome == "cancelled"

    def test_a_job_that_ended_meanwhile_is_told_as_such(self, portal: Any, admin: Visitor) -> None:
        job = put(greet, "you")
        admin.open(f"@@zcasync-job?id={job.id}")
        run(portal)
        assert "had ended before" in admin.press("cancel")

    def test_a_job_that_was_retried_meanwhile_is_told_as_such(self, portal: Any, admin: Visitor) -> None:
        job = put(fail, "a reason")
        run(portal)
        admin.open(f"@@zcasync-job?id={job.id}")
        job.retried_as = "abc"
        transaction.commit()
        assert "was retried already" in admin.press("retry")

    def test_secrets_are_masked(self, admin: Visitor) -> None:
        job = put(greet, "you", token="t0ps3cret")
        contents = admin.open(f"@@zcasync-job?id={job.id}")
        assert "token" in contents and "t0ps3cret" not in contents

    def test_an_id_that_is_none_says_so(self, admin: Visitor) -> None:
        for id in ("", "77", "zz", "' or 1", "<b>", "f" * 300, "0", "1@elsewhere"):
            assert "There is no such job in this site" in admin.open(f"@@zcasync-job?id={quote(id)}"), id
            assert admin.status == 404, id

    def test_a_job_set_aside_is_discarded_only_by_who_is_sure(self, portal: Any, admin: Visitor) -> None:
        job = put(greet, "you")
        queue = get_queues(portal._p_jar)[""]
        queue.take_out(job)
        queue.quarantine[1] = ("its code is missing", job)
        queue.adjust("quarantined", 1)
        transaction.commit()
        assert "its code is missing" in admin.open("@@zcasync-jobs?state=quarantined")
        admin.open(f"@@zcasync-job?id={job.id}")
        assert "tick the box" in admin.press("discard")
        admin.browser.getControl(name="sure").value = ["1"]
        assert "The job was discarded" in admin.press("discard")
        assert list(queue.quarantined()) == []

    def test_a_scheduled_job_tells_when_it_starts(self, portal: Any, admin: Visitor) -> None:
        due = clock.utcnow() + timedelta(hours=3)
        job = jobs.options(begin_after=due).put(greet, "you")
        transaction.commit()
        contents = admin.open(f"@@zcasync-job?id={job.id}")
        assert "Scheduled" in contents and "To start not before" in contents


class TestPolicies:
    def test_all_named_policies_are_listed_with_their_numbers(self, portal: Any, admin: Visitor) -> None:
        policies = get_queues(portal._p_jar).policies
        policies["mail"] = ConfiguredPolicy(
            "mail",
            attempts=7,
            first_wait=90.0,
            growth=3.0,
            longest_wait=7200.0,
            jitter=0.25,
            age_limit=86400.0,
            rules=({"trouble": "error", "exception": "smtplib.SMTPException", "attempts": 9},),
        )
        transaction.commit()
        contents = admin.open("@@zcasync-policies")
        for text in ("mail", "7", "90 s", "2 h", "× 3", "± 25%", "1 d", "smtplib.SMTPException", "Attempts: 9"):
            assert text in contents, text

    def test_a_change_is_stored_and_holds_for_jobs_that_wait(self, portal: Any, admin: Visitor) -> None:
        job = jobs.options(policy="default").put(greet, "you")
        transaction.commit()
        admin.open("@@zcasync-policy?name=default")
        admin.browser.getControl(name="form.widgets.attempts").value = "3"
        admin.browser.getControl(name="form.widgets.age_limit").value = "60"
        assert "The policy default was changed" in admin.press("form.buttons.save")
        policy = job.getRetryPolicy().policy
        assert (policy.attempts, policy.age_limit) == (3, 60.0)

    def test_no_limit_is_an_empty_field(self, portal: Any, admin: Visitor) -> None:
        admin.open("@@zcasync-policy?name=default")
        admin.browser.getControl(name="form.widgets.attempts").value = ""
        admin.press("form.buttons.save")
        assert get_queues(portal._p_jar).policies["default"].attempts is None
        assert "no limit" in admin.contents

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("attempts", "0"),
            ("attempts", "many"),
            ("first_wait", "-1"),
            ("first_wait", "100000"),
            ("growth", "0.5"),
            ("jitter", "2"),
            ("log_every", ""),
            ("longest_wait", "nan"),
        ],
    )
    def test_a_wrong_number_is_refused_and_nothing_is_stored(
        self, portal: Any, admin: Visitor, name: str, value: str
    ) -> None:
        policy = get_queues(portal._p_jar).policies["default"]
        before = policy.numbers()
        admin.open("@@zcasync-policy?name=default")
        admin.browser.getControl(name=f"form.widgets.{name}").value = value
        admin.press("form.buttons.save")
        assert "There were some errors" in admin.contents
        assert policy.numbers() == before

    def test_a_policy_is_added_belongs_to_the_site_and_can_be_deleted(self, portal: Any, visit: Any) -> None:
        visitor = visit("siteadmin")
        visitor.open("@@zcasync-policies")
        visitor.browser.getLink("Add a retry policy").click()
        visitor.browser.getControl(name="form.widgets.name").value = "patient"
        visitor.browser.getControl(name="form.widgets.attempts").value = "12"
        assert "The policy patient was added" in visitor.press("form.buttons.add")
        policies = get_queues(portal._p_jar).policies
        assert (policies["patient"].attempts, policies["patient"].owner) == (12, group_of(portal))
        visitor.browser.getLink("patient").click()
        visitor.press("form.buttons.delete")
        assert "Delete the retry policy patient?" in visitor.contents
        assert "The policy patient was deleted" in visitor.press("form.buttons.delete")
        assert "patient" not in policies

    @pytest.mark.parametrize("name", ["default", "two words", "<b>", "9lives", ""])
    def test_a_name_that_is_taken_or_wrong_is_refused(self, portal: Any, admin: Visitor, name: str) -> None:
        policies = get_queues(portal._p_jar).policies
        before = list(policies.keys())
        admin.open("@@zcasync-policy-add")
        admin.browser.getControl(name="form.widgets.name").value = name
        admin.press("form.buttons.add")
        assert "There were some errors" in admin.contents or "There is a retry policy of that name" in admin.contents
        assert list(policies.keys()) == before

    def test_a_policy_that_was_deleted_meanwhile_is_told(self, admin: Visitor) -> None:
        assert "may have been deleted" in admin.open("@@zcasync-policy?name=gone")


class TestSettings:
    def test_the_service_user_is_a_record_of_the_site(self, visit: Any) -> None:
        visitor = visit("siteadmin")
        visitor.open("@@zcasync-settings")
        visitor.browser.getControl(name="form.widgets.service_user").value = "robot"
        assert "Changes saved" in visitor.press("form.buttons.save")
        assert api.portal.get_registry_record("collective.zcasync.service_user") == "robot"

    @pytest.mark.parametrize(
        "page",
        [
            *("@@zcasync-settings", "@@zcasync-who-may", "@@zcasync-policy?name=default", "@@zcasync-policy-add"),
            *("@@zcasync-queue-settings?name=", "@@zcasync-queue-add"),
        ],
    )
    def test_each_field_is_explained(self, admin: Visitor, page: str) -> None:
        fields = re.split(r'<div [^>]*id="formfield-form-widgets-', admin.open(page))[1:]
        shown = {field.partition('"')[0]: field for field in fields if 'class="hidden-widget"' not in field}
        assert shown
        assert [name for name, field in shown.items() if "form-text" not in field] == []


class TestQueues:
    def test_a_queue_that_nobody_serves_says_what_to_do(self, portal: Any, admin: Visitor) -> None:
        assert "No dispatcher serves the queue" not in admin.open("@@zcasync-queues")
        put(greet, "you")
        contents = admin.open("@@zcasync-queues")
        assert "No dispatcher serves the queue" in contents and "Set “dispatcher on” in zope.conf" in contents
        queue = get_queues(portal._p_jar)[""]
        queue.dispatchers.register("apple")
        da = queue.dispatchers["apple"]
        da["main"] = Agent()
        da.activate()
        transaction.commit()
        assert "No dispatcher serves the queue" not in admin.open("@@zcasync-queues")
        da["main"].paused = True
        transaction.commit()
        assert "Its dispatchers were told to take no more jobs" in admin.open("@@zcasync-queues")

    def test_quotas_and_agents_are_listed(self, portal: Any, admin: Visitor) -> None:
        get_queues(portal._p_jar)[""].quotas.create("mailing", 2)
        transaction.commit()
        contents = admin.open("@@zcasync-queue?name=")
        assert "mailing" in contents and "embedded" in contents

    def test_a_database_without_queues_says_how_to_get_them(self, portal: Any, admin: Visitor) -> None:
        del portal._p_jar.root()["collective.zcasync"]
        transaction.commit()
        for page in ("@@zcasync-jobs", "@@zcasync-queues", "@@zcasync-policies"):
            assert "The database has no queues yet" in admin.open(page)
        with local_site(portal):
            assert "may have been deleted" in admin.open("@@zcasync-policy?name=default")
