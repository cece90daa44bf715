"""Clients of the measured site: an editor who saves each half second, and a reader of one page."""

from base64 import b64encode
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode
from urllib.parse import urlsplit

import json
import time

#: Seconds between the beginnings of two saves, and at least from the end of one to the next.
EVERY, THINKING = 0.5, 0.1

#: How often Zope tries a request.
MOST_TRIES = 4


@dataclass(frozen=True)
class Server:
    """Where the site is served. ``url``: the site's; ``password``: its admin's."""

    url: str
    password: str

    def ask(self, method: str, path: str, body: Any = None, forget: bool = False) -> tuple[int, Any, bytes]:
        """One request of the admin: status, headers and body of the answer. ``forget``: with no job in memory."""
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        headers = {"Authorization": "Basic " + b64encode(f"admin:{self.password}".encode()).decode()}
        if forget:
            headers["X-Forget"] = "jobs"
        if body is not None:
            headers |= {"Accept": "application/json", "Content-Type": "application/json"}
        connection.request(method, f"{parts.path}/{path}", None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        return answer.status, answer.headers, read

    def bench(self, **told: str) -> Any:
        """Tell the server's view, and return what it answers."""
        status, _headers, body = self.ask("GET", f"@@bench?{urlencode(told)}")
        if status != 200:
            raise RuntimeError(f"the server answers {status}: {body[:500]!r}")
        return json.loads(body)


@dataclass(frozen=True)
class Saved:
    """One save: whether it failed for good, how often it was tried, and milliseconds until its answer."""

    failed: bool
    tries: int
    ms: float


class Editor:
    """Creates a page, edits it, creates the next."""

    def __init__(self, server: Server, folder: str = "editors") -> None:
        self.server, self.folder = server, folder

    def work(self, seconds: float) -> list[Saved]:
        saved: list[Saved] = []
        page, until = "", time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            title = {"title": f"A page by an editor, {len(saved)}"}
            if page:
                status, headers, body = self.server.ask("PATCH", page, title)
                page = ""
            else:
                status, headers, body = self.server.ask("POST", self.folder, {"@type": "Document", **title})
                page = f"{self.folder}/{json.loads(body)['id']}" if status == 201 else ""
            failed = status not in (201, 204)
            tries = MOST_TRIES if failed else int(headers["X-Tries"])
            ended = time.monotonic()
            saved.append(Saved(failed, tries, 1000 * (ended - began)))
            time.sleep(max(THINKING, began + EVERY - ended))
        return saved


class Reader:
    """Reads one page, logged in. ``forget``: each time with no job in the server's memory."""

    def __init__(self, server: Server, path: str, forget: bool = False) -> None:
        self.server, self.path, self.forget = server, path, forget

    def read(self, gap: float = 0.0) -> tuple[float, float]:
        """Milliseconds that the page takes, after this many seconds; and what its process works meanwhile: that is the
        same on a machine that has others to serve."""
        time.sleep(gap)
        began = time.monotonic()
        status, headers, body = self.server.ask("GET", self.path, forget=self.forget)
        if status != 200:
            raise RuntimeError(f"the page answers {status}: {body[:500]!r}")
        return 1000 * (time.monotonic() - began), float(headers["X-Cpu-Ms"])
