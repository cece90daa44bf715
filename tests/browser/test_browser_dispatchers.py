"""The page of dispatchers and workers: what they do, how they fare, and that they can be told to take no more jobs."""

from collections.abc import Iterator
from collective.zcasync import local
from collective.zcasync import processes
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queue
from collective.zcasync.tasks import task
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.testing.zope import Browser
from screens import Screen
from typing import Any

import pytest
import threading
import transaction

begun, let_go = threading.Event(), threading.Event()


@task(title="Take a long time")
def take_long() -> str:
    begun.set()
    let_go.wait(20)
    return str(local.getJob().id)


@pytest.fixture
def at_work(functional: Any) -> Iterator[Any]:
    """A dispatcher that runs one job."""
    begun.clear()
    let_go.clear()
    take_long.put()
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]) as running:
        assert begun.wait(20)
        transaction.begin()
        yield running
        let_go.set()


@pytest.fixture
def browser(functional: Any) -> Browser:
    return visitor(functional, SITE_OWNER_NAME, SITE_OWNER_PASSWORD)


def visitor(functional: Any, name: str, password: str) -> Browser:
    browser = Browser(functional["app"])
    browser.handleErrors = False
    browser.addHeader("Authorization", f"Basic {name}:{password}")
    return browser


def open_page(functional: Any, browser: Browser) -> str:
    browser.open(f"{functional['portal'].absolute_url()}/@@zcasync-dispatchers")
    return text(browser)


def text(browser: Browser) -> str:
    return " ".join(str(browser.contents).split())


@pytest.mark.usefixtures("at_work")
def test_it_tells_where_a_dispatcher_is_and_what_it_does(functional: Any, browser: Browser) -> None:
    page = open_page(functional, browser)
    assert "At work" in page and "pid " in page and "1 of " in page
    assert "Runs now" in page and "Take a long time" in page and "/@@zcasync-job?id=" in page


def test_without_any_it_says_what_to_do(functional: Any, browser: Browser) -> None:
    assert "No dispatcher has registered" in open_page(functional, browser)


@pytest.mark.usefixtures("at_work")
def test_one_can_be_told_to_take_no_more_jobs_and_to_take_them_again(functional: Any, browser: Browser) -> None:
    open_page(functional, browser)
    browser.getControl(name="pause").click()
    assert "It takes no more jobs" in text(browser) and "Takes no more jobs" in text(browser)
    transaction.begin()
    queue = get_queue(functional["portal"]._p_jar)
    assert processes.processes(queue.parent)[0].state == "paused"
    browser.getControl(name="resume").click()
    assert "It takes jobs again." in text(browser)
    transaction.begin()
    assert processes.processes(queue.parent)[0].state == "active"


@pytest.mark.usefixtures("at_work")
def test_a_manager_of_a_site_cannot_stop_what_other_sites_share(functional: Any) -> None:
    portal = functional["portal"]
    get_queue(portal._p_jar).owner = ""  # it is the root's
    portal.acl_users.userFolderAddUser("siteadmin", "correct horse battery", ["Member", "Manager"], [])
    transaction.commit()
    browser = visitor(functional, "siteadmin", "correct horse battery")
    page = open_page(functional, browser)
    assert "At work" in page and 'name="pause"' not in page


@pytest.mark.usefixtures("at_work")
def test_a_form_of_somebody_else_changes_nothing(functional: Any, browser: Browser) -> None:
    url = f"{functional['portal'].absolute_url()}/@@zcasync-dispatchers"
    uuid = get_queue(functional["portal"]._p_jar).dispatchers.active()[0].name
    browser.handleErrors = True
    browser.raiseHttpErrors = False
    browser.post(url, f"uuid={uuid}&pause=1")
    assert "403" in browser.headers["Status"]


@pytest.mark.usefixtures("at_work")
def test_one_that_has_gone_meanwhile_is_told(functional: Any, browser: Browser) -> None:
    open_page(functional, browser)
    browser.getControl(name="uuid").value = "nobody"
    browser.getControl(name="pause").click()
    assert "not registered any more" in text(browser)


@pytest.mark.browser
def test_it_fits_a_desktop_and_a_phone(screen: Screen, acceptance: Any, dispatcher: Any) -> None:
    begun.clear()
    let_go.clear()
    take_long.put()
    transaction.commit()
    assert begun.wait(20)
    screen.open("@@zcasync-dispatchers")
    screen.sees("Take a long time")
    screen.picture("dispatchers")
    screen.press("button[name=pause]")
    screen.sees("Takes no more jobs")
    screen.picture("dispatchers-paused")
    let_go.set()
