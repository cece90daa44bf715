"""Requests that conflict claim the right of way for their site."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.persistence import SENTINEL
from collective.zcasync.ploneapp import conflicts
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import install
from collective.zcasync.rightofway import Claim
from transaction.interfaces import TransientError
from typing import Any
from ZODB.POSException import ConflictError
from ZODB.POSException import ReadConflictError
from zope.component.hooks import setSite
from zope.event import notify
from ZPublisher.pubevents import PubFailure
from ZPublisher.pubevents import PubSuccess

import pytest
import transaction


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[Claim]:
    """The claims that the requests of this test have made."""
    made: list[Claim] = []

    def make(database: Any, group: str) -> Claim:
        made.append(Claim(database, group))
        return made[-1]

    monkeypatch.setattr(conflicts, "Claim", make)
    return made


@pytest.fixture
def fail(functional: Any, claims: list[Claim]) -> Iterator[Callable[..., None]]:
    """Let the request of this thread fail."""
    request = functional["request"]
    install(functional["portal"]._p_jar)
    transaction.commit()

    def fail(error: Exception, retry: bool = True) -> None:
        transaction.abort()
        notify(PubFailure(request, (type(error), error, None), retry))

    yield fail
    notify(PubSuccess(request))
    for claim in claims:
        claim.thread.join(10)  # its connection must be closed before the layer closes the database
    setSite(functional["portal"])


def entries(layer: Any) -> list[int]:
    transaction.begin()
    return list(get_queues(layer["portal"]._p_jar).right_of_way.values(SENTINEL + 1))


def test_a_conflict_gives_the_request_the_right_of_way_until_its_retry_is_through(
    functional: Any, fail: Callable[..., None], claims: list[Claim]
) -> None:
    with running_dispatcher(functional["zodbDB"]) as dispatcher:
        fail(ConflictError())
        group = sites.group_of(functional["portal"])
        changed = dispatcher.neighbours.changed
        with changed:
            assert changed.wait_for(lambda: not dispatcher.way.may_begin(group), 10)
        assert entries(functional) == [int(group, 16)]
        notify(PubSuccess(functional["request"]))
        claims[0].thread.join(10)
        assert entries(functional) == []
        with changed:
            assert changed.wait_for(lambda: dispatcher.way.may_begin(group), 10)


def test_each_conflict_of_a_request_claims_anew(
    functional: Any, fail: Callable[..., None], claims: list[Claim]
) -> None:
    fail(ConflictError())
    fail(ReadConflictError())
    assert len(claims) == 2
    claims[0].thread.join(10)
    fail(ConflictError(), retry=False)
    claims[1].thread.join(10)
    assert len(claims) == 2
    assert entries(functional) == []


@pytest.mark.parametrize(
    ("error", "retry"),
    [(ValueError(), False), (ConflictError(), False), (TransientError(), True)],
)
def test_other_failures_claim_nothing(
    error: Exception, retry: bool, fail: Callable[..., None], claims: list[Claim]
) -> None:
    fail(error, retry)
    assert claims == []


def test_a_request_without_a_site_claims_nothing(fail: Callable[..., None], claims: list[Claim]) -> None:
    setSite(None)
    fail(ConflictError())
    assert claims == []


def test_trouble_with_the_claim_is_logged_and_is_no_trouble_of_the_request(
    fail: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conflicts, "Claim", None)
    fail(ConflictError())
    assert "could not claim the right of way" in caplog.text
