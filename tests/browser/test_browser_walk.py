"""The walk of somebody who has nothing but a browser: from installing the product to the effect of a pause."""

from collective.zcasync.api import progress
from collective.zcasync.tasks import task
from collective.zcasync.threadlocal import local
from playwright.sync_api import expect
from Products.CMFPlone.utils import get_installer
from screens import Screen
from typing import Any

import pytest
import threading
import transaction

pytestmark = pytest.mark.browser

#: What the first attempt of each job waits for.
go_on = threading.Event()

#: The jobs that have tried once.
tried: set[str] = set()


@task(title="Mail a letter", visible=True)
def mail(to: str) -> str:
    """Send a letter, by a server that is busy when it is asked for the first time."""
    progress(1, 2, "asking the server")
    go_on.wait(60)
    if (job := local.getJob().id) not in tried:
        tried.add(job)
        raise ConnectionError("the server is busy")
    return f"{to} has mail"


@pytest.fixture
def bare(acceptance: Any, screen: Screen) -> Screen:
    """A window on a site in which the product is not installed."""
    get_installer(acceptance["portal"]).uninstall_product("collective.zcasync")
    transaction.commit()
    go_on.clear()
    tried.clear()
    return screen


def start(screen: Screen, to: str) -> None:
    """Start the task with its form; the page of its job comes next."""
    screen.follow("Start a task")
    with screen.page.expect_navigation():
        screen.page.locator("#zcasync-tasks li", has_text="Mail a letter").get_by_role("link").click()
    screen.page.get_by_label("To", exact=True).fill(to)
    screen.press("#form-buttons-start")
    screen.sees("The job was put")


def test_a_person_repairs_and_tunes_a_site_with_nothing_but_a_browser(bare: Screen, dispatcher: Any) -> None:
    install(bare)
    start_and_watch(bare)
    find_and_understand(bare)
    change_the_policy(bare)
    retry_all_of_the_group(bare)
    pause_and_see_the_effect(bare)


def install(screen: Screen) -> None:
    assert screen.page.goto(f"{screen.site}/@@zcasync-overview").status == 404
    screen.open("prefs_install_products_form")
    screen.press("form[action='install_products']:has(input[value='collective.zcasync']) button")
    screen.open("@@overview-controlpanel")
    screen.follow("Background jobs")
    screen.sees("All is well.")


def start_and_watch(screen: Screen) -> None:
    start(screen, "Ada")
    screen.reload_until("asking the server")
    go_on.set()
    screen.reload_until("Failed")
    start(screen, "Bob")
    screen.reload_until("Failed")


def find_and_understand(screen: Screen) -> None:
    screen.follow("Overview")
    with screen.page.expect_navigation():
        screen.page.locator("#zcasync-tiles").get_by_role("link", name="Failed").click()
    screen.reload_until("Jobs: 2")
    screen.follow("Mail a letter")
    screen.sees("ConnectionError the server is busy")
    screen.sees("in mail")
    screen.sees("'Bob'")


def change_the_policy(screen: Screen) -> None:
    screen.follow("Retry policies")
    screen.follow("default")
    screen.page.get_by_label("Rules").fill("error builtins.ConnectionError attempts=3 first-wait=0.1\nerror attempts=1")
    screen.press("#form-buttons-save")
    screen.sees("The policy default was changed")


def retry_all_of_the_group(screen: Screen) -> None:
    screen.follow("Jobs")
    screen.follow("Failed")
    screen.follow("ConnectionError in mail")
    screen.page.locator("#zcasync-everything").check()
    screen.press("button[name=verb][value=retry]")
    screen.press("#zcasync-sure")
    screen.reload_until("{'retried': 2}")
    see_letters_mailed(screen, 2)
    screen.follow("Mail a letter")
    screen.sees("has mail")
    screen.sees("Retry of")


def pause_and_see_the_effect(screen: Screen) -> None:
    screen.follow("Queues")
    screen.press("#zcasync-queues button[name=pause]")
    screen.sees("Paused")
    start(screen, "Cy")
    screen.follow("Overview")
    expect(screen.page.locator("#zcasync-tiles").get_by_role("link", name="Waiting")).to_contain_text("1")
    screen.follow("Queues")
    screen.press("#zcasync-queues button[name=resume]")
    see_letters_mailed(screen, 3)


def see_letters_mailed(screen: Screen, number: int) -> None:
    """Look at the finished jobs until so many of them have mailed a letter."""
    screen.open("@@zcasync-jobs?state=finished")
    letters = screen.page.locator("#zcasync-jobs").get_by_role("link", name="Mail a letter")
    for _try in range(200):
        if letters.count() == number:
            return
        screen.page.reload()
    raise AssertionError(f"{letters.count()} letters are mailed: {screen.text}")
