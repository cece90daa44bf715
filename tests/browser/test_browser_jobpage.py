"""The page about one job: its log, its tree, where it is while it runs, and a retry with other arguments."""

from collective.zcasync import actions
from collective.zcasync import api as jobs
from collective.zcasync import joblists
from collective.zcasync import joblog
from collective.zcasync.agent import Agent
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import task
from collective.zcasync.testing import run_jobs
from plone import api
from typing import Any
from visitor import Visitor

import logging
import pytest
import transaction
import uuid

EVIL = "<script>alert(1)</script>"


@task(title="Paint a wall")
def paint(colour: str, layers: int = 1, token: str = "", tools: list[str] | None = None) -> str:
    if colour == "plaid":
        raise ValueError(f"no paint is {colour}")
    return f"{layers} layers of {colour} with {tools}"


@task(title="Paint any thing")
def paint_thing(thing: Any, brush: Job) -> None:
    raise ValueError("no brush")


def failed(portal: Any, *args: Any, **kwargs: Any) -> Any:
    """A job that has run and failed."""
    job = paint.put("plaid", *args, **kwargs)
    transaction.commit()
    run_jobs(portal, raises=False)
    transaction.commit()
    return job


def page_of(visitor: Visitor, job: Any) -> str:
    return visitor.open(f"@@zcasync-job?id={job.id}")


class TestLog:
    def test_what_the_code_logged_is_shown_to_managers_and_escaped(
        self, portal: Any, siteadmin: Visitor, viewer: Visitor
    ) -> None:
        job, lines = failed(portal), joblog.Lines()
        record = logging.LogRecord("painter", logging.WARNING, "", 0, "paints plaid %s", (EVIL,), None)
        lines.note(record)
        joblog.keep(job, [lines])
        transaction.commit()
        page = page_of(siteadmin, job)
        assert "paints plaid &lt;script&gt;" in page and "WARNING" in page and "painter" in page
        assert EVIL not in page
        assert "paints plaid" not in page_of(viewer, job)

    def test_a_job_that_logged_nothing_has_no_log(self, portal: Any, siteadmin: Visitor) -> None:
        assert "zcasync-logs" not in page_of(siteadmin, paint.put("red"))


class TestLinks:
    def test_user_queue_and_dispatcher_lead_to_their_pages(self, portal: Any, siteadmin: Visitor) -> None:
        job = TestStack().running(portal)
        job.agent.parent.process = {"role": "worker", "host": "apple", "pid": 4711}
        transaction.commit()
        page = page_of(siteadmin, job)
        assert ">worker apple 4711</a>" in page and "Claimed" in page.partition("zcasync-timeline")[2]
        uuid = job.agent.parent.name
        assert f'@@zcasync-dispatchers#dispatcher-{uuid}"' in page
        assert f'id="dispatcher-{uuid}"' in siteadmin.open("@@zcasync-dispatchers")
        assert "@@zcasync-queue?name=" in page.partition("zcasync-about")[2]
        assert "@@user-information?userid=test_user_1_" in page

    def test_the_object_leads_to_its_page(self, portal: Any, siteadmin: Visitor) -> None:
        api.content.create(portal, "Document", "wall", title="The north wall")
        job = paint.put("red")
        job.where = "/plone/wall"
        transaction.commit()
        assert f'<a href="{portal.absolute_url()}/wall">The north wall</a>' in page_of(siteadmin, job)

    def test_a_user_who_is_gone_is_named_without_a_link(self, portal: Any, siteadmin: Visitor) -> None:
        job = paint.put("red")
        job.user = "/plone/acl_users:gone"
        transaction.commit()
        assert "@@user-information?userid=gone" not in page_of(siteadmin, job)


class TestTree:
    def test_callbacks_are_shown_below_their_job_and_lead_back_to_it(self, portal: Any, siteadmin: Visitor) -> None:
        job = paint.put("red")
        job.addCallback(Job(str))
        transaction.commit()
        page = page_of(siteadmin, job)
        assert "Callback" in page and "builtins.str" in page and "Not begun" in page
        siteadmin.browser.getLink("builtins.str").click()
        assert "Belongs to" in siteadmin.contents
        siteadmin.browser.getLink("Paint a wall").click()
        assert "Jobs that belong to it" in siteadmin.contents


class TestStack:
    def running(self, portal: Any) -> Any:
        """A job that is claimed by a dispatcher, as far as the database knows."""
        job = paint.put("red")
        queue = get_queues(portal._p_jar)[""]
        queue.dispatchers.register(uuid.uuid4())
        da = queue.dispatchers.values()[0]
        da.activate()
        agent = da["main"] = Agent()
        transaction.commit()
        assert agent.claimJob() is job
        transaction.commit()
        return job

    def test_a_running_job_is_asked_and_the_page_waits_for_its_answer(self, portal: Any, siteadmin: Visitor) -> None:
        job = self.running(portal)
        page_of(siteadmin, job)
        page = siteadmin.press("ask")
        assert "The answer comes in a moment" in page
        assert siteadmin.browser.headers["Refresh"] == "1"
        frames = (("paint", "/home/me/painter.py", 7, "brush.move()", False),)
        slot = job.agent.slot
        slot.send(job, ("stack", ""), (job.stack_asked, frames))
        transaction.commit()
        page = page_of(siteadmin, job)
        assert "/home/me/painter.py, 7: paint" in page and "brush.move()" in page
        assert "Refresh" not in siteadmin.browser.headers

    def test_only_managers_see_and_ask(self, portal: Any, viewer: Visitor) -> None:
        job = self.running(portal)
        actions.ask_stack(job)
        transaction.commit()
        page = page_of(viewer, job)
        assert "zcasync-stack" not in page
        before = job.stack_asked
        assert viewer.post("@@zcasync-job", id=job.id, ask="1", _authenticator=viewer.token()) == 403
        assert job.stack_asked == before

    def test_a_job_that_has_ended_cannot_be_asked(self, portal: Any, siteadmin: Visitor) -> None:
        job = self.running(portal)
        page_of(siteadmin, job)
        job()
        transaction.commit()
        assert "does not run" in siteadmin.press("ask")


class TestRetryWithOtherArguments:
    def test_the_form_is_filled_in_and_the_new_job_takes_the_place_of_the_old(
        self, portal: Any, siteadmin: Visitor
    ) -> None:
        job = failed(portal, 2, tools=["brush"], token="t0ps3cret")
        page = page_of(siteadmin, job)
        assert "<bdi>no paint is plaid</bdi>" in page  # so that it keeps its direction on a page of another one
        siteadmin.browser.getLink("Retry with other arguments").click()
        form = siteadmin.browser
        assert form.getControl(name="form.widgets.colour").value == "plaid"
        assert form.getControl(name="form.widgets.layers").value == "2"
        assert form.getControl(name="form.widgets.tools").value == '["brush"]'
        assert "t0ps3cret" not in siteadmin.contents
        form.getControl(name="form.widgets.colour").value = "red"
        siteadmin.press("form.buttons.cancel")
        assert f"@@zcasync-job?id={job.id}" in form.url and not job.retried_as
        form.getLink("Retry with other arguments").click()
        form.getControl(name="form.widgets.colour").value = "red"
        siteadmin.press("form.buttons.start")
        new = jobs.job(job.retried_as)
        assert new.retry_of == job.id and new.user.endswith("siteadmin")
        assert dict(new.kwargs)["colour"] == "red"
        assert "Put again with other arguments by" in page_of(siteadmin, job)
        run_jobs(portal, raises=False)
        assert joblists.state_of(new) == "finished"

    def test_a_job_that_was_retried_already_or_whose_task_takes_what_no_form_can_give_is_not_offered_it(
        self, portal: Any, siteadmin: Visitor
    ) -> None:
        job = failed(portal)
        job.retried_as = "abc"
        other = paint_thing.put("wall", 3)
        transaction.commit()
        run_jobs(portal, raises=False)
        transaction.commit()
        for one in (job, other):
            assert "Retry with other arguments" not in page_of(siteadmin, one), one
            page = siteadmin.open(f"@@zcasync-job-retry?id={one.id}")
            assert "cannot be retried with other arguments" in page

    @pytest.mark.parametrize("id", ["", "zz", "77", "<b>"])
    def test_an_id_that_is_none_says_so(self, portal: Any, siteadmin: Visitor, id: str) -> None:
        assert "cannot be retried with other arguments" in siteadmin.open(f"@@zcasync-job-retry?id={id}")

    @pytest.mark.parametrize("name", ["", "member", "viewer"])
    def test_others_than_managers_do_not_get_there(self, portal: Any, visit: Any, name: str) -> None:
        job = failed(portal)
        visitor = visit(name)
        visitor.open(f"@@zcasync-job-retry?id={job.id}")
        assert "login" in visitor.browser.url or "insufficient" in visitor.browser.url
        assert "Retry with other arguments" not in page_of(visitor, job)

    def test_the_form_tells_what_it_is_for_and_why_the_job_failed(self, portal: Any, siteadmin: Visitor) -> None:
        job = failed(portal)
        page = siteadmin.open(f"@@zcasync-job-retry?id={job.id}")
        assert "Retry with other arguments: " in page
        assert siteadmin.browser.getControl(name="form.buttons.start").value == "Retry"
        assert f"It failed with {joblists.row(job).error}" in page
        assert f"@@zcasync-job?id={job.id}" in page.partition("zcasync-header")[2].partition("</ol>")[0]

    def test_a_wrong_value_is_told_at_its_field(self, portal: Any, siteadmin: Visitor) -> None:
        job = failed(portal)
        siteadmin.open(f"@@zcasync-job-retry?id={job.id}")
        siteadmin.browser.getControl(name="form.widgets.tools").value = "[brush"
        assert "This is no JSON" in siteadmin.press("form.buttons.start")
        transaction.begin()
        assert not job.retried_as
