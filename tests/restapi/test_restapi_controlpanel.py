"""The settings over REST, as Volto's Site Setup shows and changes them."""

from plone import api
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from restclient import RestClient
from typing import Any

import json
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


CLASSIC = "https://example.org/ClassicUI"


def behind_front_end(portal: Any) -> str:
    """The panel's URL as a front end asks for it, which answers at the site's own address."""
    manage_addVirtualHostMonster(portal.getPhysicalRoot(), "virtual_hosting")
    path = "/".join(portal.getPhysicalPath())
    return f"http://nohost/VirtualHostBase/https/example.org:443{path}/++api++/VirtualHostRoot/{PANEL}"


def test_above_the_settings_stand_links_to_the_classic_pages(portal: Any, admin: RestClient) -> None:
    panel = admin("GET", PANEL).json
    assert panel["schema"]["fieldsets"][0]["fields"][0] == "pages"
    assert panel["schema"]["properties"]["pages"]["widget"] == "static_text"
    html = panel["data"]["pages"]["data"]
    for name, label in (
        ("overview", "Overview"),
        ("jobs", "Jobs"),
        ("queues", "Queues"),
        ("policies", "Retry policies"),
    ):
        assert f'<a href="{portal.absolute_url()}/@@zcasync-{name}">{label}</a>' in html


def test_behind_a_front_end_the_form_asks_for_the_address_of_the_classic_pages_and_links_there(
    portal: Any, admin: RestClient
) -> None:
    url = behind_front_end(portal)
    html = admin("GET", url).json["data"]["pages"]["data"]
    assert "<a " not in html and "once the field Address of the classic pages" in html
    assert admin("PATCH", url, {"classic_url": f"{CLASSIC}/"}).status == 204
    for asked in (url, PANEL):
        assert f'<a href="{CLASSIC}/@@zcasync-jobs">Jobs</a>' in admin("GET", asked).json["data"]["pages"]["data"]


def test_an_address_of_the_classic_pages_cannot_smuggle_anything_into_the_form(admin: RestClient) -> None:
    for bad in ("javascript:alert(1)", "example.org", "https://x y", "https://x/<b>"):
        assert admin("PATCH", PANEL, {"classic_url": bad}).status == 400, bad
    assert admin("PATCH", PANEL, {"classic_url": 'https://x/"onclick="alert(1)'}).status == 204
    html = admin("GET", PANEL).json["data"]["pages"]["data"]
    assert 'href="https://x/&quot;onclick=&quot;alert(1)/@@zcasync-jobs"' in html


def test_what_a_front_end_sends_back_with_the_links_in_it_changes_the_settings_alone(admin: RestClient) -> None:
    data = admin("GET", PANEL).json["data"]
    assert admin("PATCH", PANEL, {**data, "service_user": "admin", "pages": {"data": "<b>mine</b>"}}).status == 204
    after = admin("GET", PANEL).json["data"]
    assert after == {**data, "service_user": "admin"}


def test_a_refusal_is_one_that_volto_can_read_and_show_at_the_field(admin: RestClient) -> None:
    # Volto takes the text of Python's list for JSON, once its quotes are doubled: a quote in a message would break it.
    bad = {"alarm_failing": 500, "alarm_address": "nobody", "classic_url": "here"}
    errors = json.loads(admin("PATCH", PANEL, bad).json["message"].replace("'", '"'))
    assert {error["field"] for error in errors} == set(bad)
    assert "This is no web address" in errors[-1]["message"]
