"""The package's ZCML: the composition at the root, and what the Zope ring registers."""

from collections.abc import Iterator
from collective.zcasync import configure
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import reactor
from collective.zcasync import subscribers
from collective.zcasync.events import DatabaseOpened
from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import IUUID
from collective.zcasync.job import Job
from collective.zcasync.testing import get_poll
from collective.zcasync.testing import tear_down_dispatcher
from collective.zcasync.testing import wait_for_result
from collective.zcasync.zopeapp import publishing
from collective.zcasync.zopeapp import starting
from collective.zcasync.zopeapp.config import Settings
from io import BytesIO
from pathlib import Path
from persistent.interfaces import IPersistent
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IConnection
from zope.component import getGlobalSiteManager
from zope.component import getUtility
from zope.component.testing import setUp
from zope.component.testing import tearDown
from zope.configuration.xmlconfig import file
from zope.processlifetime import DatabaseOpenedWithRoot
from zope.processlifetime import ProcessStarting
from ZPublisher.HTTPRequest import HTTPRequest
from ZPublisher.HTTPResponse import HTTPResponse
from ZPublisher.pubevents import PubBeforeStreaming
from ZPublisher.pubevents import PubFailure
from ZPublisher.pubevents import PubStart
from ZPublisher.pubevents import PubSuccess

import collective.zcasync
import collective.zcasync.zopeapp
import pytest
import transaction
import zope.event
import Zope2


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
    assert len(by_zcml) == 8


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


def test_the_zope_ring_counts_the_requests_of_a_process() -> None:
    file("configure.zcml", package=collective.zcasync.zopeapp)
    request = HTTPRequest(BytesIO(), {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}, HTTPResponse())
    ends = (PubSuccess(request), PubFailure(request, None, False), PubBeforeStreaming(request.response))
    counts = []
    for end in ends:
        zope.event.notify(PubStart(request))
        counts.append(publishing.politeness.serving)
        zope.event.notify(end)
        counts.append(publishing.politeness.serving)
    request.close()
    assert counts == [1, 0, 1, 0, 1, 0]


@pytest.fixture
def databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A database "main", and beside it "async"; nothing runs on them afterwards."""
    monkeypatch.delenv(subscribers.VETO, raising=False)
    opened: dict[str, Any] = {}
    for name in ("main", "async"):
        DB(FileStorage(str(tmp_path / f"{name}.fs")), database_name=name, databases=opened, pool_size=20)
    yield opened["main"]
    for db in opened.values():
        dispatcher = dispatchers.serving(db)
        if dispatcher is not None:
            tear_down_dispatcher(dispatcher)
        db.close()


def load(name: str) -> None:
    file(name, package=collective.zcasync)


def test_the_zcml_for_dispatchers_brings_what_code_needs_to_start_one(databases: Any) -> None:
    load("dispatcher.zcml")
    zope.event.notify(DatabaseOpened(databases))
    assert dispatchers.serving(databases) is None  # it is no policy
    running = reactor.start(databases)
    connection = databases.open()
    job = IQueue(connection).put(sum)
    assert job.status == "pending-status"
    connection.transaction_manager.abort()
    connection.close()
    running.stop()


@pytest.mark.parametrize("event", [DatabaseOpened, DatabaseOpenedWithRoot])
@pytest.mark.parametrize(
    ("name", "home"), [("basic_dispatcher_policy.zcml", "main"), ("multidb_dispatcher_policy.zcml", "async")]
)
def test_a_policy_makes_queues_dispatcher_and_agent_when_a_database_was_opened(
    databases: Any, event: Any, name: str, home: str
) -> None:
    load(name)
    zope.event.notify(event(databases))
    dispatcher = dispatchers.serving(databases.databases[home])
    get_poll(dispatcher, 0, 30)
    connection = databases.open()
    queue = IQueue(connection.root())
    assert queue._p_jar.db().database_name == home
    assert {name: agent.size for name, agent in queue.dispatchers[dispatcher.UUID].items()} == {"main": 3}
    job = queue.put(Job(sum, (1, 2)))
    transaction.commit()
    assert wait_for_result(job, 30) == 3
    connection.close()


def test_a_policy_and_the_switch_in_zope_conf_do_not_both_start_a_dispatcher(
    databases: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Zope2, "DB", databases, raising=False)
    monkeypatch.setattr(Zope2, "opened", [databases])
    monkeypatch.setattr(starting, "get_settings", lambda: Settings(dispatcher=True))
    load("basic_dispatcher_policy.zcml")
    zope.event.notify(DatabaseOpenedWithRoot(databases))
    assert starting.start() is None
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "Two ways of starting are combined" in told
    assert str(dispatchers.serving(databases).UUID) in told


def test_the_switch_in_zope_conf_and_a_policy_do_not_both_start_a_dispatcher(
    databases: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Zope2, "DB", databases, raising=False)
    monkeypatch.setattr(Zope2, "opened", [databases])
    monkeypatch.setattr(starting, "get_settings", lambda: Settings(dispatcher=True))
    first = starting.start()
    try:
        load("basic_dispatcher_policy.zcml")
        zope.event.notify(DatabaseOpenedWithRoot(databases))
        assert dispatchers.serving(databases) is first.dispatcher
        assert "Two ways of starting are combined" in caplog.text
    finally:
        starting.stop()
