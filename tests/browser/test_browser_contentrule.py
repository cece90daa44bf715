"""The content rule action that puts a job: its forms, and what it does when a rule fires."""

from collective.zcasync.ploneapp.contentrule import StartTask
from collective.zcasync.ploneapp.contentrule import StartTaskExecutor
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import registry
from collective.zcasync.tasks import task
from collective.zcasync.testing import run_jobs
from plone import api
from plone.app.contentrules.api import assign_rule
from plone.app.contentrules.rule import Rule
from plone.app.testing import TEST_USER_ID
from plone.contentrules.engine.interfaces import IRuleStorage
from typing import Any
from visitor import Visitor
from zope.component import getUtility
from zope.lifecycleevent.interfaces import IObjectAddedEvent

import logging
import pytest
import transaction


@task(title="Stamp it", content_rule=True)
def stamp(page: Any, /, text: str, *, copies: int = 1) -> str:
    return f"{page.Title()}: {text * copies}"


@task(title="Not for rules")
def unruly(page: Any) -> None:
    """Does not allow it."""


@pytest.fixture
def portal(portal: Any) -> Any:
    rule = Rule()
    rule.title = "Stamp"
    rule.event = IObjectAddedEvent
    getUtility(IRuleStorage)["stamp"] = rule
    assign_rule(portal, "stamp")
    transaction.commit()
    return portal


@pytest.fixture
def rule(portal: Any) -> Any:
    return getUtility(IRuleStorage)["stamp"]


def save(visitor: Visitor, arguments: str) -> str:
    visitor.browser.getControl(name="form.widgets.arguments").value = arguments
    return visitor.press("form.buttons.save")


def jobs(portal: Any) -> list[Any]:
    return [job for _key, job in get_queues(portal._p_jar)[""].waiting()]


def test_a_rule_gets_the_action_by_its_form_and_puts_a_job_with_the_object(
    portal: Any, rule: Any, admin: Visitor
) -> None:
    contents = admin.open("++rule++stamp/+action/zcasync.StartTask")
    assert "Stamp it" in contents and "Not for rules" not in contents
    for wrong in ("[1", "[1]", '{"text": 1}', '{"other": "x"}', "{}"):
        save(admin, wrong)
        assert rule.actions == []
    save(admin, '{"text": "ok", "copies": 2}')
    (action,) = rule.actions
    assert (action.task, action.arguments) == (stamp.name, '{"text": "ok", "copies": 2}')
    assert "Start the background task: Stamp it" in admin.open("++rule++stamp/@@manage-elements")

    api.content.create(portal, "Document", "page", title="A page")
    (job,) = jobs(portal)
    assert job.user.endswith(f":{TEST_USER_ID}")
    run_jobs(portal)
    assert job.result == "A page: okok"


def test_the_action_is_changed_by_its_form(rule: Any, admin: Visitor) -> None:
    admin.open("++rule++stamp/+action/zcasync.StartTask")
    save(admin, '{"text": "ok"}')
    admin.open("++rule++stamp/++action++0/edit")
    admin.press("form.button.confirm")  # for Plone's own actions too: the pages of elements write as they are shown
    save(admin, '{"text": "fine"}')
    assert rule.actions[0].arguments == '{"text": "fine"}'


@pytest.mark.parametrize("name", ["gone", unruly.name])
def test_a_task_that_is_gone_or_allows_no_rules_is_logged_and_stops_nobody(
    portal: Any, rule: Any, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    action = StartTask()
    action.task = name
    assert name in str(action.summary.mapping["task"]) or name in registry
    rule.actions.append(action)
    with caplog.at_level(logging.ERROR, "collective.zcasync"):
        page = api.content.create(portal, "Document", "page", title="A page")
    assert page is not None and "not registered for content rules" in caplog.text
    assert jobs(portal) == []
    assert StartTaskExecutor(portal, action, None)() is True
