"""zopeapp.connection: whose connection a put gets."""

from Acquisition import Implicit
from collections.abc import Iterator
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.threadlocal import local
from collective.zcasync.zopeapp import connection as module
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.connection import ConnectionSource
from types import SimpleNamespace
from typing import Any
from zope.component.hooks import setSite
from zope.globalrequest import clearRequest
from zope.globalrequest import setRequest
from zope.interface.verify import verifyObject

import pytest


class Node(Implicit):
    """Content that may have been stored, and has no items: false in a condition."""

    def __init__(self, connection: Any = None) -> None:
        self._p_jar = connection

    def __len__(self) -> int:
        return 0

    def getSiteManager(self) -> None:
        return None


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "get_settings", Settings)
    yield
    local.job = None
    setSite(None)
    clearRequest()


def test_the_source_keeps_its_contract() -> None:
    assert verifyObject(IConnectionSource, ConnectionSource())


def test_without_job_and_site_and_request_there_is_none() -> None:
    assert ConnectionSource()() is None


def test_a_request_gives_the_connection_of_what_it_publishes() -> None:
    setRequest({"PARENTS": [Node(), Node("request")]})
    assert ConnectionSource()() == "request"


def test_a_request_that_has_not_found_its_way_yet_gives_none() -> None:
    setRequest({})
    assert ConnectionSource()() is None


def test_the_site_goes_before_the_request() -> None:
    setRequest({"PARENTS": [Node("request")]})
    setSite(Node("site"))
    assert ConnectionSource()() == "site"


def test_a_site_that_was_added_in_this_transaction_gives_the_connection_of_its_container() -> None:
    setSite(Node().__of__(Node("container")))
    assert ConnectionSource()() == "container"


def test_the_running_job_goes_before_the_site() -> None:
    setSite(Node("site"))
    local.job = SimpleNamespace(_p_jar="job")
    assert ConnectionSource()() == "job"


def test_with_a_database_for_the_queues_the_connection_leads_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_settings", lambda: Settings(db_name="jobs"))
    setSite(Node(SimpleNamespace(get_connection=lambda name: f"connection to {name}")))
    assert ConnectionSource()() == "connection to jobs"
