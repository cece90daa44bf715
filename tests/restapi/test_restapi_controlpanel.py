"""The settings over REST, as Volto's Site Setup shows and changes them."""

from plone import api
from restclient import RestClient
from typing import Any

import pytest

PANEL = "@controlpanels/background-jobs"


def test_site_setup_lists_the_panel(portal: Any, admin: RestClient) -> None:
    found = {item["title"]: item for item in admin("GET", "@controlpanels").json}
    item = found["Background jobs"]
    assert item["@id"] == f"{portal.absolute_url()}/{PANEL}"
    assert "Service user" in item["searchable_text"]


def test_the_form_shows_the_settings_and_changes_them(admin: RestClient) -> None:
    panel = admin("GET", PANEL).json
    assert panel["data"]["service_user"] == ""
    field = panel["schema"]["properties"]["service_user"]
    assert field["title"] == "Service user" and field["description"].startswith("Id of the user as whom jobs run")
    assert admin("PATCH", PANEL, {"service_user": "admin", "alarm_waiting": 30}).status == 204
    assert api.portal.get_registry_record("collective.zcasync.service_user") == "admin"
    assert admin("GET", PANEL).json["data"]["alarm_waiting"] == 30


def test_a_value_that_is_not_allowed_is_refused_with_its_field(admin: RestClient) -> None:
    answer = admin("PATCH", PANEL, {"alarm_failing": 500})
    assert answer.status == 400
    assert "alarm_failing" in answer.json["message"]
    assert api.portal.get_registry_record("collective.zcasync.alarm_failing") == 20


@pytest.mark.parametrize(
    ("who", "status"), [(None, 401), ("member", 401), ("admin", 200), ("manager", 200), ("root", 200)]
)
def test_the_settings_are_for_those_who_manage_jobs(client: Any, who: str | None, status: int) -> None:
    assert client(who)("GET", PANEL).status == status


def test_who_may_only_see_jobs_does_not_get_the_settings(portal: Any, client: Any) -> None:
    portal.manage_permission("collective.zcasync: Manage jobs", ["Manager"], acquire=0)
    assert client("admin")("GET", PANEL).status == 404
    assert client("admin")("PATCH", PANEL, {"service_user": "admin"}).status >= 400
    assert api.portal.get_registry_record("collective.zcasync.service_user") == ""
