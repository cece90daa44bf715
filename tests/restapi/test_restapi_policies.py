"""Retry policies over REST."""

from restjobs import greet
from restjobs import put_as
from typing import Any

import pytest


def test_a_policy_is_made_changed_and_removed(portal: Any, queues: Any, admin: Any) -> None:
    url = f"{portal.absolute_url()}/@background-policies/mail"
    rules = [{"trouble": "error", "exception": "smtplib.SMTPException", "attempts": 9}]
    answer = admin("POST", "@background-policies", {"name": "mail", "attempts": 3, "first_wait": 5, "rules": rules})
    assert (answer.status, answer.headers["Location"]) == (201, url)
    told = admin("GET", url).json
    assert (told["attempts"], told["first_wait"], told["rules"], told["owner"]) == (3, 5.0, rules, "site")
    assert told["waits"] == [5.0, 10.0]
    assert told["rule_waits"] == [[5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0]]
    assert told["used_by"] == {"tasks": [], "jobs": {"number": 0, "more": False}}
    told = admin("PATCH", url, {"attempts": None, "rules": []}).json
    assert (told["attempts"], told["rules"]) == (None, [])
    assert [item["name"] for item in admin("GET", "@background-policies").json["items"]] == ["default", "mail"]
    assert admin("DELETE", url).status == 204
    answer = admin("GET", url)
    assert (answer.status, answer.message) == (404, "There is no retry policy 'mail'; there are: default.")


def test_a_policy_that_two_people_change_is_not_overwritten_unseen(queues: Any, admin: Any, root: Any) -> None:
    admin("POST", "@background-policies", {"name": "mail"})
    seen = admin("GET", "@background-policies/mail").json["version"]
    assert root("PATCH", "@background-policies/mail", {"attempts": 7, "version": seen}).status == 200
    answer = admin("PATCH", "@background-policies/mail", {"attempts": 2, "version": seen})
    assert (answer.status, answer.json["type"]) == (409, "Conflict")
    assert "was changed since version" in answer.message and "Look at it again" in answer.message
    assert admin("GET", "@background-policies/mail").json["attempts"] == 7
    assert admin("PATCH", "@background-policies/mail", {"attempts": 2}).json["attempts"] == 2


def test_a_policy_that_is_used_is_not_removed(portal: Any, queues: Any, admin: Any) -> None:
    admin("POST", "@background-policies", {"name": "mail"})
    put_as(portal, "admin", greet, "Ada", policy="mail")
    answer = admin("DELETE", "@background-policies/mail")
    assert (answer.status, answer.json["type"]) == (409, "Conflict")
    assert "jobs that have not ended use it (1)" in answer.message
    uses = {item["name"]: item["used_by"] for item in admin("GET", "@background-policies").json["items"]}
    assert uses["mail"] == {"tasks": [], "jobs": {"number": 1, "more": False}}
    assert greet.name in uses["default"]["tasks"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"attempts": 0}, "attempts: 0 is not allowed; allowed are whole numbers from 1"),
        ({"jitter": "much"}, "jitter: 'much' is not allowed"),
        ({"first_wait": 10**400}, "first_wait: "),
        ({"first_wait": 50, "longest_wait": 5}, "first_wait: 50 is more than longest_wait, 5"),
        ({"rules": {}}, "rules: {} is not allowed; it must be a list"),
        ({"rules": [5]}, "rules: 5 is not allowed; each must be an object with trouble"),
        ({"rules": [{"attempts": 5}]}, "each must be an object with trouble"),
        ({"rules": [{"trouble": "rain"}]}, "trouble: 'rain' is none of conflict"),
        ({"rules": [{"trouble": ["error"]}]}, "trouble: ['error'] is none of conflict"),
        ({"rules": [{"trouble": "error", "exception": 5}]}, "exception: 5 must be a dotted name"),
        ({"owner": "me"}, "'owner' is not understood; a body may have: "),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_value(queues: Any, admin: Any, body: Any, said: str) -> None:
    answer = admin("POST", "@background-policies", {"name": "mail", **body})
    assert (answer.status, answer.json["type"]) == (400, "BadRequest"), answer
    assert said in answer.message
    assert "mail" not in queues.policies
    assert "Say which policy" in admin("PATCH", "@background-policies", {}).message


def test_a_policy_becomes_again_what_is_shipped(queues: Any, root: Any) -> None:
    before = root("GET", "@background-policies/default").json
    root("PATCH", "@background-policies/default", {"attempts": 2, "rules": []})
    told = root("POST", "@background-policies/default/reset").json
    assert (told["attempts"], told["rules"]) == (before["attempts"], before["rules"]) != (2, [])
    root("POST", "@background-policies", {"name": "mail"})
    answer = root("POST", "@background-policies/mail/reset")
    assert (answer.status, answer.json["type"]) == (409, "Conflict")
    assert "ships no retry policy 'mail'; it ships default" in answer.message
    assert root("POST", "@background-policies/default/explode").status == 404
    assert root("POST", "@background-policies/gone/reset").status == 404
