"""Tasks that are started over REST, and their jobs."""

from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import run_jobs
from typing import Any

import pytest
import transaction


def test_the_tasks_that_one_may_start_are_told_with_their_arguments(portal: Any, queues: Any, client: Any) -> None:
    items = client("member")("GET", "@background-tasks").json["items"]
    ours = {item["name"]: item for item in items if item["name"].startswith("my.site.")}
    assert list(ours) == ["my.site.greet"]
    assert ours["my.site.greet"] == {
        "@id": f"{portal.absolute_url()}/@background-tasks/my.site.greet",
        "name": "my.site.greet",
        "title": "Greet somebody",
        "description": "Say hello to somebody, so many times.",
        "arguments": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "times": {"type": "integer", "default": 1}},
            "required": ["name"],
            "additionalProperties": False,
        },
    }
    names = [item["name"] for item in client("admin")("GET", "@background-tasks").json["items"]]
    assert {"my.site.clean", "my.site.fail", "my.site.greet"} <= set(names)
    assert "my.site.thing" not in names


def test_a_task_is_started_and_its_job_can_be_followed(portal: Any, queues: Any, client: Any) -> None:
    member = client("member")
    answer = member("POST", "@background-tasks/my.site.greet", {"arguments": {"name": "Ada", "times": 2}})
    assert (answer.status, answer.reason, answer.headers["Retry-After"]) == (202, "Accepted", "1")
    url = answer.headers["Location"]
    assert answer.json["@id"] == url
    told = member("GET", url).json
    assert (told["state"], told["user"]) == ("waiting", "member")
    assert told["actions"] == {"cancel": f"{url}/cancel"}
    (job,) = run_jobs(portal)
    transaction.commit()
    assert job.result == "Hello Ada! Hello Ada!"
    assert member("GET", url).json["state"] == "finished"
    assert client("another")("GET", url).status == 404


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "name: is missing"),
        ({"name": 5}, "name: 5 is not a text"),
        ({"name": "Ada", "times": "2"}, "times: '2' is not a whole number"),
        ({"name": "Ada", "colour": "red"}, "'colour': there is no such argument; there are: name, times"),
        ({"name": "\ud800"}, "name: '\\ud800' is not a text"),
        (["Ada"], "arguments: ['Ada'] is not allowed; it must be an object"),
        (None, "arguments: None is not allowed; it must be an object"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    portal: Any, queues: Any, client: Any, arguments: Any, said: str
) -> None:
    answer = client("member")("POST", "@background-tasks/my.site.greet", {"arguments": arguments})
    assert (answer.status, answer.json["type"]) == (400, "BadRequest")
    assert said in answer.message
    assert put_jobs(portal) == []


def test_options_and_other_words_are_not_taken(portal: Any, queues: Any, client: Any) -> None:
    answer = client("member")("POST", "@background-tasks/my.site.greet", {"name": "Ada"})
    assert (answer.status, answer.message) == (400, "'name' is not understood; a body may have: arguments.")
    assert "Say which task" in client("member")("POST", "@background-tasks", {}).message


@pytest.mark.parametrize("name", ["os.system", "my.site.thing", "my.site.clean", "..", "collective.zcasync.api:put"])
def test_only_registered_tasks_that_one_may_start_are_known(queues: Any, client: Any, name: str) -> None:
    for method in ("GET", "POST"):
        answer = client("member")(method, f"@background-tasks/{name.replace('..', '%2E%2E.')}")
        assert answer.status == 404 and "that you may start" in answer.message
