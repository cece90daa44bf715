"""The package's ZCML: the composition at the root, and what the Zope ring registers."""

from collections.abc import Iterator
from collective.zcasync import configure
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.zopeapp import starting
from typing import Any
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
    tearDown()
    setUp()
    file("engine.zcml", package=collective.zcasync)
    assert adapters() - before == by_code
    assert by_code


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
