"""The package's ZCML: the composition at the root, and what the Zope ring registers."""

from collections.abc import Iterator
from collective.zcasync import configure
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.interfaces import IUUID
from collective.zcasync.zopeapp import starting
from persistent.interfaces import IPersistent
from typing import Any
from ZODB.interfaces import IConnection
from zope.component import getGlobalSiteManager
from zope.component import getUtility
from zope.component.testing import setUp
from zope.component.testing import tearDown
from zope.configuration.xmlconfig import file
from zope.processlifetime import ProcessStarting

import collective.zcasync
import collective.zcasync.zopeapp
import pytest
import zope.event


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    setUp()
    yield
    tearDown()


def adapters() -> set[Any]:
    return {
        (each.required, each.provided, each.name, each.factory) for each in getGlobalSiteManager().registeredAdapters()
    }


def test_the_engine_is_set_up_by_zcml_as_it_is_by_code() -> None:
    before = adapters()
    configure.base()
    by_code = adapters() - before
    assert IUUID.providedBy(getUtility(IUUID))
    tearDown()
    setUp()
    file("engine.zcml", package=collective.zcasync)
    by_zcml = adapters() - before
    assert IUUID.providedBy(getUtility(IUUID))
    # Zope brings an adapter of its own from persistent objects to connections.
    assert {(required, provided) for required, provided, _name, _factory in by_code - by_zcml} == {
        ((IPersistent,), IConnection)
    }
    assert by_zcml < by_code
    assert len(by_zcml) == 6


def test_the_zope_ring_brings_the_connection_source() -> None:
    file("configure.zcml", package=collective.zcasync.zopeapp)
    assert getUtility(IConnectionSource)() is None


def test_the_zope_ring_hears_of_the_start_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(starting, "process_starting", heard.append)
    file("configure.zcml", package=collective.zcasync.zopeapp)
    event = ProcessStarting()
    zope.event.notify(event)
    assert heard == [event]
