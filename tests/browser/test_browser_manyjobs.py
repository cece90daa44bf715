"""Finding jobs in the panel, and changing one, several or all that match: what is asked, done, told and refused."""

from collective.zcasync import api as jobs
from collective.zcasync import clock
from collective.zcasync import jobdetail
from collective.zcasync import joblists
from collective.zcasync import monitorrows
from collective.zcasync.browser import jobs as listing
from collective.zcasync.browser.jobverbs import VERBS
from collective.zcasync.ploneapp.sites import group_of
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Site
from collective.zcasync.tasks import task
from collective.zcasync.testing import run_jobs
from datetime import timedelta
from plone import api
from typing import Any
from urllib.parse import quote
from visitor import Visitor

import pytest
import transaction

CHANGE = "@@zcasync-jobs-change"


@task(title="Feed an animal")
def feed(name: str) -> str:
    return f"{name} is full"


@task(title="Wash an animal")
def wash(name: str) -> None:
    raise KeyError(name)


def put(task: Any, *names: str, **options: Any) -> list[Any]:
    found = [jobs.options(**options).put(task, name) for name in names]
    transaction.commit()
    return found


def run(portal: Any) -> None:
    run_jobs(portal, raises=False)
    transaction.commit()


def tick(visitor: Visitor, state: str, *ids: str) -> None:
    visitor.open(f"@@zcasync-jobs?state={state}")
    visitor.browser.getControl(name="ids:list").value = list(ids)


def push(visitor: Visitor, verb: str) -> str:
    """Press the button of one verb."""
    label = str(VERBS[verb].label.default)
    visitor.browser.getForm(id="zcasync-change").getControl(label).click()
    transaction.begin()
    return visitor.contents


def confirm(visitor: Visitor, value: str = "") -> str:
    if value:
        visitor.browser.getControl(name="value").value = value
    visitor.browser.getForm(id="zcasync-sure-form").submit()
    transaction.begin()
    return visitor.contents


def outcomes(jobs: list[Any]) -> list[str | None]:
    transaction.begin()
    return [job.outcome for job in jobs]


class TestSearch:
    def test_jobs_are_found_by_what_is_known_of_them(self, portal: Any, siteadmin: Visitor) -> None:
        put(feed, "cat", "dog")
        put(wash, "hen")
        page = siteadmin.open("@@zcasync-jobs?state=waiting&task=FEED")
        assert page.count("Feed an animal</a>") == 2 and "Wash an animal" not in page
        assert "2 found among the entries 1 to 3" in " ".join(page.split())
        assert "No job of this list matches" in siteadmin.open("@@zcasync-jobs?state=waiting&user=nobody")
        assert "Feed an animal" in siteadmin.open("@@zcasync-jobs?state=waiting&user=test_user")

    def test_a_search_that_finds_nothing_says_so_and_not_that_no_job_is_in_that_state(
        self, portal: Any, siteadmin: Visitor
    ) -> None:
        found = siteadmin.open("@@zcasync-jobs?state=failed&task=nothing-of-that-name")
        assert "No job of this list matches the search" in found and "state=finished&amp;task=nothing" in found

    def test_jobs_are_found_by_time_in_the_readers_zone(self, portal: Any, siteadmin: Visitor) -> None:
        put(feed, "cat")
        api.portal.set_registry_record("plone.portal_timezone", "Asia/Tokyo")
        transaction.commit()
        now = clock.utcnow() + timedelta(hours=9)
        for hours, found in ((-1, True), (1, False)):
            since = (now + timedelta(hours=hours)).isoformat()[:16]
            assert ("Feed an animal" in siteadmin.open(f"@@zcasync-jobs?state=waiting&since={since}")) is found

    def test_jobs_are_found_by_the_address_of_their_object(self, portal: Any, siteadmin: Visitor) -> None:
        (job,) = put(feed, "cat")
        job.where = "/plone/zoo/cat"
        transaction.commit()
        for text in (f"{portal.absolute_url()}/zoo", "/zoo/", "zoo/cat", "/plone/zoo"):
            assert "Feed an animal" in siteadmin.open(f"@@zcasync-jobs?state=waiting&object={quote(text)}"), text
        for text in ("/zo", "http://elsewhere.example/zoo"):
            assert "Feed an animal" not in siteadmin.open(f"@@zcasync-jobs?state=waiting&object={quote(text)}"), text

    def test_failed_jobs_are_shown_by_cause_and_found_by_it(self, portal: Any, siteadmin: Visitor) -> None:
        put(wash, "cat", "dog", "hen")
        run(portal)
        get_queues(portal._p_jar)[""].claim()  # which files them away
        transaction.commit()
        page = " ".join(siteadmin.open("@@zcasync-jobs?state=failed").split())
        assert "KeyError in wash" in page and "Jobs: 3" in page
        siteadmin.browser.getLink("KeyError in wash").click()
        assert siteadmin.contents.count("Wash an animal</a>") == 3
        assert "What failed" not in siteadmin.contents

    def test_a_search_that_looks_no_further_says_so_and_goes_on(
        self, portal: Any, siteadmin: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(joblists, "LOOK_LIMIT", 2)
        put(feed, "cat", "dog")
        put(wash, "hen")
        page = siteadmin.open("@@zcasync-jobs?state=waiting&task=wash")
        assert "2 entries were looked at" in " ".join(page.split())
        siteadmin.browser.getLink("Look further").click()
        assert "Wash an animal</a>" in siteadmin.contents
        siteadmin.browser.getLink("Back to the beginning").click()
        assert "Look further" in siteadmin.contents

    def test_a_search_goes_on_after_fifty_and_its_links_keep_it(
        self, portal: Any, siteadmin: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing, "PAGE_SIZE", 2)
        put(feed, "cat", "dog", "hen")
        siteadmin.open("@@zcasync-jobs?state=waiting&task=feed")
        siteadmin.browser.getLink("Look further").click()
        assert siteadmin.contents.count("Feed an animal</a>") == 1
        siteadmin.browser.getLink("Link to this view").click()
        assert siteadmin.contents.count("Feed an animal</a>") == 1
        siteadmin.browser.getLink("Finished").click()
        assert "task=feed" in siteadmin.browser.url

    def test_behind_the_last_page_with_a_number_the_list_goes_on_without(
        self, portal: Any, siteadmin: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing, "PAGE_SIZE", 2)
        monkeypatch.setattr(listing, "LAST_START", 2)
        put(feed, "cat", "dog", "hen", "cow", "pig")
        page = siteadmin.open("@@zcasync-jobs?state=waiting")
        assert "b_start:int=2" in page and "b_start:int=4" not in page and "Look further" not in page
        page = siteadmin.open("@@zcasync-jobs?state=waiting&b_start=900000")
        assert page.count("Feed an animal</a>") == 2 and "b_start:int=4" not in page
        siteadmin.browser.getLink("Look further").click()
        assert siteadmin.contents.count("Feed an animal</a>") == 1

    def test_nobody_is_led_through_a_list_for_ever(
        self, portal: Any, siteadmin: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(monitorrows, "LAST_SKIP", 2)
        put(feed, "cat", "dog", "hen", "cow", "pig")
        page = siteadmin.open("@@zcasync-jobs?state=waiting&skip=99999999")
        assert "Lists are followed for" in page and "Feed an animal</a>" not in page
        assert "Look further" not in page and "Back to the beginning" in page
        monkeypatch.setattr(joblists, "PAGE_LOOK", 2)
        page = siteadmin.open("@@zcasync-jobs?state=waiting&skip=2")
        assert page.count("Feed an animal</a>") == 2
        assert "Lists are followed for" in page and "Look further" not in page

    def test_finished_jobs_come_in_either_order(self, portal: Any, siteadmin: Visitor) -> None:
        for task_ in (wash, feed):
            put(task_, "cat")
        run(portal)
        get_queues(portal._p_jar)[""].claim()
        transaction.commit()
        siteadmin.open("@@zcasync-jobs?state=finished")
        siteadmin.browser.getLink("Oldest first").click()
        siteadmin.browser.getLink("Newest first").click()
        assert "Feed an animal" in siteadmin.contents

    @pytest.mark.parametrize(
        "query",
        [
            "since=yesterday",
            "task=%00%FF%3Cscript%3Ealert(1)%3C/script%3E",
            "task:list=a&task:list=b",
            "user=" + "x" * 5000,
            "queue=nowhere",
            "object=http://[",
            "skip=-1&oldest=7",
            "cause=%25s%7B%7D",
        ],
    )
    def test_odd_searches_show_a_page_and_no_script(self, portal: Any, siteadmin: Visitor, query: str) -> None:
        put(feed, "cat")
        page = str(siteadmin.open(f"@@zcasync-jobs?state=waiting&{query}"))
        assert "<script>alert(1)" not in page
        assert "Background jobs" in page or siteadmin.status in (400, 404)

    def test_what_is_not_understood_is_told(self, portal: Any, siteadmin: Visitor) -> None:
        assert "Not understood: yesterday" in siteadmin.open("@@zcasync-jobs?state=waiting&since=yesterday")


class TestChange:
    def test_ticked_jobs_are_retried_at_once(self, portal: Any, siteadmin: Visitor) -> None:
        failed = put(wash, "cat", "dog", "hen")
        run(portal)
        tick(siteadmin, "failed", failed[0].id, failed[1].id)
        assert "Jobs put again: 2." in push(siteadmin, "retry")
        transaction.begin()
        assert [bool(job.retried_as) for job in failed] == [True, True, False]
        asked = [event.text for event in jobdetail.timeline(failed[0]) if event.what == "by_retry"]
        assert asked == ["siteadmin"]

    def test_what_cannot_be_undone_is_asked_first(self, portal: Any, siteadmin: Visitor) -> None:
        waiting = put(feed, "cat", "dog")
        tick(siteadmin, "waiting", waiting[0].id)
        page = push(siteadmin, "cancel")
        assert "Cancel this job?" in page and "@@zcasync-job?id=" in page.partition('id="zcasync-ticked"')[2]
        assert outcomes(waiting) == [None, None]
        assert "asked to stop: 1." in confirm(siteadmin)
        assert outcomes(waiting) == ["cancelled", None]

    def test_a_job_is_rescheduled_for_a_time_in_the_readers_zone(self, portal: Any, siteadmin: Visitor) -> None:
        api.portal.set_registry_record("plone.portal_timezone", "Asia/Tokyo")
        (job,) = put(feed, "cat")
        tick(siteadmin, "waiting", job.id)
        push(siteadmin, "schedule")
        assert "cannot be understood" in confirm(siteadmin, "tomorrow")
        assert "Jobs rescheduled: 1." in confirm(siteadmin, "2050-01-01T09:00")
        assert job.begin_after.isoformat() == "2050-01-01T00:00:00+00:00"

    def test_a_job_gets_another_priority_within_bounds(self, portal: Any, siteadmin: Visitor) -> None:
        (job,) = put(feed, "cat")
        tick(siteadmin, "waiting", job.id)
        push(siteadmin, "priority")
        assert "cannot be understood" in confirm(siteadmin, "99")
        assert "Jobs with another priority: 1." in confirm(siteadmin, "3")
        assert job.priority == 3

    def test_a_scheduled_job_runs_now(self, portal: Any, siteadmin: Visitor) -> None:
        (job,) = put(feed, "cat", begin_after=clock.utcnow() + timedelta(hours=1))
        tick(siteadmin, "waiting", job.id)
        assert "Jobs sent to the front: 1." in push(siteadmin, "run")
        run(portal)
        assert outcomes([job]) == ["succeeded"]

    def test_all_that_match_are_changed_by_a_job_with_its_page(self, portal: Any, siteadmin: Visitor) -> None:
        fed, washed = put(feed, "cat", "dog"), put(wash, "hen")
        siteadmin.open("@@zcasync-jobs?state=waiting&task=feed")
        siteadmin.browser.getControl(name="everything").value = ["1"]
        assert "Cancel all jobs that match the search?" in push(siteadmin, "cancel")
        assert "This page shows how far it is" in confirm(siteadmin)
        assert "Change many jobs" in siteadmin.contents
        assert outcomes(fed + washed) == [None, None, None]
        (job,) = [job for job in get_queues(portal._p_jar)[""] if job.task.endswith("change_jobs")]
        assert dict(job.kwargs)["group"] == group_of(portal)
        assert (job.args[0], dict(job.kwargs)["search"]["task"], dict(job.kwargs)["by"]) == (
            "cancel",
            "feed",
            "siteadmin",
        )

    def test_all_jobs_that_are_tried_again_are_run_now_and_no_others_that_are_scheduled(
        self, portal: Any, siteadmin: Visitor
    ) -> None:
        planned, again = put(feed, "cat", "dog", begin_after=clock.utcnow() + timedelta(hours=1))
        again.attempts = 1
        queue = get_queues(portal._p_jar)[""]
        assert queue.claim() is None
        queue.claim()  # both are moved to those for later
        transaction.commit()
        page = siteadmin.open("@@zcasync-jobs?state=retrying")
        assert page.count("Feed an animal</a>") == 1
        siteadmin.browser.getControl(name="everything").value = ["1"]
        push(siteadmin, "run")
        confirm(siteadmin)
        (many,) = [job for job in queue if job.task.endswith("change_jobs")]
        assert (many.args[1], dict(many.kwargs)["search"]) == (("scheduled",), {"attempts": 1})
        assert planned.begin_after > clock.utcnow()

    def test_jobs_that_vanished_or_ended_meanwhile_are_told(self, portal: Any, siteadmin: Visitor) -> None:
        first, second = put(wash, "cat", "dog")
        run(portal)
        tick(siteadmin, "failed", first.id, second.id)
        first.retried_as = "abc"
        transaction.commit()
        page = push(siteadmin, "retry")
        assert "Jobs put again: 1." in page and "was retried already" in page

    def test_jobs_that_are_deleted_are_gone(self, portal: Any, siteadmin: Visitor) -> None:
        (job,) = put(wash, "cat")
        run(portal)
        get_queues(portal._p_jar)[""].claim()
        transaction.commit()
        tick(siteadmin, "failed", job.id)
        assert "This cannot be undone" in push(siteadmin, "delete")
        assert "Jobs deleted: 1." in confirm(siteadmin)
        siteadmin.open(f"@@zcasync-job?id={job.id}")
        assert siteadmin.status == 404


class TestRefused:
    def say(self, visitor: Visitor, *ids: str, **fields: str) -> str:
        """What the page says to a form that was made up, with a good token."""
        data = [("_authenticator", visitor.token()), *fields.items(), *(("ids:list", id) for id in ids)]
        visitor.browser.post(f"{visitor.site}/{CHANGE}", "&".join(f"{name}={quote(value)}" for name, value in data))
        transaction.begin()
        return visitor.contents

    def test_those_who_may_only_view_see_no_buttons_and_can_do_nothing(self, portal: Any, viewer: Visitor) -> None:
        waiting = put(feed, "cat")
        page = viewer.open("@@zcasync-jobs?state=waiting")
        assert "Feed an animal" in page and 'name="verb"' not in page and 'name="ids:list"' not in page
        self.say(viewer, waiting[0].id, state="waiting", verb="run", sure="1")
        assert "insufficient" in viewer.browser.url or "login" in viewer.browser.url
        assert outcomes(waiting) == [None]

    def test_a_post_without_its_token_and_a_get_change_nothing(self, portal: Any, siteadmin: Visitor) -> None:
        waiting = put(feed, "cat")
        fields = {"ids:list": waiting[0].id, "state": "waiting", "verb": "cancel", "sure": "1"}
        assert siteadmin.post(CHANGE, **fields) == 403
        siteadmin.open(f"{CHANGE}?ids:list={waiting[0].id}&state=waiting&verb=cancel&sure=1")
        assert outcomes(waiting) == [None]

    def test_jobs_of_other_sites_are_not_there(self, portal: Any, siteadmin: Visitor, admin: Visitor) -> None:
        (job,) = put(feed, "cat")
        job.group = "ff"
        get_queues(portal._p_jar).sites["ff"] = Site("/neighbour")
        transaction.commit()
        fields = {"state": "waiting", "verb": "cancel", "sure": "1"}
        assert "not there any more: 1." in self.say(siteadmin, job.id, **fields)
        assert outcomes([job]) == [None]
        self.say(siteadmin, state="waiting", verb="cancel", everything="1", all_sites="1", sure="1")
        (many,) = [job for job in get_queues(portal._p_jar)[""] if job.task.endswith("change_jobs")]
        assert dict(many.kwargs)["group"] == group_of(portal)
        assert "asked to stop: 1." in self.say(admin, job.id, **fields)

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"state": "waiting", "verb": "run"}, "Tick the jobs that you mean first"),
            ({"state": "waiting", "verb": "explode"}, "cannot be done with these jobs"),
            ({"state": "finished", "verb": "retry"}, "cannot be done with these jobs"),
            ({"state": "quarantined", "verb": "delete", "everything": "1"}, "cannot be done with all jobs"),
            ({"state": "waiting", "verb": "cancel", "everything": "1", "since": "soon"}, "nothing was changed"),
            ({"state": "nonsense", "verb": "delete"}, "cannot be done with these jobs"),
        ],
    )
    def test_what_makes_no_sense_is_told(
        self, portal: Any, siteadmin: Visitor, fields: dict[str, str], said: str
    ) -> None:
        put(feed, "cat")
        assert said in self.say(siteadmin, sure="1", **fields)

    def test_ten_thousand_ids_are_refused_with_the_way_out(self, portal: Any, siteadmin: Visitor) -> None:
        page = self.say(siteadmin, *map(hex, range(10_000)), state="waiting", verb="cancel", sure="1")
        assert "choose all that match" in page

    def test_ids_that_are_none_are_told_as_gone(self, portal: Any, siteadmin: Visitor) -> None:
        ids = ("", "zz", "<b>", "0", "1@elsewhere", "f" * 400)
        assert "not there any more: 6." in self.say(siteadmin, *ids, state="waiting", verb="run", sure="1")
