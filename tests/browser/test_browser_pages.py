"""Every page: it fits a desktop and a phone, keeps nobody out, and is of use without JavaScript."""

from collections.abc import Iterator
from collective.zcasync.tasks import task
from datetime import timedelta
from importlib.resources import files
from plone.app.contentrules.rule import Rule
from plone.contentrules.engine.interfaces import IRuleStorage
from screens import Screen
from typing import Any
from zope.component import getUtility
from zope.lifecycleevent.interfaces import IObjectAddedEvent

import logging
import pytest
import re
import threading
import transaction

pytestmark = pytest.mark.browser

#: What the job that runs waits for.
let_go = threading.Event()


@task(title="Polish the silver", visible=True)
def polish(what: str = "spoons", long: bool = False) -> str:
    """Make it shine."""
    logging.getLogger(__name__).warning("polishing %s", what)
    if what == "soap":
        raise ValueError(f"{what} does not shine")
    if long:
        let_go.wait(600)
    return f"{what} shine"


#: Pages that need no job, by the names of their pictures.
PAGES = {
    "overview": "@@zcasync-overview",
    "jobs-waiting": "@@zcasync-jobs?state=waiting",
    "jobs-scheduled": "@@zcasync-jobs?state=scheduled",
    "jobs-running": "@@zcasync-jobs?state=running",
    "jobs-finished": "@@zcasync-jobs?state=finished",
    "jobs-failed": "@@zcasync-jobs?state=failed",
    "jobs-search": "@@zcasync-jobs?state=failed&error=shine",
    "jobs-attention": "@@zcasync-jobs?state=attention",
    "job-missing": "@@zcasync-job?id=77",
    "queues": "@@zcasync-queues",
    "queue": "@@zcasync-queue?name=",
    "queue-settings": "@@zcasync-queue-settings?name=",
    "queue-add": "@@zcasync-queue-add",
    "dispatchers": "@@zcasync-dispatchers",
    "tasks": "@@zcasync-tasks",
    "task": "@@zcasync-task?name=collective.zcasync.demo.tasks.rehearse",
    "policies": "@@zcasync-policies",
    "policy": "@@zcasync-policy?name=default",
    "policy-add": "@@zcasync-policy-add",
    "policy-delete": "@@zcasync-policy-delete?name=default",
    "settings": "@@zcasync-settings",
    "who-may": "@@zcasync-who-may",
    "my-jobs": "@@zcasync-my-jobs",
    "rule-action": "++rule++polish/+action/zcasync.StartTask",
    "root-overview": "../@@zcasync-overview",
    "root-jobs": "../@@zcasync-jobs?state=failed",
    "root-queues": "../@@zcasync-queues",
    "root-dispatchers": "../@@zcasync-dispatchers",
}


#: What configure.zcml calls a page and nobody opens as one: parts of pages, and answers to scripts.
PARTS = {"zcasync-panel", "zcasync-policy-preview", "zcasync-my-news", "zcasync-my-result"}


def registered() -> set[str]:
    """The names of the pages of a site."""
    zcml = files("collective.zcasync.browser").joinpath("configure.zcml").read_text()
    return set(re.findall(r'name="(zcasync-[a-z-]+)"', zcml)) - PARTS


@pytest.fixture
def pages(acceptance: Any, dispatcher: Any) -> Iterator[dict[str, str]]:
    """Every page, of a site with a job in each common state."""
    let_go.clear()
    jobs = {
        "failed": polish.put("soap"),
        "finished": polish.put("spoons"),
        "running": polish.put("forks", long=True),
        "scheduled": polish.options(begin_after=timedelta(days=1)).put("knives"),
    }
    rule = Rule()
    rule.title, rule.event = "Polish", IObjectAddedEvent
    getUtility(IRuleStorage)["polish"] = rule
    transaction.commit()
    yield (
        PAGES
        | {f"job-{state}": f"@@zcasync-job?id={job.id}" for state, job in jobs.items()}
        | {
            "job-retry": f"@@zcasync-job-retry?id={jobs['failed'].id}",
            "root-job": f"../@@zcasync-job?id={jobs['failed'].id}",
        }
    )
    let_go.set()


def test_none_fails_to_fit_a_desktop_and_a_phone_or_keeps_anybody_out(screen: Screen, pages: dict[str, str]) -> None:
    screen.open("@@zcasync-jobs?state=failed")
    screen.reload_until("does not shine")
    seen = {path.partition("@@")[2].partition("?")[0] for path in pages.values()}
    assert seen == {"", *registered()} - {
        "zcasync-jobs-change"
    }  # that follows at the end, and rules' forms have no such name
    wrong = []
    for name, path in pages.items():
        screen.open(path)
        wrong += screen.look(name)
    screen.open("@@zcasync-jobs?state=failed")
    screen.page.locator("input[name='ids:list']").first.check()
    screen.press("button[name=verb][value=delete]")
    wrong += screen.look("jobs-change")
    assert not wrong, "\n\n".join(wrong)


def test_all_can_be_read_and_a_form_be_sent_without_javascript(plain_screen: Screen, pages: dict[str, str]) -> None:
    for path in pages.values():
        answer = plain_screen.page.goto(f"{plain_screen.site}/{path}")
        assert answer and answer.status == (404 if path == PAGES["job-missing"] else 200), path
        assert plain_screen.page.locator("h1").count() == 1, path
    plain_screen.open("@@zcasync-tasks")
    with plain_screen.page.expect_navigation():
        plain_screen.page.locator("#zcasync-tasks li", has_text="Rehearse").get_by_role("link").click()
    plain_screen.page.fill("#form-widgets-steps", "1")
    plain_screen.press("#form-buttons-start")
    plain_screen.reload_until("1 steps were rehearsed")
