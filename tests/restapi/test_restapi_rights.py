"""Each URL and verb, asked by people in each role."""

from collective.zcasync.restapi.jobactions import ACTIONS
from pathlib import Path
from plone.app.testing import SITE_OWNER_NAME
from restjobs import failed
from restjobs import makers
from restjobs import prepare
from typing import Any
from xml.etree import ElementTree

import collective.zcasync.restapi
import json
import pytest
import re

#: Who asks, in the order of the columns below.
WHO = (None, "member", "editor", "viewer", "admin", "manager", "root")

FUTURE = "2999-01-01T00:00:00Z"
ALL_WAITING = {"action": "cancel", "all": {"state": "waiting"}}

#: Services of plone.restapi itself, where they are about what is ours.
OTHERS = {("GET", "@controlpanels"), ("PATCH", "@controlpanels")}

#: Method, path, body, and the status for each of WHO. For ``{job}`` and the like see makers; somebody is the one who
#: asks, and the admin where that is nobody or the Manager of the Zope root.
ALLOWED = [
    ("GET", "@background-jobs", None, (401, 200, 200, 200, 200, 200, 200)),
    ("GET", "@background-jobs?own=1", None, (401, 200, 200, 200, 200, 200, 200)),
    ("GET", "@background-failures", None, (401, 401, 401, 200, 200, 200, 200)),
    ("GET", "@background-jobs/{job}", None, (404, 404, 404, 200, 200, 200, 200)),
    ("GET", "@background-jobs/{own}", None, (404, 200, 200, 200, 200, 200, 200)),
    ("POST", "@background-jobs/{job}/cancel", None, (404, 404, 404, 401, 200, 200, 200)),
    ("POST", "@background-jobs/{own}/cancel", None, (404, 200, 200, 200, 200, 200, 200)),
    ("POST", "@background-jobs/{failed}/retry", None, (404, 404, 404, 401, 200, 200, 200)),
    ("POST", "@background-jobs/{aside}/release", None, (404, 404, 404, 401, 200, 200, 200)),
    ("POST", "@background-jobs/{own}/retry", None, (404, 401, 401, 401, 409, 409, 409)),
    ("POST", "@background-jobs/{own}/release", None, (404, 401, 401, 401, 409, 409, 409)),
    ("POST", "@background-jobs/{job}/run-now", None, (404, 404, 404, 401, 200, 200, 200)),
    ("POST", "@background-jobs/{own}/run-now", None, (404, 401, 401, 401, 200, 200, 200)),
    ("POST", "@background-jobs/{own}/priority", {"priority": 1}, (404, 401, 401, 401, 200, 200, 200)),
    ("POST", "@background-jobs/{own}/reschedule", {"begin_after": FUTURE}, (404, 401, 401, 401, 200, 200, 200)),
    ("DELETE", "@background-jobs/{failed}", None, (404, 404, 404, 401, 204, 204, 204)),
    ("DELETE", "@background-jobs/{aside}", None, (404, 404, 404, 401, 204, 204, 204)),
    ("DELETE", "@background-jobs/{own}", None, (404, 401, 401, 401, 409, 409, 409)),
    ("POST", "@background-jobs", {"action": "cancel", "ids": []}, (401, 200, 200, 200, 200, 200, 200)),
    ("POST", "@background-jobs", {"action": "cancel", "ids": ["{job}"]}, (401, 404, 404, 401, 200, 200, 200)),
    ("POST", "@background-jobs", {"action": "retry", "ids": ["{own}"]}, (401, 401, 401, 401, 409, 409, 409)),
    ("POST", "@background-jobs", {"action": "cancel", "ids": ["{own}"]}, (401, 200, 200, 200, 200, 200, 200)),
    ("PATCH", "@background-jobs", {"mail": False}, (401, 200, 200, 200, 200, 200, 200)),
    ("POST", "@background-jobs", ALL_WAITING, (401, 401, 401, 401, 202, 202, 202)),
    ("POST", "@background-jobs/{failed}/delete", None, (404, 404, 404, 401, 204, 204, 204)),
    ("POST", "@background-jobs/{running}/stack", None, (404, 404, 404, 401, 200, 200, 200)),
    ("POST", "@background-jobs/{running}/cancel", None, (404, 404, 404, 401, 200, 200, 200)),
    ("POST", "@background-jobs/{ended}/dismiss", None, (404, 200, 200, 200, 200, 200, 401)),
    ("GET", "@background-queues", None, (401, 401, 401, 200, 200, 200, 200)),
    ("GET", "@background-queues/default", None, (401, 401, 401, 200, 200, 200, 200)),
    ("POST", "@background-queues", {"name": "new"}, (401, 401, 401, 401, 201, 201, 201)),
    ("PATCH", "@background-queues", {"site_paused": False}, (401, 401, 401, 401, 200, 200, 200)),
    ("PATCH", "@background-queues", {"all_paused": False}, (401, 401, 401, 401, 401, 401, 200)),
    ("PATCH", "@background-queues/mine", {"paused": True}, (401, 401, 401, 401, 200, 200, 200)),
    ("PATCH", "@background-queues/shared", {"paused": True}, (401, 401, 401, 401, 401, 401, 200)),
    ("DELETE", "@background-queues/mine", None, (401, 401, 401, 401, 204, 204, 204)),
    ("DELETE", "@background-queues/shared", None, (401, 401, 401, 401, 401, 401, 204)),
    ("GET", "@background-dispatchers", None, (401, 401, 401, 200, 200, 200, 200)),
    ("GET", "@background-dispatchers/none", None, (401, 401, 401, 404, 404, 404, 404)),
    ("PATCH", "@background-dispatchers/none", {"paused": True}, (401, 401, 401, 401, 404, 404, 404)),
    ("PATCH", "@background-dispatchers/{mine}", {"paused": True}, (401, 401, 401, 401, 200, 200, 200)),
    ("PATCH", "@background-dispatchers/{shared}", {"paused": True}, (401, 401, 401, 401, 401, 401, 200)),
    ("POST", "@background-dispatchers/release", None, (401, 401, 401, 401, 401, 401, 409)),
    ("POST", "@background-dispatchers/discard", None, (401, 401, 401, 401, 401, 401, 409)),
    ("GET", "@background-overview", None, (401, 401, 401, 200, 200, 200, 200)),
    ("GET", "@background-policies", None, (401, 401, 401, 401, 200, 200, 200)),
    ("GET", "@background-policies/mine", None, (401, 401, 401, 401, 200, 200, 200)),
    ("POST", "@background-policies", {"name": "new"}, (401, 401, 401, 401, 201, 201, 201)),
    ("POST", "@background-policies/mine/reset", None, (401, 401, 401, 401, 409, 409, 409)),
    ("POST", "@background-policies/default/reset", None, (401, 401, 401, 401, 200, 200, 200)),
    ("POST", "@background-policies/shared/reset", None, (401, 401, 401, 401, 401, 401, 409)),
    ("PATCH", "@background-policies/mine", {"attempts": 2}, (401, 401, 401, 401, 200, 200, 200)),
    ("PATCH", "@background-policies/shared", {"attempts": 2}, (401, 401, 401, 401, 401, 401, 200)),
    ("DELETE", "@background-policies/mine", None, (401, 401, 401, 401, 204, 204, 204)),
    ("DELETE", "@background-policies/shared", None, (401, 401, 401, 401, 401, 401, 204)),
    ("GET", "@background-tasks", None, (401, 200, 200, 200, 200, 200, 200)),
    ("GET", "@background-tasks/my.site.greet", None, (401, 200, 200, 200, 200, 200, 200)),
    ("GET", "@background-tasks/my.site.clean", None, (401, 404, 404, 404, 200, 200, 200)),
    ("POST", "@background-tasks/my.site.greet", {"arguments": {"name": "Ada"}}, (401, 202, 202, 202, 202, 202, 202)),
    ("POST", "@background-tasks/collective.zcasync.change_jobs", {}, (401, 404, 404, 404, 404, 404, 404)),
    ("GET", "@controlpanels/background-jobs", None, (401, 401, 401, 401, 200, 200, 200)),
    ("PATCH", "@controlpanels/background-jobs", {"alarm_waiting": 20}, (401, 401, 401, 401, 204, 204, 204)),
    ("POST", "@background-tasks/my.site.clean", None, (401, 404, 404, 404, 202, 202, 202)),
]


@pytest.fixture
def site(portal: Any, queues: Any) -> Any:
    """A site that has a queue and a policy of its own, and shares one of each with all sites."""
    prepare(portal)
    return portal


@pytest.mark.parametrize(("method", "path", "body", "statuses"), ALLOWED, ids=[f"{one[0]} {one[1]}" for one in ALLOWED])
def test_each_url_and_verb_is_for_those_who_may(
    site: Any,
    client: Any,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    body: Any,
    statuses: tuple[int, ...],
) -> None:
    caplog.set_level("INFO", "collective.zcasync")
    found = []
    for who in WHO:
        asked = json.dumps([path, body])
        for name, make in makers(site).items():
            if name in asked:
                asked = asked.replace(name, make("admin" if who in (None, "root") else who))
        caplog.clear()
        before = site._p_jar.db().lastTransaction()
        found.append(client(who)(method, *json.loads(asked)).status)
        if site._p_jar.db().lastTransaction() != before:  # somebody has changed something, and the log tells who
            assert found[-1] < 300 and re.search(rf"\b{SITE_OWNER_NAME if who == 'root' else who}\b", caplog.text)
        prepare(site)  # what one of them has removed, the next one finds again
    assert tuple(found) == statuses


def test_the_inside_of_a_job_is_for_those_who_manage(site: Any, client: Any) -> None:
    inside = {"arguments", "traceback", "frames", "error_type", "error_message", "problems"}
    own = failed(site, "member")
    assert inside <= client("admin")("GET", f"@background-jobs/{own.id}").json.keys()
    told = client("member")("GET", f"@background-jobs/{own.id}").json
    assert not inside & told.keys()
    assert list(told["actions"]) == ["dismiss"]
    site.manage_permission("collective.zcasync: View jobs", ["Editor"], acquire=0)
    told = client("editor")("GET", f"@background-jobs/{own.id}").json
    assert told["state"] == "failed" and not inside & told.keys()
    assert client("editor")("POST", f"@background-jobs/{own.id}/retry").status == 401


def test_each_service_and_verb_is_asked() -> None:
    zcml = Path(collective.zcasync.restapi.__path__[0]) / "configure.zcml"
    services = ElementTree.parse(zcml).iter("{http://namespaces.plone.org/plone}service")
    registered = {(one.attrib["method"], one.attrib["name"]) for one in services}
    asked = {(method, re.split("[/?]", path)[0]) for method, path, _body, _statuses in ALLOWED}
    assert asked - OTHERS == registered
    for action in ACTIONS:
        assert any(path.endswith(f"}}/{action}") for _method, path, _body, _statuses in ALLOWED), action


def test_in_a_site_without_the_profile_of_plone_restapi_the_answer_says_what_is_missing(site: Any, client: Any) -> None:
    """As the documentation tells."""
    site.manage_permission("plone.restapi: Use REST API", [], acquire=1)
    refused = client("admin")("GET", "@background-jobs")
    assert refused.status == 401 and "Missing 'plone.restapi: Use REST API' permission" in refused.message
    assert client("root")("GET", "@background-jobs").status == 200
