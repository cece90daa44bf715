"""Queues and dispatchers over REST."""

from collective.zcasync.ownership import COPY
from collective.zcasync.ploneapp.testing import running_dispatcher
from restjobs import greet
from restjobs import put_as
from restjobs import registered
from typing import Any

import pytest
import transaction


def test_a_queue_is_made_changed_and_removed(portal: Any, queues: Any, admin: Any) -> None:
    url = f"{portal.absolute_url()}/@background-queues/mail"
    answer = admin("POST", "@background-queues", {"name": "mail", "retention_days": 2})
    assert (answer.status, answer.headers["Location"], answer.json["@id"]) == (201, url, url)
    assert (answer.json["owner"], answer.json["retention_days"], answer.json["may_edit"]) == ("site", 2, True)
    quotas = [{"name": "io", "size": 2}]
    agents = [{"role": "worker", "name": "main", "size": 4, "weight": 2}]
    told = admin(
        "PATCH",
        url,
        {"paused": True, "failed_days": 3, "default_priority": 2, "time_limit": 60, "quotas": quotas, "agents": agents},
    ).json
    assert (told["paused"], told["failed_days"], told["default_priority"], told["time_limit"]) == (True, 3, 2, 60)
    assert told["quotas"] == [{"name": "io", "size": 2, "filled": False}]
    assert told["agents"] == [{"role": "worker", "name": "main", "size": 4, "weight": 2, "prefetch": 64}]
    nothing = {"quotas": [{"name": "io", "size": None}], "agents": [{"role": "worker", "name": "main", "size": None}]}
    told = admin("PATCH", url, {"paused": False, "time_limit": None, **nothing}).json
    assert told["time_limit"] is None
    assert (told["paused"], told["quotas"], told["agents"]) == (False, [], [])
    assert [item["name"] for item in admin("GET", "@background-queues").json["items"]] == ["default", "mail"]
    assert admin("DELETE", url).status == 204
    assert admin("GET", url).status == 404


def test_a_queue_tells_who_holds_its_quotas_and_since_when_its_oldest_job_waits(
    portal: Any, queues: Any, admin: Any
) -> None:
    queue = queues[""]
    queue.quotas.create("io", 2)
    assert admin("GET", "@background-queues/default").json["oldest_waiting"] is None
    mine, other = (put_as(portal, "admin", greet, name, quotas=("io",)) for name in ("Ada", "Bob"))
    queue.quotas["io"].add(mine)
    queue.quotas["io"].add(other)
    other.group = "another"
    transaction.commit()
    told = admin("GET", "@background-queues/default").json
    assert told["oldest_waiting"].endswith("+00:00")
    url = f"{portal.absolute_url()}/@background-jobs/{mine.id}"
    held = {"held": 2, "holders": [{"@id": url, "id": mine.id}]}
    assert told["quotas"] == [{"name": "io", "size": 2, "filled": True, **held}]


def test_a_queue_in_which_jobs_wait_is_not_removed(portal: Any, queues: Any, admin: Any) -> None:
    admin("POST", "@background-queues", {"name": "mail"})
    put_as(portal, "admin", greet, "Ada", queue="mail")
    answer = admin("DELETE", "@background-queues/mail")
    assert (answer.status, answer.json["type"]) == (409, "Conflict")
    assert "holds jobs that have not ended (waiting 1). Let them run or cancel them" in answer.message
    assert "mail" in queues


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"paused": "yes"}, "paused: 'yes' is not allowed; it must be true or false"),
        ({"retention_days": "2"}, "retention_days: '2' is not allowed; allowed are numbers from 0.01"),
        ({"quotas": {"io": 2}}, "quotas: {'io': 2} is not allowed; it must be a list"),
        ({"quotas": [{"name": "io"}]}, "quotas: {'name': 'io'} is not allowed; each must be an object with name, size"),
        ({"quotas": [{"name": 5, "size": 1}]}, "each must be an object with name, size"),
        ({"quotas": [{"name": "io", "size": 0}]}, "size of the quota 'io': 0 is not allowed"),
        ({"quotas": [{"name": "gone", "size": None}]}, "the queue '' has no quota 'gone'"),
        ({"agents": [{"role": "worker", "name": "main", "size": 99}]}, "size: 99 is not allowed"),
        ({"agents": [{"role": "worker", "name": "main", "size": 1, "owner": "me"}]}, "and may have weight, prefetch"),
        ({"name": "other"}, "'name' is not understood; a body may have: paused, quotas, agents"),
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(queues: Any, root: Any, body: Any, said: str) -> None:
    before = root("GET", "@background-queues/default").json
    answer = root("PATCH", "@background-queues/default", {"failed_days": 1, **body})
    assert (answer.status, answer.json["type"]) == (400, "BadRequest")
    assert said in answer.message
    assert root("GET", "@background-queues/default").json == before


@pytest.mark.parametrize("name", ["default", "a b", "", "ä", "x" * 65, "<b>"])
def test_a_name_that_no_queue_can_have_is_refused(queues: Any, admin: Any, name: str) -> None:
    answer = admin("POST", "@background-queues", {"name": name})
    assert answer.status == 400 and repr(name) in answer.message
    assert admin("POST", "@background-queues", {"retention_days": 2}).message == "name is missing; it must be a text."


def test_dispatchers_are_told_with_what_they_do(functional: Any, portal: Any, queues: Any, admin: Any) -> None:
    assert admin("GET", "@background-dispatchers").json["items"] == []
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]) as dispatcher:
        (item,) = admin("GET", "@background-dispatchers").json["items"]
        assert (item["uuid"], item["state"], item["role"]) == (str(dispatcher.UUID), "active", "embedded")
        assert (item["queues"], item["running"], item["threads"], item["jobs"]) == (["default"], 0, 2, [])
        assert item["@id"] == f"{portal.absolute_url()}/@background-dispatchers/{dispatcher.UUID}"
        assert admin("GET", item["@id"]).json["version"] == item["version"]
        assert admin("GET", "@background-queues/default").json["served"] is True
    answer = admin("GET", "@background-dispatchers/gone")
    assert answer.status == 404 and "There is no dispatcher 'gone'" in answer.message


def test_a_dispatcher_is_told_to_take_no_more_jobs(functional: Any, queues: Any, admin: Any) -> None:
    admin("POST", "@background-queues", {"name": "mail"})
    transaction.commit()
    with running_dispatcher(functional["zodbDB"], queues=("mail",)) as dispatcher:
        url = f"@background-dispatchers/{dispatcher.UUID}"
        admin("PATCH", "@background-queues/mail", {"agents": [{"role": "embedded", "name": "main", "size": 1}]})
        assert admin("GET", url).json["may_pause"] is True
        assert admin("PATCH", url, {"paused": 1}).message == "paused: 1 is not allowed; it must be true or false."
        assert "Say which dispatcher" in admin("PATCH", "@background-dispatchers", {"paused": True}).message
        assert admin("PATCH", url, {"paused": False}).json["state"] == "active"


@pytest.mark.parametrize(("way", "left"), [("release", 1), ("discard", 0)])
def test_jobs_of_a_database_that_is_held_are_released_or_discarded_once(
    portal: Any, queues: Any, root: Any, way: str, left: int
) -> None:
    put_as(portal, "admin", greet, "Ada")
    registered(portal).held = (COPY, "production")
    transaction.commit()
    assert root("GET", "@background-dispatchers").json["items"][0]["state"] == "held"
    refused = root("POST", "@background-dispatchers/burn")
    assert refused.status == 400 and "'burn' is not allowed; it must be one of release, discard" in refused.message
    assert root("POST", "@background-dispatchers/release", {"sure": 1}).status == 400
    assert root("POST", f"@background-dispatchers/{way}").json == {"jobs": 1}
    assert len(queues[""]) == left
    again = root("POST", f"@background-dispatchers/{way}")
    assert again.status == 409 and "Nothing is held here" in again.message
    assert len(queues[""]) == left


def test_the_overview_tells_in_words_what_is_not_well(portal: Any, queues: Any, admin: Any) -> None:
    put_as(portal, "admin", greet, "Ada")
    told = admin("GET", "@background-overview?minutes=60").json
    assert told["well"] is False
    (alarm,) = told["alarms"]
    assert (alarm["kind"], alarm["queue"], alarm["urgent"]) == ("unserved", "default", True)
    assert alarm["text"] == "No dispatcher serves the queue. Jobs in it: 1."
    assert alarm["advice"].startswith("Set “dispatcher on” in zope.conf")
    assert told["counts"]["waiting"] == {"number": 1, "more": False}
    assert len(told["last_day"]) == 24 and told["last_hour"]["minutes"] == 60
    told = admin("GET", "@background-overview?queue=default").json
    assert [alarm["kind"] for alarm in told["alarms"]] == ["unserved"] and told["last_hour"]["put"] == 0
    assert admin("GET", "@background-overview?queue=nowhere").status == 404
    admin("POST", "@background-queues", {"name": "mail"})
    told = admin("GET", "@background-overview?queue=mail").json
    assert told["counts"]["waiting"]["number"] == 0 and told["alarms"][0]["queue"] == "mail"
    answer = admin("GET", "@background-overview?minutes=7")
    assert answer.status == 400 and "minutes: 7 is not allowed" in answer.message


def test_the_log_tells_who_changed_what(queues: Any, admin: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "collective.zcasync.events")
    admin("POST", "@background-queues", {"name": "mail"})
    admin("PATCH", "@background-queues/mail", {"paused": True})
    admin("PATCH", "@background-queues/mail", {"paused": 1})
    admin("GET", "@background-queues/mail")
    told = [record.getMessage() for record in caplog.records if "over REST" in record.getMessage()]
    assert told == [
        "POST '@background-queues' over REST, on request of /plone/acl_users:admin",
        "PATCH '@background-queues/mail' over REST, on request of /plone/acl_users:admin",
    ]


def test_one_switch_pauses_the_jobs_of_the_site_and_another_all_queues(queues: Any, admin: Any, root: Any) -> None:
    assert admin("GET", "@background-queues").json["site_paused"] is False
    assert admin("PATCH", "@background-queues", {"site_paused": True}).json["site_paused"] is True
    assert len(queues[""].held_groups) == 1
    assert admin("PATCH", "@background-queues", {"site_paused": False}).json["site_paused"] is False
    assert queues[""].held_groups == ()
    assert admin("PATCH", "@background-queues", {"all_paused": True}).status == 401
    assert [item["paused"] for item in root("PATCH", "@background-queues", {"all_paused": True}).json["items"]] == [
        True
    ]
    assert [item["paused"] for item in root("PATCH", "@background-queues", {"all_paused": False}).json["items"]] == [
        False
    ]
    assert admin("PATCH", "@background-queues", {"site_paused": 1}).status == 400
    assert admin("PATCH", "@background-queues", {"paused": True}).status == 400
