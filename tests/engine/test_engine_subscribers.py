"""The subscribers that set up queues, dispatcher and agents, and set-up in one call."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import adapters
from collective.zcasync import configure
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import events
from collective.zcasync import instanceuuid
from collective.zcasync import reactor
from collective.zcasync import subscribers
from collective.zcasync import testing
from collective.zcasync.agent import Agent
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.events import DatabaseOpened
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import IUUID
from collective.zcasync.interfaces import KEY
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import getDefaultQueue
from collective.zcasync.queue import install
from collective.zcasync.queue import Queue
from pathlib import Path
from persistent.mapping import PersistentMapping
from transaction.interfaces import ITransactionManager
from typing import Any
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IConnection
from ZODB.POSException import ConflictError
from zope.component import eventtesting
from zope.component import getUtility
from zope.component import provideHandler
from zope.component import provideUtility
from zope.component.testing import setUp
from zope.component.testing import tearDown

import enginejobs
import logging
import os
import pytest
import subprocess
import sys
import threading
import transaction
import uuid
import ZODB
import zope.event


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*instanceuuid.VARIABLES, subscribers.VETO):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(configure, "_agents", None)
    setUp()
    eventtesting.setUp()
    yield
    tearDown()


@pytest.fixture
def fresh_db(clients: Callable[[], Any]) -> Any:
    """A database without queues."""
    return clients()


@pytest.fixture
def two_databases(tmp_path: Path) -> Iterator[Any]:
    """A database "main" for content, and beside it "async"."""
    databases: dict[str, Any] = {}
    for name in ("main", "async"):
        storage = FileStorage(str(tmp_path / f"{name}.fs"))
        ZODB.DB(storage, database_name=name, databases=databases, pool_size=20)
    yield databases["main"]
    for database in databases.values():
        database.close()


@pytest.fixture
def tear_down() -> Iterator[list[Any]]:
    """Dispatchers that the test has started, to be ended."""
    started: list[Any] = []
    yield started
    for one in started:
        testing.tear_down_dispatcher(one)


def added() -> list[Any]:
    return [(event.name, event.parent) for event in eventtesting.getEvents(events.IObjectAdded)]


# Queues


def test_queues_are_created_once_with_an_event_for_each(fresh_db: Any) -> None:
    installer = subscribers.QueueInstaller(("", "mail"))
    installer(DatabaseOpened(fresh_db))
    names = [name for name, _parent in added()]
    assert names == [KEY, "", "mail"]
    with fresh_db.transaction() as connection:
        queues = connection.root()[KEY]
        assert list(queues) == ["", "mail"]
        assert [parent._p_oid for _name, parent in added()[1:]] == [queues._p_oid, queues._p_oid]
        before = queues._p_serial
    installer(DatabaseOpened(fresh_db))
    assert len(added()) == 3
    with fresh_db.transaction() as connection:
        assert connection.root()[KEY]._p_serial == before


def test_queues_come_from_a_factory_that_knows_connection_and_name(fresh_db: Any) -> None:
    made: list[Any] = []

    def factory(connection: Any, name: str) -> Any:
        made.append((IConnection.providedBy(connection), name))
        queue = Queue()
        queue.code_wait = 7.0
        return queue

    subscribers.QueueInstaller(("a", "b"), factory)(DatabaseOpened(fresh_db))
    assert made == [(True, "a"), (True, "b")]
    with fresh_db.transaction() as connection:
        assert get_queue(connection, "b").code_wait == 7.0


def test_processes_that_start_together_all_come_through(clients: Callable[[], Any]) -> None:
    databases = [clients() for _ in range(3)]
    together, faults = threading.Barrier(3), []

    def open_one(database: Any) -> None:
        try:
            together.wait(10)
            subscribers.queue_installer(DatabaseOpened(database))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=open_one, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert faults == []
    with databases[0].transaction() as connection:
        assert list(get_queues(connection)) == [""]


def test_a_conflict_during_the_creation_is_tried_again(fresh_db: Any) -> None:
    tries: list[str] = []

    def factory(connection: Any, name: str) -> Any:
        tries.append(name)
        if len(tries) < 3:
            raise ConflictError
        return Queue()

    subscribers.QueueInstaller(factory=factory)(DatabaseOpened(fresh_db))
    assert tries == ["", "", ""]


def test_an_error_during_the_creation_is_raised_and_leaves_nothing(fresh_db: Any) -> None:
    def factory(connection: Any, name: str) -> Any:
        raise RuntimeError("no queue today")

    with pytest.raises(RuntimeError, match="no queue today"):
        subscribers.QueueInstaller(factory=factory)(DatabaseOpened(fresh_db))
    with fresh_db.transaction() as connection:
        assert get_queues(connection) is None


def test_queues_live_in_a_database_of_their_own_that_the_main_root_refers_to(two_databases: Any) -> None:
    subscribers.multidb_queue_installer(DatabaseOpened(two_databases))
    subscribers.multidb_queue_installer(DatabaseOpened(two_databases))
    with two_databases.transaction() as connection:
        queues = connection.root()[KEY]
        assert queues._p_jar.db().database_name == "async"
        assert connection.get_connection("async").root()[KEY] is queues
        assert list(queues) == [""]
    assert reactor.get_database(two_databases).database_name == "async"


def test_a_missing_link_is_added_and_the_queues_that_are_there_stay(two_databases: Any) -> None:
    with two_databases.databases["async"].transaction() as connection:
        job = install(connection, ("", "mail"))["mail"].put(Job(enginejobs.note, 1))
    subscribers.multidb_queue_installer(DatabaseOpened(two_databases))
    with two_databases.transaction() as connection:
        (waiting,) = connection.root()[KEY]["mail"]
        assert waiting._p_oid == job._p_oid


def test_an_unknown_database_for_queues_is_an_error_that_names_those_that_exist(two_databases: Any) -> None:
    with pytest.raises(ConfigurationError, match="no database 'jobs' for the queues; there are: async, main"):
        subscribers.QueueInstaller(db_name="jobs")(DatabaseOpened(two_databases))


def test_queues_are_not_made_in_a_second_database_beside_those_that_exist(two_databases: Any) -> None:
    subscribers.queue_installer(DatabaseOpened(two_databases))
    with pytest.raises(ConfigurationError, match="in the database 'main' already.*'async'"):
        subscribers.multidb_queue_installer(DatabaseOpened(two_databases))
    with two_databases.databases["async"].transaction() as connection:
        assert get_queues(connection) is None


def test_the_installation_by_hand_says_where_the_queues_are(two_databases: Any) -> None:
    subscribers.multidb_queue_installer(DatabaseOpened(two_databases))
    with pytest.raises(ConfigurationError, match="in the database 'async': name it, in zope.conf with db-name async"):
        with two_databases.transaction() as connection:
            install(connection)


# Dispatchers


def test_a_dispatcher_starts_in_a_thread_when_a_database_was_opened(fresh_db: Any, tear_down: list[Any]) -> None:
    subscribers.queue_installer(DatabaseOpened(fresh_db))
    before = [*map(threading.Thread.ident.fget, threading.enumerate())]
    running = subscribers.ThreadedDispatcherInstaller(poll_interval=0.1)(DatabaseOpened(fresh_db))
    tear_down.append(running)
    assert running.dispatcher.poll_interval == 0.1
    assert running.dispatcher.thread.daemon and running.dispatcher.thread.ident not in before
    testing.get_poll(running.dispatcher, 0)
    assert "" in running.dispatcher.polls.first()


def test_the_dispatcher_has_the_uuid_that_it_is_given_or_that_of_the_process(
    fresh_db: Any, tear_down: list[Any]
) -> None:
    wanted = uuid.uuid4()
    given = subscribers.ThreadedDispatcherInstaller(uuid=wanted)(DatabaseOpened(fresh_db))
    assert given.dispatcher.UUID == wanted
    testing.tear_down_dispatcher(given)
    provideUtility(wanted, IUUID)
    running = subscribers.threaded_dispatcher_installer(DatabaseOpened(fresh_db))
    tear_down.append(running)
    assert running.dispatcher.UUID == wanted == getUtility(IUUID)


def test_a_second_dispatcher_on_the_same_database_is_refused_with_an_error_in_the_log(
    fresh_db: Any, tear_down: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    tear_down.append(subscribers.threaded_dispatcher_installer(DatabaseOpened(fresh_db)))
    assert subscribers.threaded_dispatcher_installer(DatabaseOpened(fresh_db)) is None
    assert subscribers.twisted_dispatcher_installer(DatabaseOpened(fresh_db)) is None
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 2
    assert "Two ways of starting are combined" in told[0].getMessage()
    assert "'dispatcher on' in zope.conf" in told[0].getMessage()


def test_the_environment_keeps_a_dispatcher_from_starting(
    fresh_db: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ZCASYNC_DISPATCHER", "off")
    with caplog.at_level(logging.INFO):
        assert subscribers.threaded_dispatcher_installer(DatabaseOpened(fresh_db)) is None
    assert "the environment variable ZCASYNC_DISPATCHER is off" in caplog.text
    assert dispatchers.get() is None


def test_a_reactor_of_the_callers_choice_is_used(fresh_db: Any, tear_down: list[Any]) -> None:
    from twisted.internet.selectreactor import SelectReactor

    subscribers.queue_installer(DatabaseOpened(fresh_db))
    installer = subscribers.ThreadedDispatcherInstaller(0.1, SelectReactor)
    running = installer(DatabaseOpened(fresh_db))
    tear_down.append(running)
    assert type(running.dispatcher.reactor) is SelectReactor
    testing.get_poll(running.dispatcher, 0)


def test_jobs_of_a_database_of_their_own_run_and_reach_the_content(two_databases: Any, tear_down: list[Any]) -> None:
    configure.base()
    event = DatabaseOpened(two_databases)
    subscribers.multidb_queue_installer(event)
    tear_down.append(subscribers.ThreadedDispatcherInstaller(0.1)(event))
    connection = two_databases.open()
    connection.root()["content"] = content = PersistentMapping()
    connection.add(content)
    queue = IQueue(content)
    with pytest.raises(InvalidArgumentError, match="belongs to the database 'main', and the job to 'async'"):
        queue.put(Job(enginejobs.count_in, content))
    assert list(queue) == []
    job = queue.put(Job(change_content, "new"))
    transaction.commit()
    assert testing.wait_for_result(job) == "main"
    assert job.id.endswith("@async")
    transaction.begin()
    assert content["title"] == "new"
    connection.close()


# Agents


def activated(fresh_db: Any, *installers: Any) -> dict[str, Any]:
    """The agents of a dispatcher after its activation, by queue."""
    for installer in installers:
        provideHandler(installer, (events.IDispatcherActivated,))
    subscribers.QueueInstaller(("", "mail"))(DatabaseOpened(fresh_db))
    with fresh_db.transaction() as connection:
        for queue in get_queues(connection).values():
            da = queue.dispatchers.register(uuid.uuid4()) or next(iter(queue.dispatchers.values()))
            da.activate()
        found = {queue.name: dict(da.items()) for queue in get_queues(connection).values() for da in [agents_of(queue)]}
        return {
            queue: {name: (agent.size, agent.chooser, agent.filter) for name, agent in agents.items()}
            for queue, agents in found.items()
        }


def agents_of(queue: Any) -> Any:
    return next(iter(queue.dispatchers.values()))


def test_an_agent_is_added_to_each_queue_at_the_activation(fresh_db: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        agents = activated(fresh_db, subscribers.agent_installer)
    assert agents == {"": {"main": (3, None, None)}, "mail": {"main": (3, None, None)}}
    assert "agent 'main' added to queue 'mail'" in caplog.text


def test_agents_have_size_and_filter_or_chooser_in_the_queues_that_are_named(fresh_db: Any) -> None:
    agents = activated(
        fresh_db,
        subscribers.AgentInstaller("fast", size=5, filter=accept, queue_names=("mail",)),
        subscribers.AgentInstaller("odd", choose, 1),
    )
    assert agents == {"": {"odd": (1, choose, None)}, "mail": {"fast": (5, None, accept), "odd": (1, choose, None)}}


def test_an_agent_that_exists_stays_as_it_is(fresh_db: Any, caplog: pytest.LogCaptureFixture) -> None:
    def first(event: Any) -> None:
        event.object["main"] = Agent(size=9)

    with caplog.at_level(logging.INFO):
        agents = activated(fresh_db, first, subscribers.agent_installer)
    assert agents[""] == {"main": (9, None, None)}
    assert "agent 'main' is already in queue ''" in caplog.text


def test_an_agent_has_no_chooser_and_filter_together() -> None:
    with pytest.raises(ValueError, match="both chooser and filter"):
        subscribers.AgentInstaller("main", chooser=choose, filter=accept)
    with pytest.raises(InvalidValueError, match="queue_names must be several, not the text 'mail'"):
        subscribers.AgentInstaller("main", queue_names="mail")


# In one call


def test_one_call_makes_queues_and_runs_jobs(fresh_db: Any, tear_down: list[Any]) -> None:
    heard: list[Any] = []
    provideHandler(heard.append, (events.IDatabaseOpenedEvent,))
    running = configure.start(fresh_db, poll_interval=0.1, agent_size=2)
    tear_down.append(running)
    assert [event.database for event in heard] == [fresh_db]
    testing.get_poll(running.dispatcher, 0)
    connection = fresh_db.open()
    queue = IQueue(connection)
    assert queue.dispatchers[running.dispatcher.UUID]["main"].size == 2
    job = queue.put(enginejobs.add)
    transaction.commit()
    assert testing.wait_for_result(job) == 0
    connection.close()


def test_the_agents_of_the_last_start_hold(fresh_db: Any, tear_down: list[Any]) -> None:
    testing.tear_down_dispatcher(configure.start(fresh_db, agent_size=2))
    running = configure.start(fresh_db, agent_chooser=choose, agent_size=4)
    tear_down.append(running)
    testing.get_poll(running.dispatcher, 0)
    with fresh_db.transaction() as connection:
        agent = get_queue(connection).dispatchers[running.dispatcher.UUID]["main"]
        assert (agent.size, agent.chooser) == (4, choose)


def test_one_call_starts_with_queues_in_a_database_of_their_own(two_databases: Any, tear_down: list[Any]) -> None:
    running = configure.start(two_databases, poll_interval=0.1, db_name="async", queues=("", "mail"))
    tear_down.append(running)
    assert running.dispatcher.db.database_name == "async"
    with two_databases.transaction() as connection:
        assert list(connection.root()[KEY]) == ["", "mail"]


def test_clients_need_adapters_and_a_uuid_only() -> None:
    assert IJob(enginejobs.add, None) is None
    configure.minimal()
    for call in (enginejobs.add, enginejobs.Counter().increase, sum, [].__len__):
        assert type(IJob(call)) is Job
    found = getUtility(IUUID)
    configure.minimal()
    assert getUtility(IUUID) is found
    assert IQueue(PersistentMapping(), None) is None


def test_a_process_has_the_uuid_of_its_file_again_after_a_restart_and_makes_none_at_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "uuid.txt"
    monkeypatch.setenv("ZC_ASYNC_UUID", str(path))
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "collective.zcasync.configure" in done.stdout
    assert list(tmp_path.iterdir()) == []
    configure.minimal()
    first = getUtility(IUUID)
    tearDown()
    setUp()
    configure.minimal()  # as the next process does
    assert getUtility(IUUID) == first
    assert path.read_text().startswith(f"{first}\n")


IMPORT_ALL = """
import collective.zcasync, importlib, pathlib
for path in sorted(pathlib.Path(collective.zcasync.__path__[0]).glob("*.py")):
    if path.stem != "__init__":
        print(importlib.import_module(f"collective.zcasync.{path.stem}").__name__)
"""


def test_queue_and_connection_are_found_for_persistent_objects_and_connections(connection: Any, queue: Any) -> None:
    configure.base()
    connection.root()["folder"] = folder = PersistentMapping()
    assert IConnection(connection.root()) is connection
    assert IQueue(connection.root()) is IQueue(connection) is queue
    new = PersistentMapping()
    new.__parent__ = folder
    folder.__parent__ = connection.root()
    assert IConnection(new) is connection
    assert getDefaultQueue(new) is adapters.defaultQueueAdapter(new) is queue


def test_the_transaction_manager_of_a_job_is_that_of_its_connection(db: Any, queue: Any) -> None:
    job = queue.put(Job(enginejobs.add))
    transaction.commit()
    assert ITransactionManager(job, None) is None
    configure.minimal()
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    assert ITransactionManager(connection.get(job._p_oid)) is ITransactionManager(connection) is manager
    assert ITransactionManager(job) is queue._p_jar.transaction_manager
    connection.close()


def test_what_is_in_no_database_has_no_queue() -> None:
    configure.base()
    lost = PersistentMapping()
    lost.__parent__ = lost
    with pytest.raises(InvalidValueError, match="in no database yet"):
        IQueue(lost)


def test_an_event_of_an_opened_database_needs_no_application_framework(fresh_db: Any) -> None:
    heard: list[Any] = []
    zope.event.subscribers.append(heard.append)
    try:
        zope.event.notify(DatabaseOpened(fresh_db))
    finally:
        zope.event.subscribers.remove(heard.append)
    assert heard[0].database is fresh_db
    assert events.IDatabaseOpenedEvent.providedBy(heard[0])


# A reactor made at home


class HomeMadeReactor:
    """The five methods, and nothing else of Twisted: a thread that makes calls when they are due."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.triggers: list[Any] = []
        self.news = threading.Event()
        self.ended = False

    def callFromThread(self, callable: Any, *args: Any, **kw: Any) -> None:
        self.calls.append(lambda: callable(*args, **kw))
        self.news.set()

    def callInThread(self, callable: Any, *args: Any, **kw: Any) -> None:
        threading.Thread(target=callable, args=args, kwargs=kw, daemon=True).start()

    def callLater(self, seconds: float, callable: Any, *args: Any, **kw: Any) -> None:
        timer = threading.Timer(seconds, self.callFromThread, (callable, *args), kw)
        timer.daemon = True
        timer.start()

    def addSystemEventTrigger(self, phase: str, event: str, callable: Any, *args: Any, **kw: Any) -> None:
        assert (phase, event) == ("before", "shutdown")
        self.triggers.append(lambda: callable(*args, **kw))

    def callWhenRunning(self, callable: Any, *args: Any, **kw: Any) -> None:
        self.callFromThread(callable, *args, **kw)

    def run(self) -> None:
        while not self.ended:
            self.news.wait(10)
            self.news.clear()
            while self.calls:
                self.calls.pop(0)()
        for call in self.triggers:
            call()

    def stop(self) -> None:
        self.ended = True
        self.news.set()


def test_a_reactor_made_at_home_drives_a_dispatcher(db: Any, queue: Any) -> None:
    home_made = HomeMadeReactor()
    dispatcher = Dispatcher(db, home_made, poll_interval=0.1)
    thread = threading.Thread(target=home_made.run)
    thread.start()
    dispatcher.activate()
    try:
        testing.get_poll(dispatcher, 2)
        job = queue.put(Job(enginejobs.annotate_and_wait))
        transaction.commit()
        assert testing.wait_for_annotation(job, "step") == "half"
        enginejobs.released["a"].set()
        assert testing.wait_for_result(job) == "a"
    finally:
        home_made.stop()
        thread.join(30)
        dispatchers.pop(dispatcher.UUID)
    assert dispatcher.activated is None
    transaction.begin()
    assert dispatcher.UUID not in queue.dispatchers


def accept(job: Any) -> bool:
    return True


def choose(agent: Any) -> Any:
    return agent.queue.claim()


def change_content(title: str) -> str:
    main = enginejobs.root()._p_jar.get_connection("main")
    main.root()["content"]["title"] = title
    return main.db().database_name
