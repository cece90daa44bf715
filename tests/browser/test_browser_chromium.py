"""A person at a real browser: put jobs, watch them, understand a failure, retry it, change a policy, uninstall."""

from collective.zcasync import joblists
from collective.zcasync.api import progress
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import task
from collective.zcasync.testing import wait_until
from playwright.sync_api import expect
from plone import api
from plone.app.testing import SITE_OWNER_NAME
from screens import Screen
from typing import Any

import pytest
import threading
import transaction

pytestmark = pytest.mark.browser

#: One distribution that is installed, and one that is not: a job that succeeds, and one that fails.
NAMES = "pip\nno-such-distribution"

#: Milliseconds that a page may take to tell of something by itself: it looks each ten seconds.
PATIENCE = 30_000

#: What jobs that stroll wait for.
go_on = threading.Event()


@task(title="Go for a stroll", visible=True)
def stroll(how: str = "") -> str:
    progress(2, 5, "past the mill")
    go_on.wait(60)
    return "back home"


def put_with_the_form(screen: Screen, names: str = NAMES) -> None:
    screen.open("@@zcasync-demo")
    screen.page.get_by_label("Distributions").fill(names)
    screen.press("#form-buttons-import")
    screen.sees("The jobs are put")


def counts(acceptance: Any) -> dict[str, int]:
    transaction.begin()
    found = joblists.counts(acceptance["portal"]._p_jar)
    return {state: count.number for state, count in found.items() if count.number}


def wait_for_history(acceptance: Any, failed: int) -> None:
    """Lists show what has ended; the verbs for many jobs, and deletion, want it to be in the history, where a claim
    files it soon after."""
    queue = get_queue(acceptance["portal"]._p_jar)
    wait_until(queue, lambda: queue.counts()["failed"] == failed, what=f"the filing of {failed} jobs that failed")


def button_of(form: str) -> str:
    """The button of the add-on in the list of add-ons."""
    return f"form[action='{form}']:has(input[value='collective.zcasync']) button"


def watch_and_retry(screen: Screen, acceptance: Any) -> None:
    """Put two jobs, watch both end, read why one failed, retry it, and see that fail as well."""
    put_with_the_form(screen)
    screen.open("@@zcasync-jobs?state=finished")
    screen.reload_until("Report on the imported distributions")
    screen.sees("Import a distribution's description")

    screen.open("@@zcasync-jobs?state=failed")
    screen.sees("no-such-distribution")
    screen.follow("Import a distribution's description")
    assert screen.state == "Failed"
    screen.sees("Traceback")
    screen.sees("collective/zcasync/demo/distributions.py")
    expect(screen.page.locator("#content details").first).not_to_have_attribute("open", "")

    screen.press("button[name=retry]")
    screen.sees("The job was put again")
    screen.reload_until("Retry of")
    screen.reload_until("Failed")
    assert counts(acceptance)["failed"] == 2


def test_a_person_puts_jobs_watches_them_and_retries_a_failed_one(
    screen: Screen, acceptance: Any, dispatcher: Any
) -> None:
    watch_and_retry(screen, acceptance)


def test_all_of_it_works_without_javascript(plain_screen: Screen, acceptance: Any, dispatcher: Any) -> None:
    watch_and_retry(plain_screen, acceptance)
    plain_screen.open("@@zcasync-queues")
    plain_screen.press("button[name=pause]")
    plain_screen.sees("Paused")
    plain_screen.press("button[name=resume]")
    plain_screen.open("@@zcasync-policy?name=default")
    plain_screen.page.get_by_label("Attempts").fill("7")
    plain_screen.press("#form-buttons-save")
    plain_screen.sees("was changed")


def test_a_traceback_unfolds_the_calls_of_installed_packages(screen: Screen, dispatcher: Any) -> None:
    put_with_the_form(screen)
    screen.open("@@zcasync-jobs?state=failed")
    screen.reload_until("Import a distribution's description")
    screen.follow("Import a distribution's description")
    folded = screen.page.locator("#content details").first
    summary = folded.locator("summary")
    expect(summary).to_contain_text("Calls in")
    summary.press("Enter")
    expect(folded).to_have_attribute("open", "")


def test_without_javascript_all_jobs_of_one_cause_are_retried_and_one_is_deleted(
    plain_screen: Screen, acceptance: Any, dispatcher: Any
) -> None:
    screen = plain_screen
    put_with_the_form(screen, "no-such-a\nno-such-b\nno-such-c")
    wait_for_history(acceptance, 3)
    screen.open("@@zcasync-jobs?state=failed")
    screen.sees("Jobs: 3\nsince")
    screen.follow("NoDescription in describe")
    screen.sees("3 found among the entries")
    screen.page.locator("#zcasync-everything").check()
    screen.press("button[name=verb][value=retry]")
    screen.sees("Put all jobs that match the search once more?")
    screen.press("#zcasync-sure")
    screen.reload_until("{'retried': 3}")

    wait_for_history(acceptance, 6)
    screen.open("@@zcasync-jobs?state=failed")
    screen.sees("Jobs: 6\nsince")
    screen.page.locator("input[name='ids:list']").first.check()
    screen.press("button[name=verb][value=delete]")
    screen.sees("This cannot be undone")
    screen.press("#zcasync-sure")
    screen.sees("Jobs deleted: 1.")
    assert counts(acceptance)["failed"] == 5


def test_a_waiting_job_is_cancelled(screen: Screen, acceptance: Any) -> None:
    put_with_the_form(screen, "pip")
    screen.open("@@zcasync-jobs?state=waiting")
    screen.follow("Import a distribution's description")
    assert screen.state == "Waiting\nNo dispatcher serves its queue"
    screen.press("button[name=cancel]")
    screen.sees("The job was cancelled")
    assert counts(acceptance) == {"waiting": 1, "cancelled": 1}


def test_a_changed_policy_holds_for_a_job_that_waits(screen: Screen, acceptance: Any) -> None:
    put_with_the_form(screen, "pip")
    screen.open("@@zcasync-jobs")
    screen.follow("Retry policies")
    screen.follow("default")
    screen.page.get_by_label("Attempts").fill("3")
    screen.press("#form-buttons-save")
    screen.sees("The policy default was changed")
    transaction.begin()
    queues = get_queues(acceptance["portal"]._p_jar)
    waiting = [job for _key, job in queues[""].waiting() if job.policy is None]
    assert [job.getRetryPolicy().policy.attempts for job in waiting] == [3]


def test_the_preview_of_a_policy_follows_what_is_typed(screen: Screen, acceptance: Any) -> None:
    screen.open("@@zcasync-policy?name=default")
    preview = screen.page.locator("#zcasync-preview")
    expect(preview).to_contain_text("150 ms")
    for label, value in (("Attempts", "3"), ("First wait (seconds)", "30"), ("Growth", "2"), ("Jitter", "0")):
        screen.page.get_by_label(label).first.fill(value)
    expect(preview).to_contain_text("1:00 min", timeout=PATIENCE)
    expect(preview).to_contain_text("the job ends as failed")
    screen.page.get_by_label("Growth").first.fill("x")
    expect(preview).to_contain_text("do not go together", timeout=PATIENCE)
    transaction.begin()
    assert get_queues(acceptance["portal"]._p_jar).policies["default"].attempts == 25


def test_site_setup_leads_to_every_page_and_back(screen: Screen) -> None:
    screen.open("@@overview-controlpanel")
    screen.follow("Background jobs")
    for label, heading in (
        ("Jobs", "Jobs"),
        ("Queues", "Queues"),
        ("Retry policies", "Retry policies"),
        ("Settings", "Settings"),
    ):
        screen.follow(label)
        expect(screen.page.locator("h1")).to_have_text(heading)
    screen.follow("Background jobs")
    screen.page.locator(".breadcrumb").get_by_role("link", name="Site Setup").last.click()
    screen.page.wait_for_url("**/@@overview-controlpanel")


def test_the_add_on_is_removed_and_installed_again_with_jobs_waiting(
    screen: Screen, acceptance: Any, dispatcher: Any
) -> None:
    screen.open("@@zcasync-queues")
    screen.press("button[name=pause]")
    put_with_the_form(screen, "pip")
    screen.open("prefs_install_products_form")
    screen.press(button_of("uninstall_products"))
    assert screen.page.goto(f"{screen.site}/@@zcasync-jobs").status == 404
    transaction.begin()
    assert len(acceptance["portal"]._p_jar.root()["collective.zcasync"][""].held_groups) == 1

    screen.open("prefs_install_products_form")
    screen.press(button_of("install_products"))
    screen.open("@@zcasync-queues")
    screen.press("button[name=resume]")
    screen.open("@@zcasync-jobs?state=finished")
    screen.reload_until("Report on the imported distributions")
    assert counts(acceptance) == {"finished": 2}


def put_own(screen: Screen, acceptance: Any, task: Any, *args: Any) -> Any:
    """Put a job as the person at the browser, as a request of hers does."""
    transaction.begin()
    user = acceptance["app"].acl_users.getUser(SITE_OWNER_NAME).__of__(acceptance["app"].acl_users)
    with api.env.adopt_user(user=user):
        job = task.put(*args)
    transaction.commit()
    return job


def test_a_person_watches_an_own_job_and_is_told_when_it_has_ended(
    screen: Screen, acceptance: Any, dispatcher: Any
) -> None:
    go_on.clear()
    put_own(screen, acceptance, stroll)
    put_own(screen, acceptance, stroll, "twice")
    screen.open("@@zcasync-my-jobs")
    bar = screen.page.get_by_role("progressbar").first
    expect(bar).to_have_attribute("aria-valuenow", "40", timeout=PATIENCE)  # without a reload
    screen.sees("past the mill")
    screen.picture("my-jobs-active")
    screen.open("")
    note = screen.page.locator("#zcasync-note")
    expect(note).to_be_hidden()
    go_on.set()
    expect(note).to_be_visible(timeout=PATIENCE)
    expect(note.get_by_role("link").get_by_role("status")).to_contain_text("Jobs that have ended")
    screen.picture("my-jobs-note")
    with screen.page.expect_navigation():
        note.locator("a").click()
    screen.sees("back home")
    screen.picture("my-jobs-ended")
    screen.open("")
    expect(note).to_be_hidden()
    screen.open("@@zcasync-my-jobs")
    screen.press("button[name=dismiss_all]")
    screen.sees("Nothing of yours is going on")
    screen.picture("my-jobs-empty")


def test_own_jobs_are_cancelled_without_javascript(plain_screen: Screen, acceptance: Any) -> None:
    put_own(plain_screen, acceptance, stroll)
    plain_screen.open("@@zcasync-my-jobs")
    plain_screen.press("button[name=cancel]")
    plain_screen.sees("The job was cancelled")
    plain_screen.press("button[name=dismiss]")
    plain_screen.sees("Nothing of yours is going on")
