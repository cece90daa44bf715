"""The page of dispatchers and workers: what they do, how they fare, and that they can be told to take no more jobs."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import local
from collective.zcasync import processes
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.deployment import Deployment
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queue
from collective.zcasync.tasks import task
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from contextlib import contextmanager
from contextlib import nullcontext
from datetime import timedelta
from screens import Screen
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from visitor import Visitor

import pytest
import threading
import transaction

PAGE = "@@zcasync-dispatchers"
OVERVIEW = "@@zcasync-overview"

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


@task(title="Break a cup")
def break_cup() -> None:
    raise OSError("it fell")


def test_it_tells_what_failed_there_last_and_of_other_sites_not_with_what(
    functional: Any, admin: Visitor, visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = break_cup.put()
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]) as running:
        wait_for_result(job)
        poll_now(running)
        link = f'@@zcasync-job?id={job.id}">Break a cup</a>'
        for visitor in (admin, visit("siteadmin")):
            page = words(visitor.open(PAGE)).partition("Failed here last")[2]
            assert link in page and "OSError: it fell" in page
        monkeypatch.setattr(PanelView, "own_group", "another site")
        page = words(visit("siteadmin").open(PAGE)).partition("Failed here last")[2]
        assert "Break a cup" in page and link not in page and "it fell" not in page


@pytest.mark.usefixtures("at_work")
def test_it_tells_where_a_dispatcher_is_and_what_it_does(admin: Visitor) -> None:
    page = words(admin.open(PAGE))
    assert "At work" in page and "pid " in page and "1 of " in page
    for label in ("Since", "Last ping", "Job threads", "Queues", "Version", "Memory"):
        assert f">{label}</dt>" in page, label
    assert "Runs now" in page and "Take a long time" in page and "/@@zcasync-job?id=" in page


def test_one_whose_jobs_make_pages_wait_is_told_with_the_way_out(at_work: Any, admin: Visitor) -> None:
    at_work.around.politeness = SimpleNamespace(much=0.4, serving=0, turn=nullcontext)
    at_work.heartbeat._ping()
    page = words(admin.open(PAGE))
    assert "Jobs beside requests" in page and "they take 40 % of a processor" in page and "run a worker" in page


def test_without_any_it_says_what_to_do(admin: Visitor) -> None:
    assert "No dispatcher has registered" in words(admin.open(PAGE))


def test_of_one_that_has_ended_it_says_so_however_long_ago_it_was(portal: Any, admin: Visitor) -> None:
    queue, uuid = get_queue(portal._p_jar), uuid4()
    queue.dispatchers.register(uuid)
    da = queue.dispatchers[uuid]
    da.activate()
    da.activated = clock.utcnow() - timedelta(hours=1)
    da.ping(da.activated)
    transaction.commit()
    assert "No sign of life" in admin.open(PAGE)
    da.deactivate()
    transaction.commit()
    contents = admin.open(PAGE)
    assert "Stopped" in contents and "No sign of life" not in contents


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


@pytest.fixture
def held(functional: Any) -> Iterator[Any]:
    """A dispatcher that finds a job in a copy of another deployment's database."""
    with held_dispatcher(functional["portal"], functional["zodbDB"]) as running:
        yield running


@contextmanager
def held_dispatcher(portal: Any, db: Any) -> Iterator[Any]:
    begun.clear()
    let_go.set()
    queues = get_queue(portal._p_jar).parent
    queues.deployment = Deployment("production", "")
    take_long.put()
    transaction.commit()
    with running_dispatcher(db) as running:
        transaction.begin()
        yield running


def test_why_jobs_are_held_is_told_and_only_managers_of_the_root_decide(held: Any, visit: Any) -> None:
    page = words(visit("manager").open(PAGE))
    assert "Nothing runs here until somebody decides" in page and "(production)" in page and "Jobs that wait: 1" in page
    assert "A manager of the Zope root can" in page and 'name="release"' not in page
    assert visit("manager").post(PAGE, release="1", sure="1") == 403
    assert "Jobs are held: the database belongs to another deployment" in words(visit("manager").open(OVERVIEW))
    assert held.held is not None and not begun.is_set()


def test_a_release_is_asked_for_twice_and_then_the_jobs_run(held: Any, admin: Visitor) -> None:
    admin.open(PAGE)
    page = words(admin.press("release"))
    assert "Yes, run these jobs here (1)" in page and 'name="discard"' not in page
    assert "data-zcasync-refresh" not in page  # else the question would go away while one thinks
    assert held.held is not None
    page = words(admin.press("release"))
    assert "The jobs run here from now on: 1." in page and "Nothing runs here" not in page
    assert begun.wait(20) and held.held is None


def test_of_two_people_who_decide_the_second_is_told_and_removes_nothing(
    held: Any, portal: Any, admin: Visitor
) -> None:
    admin.open(PAGE)
    admin.press("discard")
    queues = get_queue(portal._p_jar).parent
    queues.deployment.adopt("")
    for da in queues[""].dispatchers.values():
        da.held = None
    transaction.commit()
    assert "somebody has decided already" in words(admin.press("discard"))
    assert "Jobs removed" not in admin.contents


def test_a_discard_is_asked_for_twice_and_removes_what_waits(held: Any, portal: Any, admin: Visitor) -> None:
    admin.open(PAGE)
    assert "Yes, remove these jobs for good (1)" in words(admin.press("discard"))
    assert "Jobs removed: 1." in words(admin.press("discard"))
    transaction.begin()
    assert len(get_queue(portal._p_jar)) == 0
    take_long.put()
    transaction.commit()
    assert begun.wait(20), "it takes jobs again"


def test_what_is_in_use_is_not_released(held: Any, portal: Any, admin: Visitor) -> None:
    admin.open(PAGE)
    admin.press("release")
    queue = get_queue(portal._p_jar)
    queue.dispatchers.register(uuid := uuid4())
    queue.dispatchers[uuid].activate()
    transaction.commit()
    assert "works on this database" in words(admin.press("release"))
    assert held.held is not None


@pytest.mark.usefixtures("held")
def test_a_release_from_another_page_is_refused(admin: Visitor) -> None:
    assert admin.post(PAGE, release="1", sure="1") == 403


@pytest.mark.browser
def test_a_held_database_fits_a_desktop_and_a_phone(screen: Screen, acceptance: Any) -> None:
    with held_dispatcher(acceptance["portal"], acceptance["zodbDB"]):
        screen.open(OVERVIEW)
        screen.sees("Jobs are held")
        screen.picture("overview-held")
        screen.open(PAGE)
        screen.sees("Nothing runs here until somebody decides")
        screen.picture("dispatchers-held")
        screen.press("button[name=discard]")
        screen.sees("for good")
        screen.picture("dispatchers-held-sure")
        screen.press("button[name=discard]")
        screen.sees("Jobs removed: 1.")


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
