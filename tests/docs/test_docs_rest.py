"""What the page on REST shows is what a site answers, and what openapi.yaml describes.

With ZCASYNC_WRITE_EXAMPLES=1 the answers on the page are written anew; look at what differs.
"""

from collections.abc import Iterator
from collective.zcasync import tasks
from collective.zcasync.queue import get_queues
from docblocks import Block
from docblocks import blocks
from docblocks import DOCS
from docblocks import used
from email.parser import Parser
from jsonschema import Draft202012Validator
from plone.app.testing import applyProfile
from restclient import Answer
from restclient import RestClient
from typing import Any

import collective.zcasync.restapi
import json
import os
import pytest
import re
import restjobs
import transaction
import uuid
import xml.etree.ElementTree
import yaml

PAGE = DOCS / "reference" / "rest-api.md"

OPENAPI = yaml.safe_load((DOCS / "reference" / "openapi.yaml").read_text())

PASSWORD = "only for tests"

#: Headers of answers that the page shows.
SHOWN = ("Content-Type", "Location", "Retry-After")

#: What is different at each run, and what the page shows for it.
VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"), "2026-06-01T12:00:00.000+00:00"),
    (re.compile(r'"version": "[0-9a-f]{16}"'), '"version": "03fb2a5c81d09e77"'),
    (re.compile(r"is '[0-9a-f]{16}' now"), "is '03fb2a5c81d09e77' now"),
    (re.compile(r'"traceback": "[^"\n]+"'), '"traceback": "Traceback (most recent call last): ..."'),
)

UUID = uuid.UUID("6a0f7e52-3d1c-4c7b-9a86-5f0e2b1d4c33")


class Site:
    """The site of the page, its people, and its jobs under the names that the page gives them."""

    def __init__(self, app: Any, portal: Any) -> None:
        self.portal = portal
        self.jobs: dict[str, str] = {}
        nobody = RestClient(app, portal.absolute_url(), None)
        self.clients = {}
        for name, role in (("editor", "Editor"), ("admin", "Site Administrator")):
            portal.acl_users.userFolderAddUser(name, PASSWORD, ["Member", role], [])
            token = nobody("POST", "@login", {"login": name, "password": PASSWORD}).json["token"]
            client = self.clients[name.upper()] = RestClient(app, portal.absolute_url(), None)
            client.headers["Authorization"] = f"Bearer {token}"

    def know(self, job_id: str) -> None:
        """Give the job the next name of the page."""
        self.jobs.setdefault(job_id, f"JOB-{len(self.jobs) + 1}")

    def ask(self, block: Block) -> Answer:
        """Send what a block shows."""
        line, rest = message(block)
        body = payload(rest)
        for id, name in self.jobs.items():
            line, body = line.replace(name, id), body.replace(name, id)
        method, path, _ = line.split()
        client = self.clients[rest["Authorization"].removeprefix("Bearer ")]
        answer = client(method, path.removeprefix("/plone/"), body.encode(), {"Content-Type": rest["Content-Type"]})
        if answer.json and isinstance(answer.json.get("id"), str):
            self.know(answer.json["id"])
        return answer

    def shown(self, answer: Answer) -> str:
        """An answer as the page shows it."""
        text = f"HTTP/1.1 {answer.status} {answer.reason}\n"
        text += "".join(
            f"{name}: {answer.headers[name]}\n" for name in SHOWN if answer.json and answer.headers.get(name)
        )
        if answer.json is not None:
            text += "\n" + json.dumps(answer.json, indent=2, ensure_ascii=False) + "\n"
        for id, name in self.jobs.items():
            text = text.replace(id, name)
        for pattern, stable in VOLATILE:
            text = pattern.sub(stable, text)
        return text


def message(block: Block) -> tuple[str, Any]:
    """The first line of a request or an answer, and the rest: headers and a body."""
    first, _, rest = block.text.partition("\n")
    return first, Parser().parsestr(rest)


def payload(rest: Any) -> str:
    return str(rest.get_payload()).strip()


@pytest.fixture
def site(functional: Any, functional_portal: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """As it is when the page begins: one job has run, one has failed, and a worker is registered."""
    monkeypatch.setattr(tasks, "registry", dict(restjobs.TASKS))
    applyProfile(functional_portal, "plone.restapi:default")
    queue = get_queues(functional_portal._p_jar)[""]
    queue.dispatchers.register(UUID)
    dispatcher = queue.dispatchers[UUID]
    dispatcher.activate()
    dispatcher.process = {"role": "worker", "host": "jobs-1", "pid": 4711, "version": "1.0"}
    transaction.commit()
    yield Site(functional["app"], functional_portal)


def happens_before(site: Site, request: Block) -> None:
    """What the page takes for done when it comes to that request."""
    line, _rest = message(request)
    if line.startswith("GET /plone/@background-jobs/JOB-1 "):
        site.know(restjobs.failed(site.portal, "admin", "/news").id)  # the Editor's job runs too
    if line.startswith("DELETE /plone/@background-queues/mail "):
        restjobs.put_as(site.portal, "admin", restjobs.greet, "Ada", queue="mail")


def test_a_site_answers_as_the_page_shows(site: Site) -> None:
    found = blocks(PAGE, "http")
    text = PAGE.read_text()
    for request, shown in zip(found[::2], found[1::2], strict=True):
        happens_before(site, request)
        answer = site.ask(request)
        told = site.shown(answer)
        if os.environ.get("ZCASYNC_WRITE_EXAMPLES"):
            where = text.index(f"```http\n{request.text}```") + len(request.text)
            text = text[:where] + text[where:].replace(f"```http\n{shown.text}```", f"```http\n{told}```", 1)
        else:
            assert told == shown.text, request
        check_against_openapi(request, answer)
        used.update((request, shown))
    if os.environ.get("ZCASYNC_WRITE_EXAMPLES"):
        PAGE.write_text(text)


def check_against_openapi(request: Block, answer: Answer) -> None:
    """The path, the method, the body and the answer are as they are described."""
    line, rest = message(request)
    method, url, _ = line.split()
    operation = operation_of(method, url.partition("?")[0].removeprefix("/plone"))
    queries = {name.partition("=")[0] for name in url.partition("?")[2].split("&") if name}
    assert queries <= {one["name"] for one in parameters(operation)}, url
    body = payload(rest)
    if body and answer.status != 400:
        valid(json.loads(body), operation["requestBody"]["content"]["application/json"]["schema"])
    described = resolved(operation["responses"][str(answer.status)])
    if answer.json is None:
        assert "content" not in described
    else:
        valid(answer.json, described["content"]["application/json"]["schema"])
    assert described.get("headers", {}).keys() <= set(answer.headers)


def operation_of(method: str, path: str) -> dict[str, Any]:
    """What openapi.yaml says of a method of a path."""
    for template, operations in OPENAPI["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return operations[method.lower()]
    raise AssertionError(f"{path} is not described")


def parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return [resolved(one) for one in operation.get("parameters", ())]


def resolved(described: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to, or the thing itself."""
    if "$ref" not in described:
        return described
    _, _, kind, name = described["$ref"].split("/")
    found: dict[str, Any] = OPENAPI["components"][kind][name]
    return found


def valid(value: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": OPENAPI["components"]}).validate(value)


def test_openapi_describes_all_services_and_no_others() -> None:
    zcml = os.path.join(collective.zcasync.restapi.__path__[0], "configure.zcml")
    services = {
        (one.attrib["method"].lower(), one.attrib["name"])
        for one in xml.etree.ElementTree.parse(zcml).iter("{http://namespaces.plone.org/plone}service")
    }
    described = {(method, path.split("/")[1]) for path, operations in OPENAPI["paths"].items() for method in operations}
    assert {one for one in described if one[1] != "@controlpanels"} == services


def test_openapi_is_whole() -> None:
    assert OPENAPI["openapi"].startswith("3.1")
    for name, schema in OPENAPI["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert schema.get("description"), name
    for path, operations in OPENAPI["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["operationId"], (method, path)
            named = {one["name"] for one in parameters(operation) if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path
    for reference in re.findall(r"#/components/(\w+)/(\w+)", (DOCS / "reference" / "openapi.yaml").read_text()):
        assert reference[1] in OPENAPI["components"][reference[0]], reference
