"""Pages that keep themselves fresh: which ones do, when they rest, and what they leave alone."""

from collections.abc import Iterator
from collective.zcasync.api import progress
from collective.zcasync.tasks import task
from pathlib import Path
from playwright.sync_api import expect
from screens import Screen
from typing import Any
from visitor import Visitor

import collective.zcasync
import pytest
import threading
import transaction

#: Milliseconds until a page has asked again by itself.
PATIENCE = 30_000

#: Bytes that all scripts together may have.
MOST = 20_000

#: How a tab looks that nobody sees.
HIDE = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
SHOW = "delete document.hidden"

#: What the task waits for.
go_on = threading.Event()


@task(title="Wind the clock", visible=True)
def wind(which: str = "the small one") -> str:
    progress(1, 4, "looking for the key")
    go_on.wait(60)
    return "tick"


@task(title="Dust the clock")
def dust() -> str:
    return "clean"


def put(what: Any, *args: Any) -> Any:
    transaction.begin()
    job = what.put(*args)
    transaction.commit()
    return job


@pytest.fixture
def at_work() -> Iterator[None]:
    go_on.clear()
    yield
    go_on.set()


class TestWhichPages:
    FRESH = (
        *("overview", "jobs", "jobs?state=failed", "queues", "queue?name=", "dispatchers", "job?id={waiting}"),
        *("../overview", "../jobs", "../queues", "../dispatchers", "../job?id={waiting}"),
    )
    STILL = (
        *("jobs?state=waiting&task=clock", "jobs?state=waiting&b_start=50", "job?id={cancelled}", "my-jobs", "tasks"),
        *("queue-add", "policies", "policy?name=default", "settings", "../job?id={cancelled}"),
    )

    def test_what_changes_by_itself_is_asked_for_again_and_what_was_looked_for_or_has_ended_is_not(
        self, portal: Any, admin: Visitor
    ) -> None:
        waiting, cancelled = put(dust), put(dust)
        admin.post("@@zcasync-job", id=cancelled.id, cancel="1", _authenticator=admin.token())
        for pages, fresh in ((self.FRESH, True), (self.STILL, False)):
            for page in pages:
                page = page.format(waiting=waiting.id, cancelled=cancelled.id)
                up = "../" if page.startswith("../") else ""
                found = admin.open(f"{up}@@zcasync-{page.removeprefix('../')}")
                assert ("data-zcasync-refresh" in found) == fresh, page
                assert ("zcasync-refresh.js" in found) == (fresh or bool(up)), page

    def test_the_tab_that_is_shown_stays_though_another_one_has_more_to_tell(self, portal: Any, admin: Visitor) -> None:
        put(dust)
        assert 'data-zcasync-from="http://nohost/plone/@@zcasync-jobs?state=waiting"' in admin.open("@@zcasync-jobs")


def test_all_scripts_together_are_small() -> None:
    scripts = list(Path(collective.zcasync.__path__[0]).rglob("*.js"))
    assert scripts
    assert sum(script.stat().st_size for script in scripts) <= MOST


@pytest.mark.browser
def test_a_list_follows_what_happens_but_not_while_hidden_or_while_something_is_ticked(
    screen: Screen, acceptance: Any
) -> None:
    put(dust)
    screen.open("@@zcasync-jobs")
    rows = screen.page.locator("#zcasync-jobs tbody tr")
    expect(rows).to_have_count(1)
    put(dust)
    screen.page.evaluate(HIDE)
    assert not screen.come_back()
    screen.page.evaluate(SHOW)
    assert screen.come_back()
    expect(rows).to_have_count(2, timeout=PATIENCE)

    tick = rows.first.locator("input[type=checkbox]")
    tick.check()
    screen.page.evaluate("document.activeElement.blur()")
    put(dust)
    assert not screen.come_back()
    expect(tick).to_be_checked()
    tick.uncheck()
    assert not screen.come_back()  # it has the focus
    screen.page.evaluate("document.activeElement.blur()")
    screen.page.locator("#zcasync-search summary").click()
    screen.page.get_by_label("User").fill("jane")
    screen.page.evaluate("document.activeElement.blur()")
    assert not screen.come_back()
    screen.page.get_by_label("User").fill("")
    screen.page.evaluate("document.activeElement.blur()")
    assert screen.come_back()
    expect(rows).to_have_count(3, timeout=PATIENCE)
    expect(screen.page.locator("#zcasync-search")).to_have_attribute("open", "")


@pytest.mark.browser
@pytest.mark.usefixtures("at_work")
def test_a_job_is_watched_to_its_end_and_then_left_alone(screen: Screen, acceptance: Any, dispatcher: Any) -> None:
    job = put(wind)
    screen.open(f"@@zcasync-job?id={job.id}")
    content = screen.page.locator("#content-core")
    content.evaluate("part => part.dataset.zcasyncRefresh = '0.2'")
    expect(content).to_contain_text("looking for the key", timeout=PATIENCE)
    go_on.set()
    expect(content).to_contain_text("'tick'", timeout=PATIENCE)
    expect(content).not_to_have_attribute("data-zcasync-refresh", "5")
    assert not screen.come_back()


@pytest.mark.browser
def test_only_what_is_new_is_replaced(screen: Screen, acceptance: Any) -> None:
    put(dust)
    screen.open("@@zcasync-overview")
    tiles = screen.page.locator("#zcasync-tiles")
    tiles.evaluate("part => part.seen = true")
    verdict = screen.page.locator("#zcasync-verdict")
    verdict.evaluate("part => part.seen = true")
    put(dust)
    assert screen.come_back()
    expect(tiles.locator(".card", has_text="Waiting")).to_contain_text("2", timeout=PATIENCE)
    assert tiles.evaluate("part => part.seen") and verdict.evaluate("part => part.seen")
