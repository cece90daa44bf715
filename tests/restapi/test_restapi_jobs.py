"""Jobs over REST: lists, one job, and what can be done with them."""

from collective.zcasync import joblists
from collective.zcasync import monitorrows
from collective.zcasync import ownjobs
from collective.zcasync import tasks
from collective.zcasync.deployment import Deployment
from collective.zcasync.ploneapp.settings import settings_of
from collective.zcasync.ploneapp.sites import group_of
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.restapi import service
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testwait import wait_until
from restjobs import fail
from restjobs import failed
from restjobs import greet
from restjobs import put_as
from restjobs import set_aside
from typing import Any

import pytest
import restjobs
import transaction


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
    assert page["batching"]["prev"].endswith("b_start=2")
    assert page["items_total"] == 5


def test_a_job_that_waits_tells_in_words_what_keeps_it(functional: Any, portal: Any, queues: Any, admin: Any) -> None:
    url = f"@background-jobs/{put_as(portal, 'admin', greet, 'Ada').id}"
    assert admin("GET", url).json["reason"] == "No dispatcher serves its queue"
    queues.deployment = Deployment("production", "")
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]):
        transaction.begin()
        reason = admin("GET", url).json["reason"]
        assert "Jobs are held: the database belongs to another deployment (production)" in reason
        assert "Then release them. Both on the page Dispatchers." in reason
        (item,) = admin("GET", "@background-dispatchers").json["items"]
        assert (item["state"], item["reason"]) == ("held", reason)
    queues[""].paused = True
    transaction.commit()
    told = admin("GET", url).json
    assert (told["detail"], told["reason"]) == ("queue:", "Its queue is paused")


def test_behind_the_last_page_with_a_number_the_links_go_on_without_and_end_where_lists_do(
    portal: Any, queues: Any, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LAST_START", 2)
    monkeypatch.setattr(monitorrows, "LAST_SKIP", 6)
    ids = [put_as(portal, "admin", greet, str(number)).id for number in range(9)]
    page = admin("GET", "@background-jobs?b_size=2&state=waiting").json
    found = [item["id"] for item in page["items"]]
    while "next" in page["batching"]:
        page = admin("GET", page["batching"]["next"]).json
        found += [item["id"] for item in page["items"]]
    assert found == ids[:8]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=lost", "state: 'lost' is not allowed; it must be one of waiting, scheduled, running"),
        ("state=%00%ed%a0%80", "is not allowed"),
        ("state=a&state=b", "is not allowed; it must be one text"),
        ("b_start=-1", "b_start: '-1' is not allowed; it must be a number from 0 to 10000"),
        ("b_start=%D9%A3", "b_start: '٣' is not allowed"),
        ("b_size=501", "b_size: '501' is not allowed; it must be a number from 0 to 500"),
        ("b_size:int=5", "b_size: 5 is not allowed"),
        ("since=yesterday", "since: 'yesterday' is not a time with its offset"),
        ("skip=x", "skip: 'x' is not allowed"),
        ("skip=900000", "skip: '900000' is not allowed; it must be a number from 0 to 100000"),
        ("own=1&skip=900000", "skip: '900000' is not allowed"),
        (f"task={'x' * 301}", "task is too long to look for"),
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
    assert (told["state"], told["error"]) == ("failed", "ValueError: /a does not work")
    assert told["arguments"] == [{"name": "path", "value": "'/a'"}]
    assert told["error_type"].endswith("ValueError")
    assert "ValueError" in told["traceback"] and told["frames"][-1]["function"] == "fail"
    assert [event["what"] for event in told["timeline"]] == ["put", "started", "failed"]
    assert told["timeline"][0]["text"] == "admin"
    assert told["result"] is None
    url = f"{portal.absolute_url()}/@background-jobs/{job.id}"
    assert told["actions"] == {"retry": f"{url}/retry", "dismiss": f"{url}/dismiss"}


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
    answer = admin("DELETE", f"@background-jobs/{job.id}")
    assert answer.status == 409 and "not set aside, so it cannot be discarded: cancel it" in answer.message
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


def test_jobs_are_looked_for(portal: Any, queues: Any, admin: Any) -> None:
    failed(portal, path="/news")
    failed(portal, "member", path="/50%-<i>")
    for query, number in (
        ("", 2),
        ("task=fail", 2),
        ("task=FAI*", 2),
        ("task=greet", 0),
        ("user=memb", 1),
        ("error=50%25-%3Ci%3E", 1),
        ("error=%5B", 0),
        ("cause=ValueError+in+fail", 2),
        ("since=2020-01-01T00:00:00Z", 2),
        ("until=2020-01-01T00:00:00%2B02:00", 0),
        ("oldest=1&user=admin", 1),
    ):
        answer = admin("GET", f"@background-jobs?state=failed&{query}").json
        assert (len(answer["items"]), answer["items_total"], answer["complete"]) == (number, number, True), query


def test_a_search_that_ends_before_all_is_seen_says_so_and_goes_on(
    portal: Any, queues: Any, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblists, "LOOK_LIMIT", 2)
    ids = [put_as(portal, user, greet, "Ada").id for user in ("admin", "admin", "admin", "member", "admin")]
    page = admin("GET", "@background-jobs?state=waiting&user=member").json
    assert (page["items"], page["complete"], page["looked_at"]) == ([], False, 2)
    page = admin("GET", page["batching"]["next"]).json
    assert [item["id"] for item in page["items"]] == [ids[3]]


def test_failures_are_told_by_their_cause_and_lead_to_their_jobs(portal: Any, queues: Any, admin: Any) -> None:
    jobs = [failed(portal), failed(portal)]
    answer = admin("GET", "@background-failures").json
    (item,) = answer["items"]
    assert (item["task"], item["cause"], item["number"]) == ("my.site.fail", "ValueError in fail", 2)
    listed = admin("GET", item["@id"]).json["items"]
    assert {one["id"] for one in listed} == {job.id for job in jobs}
    assert admin("GET", "@background-failures?queue=default&b_start=1").json["items"] == []


def test_who_may_not_see_all_jobs_sees_the_own_ones(portal: Any, queues: Any, client: Any) -> None:
    put_as(portal, "admin", greet, "Ada")
    job = put_as(portal, "member", greet, "Ada")
    (item,) = client("member")("GET", "@background-jobs").json["items"]
    assert (item["id"], item["state"], item["ahead"]) == (job.id, "waiting", 1)
    assert client("another")("GET", "@background-jobs").json["items"] == []
    assert len(client("admin")("GET", "@background-jobs?own=1").json["items"]) == 1


def test_own_jobs_lead_to_older_ones(portal: Any, queues: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (put_as(portal, "member", greet, name) for name in ("Ada", "Bob"))
    run_jobs(portal)
    transaction.commit()
    monkeypatch.setattr(ownjobs, "MOST_ENDED", 1)
    first = client("member")("GET", "@background-jobs?own=1").json
    assert [item["id"] for item in first["items"]] == [new.id]
    older = client("member")("GET", first["batching"]["next"].partition("/plone/")[2]).json
    assert [item["id"] for item in older["items"]] == [old.id] and "batching" not in older


def test_jobs_that_wait_are_moved_and_the_timeline_tells_who_asked(portal: Any, queues: Any, admin: Any) -> None:
    first, second = (put_as(portal, "admin", greet, name) for name in "ab")

    def order() -> list[str]:
        return [item["id"] for item in admin("GET", "@background-jobs?state=waiting").json["items"]]

    assert admin("POST", f"@background-jobs/{second.id}/run-now").json["state"] == "waiting"
    assert order() == [second.id, first.id]
    told = admin("POST", f"@background-jobs/{first.id}/reschedule", {"begin_after": "2999-01-01T00:00:00+01:00"}).json
    assert (told["state"], told["due"]) == ("scheduled", "2998-12-31T23:00:00.000+00:00")
    told = admin("POST", f"@background-jobs/{second.id}/priority", {"priority": -3}).json
    assert told["priority"] == -3
    events = [(event["what"], event["text"]) for event in told["timeline"]]
    assert {("put", "admin"), ("by_run", "admin"), ("by_priority", "admin")} <= set(events)


@pytest.mark.parametrize(
    ("action", "body", "said"),
    [
        ("reschedule", {}, "begin_after is missing; it must be a text"),
        ("reschedule", {"begin_after": "soon"}, "begin_after: 'soon' is not a time with its offset"),
        ("reschedule", {"begin_after": "2026-01-01T00:00:00"}, "is not a time with its offset"),
        ("priority", {"priority": 16}, "priority must be a whole number from -16 to 15, not 16"),
        ("priority", {"priority": "1"}, "priority: '1' is not allowed; it must be a whole number"),
        ("cancel", {"priority": 1}, "'priority' is not understood; a body may have: nothing"),
    ],
)
def test_a_move_that_makes_no_sense_is_refused_with_its_value(
    portal: Any, queues: Any, admin: Any, action: str, body: Any, said: str
) -> None:
    job = put_as(portal, "admin", greet, "Ada")
    answer = admin("POST", f"@background-jobs/{job.id}/{action}", body)
    assert (answer.status, answer.json["type"]) == (400, "BadRequest")
    assert said in answer.message


def test_jobs_that_have_ended_are_deleted(portal: Any, queues: Any, admin: Any) -> None:
    jobs = [failed(portal) for _number in range(3)]
    assert admin("DELETE", f"@background-jobs/{jobs[0].id}").status == 204
    answer = admin("POST", "@background-jobs", {"action": "delete", "ids": [jobs[1].id]})
    assert [item["state"] for item in answer.json["items"]] == ["failed"]
    assert admin("POST", f"@background-jobs/{jobs[2].id}/delete").status == 204
    assert joblists.counts(queues)["failed"].number == 0


def test_all_that_match_are_changed_by_a_job_of_its_own(portal: Any, queues: Any, admin: Any) -> None:
    jobs = [failed(portal, path=path) for path in ("/a", "/a", "/b")]
    body = {"action": "retry", "all": {"state": "failed", "queue": "default", "error": "/a"}}
    answer = admin("POST", "@background-jobs", body)
    assert (answer.status, answer.headers["Retry-After"]) == (202, "1")
    told = admin("GET", answer.headers["Location"]).json
    assert (told["task"], told["state"]) == ("collective.zcasync.change_jobs", "waiting")
    assert "'retry'" in str(told["arguments"]) and group_of(portal) in str(told["arguments"])
    assert [job.retried_as for job in jobs] == ["", "", ""]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"action": "release", "all": {"state": "quarantined"}}, "action: 'release' is not allowed"),
        ({"action": "retry", "all": {"state": "waiting"}}, "retry is for jobs that are failed or cancelled"),
        ({"action": "retry", "all": {}}, "all: state None is not allowed"),
        ({"action": "retry", "all": {"state": "failed", "group": "1"}}, "all: {'group': '1'} is not allowed"),
        ({"action": "retry", "all": {"state": "failed", "task": 5}}, "all: {'task': 5} is not allowed"),
        ({"action": "retry", "all": {"state": "failed", "task": "\ud800"}}, "task: '\\ud800' is not allowed"),
        ({"action": "retry", "all": {"state": "failed", "since": "now"}}, "since: 'now' is not a time"),
        ({"action": "retry", "all": "failed"}, "all: 'failed' is not allowed; it must be an object"),
        ({"action": "retry", "all": {"state": "failed"}, "ids": []}, "'ids' is not understood"),
    ],
)
def test_a_change_of_many_that_makes_no_sense_is_refused(queues: Any, admin: Any, body: Any, said: str) -> None:
    answer = admin("POST", "@background-jobs", body)
    assert (answer.status, answer.json["type"]) == (400, "BadRequest")
    assert said in answer.message


def test_a_queue_of_jobs_that_are_meant_must_be_there(queues: Any, admin: Any) -> None:
    answer = admin("POST", "@background-jobs", {"action": "retry", "all": {"state": "failed", "queue": "mail"}})
    assert (answer.status, answer.message) == (404, "There is no queue 'mail'; there are: default.")


def test_a_person_asks_for_a_mail_when_own_jobs_have_ended_where_the_site_sends_any(
    portal: Any, queues: Any, client: Any
) -> None:
    member = client("member")
    assert member("GET", "@background-jobs?own=1").json["mail"] is False
    settings_of(portal).own_mail = False
    transaction.commit()
    refused = member("PATCH", "@background-jobs", {"mail": True})
    assert refused.status == 409 and "sends no mails about own jobs" in refused.message
    settings_of(portal).own_mail = True
    transaction.commit()
    assert member("PATCH", "@background-jobs", {"mail": True}).json["mail"] is True
    assert member("GET", "@background-jobs?own=1").json["mail"] is True
    assert client("editor")("GET", "@background-jobs?own=1").json["mail"] is False
    assert member("PATCH", "@background-jobs", {"mail": 1}).status == 400


def test_own_jobs_that_have_ended_are_dismissed(portal: Any, queues: Any, client: Any) -> None:
    member = client("member")
    job = put_as(portal, "member", greet, "Ada")
    answer = member("POST", f"@background-jobs/{job.id}/dismiss")
    assert (answer.status, answer.message) == (409, f"Job {job.id} has not ended, so it cannot be dismissed.")
    member("POST", f"@background-jobs/{job.id}/cancel")
    assert [item["id"] for item in member("GET", "@background-jobs").json["items"]] == [job.id]
    assert member("POST", "@background-jobs", {"action": "dismiss", "ids": [job.id]}).status == 200
    assert member("GET", "@background-jobs").json["items"] == []
    assert client("admin")("POST", f"@background-jobs/{job.id}/dismiss").status == 401


def test_a_running_job_tells_where_it_is_and_what_it_has_logged(
    functional: Any, portal: Any, queues: Any, client: Any, admin: Any
) -> None:
    restjobs.waits.clear()
    restjobs.goes_on.clear()
    job = put_as(portal, "member", restjobs.wait)
    url = f"@background-jobs/{job.id}"
    assert admin("POST", f"{url}/stack").status == 409
    with running_dispatcher(functional["zodbDB"]):
        assert restjobs.waits.wait(60)
        told = admin("POST", f"{url}/stack").json
        assert (told["state"], list(told["actions"])) == ("running", ["cancel", "stack"])
        assert client("member")("POST", f"{url}/stack").status == 401
        wait_until(job, lambda: job.stack)
        stack = admin("GET", url).json["stack"]
        assert "wait" in [frame["function"] for frame in stack["frames"]]
        assert "stack" not in client("member")("GET", url).json
        restjobs.goes_on.set()
        wait_for_result(job)
    told = admin("GET", url).json
    assert [[line["text"] for line in lines] for lines in told["logs"]] == [["It waits"]]
    assert told["stack"] is None


def test_a_job_is_told_with_those_that_belong_to_it(portal: Any, queues: Any, admin: Any) -> None:
    job = put_as(portal, "admin", greet, "Ada")
    job.addCallback(restjobs.after)
    transaction.commit()
    (branch,) = admin("GET", f"@background-jobs/{job.id}").json["family"]
    assert (branch["kind"], branch["depth"], branch["title"]) == ("callback", 1, "restjobs.after")
    answer = admin("GET", branch["@id"])
    assert [one["id"] for one in answer.json["family"]] == [job.id]


def test_a_failed_job_is_retried_with_other_arguments(
    portal: Any, queues: Any, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = failed(portal, "member")
    url = f"@background-jobs/{job.id}/retry"
    answer = admin("POST", url, {"arguments": {"path": 5}})
    assert (answer.status, "path: 5 is not a text" in answer.message) == (400, True)
    told = admin("POST", url, {"arguments": {"path": "/b"}}).json
    assert (told["arguments"], told["user"], told["retry_of"]) == ([{"name": "path", "value": "'/b'"}], "admin", job.id)
    assert admin("POST", url, {"arguments": {"path": "/c"}}).status == 409
    other = put_as(portal, "admin", greet, "Ada")
    admin("POST", f"@background-jobs/{other.id}/cancel")
    monkeypatch.delitem(tasks.registry, "my.site.greet")
    answer = admin("POST", f"@background-jobs/{other.id}/retry", {"arguments": {"name": "Bob"}})
    assert (answer.status, "is of no task that you may start" in answer.message) == (404, True)
