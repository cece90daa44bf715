"""Whether a dispatcher lives and is ready, and a small HTTP server that tells probes so, and Prometheus its figures."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.introspection import STARTING
from collective.zcasync.introspection import STOPPED
from collective.zcasync.introspection import STUCK
from collective.zcasync.zopeapp.metrics import CONTENT_TYPE
from collective.zcasync.zopeapp.metrics import Metrics
from collective.zcasync.zopeapp.metrics import of_worker
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from typing import NamedTuple

import logging
import socket
import threading
import time

logger = logging.getLogger("collective.zcasync.zopeapp")

#: Seconds of silence after which the reactor or the heartbeat counts as dead: many beats, also on a busy machine.
SILENCE = 30.0

#: Seconds that a client may take for its request.
PATIENCE = 10.0


class Page(NamedTuple):
    """What the server answers. ``text`` ends without a line break."""

    status: int
    text: str
    content_type: str = "text/plain; charset=utf-8"


#: Path -> what makes its page, in a thread of its own.
Pages = Mapping[str, Callable[[], Page]]


def pages(dispatchers: Sequence[Any]) -> dict[str, Callable[[], Page]]:
    """What the server of a worker shows: a word each to probes, and numbers to Prometheus. Nothing in it is about
    people or content: names are those of queues, quotas, agents and tasks."""
    metrics = of_worker(dispatchers[0].db)
    return {
        "/live": lambda: verdict(state(dispatchers)[0]),
        "/ready": lambda: verdict(state(dispatchers)[1]),
        "/metrics": lambda: numbers(metrics),
    }


def verdict(reason: str) -> Page:
    """The page for a reason: a word, empty if all is well."""
    return Page(503, f"not ok: {reason}") if reason else Page(200, "ok")


def state(dispatchers: Sequence[Any]) -> tuple[str, str]:
    """What ``live`` and ``ready`` say of the dispatchers of one process, of which there is one for each database: one
    that serves no queue in its database does no harm beside one that does."""
    reasons = [ready(one) for one in dispatchers]
    trouble = [reason for reason in reasons if reason not in ("", "unregistered")]
    reason = trouble[0] if trouble else "" if "" in reasons else reasons[0]
    return next(filter(None, map(live, dispatchers)), ""), reason


def numbers(metrics: Metrics) -> Page:
    """The page with figures; it says what is missing if that is the library."""
    try:
        return Page(200, metrics().decode().rstrip("\n"), CONTENT_TYPE)
    except ConfigurationError as error:
        return Page(501, str(error))


def live(dispatcher: Any) -> str:
    """Why the process should be killed and started anew: ``reactor`` or ``heartbeat``; empty if it should not.

    Reads memory only. A database that is away is no reason, nor are jobs: a new process would meet the same.
    """
    if dispatcher.activated is None or dispatcher.leaving and not dispatcher.draining:
        return ""  # a stop has its own limits
    now, heartbeat = time.monotonic(), dispatcher.heartbeat
    if not dispatcher.thread.is_alive() or now - dispatcher.ticked > max(SILENCE, 3 * dispatcher.poll_interval):
        return "reactor"
    if not heartbeat.beats or not heartbeat.pinging and now - heartbeat.beat > SILENCE:
        return "heartbeat"
    return ""


def ready(dispatcher: Any) -> str:
    """Why no jobs are taken: ``starting``, ``database``, ``unregistered``, ``held``, ``draining``, ``leaving`` or
    ``stopped``; empty if they are. Reads memory only: what the last poll and the last ping have met."""
    status = dispatcher.getStatusInfo()["status"]
    if status == STOPPED:
        return "stopped"
    if dispatcher.leaving:
        return "draining" if dispatcher.draining else "leaving"
    if status == STARTING:
        return "starting"
    if status == STUCK or not dispatcher.heartbeat.may_claim():
        return "database"
    if dispatcher.held is not None:
        return "held"
    return "" if dispatcher.claimer.homes else "unregistered"


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server_version, sys_version = "zcasync", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        page = self._page()
        body = page.text.encode() + b"\n"
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _page(self) -> Page:
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            return Page(404, "not found")
        try:
            return make()
        except Exception:
            logger.exception("The page %s cannot be made", self.path)
            return Page(500, "error")

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("health: " + format, *args)  # noqa: G003 (the format is the library's)


class _Server(ThreadingTCPServer):
    """Each request has a thread of its own, so that a slow page keeps no probe waiting. (That of http.server asks a
    name server at its start, which may be away.)"""

    allow_reuse_address = daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("health: a client went away", exc_info=True)


@contextmanager
def serving(host: str, port: int, pages: Pages) -> Iterator[int]:
    """Serve these pages meanwhile, and yield the port: a free one for 0. ConfigurationError if it is taken."""
    try:
        server = _Server(host, port, pages)
    except OSError as error:
        raise ConfigurationError(f"health-port: {host}:{port} cannot be used: {error.strerror or error}") from error
    thread = threading.Thread(target=server.serve_forever, name="zcasync-health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
