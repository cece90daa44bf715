"""Jobs over REST: lists, one job, and what can be done with them."""

from collective.zcasync import joblists
from restjobs import fail
from restjobs import failed
from restjobs import greet
from restjobs import put_as
from restjobs import set_aside
from typing import Any

import pytest


def test_a_list_tells_the_jobs_of_one_state_and_counts_all(portal: Any, queues: Any, admin: Any) -> None:
    failed(portal)
    job = put_as(portal, "admin", greet, "Ada")
    answer = admin("GET", "@background-jobs?state=waiting")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json["counts"]["waiting"] == {"number": 1, "more": False}
    assert answer.json["counts"]["failed"] == {"number": 1, "more": False}
    (item,) = answer.json["items"]
    assert item["@id"] == f"{portal.absolute_url()}/@background-jobs/{job.id}"
    assert (item["id"], item["state"], item["task"], item["title"]) == (
        job.id,
        "waiting",
        "my.site.greet",
        "Greet somebody",
    )
    assert (item["user"], item["queue"], item["attempts"], item["progress"]) == ("admin", "default", 0, None)
    assert item["put"].endswith("+00:00")
    assert "batching" in answer.json and "next" not in answer.json["batching"]


def test_a_list_comes_in_pages_that_link_to_each_other(portal: Any, queues: Any, admin: Any) -> None:
    ids = [put_as(portal, "admin", greet, str(number)).id for number in range(5)]
    page = admin("GET", "@background-jobs?b_size=2&state=waiting").json
    found = [item["id"] for item in page["items"]]
    assert "prev" not in page["batching"]
    while "next" in page["batching"]:
        page = admin("GET", page["batching"]["next"]).json
        found += [item["id"] for item in page["items"]]
    assert found == ids
    assert page["batching"]["prev"].endswith("?b_size=2&state=waiting&b_start=2")
    assert page["items_total"] == 5


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=lost", "state: 'lost' is not allowed; it must be one of waiting, scheduled, running"),
        ("state=%00%ed%a0%80", "is not allowed"),
        ("state=a&state=b", "is not allowed; it must be one text"),
        ("b_start=-1", "b_start: '-1' is not allowed; it must be a number from 0 to 10000000"),
        ("b_start=%D9%A3", "b_start: '٣' is not allowed"),
        ("b_size=501", "b_size: '501' is not allowed; it must be a number from 0 to 500"),
        ("b_size:int=5", "b_size: 5 is not allowed"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_with_its_value(queues: Any, admin: Any, query: str, said: str) -> None:
    answer = admin("GET", f"@background-jobs?{query}")
    assert (answer.status, answer.json["type"]) == (400, "BadRequest")
    assert said in answer.message


def test_a_list_of_a_queue_that_is_not_there_names_those_that_are(queues: Any, admin: Any) -> None:
    assert admin("GET", "@background-jobs?queue=default").json["items"] == []
    answer = admin("GET", "@background-jobs?queue=mail")
    assert (answer.status, answer.message) == (404, "There is no queue 'mail'; there are: default.")


def test_one_job_is_told_with_its_history_and_for_managers_its_inside(portal: Any, queues: Any, admin: Any) -> None:
    job = failed(portal)
    told = admin("GET", f"@background-jobs/{job.id}").json
    assert (told["state"], told["error"]) == ("failed", "ValueError: /a <b>does not</b> work")
    assert told["arguments"] == [{"name": "path", "value": "'/a'"}]
    assert told["error_type"].endswith("ValueError")
    assert "ValueError" in told["traceback"] and told["frames"][-1]["function"] == "fail"
    assert [event["what"] for event in told["timeline"]] == ["put", "started", "failed"]
    assert told["timeline"][0]["text"] == "admin"
    assert told["actions"] == {"retry": f"{portal.absolute_url()}/@background-jobs/{job.id}/retry"}


@pytest.mark.parametrize("id", ["0", "fffffff", "x", "1%00", "%F0%9F%92%A9", "1@nowhere", "f" * 5000, "<b>"])
def test_an_id_that_was_tampered_with_is_not_found(queues: Any, admin: Any, id: str) -> None:
    answer = admin("GET", f"@background-jobs/{id}")
    assert answer.status == 404, answer
    for method, rest in (("POST", "/cancel"), ("DELETE", "")):
        assert admin(method, f"@background-jobs/{id}{rest}").status == 404


def test_a_waiting_job_is_cancelled(portal: Any, queues: Any, admin: Any) -> None:
    job = put_as(portal, "admin", greet, "Ada")
    answer = admin("POST", f"@background-jobs/{job.id}/cancel")
    assert (answer.status, answer.json["state"]) == (200, "cancelled")
    assert job.outcome == "cancelled"
    assert admin("POST", f"@background-jobs/{job.id}/cancel").json["state"] == "cancelled"


def test_a_failed_job_is_retried_once_and_the_new_one_is_told(portal: Any, queues: Any, admin: Any) -> None:
    job = failed(portal)
    answer = admin("POST", f"@background-jobs/{job.id}/retry")
    assert (answer.status, answer.json["state"], answer.json["retry_of"]) == (200, "waiting", job.id)
    answer = admin("POST", f"@background-jobs/{job.id}/retry")
    assert (answer.status, answer.json["type"]) == (409, "Conflict")
    assert "was retried already" in answer.message


def test_a_job_that_was_set_aside_is_released_or_removed(portal: Any, queues: Any, admin: Any) -> None:
    job = set_aside(portal)
    assert list(admin("GET", f"@background-jobs/{job.id}").json["actions"]) == ["release"]
    assert admin("POST", f"@background-jobs/{job.id}/cancel").status == 409
    assert admin("POST", f"@background-jobs/{job.id}/release").json["state"] == "waiting"
    assert admin("DELETE", f"@background-jobs/{job.id}").status == 409
    other = set_aside(portal)
    answer = admin("DELETE", f"@background-jobs/{other.id}")
    assert (answer.status, answer.json) == (204, None)
    assert joblists.counts(queues)["quarantined"].number == 0


def test_several_jobs_are_changed_together_or_not_at_all(portal: Any, queues: Any, admin: Any) -> None:
    jobs = [put_as(portal, "admin", greet, name) for name in "abc"]
    ids = [job.id for job in jobs]
    answer = admin("POST", "@background-jobs", {"action": "cancel", "ids": [*ids[:2], "fff"]})
    assert (answer.status, "fff" in answer.message) == (404, True)
    assert [job.outcome for job in jobs] == [None, None, None]
    answer = admin("POST", "@background-jobs", {"action": "cancel", "ids": ids[:2]})
    assert [item["state"] for item in answer.json["items"]] == ["cancelled", "cancelled"]
    assert [job.outcome for job in jobs] == ["cancelled", "cancelled", None]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "action is missing; it must be a text"),
        ({"action": "cancel"}, "ids is missing; it must be a list"),
        ({"action": "explode", "ids": []}, "action: 'explode' is not allowed; it must be one of cancel, retry"),
        ({"action": ["cancel"], "ids": []}, "action: ['cancel'] is not allowed; it must be a text"),
        ({"action": "cancel", "ids": [5]}, "ids: 5 is not allowed; an id is a text"),
        ({"action": "cancel", "ids": ["1"] * 10_000}, "ids: 10000 are given; at most 500 jobs are changed at once"),
        ({"action": "cancel", "ids": [], "how": 1}, "'how' is not understood; a body may have: action, ids"),
        ([], "The body must be an object, not []"),
        (b"{", "The body is no JSON"),
        (b'{"action": ' + b"[" * 500 + b"]" * 500 + b"}", "is not allowed; it must be a text"),
        (b'{"action": "\xff"}', "The body is no JSON"),
        (b'{"action": ' + b" " * 1_000_000 + b"1}", "The body has 1000013 bytes; at most 1000000 are taken"),
        ({"action": "\ud800", "ids": []}, "action: '\\ud800' is not allowed"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_with_its_value(queues: Any, admin: Any, body: Any, said: str) -> None:
    answer = admin("POST", "@background-jobs", body)
    assert (answer.status, answer.json["type"]) == (400, "BadRequest")
    assert said in answer.message


def test_paths_that_lead_nowhere_are_told_so(portal: Any, queues: Any, admin: Any) -> None:
    job = put_as(portal, "admin", fail, "/a")
    assert admin("POST", f"@background-jobs/{job.id}/explode").status == 400
    assert "Say what is to be done" in admin("POST", f"@background-jobs/{job.id}").message
    assert "Say which job" in admin("DELETE", "@background-jobs").message
    answer = admin("GET", f"@background-jobs/{job.id}/cancel")
    assert answer.status == 404 and "There is nothing at" in answer.message


def test_a_post_that_another_site_could_have_sent_is_refused(portal: Any, queues: Any, admin: Any) -> None:
    job = put_as(portal, "admin", greet, "Ada")
    answer = admin("POST", f"@background-jobs/{job.id}/cancel", headers={"Content-Type": "text/plain"})
    assert (answer.status, answer.json["type"]) == (403, "Forbidden")
    assert "Content-Type: application/json" in answer.message
    assert job.outcome is None
