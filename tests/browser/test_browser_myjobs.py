"""My jobs through the publisher: each person sees the own jobs and nobody else's, and acts on those only."""

from collective.zcasync import jobdetail
from collective.zcasync import joblists
from collective.zcasync import ownership
from collective.zcasync import ownjobs
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.ploneapp import desk
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.ploneapp.users import person
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import make_job
from collective.zcasync.tasks import task
from collective.zcasync.testing import run_jobs
from plone import api
from plone.namedfile.file import NamedBlobFile
from typing import Any
from visitor import Visitor

import json
import pytest
import threading
import transaction
import uuid

PAGE = "@@zcasync-my-jobs"

#: Signals between a test and its job.
working, go_on = threading.Event(), threading.Event()


@task(title="Prepare a report", visible=True)
def prepare(text: str = "") -> str:
    return text


@task(title="Fail before all eyes", visible=True)
def fail_visibly() -> None:
    raise ValueError("<b>no paper</b>")


@task(title="Export a file", visible=True)
def export() -> NamedBlobFile:
    return NamedBlobFile(data=b"a,b\n1,2\n", contentType="text/html", filename="members.csv")


@task(title="Make a page", visible=True)
def make_page() -> Any:
    return api.content.create(api.portal.get(), "Document", "made", title="Made <by> a job")


@task(title="Work behind the scenes")
def work_unseen() -> None:
    """Not for people."""


@task(title="Count to ten", visible=True)
def count() -> None:
    from collective.zcasync.api import progress

    progress(3, 10, "three sheep")
    working.set()
    go_on.wait(20)
    raise StopRequested("asked")


@pytest.fixture
def john(visit: Any) -> Visitor:
    return visit("john")


def put(task: Any, *args: Any, user: str = "jane") -> Any:
    """Put a job as somebody else: as code in a request of hers does."""
    with api.env.adopt_user(username=user):
        job = task.put(*args)
    transaction.commit()
    assert job.user.endswith(f":{user}")
    return job


def run(portal: Any) -> None:
    run_jobs(portal, raises=False)
    transaction.commit()


@pytest.fixture
def queue(portal: Any) -> Any:
    """The site's queue, with a dispatcher."""
    queue = get_queues(portal._p_jar)[""]
    uid = uuid.uuid4()
    queue.dispatchers.register(uid)
    queue.dispatchers[uid].activate()
    transaction.commit()
    return queue


def news(visitor: Visitor) -> Any:
    return json.loads(visitor.open("@@zcasync-my-news"))


class TestWhatOneSees:
    def test_nothing_yet_says_what_the_page_is_for(self, jane: Visitor) -> None:
        assert "Nothing of yours is going on" in jane.open(PAGE)

    def test_only_the_own_jobs_of_tasks_that_are_visible(self, jane: Visitor, john: Visitor) -> None:
        put(prepare)
        put(work_unseen)
        contents = jane.open(PAGE)
        assert "Prepare a report" in contents
        assert "Work behind the scenes" not in contents
        assert "Prepare a report" not in john.open(PAGE)

    def test_strangers_are_asked_to_log_in(self, visit: Any) -> None:
        stranger = visit("")
        for page in (PAGE, "@@zcasync-my-news", "@@zcasync-my-result?id=1"):
            stranger.open(page)
            assert "login" in stranger.browser.url, page

    def test_a_waiting_job_tells_its_place(self, queue: Any, jane: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
        put(prepare)
        assert "It is next" in jane.open(PAGE)
        put(prepare, user="john")
        put(prepare)
        assert "Jobs before it: 2" in jane.open(PAGE)
        monkeypatch.setattr(ownjobs, "AHEAD", 0)
        assert "More than" in jane.open(PAGE)

    def test_a_waiting_job_tells_that_nobody_takes_jobs_or_what_else_keeps_it(self, queue: Any, jane: Visitor) -> None:
        put(prepare)
        queue.dispatchers.active()[0].held = (ownership.COPY, "production")
        transaction.commit()
        page = jane.open(PAGE)
        assert "It waits until somebody takes jobs again" in page and "It is next" not in page
        queue.paused = True
        transaction.commit()
        page = jane.open(PAGE)
        assert "Its queue is paused" in page and "It is next" not in page

    def test_a_failed_job_tells_its_error_as_text_and_no_traceback(self, portal: Any, jane: Visitor) -> None:
        put(fail_visibly)
        run(portal)
        contents = jane.open(PAGE)
        assert "ValueError: &lt;b&gt;no paper&lt;/b&gt;" in contents
        assert "Traceback" not in contents

    def test_a_look_that_was_cut_is_told(self, jane: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
        put(prepare, user="john")
        put(prepare, user="john")
        monkeypatch.setattr(ownjobs, "LOOK", 1)
        assert "only the newest jobs were looked at" in jane.open(PAGE)

    def test_older_jobs_are_looked_for_and_dismissed_too(
        self, portal: Any, jane: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for text in ("old", "new"):
            put(prepare, text)
            run(portal)
        monkeypatch.setattr(ownjobs, "MOST_ENDED", 1)
        contents = jane.open(PAGE)
        assert "new" in contents.partition('id="zcasync-ended"')[2].partition("</ul>")[0]
        jane.browser.getLink("Look for older jobs of mine").click()
        shown = jane.contents.partition('id="zcasync-ended"')[2].partition("</ul>")[0]
        assert "old" in shown and "new" not in shown
        assert "Back to the beginning" in jane.contents and "Look for older" not in jane.contents
        jane.press("dismiss")
        assert "None of your jobs is among those" in jane.open(f"{PAGE}?skip=1")

    def test_the_page_works_in_a_database_without_queues(self, portal: Any, jane: Visitor) -> None:
        del portal._p_jar.root()["collective.zcasync"]
        transaction.commit()
        assert "Nothing of yours is going on" in jane.open(PAGE)

    def test_a_running_job_shows_a_bar_and_its_step_and_is_asked_to_stop(
        self, functional: Any, portal: Any, jane: Visitor
    ) -> None:
        working.clear()
        go_on.clear()
        put(count)
        with running_dispatcher(functional["zodbDB"]):
            assert working.wait(20)
            while "three sheep" not in jane.open(PAGE):
                pass  # it is written by another thread
            assert 'aria-valuenow="30"' in jane.contents and "3 / 10" in jane.contents
            contents = jane.press("cancel")
            assert "It was asked to stop" in contents and "Asked to stop" in contents
            go_on.set()


class TestResults:
    def test_a_text_is_shown_and_a_url_of_the_site_is_a_link(self, portal: Any, jane: Visitor) -> None:
        put(prepare, "all <is> well")
        put(prepare, f"{portal.absolute_url()}/report")
        put(prepare, "https://evil.example/report")
        run(portal)
        contents = jane.open(PAGE)
        assert "all &lt;is&gt; well" in contents
        assert f'href="{portal.absolute_url()}/report"' in contents
        assert "https://evil.example/report" in contents and 'href="https://evil' not in contents

    def test_content_is_a_link_as_long_as_it_is_there(self, portal: Any, jane: Visitor) -> None:
        api.user.grant_roles(username="jane", roles=["Contributor"])
        put(make_page)
        run(portal)
        contents = jane.open(PAGE)
        assert f'href="{portal.absolute_url()}/made"' in contents and "Made &lt;by&gt; a job" in contents
        with api.env.adopt_roles(["Manager"]):
            api.content.delete(portal["made"], check_linkintegrity=False)
        transaction.commit()
        assert "was removed since" in jane.open(PAGE)

    def test_a_file_is_downloaded_by_its_owner_only_and_never_opened(
        self, portal: Any, jane: Visitor, john: Visitor
    ) -> None:
        job = put(export)
        run(portal)
        jane.open(PAGE)
        jane.browser.getLink("members.csv").click()
        assert jane.browser.contents == b"a,b\n1,2\n"
        assert jane.browser.headers["Content-Disposition"].startswith("attachment")
        john.open(f"@@zcasync-my-result?id={job.id}")
        assert john.status == 404
        other = put(prepare, "text")
        run(portal)
        for id in (other.id, "nonsense", ""):
            jane.open(f"@@zcasync-my-result?id={id}")
            assert jane.status == 404


class TestButtons:
    def test_a_waiting_job_is_cancelled(self, jane: Visitor) -> None:
        job = put(prepare)
        jane.open(PAGE)
        assert "The job was cancelled" in jane.press("cancel")
        assert job.outcome == "cancelled"
        assert ("by_cancel", "jane") in [(event.what, event.text) for event in jobdetail.timeline(job)]

    def test_what_has_ended_is_dismissed_one_by_one_or_all_at_once(self, portal: Any, jane: Visitor) -> None:
        for text in ("first", "second", "third"):
            put(prepare, f"the {text} text")
        run(portal)
        assert "the third text" in jane.open(PAGE)
        jane.browser.getControl(name="dismiss", index=0).click()
        assert "the third text" not in jane.contents
        assert "the second text" in jane.contents
        assert "Nothing of yours is going on" in jane.press("dismiss_all")
        assert news(jane) == {"ended": [], "active": 0}

    def test_nobody_acts_on_the_jobs_of_others(self, portal: Any, jane: Visitor, john: Visitor) -> None:
        job, ended = put(prepare), put(fail_visibly)
        put(prepare, user="john")
        token = john.token()
        for verb in ("cancel", "dismiss"):
            for id in (job.id, ended.id, "nonsense", "ffffffffffffffff"):
                assert john.post(PAGE, **{verb: id, "_authenticator": token}) == 200
        assert john.post(PAGE, dismiss_all="1", shown=f"{job.id} x", _authenticator=token) == 200
        assert job.outcome is None
        assert desk.look_at(portal, person(portal, api.user.get("john"))).dismissed == ()

    def test_neither_a_get_nor_a_post_without_its_token_changes_anything(self, jane: Visitor) -> None:
        job = put(prepare)
        jane.open(f"{PAGE}?cancel={job.id}")
        assert jane.post(PAGE, cancel=job.id) == 403
        transaction.begin()
        assert job.outcome is None


class TestNote:
    def test_it_asks_for_what_has_ended_and_how_much_goes_on(self, portal: Any, jane: Visitor, john: Visitor) -> None:
        job = put(prepare)
        assert news(jane) == {"ended": [], "active": 1}
        run(portal)
        assert news(jane) == {"ended": [job.id], "active": 0}
        assert news(john) == {"ended": [], "active": 0}

    def test_it_stands_hidden_in_the_toolbar_of_those_who_have_one(self, visit: Any, jane: Visitor) -> None:
        assert 'id="zcasync-note"' not in visit("").open("")
        api.user.grant_roles(username="jane", roles=["Editor"])
        transaction.commit()
        note = jane.open("").partition('id="zcasync-note"')[2]
        assert "@@zcasync-my-news" in note and "hidden" in note

    def test_the_users_menu_leads_to_the_page(self, visit: Any, jane: Visitor) -> None:
        assert "@@zcasync-my-jobs" in jane.open("")
        assert "@@zcasync-my-jobs" not in visit("").open("")

    def test_the_script_is_served_from_the_site_itself(self, jane: Visitor) -> None:
        assert b"zcasync-note" in jane.open("++resource++zcasync/myjobs.js")


def test_a_desk_forgets_the_oldest_and_goes_with_the_add_on(portal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "LOOK", 2)
    desk.take(portal, "jane").dismiss(["1", "2"])
    desk.take(portal, "jane").dismiss(["2", "3"])
    assert desk.look_at(portal, "jane").dismissed == ("2", "3")
    with api.env.adopt_roles(["Manager"]):
        api.addon.uninstall("collective.zcasync")
    assert desk.look_at(portal, "jane") is desk.EMPTY


def test_a_site_with_much_to_do_is_looked_at_within_bounds(portal: Any, jane: Visitor) -> None:
    queue = get_queues(portal._p_jar)[""]
    with api.env.adopt_user(username="john"):
        for _number in range(50):
            queue.put(make_job(work_unseen, (), {}))
    mine = put(prepare)
    assert joblists.row(mine).title in jane.open(PAGE)


class TestMail:
    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        monkeypatch.setattr(api.portal, "send_email", lambda **mail: sent.append(mail))
        return sent

    @pytest.fixture
    def portal(self, portal: Any) -> Any:
        api.user.get("jane").setMemberProperties({"email": "jane@example.org"})
        transaction.commit()
        return portal

    def test_who_asks_for_it_gets_a_mail_when_a_job_has_ended(
        self, portal: Any, jane: Visitor, sent: list[dict[str, Any]]
    ) -> None:
        put(prepare, "before")
        jane.open(PAGE)
        assert "You get a mail" in jane.press("mail")
        put(prepare, "after")
        put(fail_visibly)
        put(work_unseen)
        run(portal)
        assert {mail["recipient"] for mail in sent} == {"jane@example.org"}
        assert [mail["subject"] for mail in sent] == ["Done: Prepare a report", "Failed: Fail before all eyes"]
        assert "no paper" in sent[1]["body"] and "@@zcasync-my-jobs" in sent[0]["body"]
        jane.open(PAGE)
        assert "send you no mail" in jane.press("mail")
        put(prepare, "later")
        run(portal)
        assert len(sent) == 2

    def test_it_is_not_offered_without_an_address_or_if_the_site_does_not_want_it(
        self, portal: Any, jane: Visitor, john: Visitor, sent: list[dict[str, Any]]
    ) -> None:
        assert 'name="mail"' not in john.open(PAGE)
        jane.open(PAGE)
        jane.press("mail")
        api.portal.set_registry_record("collective.zcasync.own_mail", False)
        transaction.commit()
        assert 'name="mail"' not in jane.open(PAGE)
        put(prepare)
        run(portal)
        assert sent == []

    def test_a_mail_leads_to_the_classic_pages_where_a_front_end_has_the_address_of_the_site(
        self, portal: Any, jane: Visitor, sent: list[dict[str, Any]]
    ) -> None:
        api.portal.set_registry_record("collective.zcasync.classic_url", "https://example.org/ClassicUI")
        transaction.commit()
        jane.open(PAGE)
        jane.press("mail")
        put(prepare, "after")
        run(portal)
        assert "https://example.org/ClassicUI/@@zcasync-my-jobs" in sent[0]["body"]

    def test_a_mail_that_cannot_be_sent_harms_no_job(
        self, portal: Any, jane: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(**mail: str) -> None:
            raise ValueError("no mail server")

        monkeypatch.setattr(api.portal, "send_email", refuse)
        jane.open(PAGE)
        jane.press("mail")
        job = put(prepare, "done")
        run(portal)
        assert job.result == "done" and "no mail server" in caplog.text
