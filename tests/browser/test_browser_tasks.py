"""Start a task through the publisher: who sees which, the form made from a signature, and what becomes of it."""

from collective.zcasync import tasks
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import Task
from datetime import date
from datetime import datetime
from typing import Any
from typing import Literal
from visitor import Visitor

import pytest
import transaction

LIST = "@@zcasync-tasks"


def send(
    to: str,
    copies: int = 1,
    ratio: float = 0.5,
    urgent: bool = False,
    kind: Literal["letter", "parcel"] = "letter",
    on: date | None = None,
    at: datetime | None = None,
    tags: list[str] = (),  # type: ignore[assignment]
    notes: dict[str, str] | None = None,
    password: str = "",
) -> str:
    """Send something.

    It takes   a day.
    """
    return to


def take_object(page: object, other: type) -> None:
    """Nothing that a form could say."""


def clean() -> None:
    """Clean up."""


@pytest.fixture
def portal(portal: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A site whose only tasks are those of this test."""
    monkeypatch.setattr(tasks, "registry", {})
    for module in ("browser.tasks", "browser.task", "browser.myjobs"):
        monkeypatch.setattr(f"collective.zcasync.{module}.registry", tasks.registry)
    tasks.register(Task(send, name="send", title="Send <things>", permission="View", visible=True))
    tasks.register(Task(clean, name="clean", title="Clean up"))
    tasks.register(Task(take_object, name="take", title="Take an object"))
    return portal


def waiting(portal: Any) -> list[Any]:
    transaction.begin()
    return [job for _key, job in get_queues(portal._p_jar)[""].waiting()]


def start(visitor: Visitor, **values: str) -> str:
    visitor.open("@@zcasync-task?name=send")
    for name, value in values.items():
        visitor.browser.getControl(name=f"form.widgets.{name}").value = value
    return visitor.press("form.buttons.start")


class TestList:
    def test_each_sees_the_tasks_whose_permission_one_has(self, jane: Visitor, admin: Visitor) -> None:
        contents = jane.open(LIST)
        assert "Send &lt;things&gt;" in contents and "Send something." in contents
        assert "Clean up" not in contents
        contents = admin.open(LIST)
        assert "Clean up" in contents
        assert "Take an object" not in contents  # no form can say what it needs

    def test_strangers_are_asked_to_log_in(self, visit: Any) -> None:
        stranger = visit("")
        for page in (LIST, "@@zcasync-task?name=send"):
            stranger.open(page)
            assert "login" in stranger.browser.url

    def test_people_without_the_panel_are_not_led_to_it(self, jane: Visitor, admin: Visitor) -> None:
        contents = jane.open(LIST)
        assert "@@zcasync-queues" not in contents and "@@zcasync-my-jobs" in contents
        assert "@@zcasync-queues" in admin.open(LIST)

    def test_nothing_to_start_says_where_tasks_come_from(self, jane: Visitor) -> None:
        tasks.registry.clear()
        assert "Add-ons bring tasks" in jane.open(LIST)


class TestForm:
    def test_a_field_for_each_argument_and_the_words_of_the_docstring(self, jane: Visitor) -> None:
        contents = jane.open("@@zcasync-task?name=send")
        assert "Send something." in contents and "It takes a day." in contents
        control = jane.browser.getControl
        assert control(name="form.widgets.copies").value == "1"
        assert control(name="form.widgets.ratio").value == "0.5"
        assert control(name="form.widgets.kind:list").displayOptions == ["letter", "parcel"]
        assert control(name="form.widgets.password").type == "password"
        told = contents.replace("&quot;", '"')
        assert '{"type": "array", "items": {"type": "string"}}' in told and '"anyOf"' not in told

    def test_the_job_is_put_as_the_user_with_values_of_the_right_types(self, portal: Any, jane: Visitor) -> None:
        contents = start(
            jane, to="you", copies="3", tags='["a", "b"]', on="2026-12-31", at="2026-12-31T18:00", password="p"
        )
        assert "The job was put" in contents and "zcasync-my-jobs" in jane.browser.url
        (job,) = waiting(portal)
        values = dict(job.kwargs)
        moment = values.pop("at")
        assert moment.tzinfo is not None and moment.isoformat().startswith("2026-12-31T18:00")
        assert values == {
            "to": "you",
            "copies": 3,
            "ratio": 0.5,
            "urgent": False,
            "kind": "letter",
            "on": date(2026, 12, 31),
            "tags": ["a", "b"],
            "password": "p",
        }
        assert job.user.endswith(":jane")

    def test_what_is_left_empty_is_left_to_the_function(self, portal: Any, jane: Visitor) -> None:
        start(jane, to="you", copies="")
        (job,) = waiting(portal)
        assert "copies" not in job.kwargs and "on" not in job.kwargs and "tags" not in job.kwargs

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("to", "", "Required input is missing"),
            ("copies", "many", "not"),
            ("tags", "[1", "This is no JSON"),
            ("tags", "[1]", "member 1"),
            ("tags", '{"a": 1}', "is not a list"),
            ("tags", "[" * 5000, "This is no JSON"),
        ],
    )
    def test_what_does_not_fit_is_told_at_its_field_and_nothing_is_put(
        self, portal: Any, jane: Visitor, name: str, value: str, said: str
    ) -> None:
        contents = start(jane, **{"to": "you", name: value})
        assert said in contents
        assert "The job was put" not in contents
        assert waiting(portal) == []

    @pytest.mark.parametrize("name", ["clean", "take", "nonsense", "os:system", ""])
    def test_a_task_that_one_may_not_start_is_as_one_that_is_not_there(
        self, portal: Any, jane: Visitor, name: str
    ) -> None:
        assert "no task of that name" in jane.open(f"@@zcasync-task?name={name}")
        jane.post(f"@@zcasync-task?name={name}", **{"form.buttons.start": "Start"})
        assert waiting(portal) == []

    def test_neither_a_get_nor_a_post_without_its_token_puts_anything(self, portal: Any, jane: Visitor) -> None:
        jane.open("@@zcasync-task?name=send&form.widgets.to=you&form.buttons.start=Start")
        assert jane.post("@@zcasync-task?name=send", **{"form.widgets.to": "you", "form.buttons.start": "x"}) == 403
        assert waiting(portal) == []

    def test_a_manager_is_led_to_the_job(self, admin: Visitor, portal: Any) -> None:
        admin.open("@@zcasync-task?name=clean")
        assert "The job was put" in admin.press("form.buttons.start")
        (job,) = waiting(portal)
        assert f"@@zcasync-job?id={job.id}" in admin.browser.url
