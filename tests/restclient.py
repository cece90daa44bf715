"""Asks a site as a front end does: JSON in and out, without a web server between."""

from collections.abc import Mapping
from plone.testing.zope import Browser
from typing import Any
from typing import NamedTuple

import base64
import json
import transaction


class Answer(NamedTuple):
    """What the site has answered; ``json``: the body, or None where it is empty."""

    status: int
    reason: str
    headers: Mapping[str, str]
    json: Any

    @property
    def message(self) -> str:
        """That of an error, in plone.restapi's form."""
        assert self.json.keys() == {"type", "message"}, self.json
        return str(self.json["message"])


def basic(user: str, password: str) -> str:
    """The header Authorization with a name and a password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


class RestClient:
    """One person's client. Each answer is read in a transaction that begins after it."""

    def __init__(self, app: Any, url: str, user: str | None, password: str = "") -> None:
        self.testapp = Browser(app).testapp
        self.url = url
        self.headers = {"Accept": "application/json", "Host": "nohost"}
        if user is not None:
            self.headers["Authorization"] = basic(user, password)

    def __call__(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for ``path`` below the site, or for a whole URL. ``body``: JSON, or bytes as they are."""
        sent = {**self.headers, **({"Content-Type": "application/json"} if method != "GET" else {}), **(headers or {})}
        transaction.commit()
        response = self.testapp.request(
            path if path.startswith("http") else f"{self.url}/{path}",
            method=method,
            headers={name: value for name, value in sent.items() if value},
            body=body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode(),
            expect_errors=True,
        )
        transaction.begin()
        reason = response.status.partition(" ")[2]
        text = response.body.decode()
        return Answer(response.status_int, reason, response.headers, json.loads(text) if text else None)
