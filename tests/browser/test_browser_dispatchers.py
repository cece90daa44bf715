"""The page of dispatchers and workers: what they do, how they fare, and that they can be told to take no more jobs."""

from collections.abc import Iterator
from collective.zcasync import local
from collective.zcasync import processes
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queue
from collective.zcasync.tasks import task
from screens import Screen
from typing import Any
from visitor import Visitor

import pytest
import threading
import transaction

PAGE = "@@zcasync-dispatchers"

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


def words(contents: str) -> str:
    """The page without its line breaks."""
    return " ".join(contents.split())


@pytest.mark.usefixtures("at_work")
def test_it_tells_where_a_dispatcher_is_and_what_it_does(admin: Visitor) -> None:
    page = words(admin.open(PAGE))
    assert "At work" in page and "pid " in page and "1 of " in page
    assert "Runs now" in page and "Take a long time" in page and "/@@zcasync-job?id=" in page


def test_without_any_it_says_what_to_do(admin: Visitor) -> None:
    assert "No dispatcher has registered" in words(admin.open(PAGE))


@pytest.mark.usefixtures("at_work")
def test_one_can_be_told_to_take_no_more_jobs_and_to_take_them_again(portal: Any, admin: Visitor) -> None:
    admin.open(PAGE)
    page = words(admin.press("pause"))
    assert "It takes no more jobs" in page and "Takes no more jobs" in page
    queue = get_queue(portal._p_jar)
    assert processes.processes(queue.parent)[0].state == "paused"
    assert "It takes jobs again." in words(admin.press("resume"))
    assert processes.processes(queue.parent)[0].state == "active"


@pytest.mark.usefixtures("at_work")
def test_a_manager_of_a_site_cannot_stop_what_other_sites_share(portal: Any, visit: Any) -> None:
    get_queue(portal._p_jar).owner = ""  # it is the root's
    transaction.commit()
    page = words(visit("manager").open(PAGE))
    assert "At work" in page and 'name="pause"' not in page


@pytest.mark.usefixtures("at_work")
def test_a_form_of_somebody_else_changes_nothing(portal: Any, admin: Visitor) -> None:
    uuid = get_queue(portal._p_jar).dispatchers.active()[0].name
    assert admin.post(PAGE, uuid=uuid, pause="1") == 403


@pytest.mark.usefixtures("at_work")
def test_one_that_has_gone_meanwhile_is_told(admin: Visitor) -> None:
    admin.open(PAGE)
    admin.browser.getControl(name="uuid").value = "nobody"
    assert "not registered any more" in words(admin.press("pause"))


@pytest.mark.browser
def test_it_fits_a_desktop_and_a_phone(screen: Screen, acceptance: Any, dispatcher: Any) -> None:
    begun.clear()
    let_go.clear()
    take_long.put()
    transaction.commit()
    assert begun.wait(20)
    screen.open(PAGE)
    screen.sees("Take a long time")
    screen.picture("dispatchers")
    screen.press("button[name=pause]")
    screen.sees("Takes no more jobs")
    screen.picture("dispatchers-paused")
    let_go.set()
