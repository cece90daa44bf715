"""zopeapp.directives: ``<zcasync:task />`` in ZCML."""

from collections.abc import Iterator
from collective.zcasync import tasks
from typing import Any
from zope.component.testing import setUp
from zope.component.testing import tearDown
from zope.configuration.config import ConfigurationConflictError
from zope.configuration.exceptions import ConfigurationError
from zope.configuration.xmlconfig import string

import pytest

TEMPLATE = """\
<configure xmlns="http://namespaces.zope.org/zope" xmlns:zcasync="http://namespaces.plone.org/zcasync"
           i18n_domain="tests">
  <include package="zope.component" file="meta.zcml" />
  <include package="zope.security" file="meta.zcml" />
  <include package="collective.zcasync" file="meta.zcml" />
  {body}
</configure>
"""


def work(value: int = 0) -> int:
    """A function that knows nothing of tasks."""
    return value


def other(value: int = 0) -> int:
    """Another one."""
    return value


@tasks.task
def decorated() -> None:
    """A task by its decorator."""


def load(*directives: str) -> None:
    string(TEMPLATE.format(body="\n  ".join(directives)))


def directive(handler: str = "work", **attributes: Any) -> str:
    rest = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f'<zcasync:task handler="{__name__}.{handler}" {rest} />'


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tasks, "registry", {})
    setUp()
    yield
    tearDown()


def test_a_function_becomes_a_task_under_its_own_name() -> None:
    load(directive())
    (task,) = tasks.registry.values()
    assert task.name == f"{__name__}.work"
    assert task.handler is work
    assert (task.queue, task.policy, task.permission, task.timeout) == ("", None, None, None)
    assert (task.transactional, task.groupable, task.safe_in_get, task.lane) == (True, False, False, "")
    assert task(7) == 7


def test_all_options_reach_the_task() -> None:
    load(
        '<permission id="tests.Work" title="Tests: Work" />',
        directive(
            name="work",
            title="Do the work",
            permission="tests.Work",
            queue="mail",
            policy="patient",
            timeout="2.5",
            transactional="no",
            groupable="yes",
            safe_in_get="true",
            lane="content",
        ),
    )
    task = tasks.registry["work"]
    assert task.title == "Do the work"
    assert task.title.domain == "tests"
    assert task.permission == "Tests: Work"
    assert (task.queue, task.policy, task.timeout) == ("mail", "patient", 2.5)
    assert (task.transactional, task.groupable, task.safe_in_get) == (False, True, True)
    assert task.lane == "content"


def test_a_task_that_is_not_transactional_is_never_retried() -> None:
    load(directive(name="work", transactional="false"))
    assert tasks.registry["work"].policy == "NeverRetry"


def test_a_permission_may_be_defined_after_the_task() -> None:
    load(directive(permission="tests.Late"), '<permission id="tests.Late" title="Tests: Late" />')
    assert tasks.registry[f"{__name__}.work"].permission == "Tests: Late"


def test_two_directives_for_one_name_are_a_conflict() -> None:
    with pytest.raises(ConfigurationConflictError):
        load(directive(name="work"), directive("other", name="work"))


def test_two_functions_cannot_share_a_name_over_several_runs() -> None:
    load(directive(name="work"))
    with pytest.raises(ConfigurationError, match="two tasks are named 'work'"):
        load(directive("other", name="work"))


@pytest.mark.parametrize(
    ("directive_text", "message"),
    [
        (directive("missing"), "missing"),
        (directive("decorated"), "is a task already, by its decorator"),
        (directive(permission="tests.Unknown"), "tests.Unknown"),
        (directive(permission="zope.Public"), "cannot be checked; name one that is defined"),
        (directive(timeout="soon"), "timeout"),
        (directive(timeout="-1"), "timeout"),
        (directive(colour="red"), "colour"),
    ],
)
def test_a_wrong_directive_is_refused(directive_text: str, message: str) -> None:
    with pytest.raises((ConfigurationError, ValueError), match=message):
        load(directive_text)
    assert tasks.registry == {}
