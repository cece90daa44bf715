"""zopeapp.publishing: the requests of this process are counted, whatever becomes of them."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.zopeapp import publishing
from collective.zcasync.zopeapp.publishing import politeness
from io import BytesIO
from typing import Any
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from ZPublisher import interfaces
from ZPublisher import WSGIPublisher
from ZPublisher.HTTPRequest import WSGIRequest

import pytest
import zExceptions

HANDLERS = [
    (publishing.request_begins, interfaces.IPubStart),
    (publishing.request_ends, interfaces.IPubSuccess),
    (publishing.request_ends, interfaces.IPubFailure),
    (publishing.response_streams, interfaces.IPubBeforeStreaming),
]


class App:
    """An application without a database."""

    @property
    def _p_jar(self) -> Any:
        return self

    def close(self) -> None:
        assert politeness.serving in (0, 1)


@pytest.fixture(autouse=True)
def subscribers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What configure.zcml registers; in a run of all tests a layer may have loaded it."""
    registry = getGlobalSiteManager()
    known = [(each.handler, each.required[0]) for each in registry.registeredHandlers()]
    missing = [pair for pair in HANDLERS if pair not in known]
    for handler, event in missing:
        registry.registerHandler(handler, (event,))
    monkeypatch.setattr(WSGIPublisher, "get_module_info", lambda name: (App, None, False))
    assert politeness.serving == 0
    yield
    for handler, event in missing:
        registry.unregisterHandler(handler, (event,))


def publish(code: Callable[[Any], Any], **environ: Any) -> list[int]:
    """Publish this code as one request; how many were being served at each of its tries."""
    seen: list[int] = []

    def published(request: Any, module_info: Any) -> Any:
        seen.append(politeness.serving)
        code(request)
        return request.response

    class Request(WSGIRequest):
        retry_max_count = 3

        def delay_retry(self) -> None:
            seen.append(politeness.serving)

    environ = {
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": "GET",
        "wsgi.input": BytesIO(),
        **environ,
    }
    WSGIPublisher.publish_module(environ, lambda status, headers: None, _publish=published, _request_factory=Request)
    return seen


def fails(error: BaseException) -> Callable[[Any], Any]:
    def code(request: Any) -> None:
        raise error

    return code


def test_a_request_is_counted_while_it_is_published() -> None:
    assert publish(lambda request: None) == [1]
    assert politeness.serving == 0


def test_a_retry_is_counted_and_the_pause_before_it_is_not() -> None:
    tries = [ConflictError(), ConflictError()]

    def code(request: Any) -> None:
        if tries:
            raise tries.pop()

    assert publish(code) == [1, 0, 1, 0, 1]
    assert politeness.serving == 0


@pytest.mark.parametrize(
    ("error", "environ"),
    [
        (ValueError("wrong"), {}),
        (zExceptions.NotFound("there"), {}),
        (ConflictError(), {}),
        (ValueError("for a test browser"), {"x-wsgiorg.throw_errors": True}),
        (KeyboardInterrupt(), {}),
        (SystemExit(), {}),
    ],
    ids=repr,
)
def test_a_request_that_fails_is_counted_no_more(error: BaseException, environ: dict[str, Any]) -> None:
    with pytest.raises(type(error)):
        publish(fails(error), **environ)
    assert politeness.serving == 0


def test_what_is_streamed_is_counted_until_its_first_piece() -> None:
    counts = []

    def code(request: Any) -> None:
        request.response.setHeader("Content-Length", "4")
        counts.append(politeness.serving)
        request.response.write(b"some")
        counts.append(politeness.serving)

    publish(code)
    assert counts == [1, 0]
    assert politeness.serving == 0


def test_what_looks_like_no_request_of_the_publisher_is_not_counted() -> None:
    class Event:
        request = object()

    publishing.request_begins(Event())
    assert politeness.serving == 0
