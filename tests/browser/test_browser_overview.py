"""The overview: whether all is well, in one look, with charts of a day and alarms that say what to do."""

from collections.abc import Iterator
from collective.zcasync import alarms
from collective.zcasync import clock
from collective.zcasync import series
from collective.zcasync.ploneapp.settings import settings_of
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import Site
from collective.zcasync.tasks import task
from datetime import timedelta
from math import sin
from playwright.sync_api import expect
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from screens import Screen
from typing import Any
from visitor import Visitor

import pytest
import transaction


@task(title="Greet somebody")
def greet(who: str) -> str:
    return f"hello {who}"


def open_page(layer: Any, page: str = "@@zcasync-overview") -> str:
    return " ".join(Visitor(layer, SITE_OWNER_NAME, SITE_OWNER_PASSWORD).open(page).split())


def a_day(slot: Any) -> None:
    """What a site does on a day: little at night, most before noon, and some trouble in the evening."""
    minute, kept = series.this_minute(), series.OOBTree()
    put = succeeded = failed = waited = longest = 0
    for ago in range(24 * 60, -1, -1):
        busy = max(1.2, 3 + 4 * sin((minute - ago) / 1440 * 6.283 - 1.6) + 2 * sin(ago / 37))
        kept[minute - ago] = (int(busy * 2), put, put, succeeded, failed, 0, waited, longest)
        number, bad = int(busy), int(busy / 3) if 150 < ago < 240 else int(ago % 97 == 0)
        put, succeeded, failed = put + number, succeeded + number - bad, failed + bad
        waited, longest = waited + int(number * busy * 20), int(40 + busy * 50)
    slot.series = kept
    slot.counts = {**slot.counts, "succeeded": succeeded, "failed": failed}
    slot.tally = (put, waited, 0)


@pytest.fixture
def queue(functional: Any) -> Any:
    return get_queue(functional["portal"]._p_jar)


@pytest.fixture
def served(functional: Any) -> Iterator[None]:
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]):
        transaction.begin()
        yield


@pytest.mark.usefixtures("served")
def test_it_says_that_all_is_well_in_one_sentence(functional: Any) -> None:
    page = open_page(functional)
    assert "<strong>All is well.</strong>" in page and "Dispatchers at work: 1." in page
    assert "What to do" not in page


def test_it_says_what_to_do_where_no_dispatcher_serves_jobs_that_wait(functional: Any, queue: Any) -> None:
    assert "<strong>All is well.</strong>" in open_page(functional)  # nothing waits
    job = greet.put("somebody")
    transaction.commit()
    assert "No dispatcher serves its queue" in open_page(functional, f"@@zcasync-job?id={job.id}")
    page = open_page(functional)
    assert "One thing needs attention." in page
    assert "No dispatcher serves the queue. Jobs in it: 1." in page and "zcasync worker" in page
    advice = page.partition('id="zcasync-alarms"')[2].partition("</ul>")[0]
    assert "@@zcasync-jobs?state=waiting" in advice and "/@@zcasync-dispatchers" in advice


@pytest.mark.usefixtures("served")
def test_limits_of_the_registry_say_where_an_alarm_begins(functional: Any, queue: Any) -> None:
    queue.paused = True
    job = greet.put("somebody")
    job.put_at = clock.utcnow() - timedelta(minutes=20)
    transaction.commit()
    page = open_page(functional)
    assert "The oldest waiting job has waited for 2" in page and "resume it" in page
    settings_of(functional["portal"]).alarm_waiting = 30
    transaction.commit()
    assert "The oldest waiting job" not in open_page(functional)


@pytest.mark.usefixtures("served")
def test_a_paused_queue_is_told_here_and_on_the_page_of_a_job_that_waits_in_it(functional: Any, queue: Any) -> None:
    queue.paused = True
    job = greet.put("somebody")
    transaction.commit()
    page = open_page(functional)
    assert "The queue is paused: none of its jobs begins. Jobs in it: 1." in page
    advice = page.partition('id="zcasync-alarms"')[2].partition("</ul>")[0]
    assert "/@@zcasync-queues" in advice and "state=waiting" not in advice  # where one can resume it
    assert "Its queue is paused" in open_page(functional, f"@@zcasync-job?id={job.id}")


def test_states_lead_to_their_lists_with_counts(functional: Any) -> None:
    greet.put("somebody")
    transaction.commit()
    page = open_page(functional)
    for state in ("running", "waiting", "scheduled", "quarantined", "failed", "finished", "cancelled"):
        assert f"@@zcasync-jobs?state={state}" in page
    assert '<span class="d-block h3 my-0">1</span> <span class="d-block small">Waiting</span>' in page


@pytest.mark.usefixtures("served")
def test_charts_are_in_the_page_and_call_no_other_host(functional: Any, queue: Any) -> None:
    a_day(queue.dispatchers.active()[0].slot)
    transaction.commit()
    page = open_page(functional)
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "The same numbers as a table" in page and page.count('scope="row"') >= 24


def test_texts_of_alarms_are_kept_as_text(functional: Any, queue: Any) -> None:
    found = alarms.examine(queue._p_jar)
    assert [alarm.key for alarm in found] == ["unserved "]
    assert not found[0].urgent


def test_a_manager_of_the_root_is_led_to_the_overview_of_all_sites(functional: Any, queue: Any) -> None:
    assert "in the ZMI" not in open_page(functional)
    queue.parent.sites["77"] = Site("/other")
    transaction.commit()
    assert 'href="http://nohost/@@zcasync-overview"' in open_page(functional)


def test_the_same_pages_are_at_the_root_beside_plone(functional: Any) -> None:
    greet.put("somebody")
    transaction.commit()
    for page, text in (
        ("@@zcasync-overview", "No dispatcher serves the queue. Jobs in it: 1."),
        ("@@zcasync-jobs?state=waiting", "Greet somebody"),
        ("@@zcasync-jobs?state=attention", "No job is in this state."),
        ("@@zcasync-dispatchers", "No dispatcher has registered"),
    ):
        assert text in open_page(functional, f"../{page}")


@pytest.mark.browser
def test_it_fits_a_desktop_and_a_phone_and_keeps_itself_fresh(screen: Screen, acceptance: Any, dispatcher: Any) -> None:
    queue = get_queue(acceptance["portal"]._p_jar)
    transaction.begin()
    a_day(queue.dispatchers.active()[0].slot)
    transaction.commit()
    screen.open("@@zcasync-overview")
    screen.picture("overview")
    screen.page.locator("#content-core").evaluate("part => part.dataset.zcasyncRefresh = '0.2'")
    screen.page.locator("#zcasync-hours summary").click()
    screen.page.locator("h1").click()
    screen.picture("overview-table")
    transaction.begin()
    queue.paused = True
    greet.put("somebody").put_at = clock.utcnow() - timedelta(hours=2)
    transaction.commit()
    expect(screen.page.locator("#zcasync-alarms")).to_contain_text("has waited for 2:00 h", timeout=20_000)
    expect(screen.page.locator("#zcasync-hours")).to_have_attribute("open", "")
    screen.picture("overview-alarm")
    assert_rests_while_somebody_reads(screen, queue)


def assert_rests_while_somebody_reads(screen: Screen, queue: Any) -> None:
    """What is selected stays; when it is not any more, the page is fresh again."""
    verdict = screen.page.locator("#zcasync-verdict")
    verdict.select_text()
    transaction.begin()
    queue.paused = False
    transaction.commit()
    screen.come_back()
    expect(verdict).to_contain_text("One thing needs attention.")
    screen.page.evaluate("getSelection().removeAllRanges()")
    screen.come_back()
    expect(verdict).to_contain_text("All is well.", timeout=20_000)
