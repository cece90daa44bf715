"""ftesting: a dispatcher for each functional test, and nothing of it afterwards."""

from collections.abc import Iterator
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import events
from collective.zcasync import ftesting
from collective.zcasync import subscribers
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.testing import TearDownDispatcherError
from collective.zcasync.testing import wait_for_result
from typing import Any
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
from zope.component import getGlobalSiteManager

import enginejobs
import gc
import io
import logging
import os
import pytest
import signal
import threading
import transaction


@pytest.fixture(autouse=True)
def torn_down(db: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(subscribers.VETO, raising=False)
    yield
    enginejobs.release_all()
    ftesting.tearDown()


def descriptors() -> int:
    """How many files and pipes are open, but for the database itself: its readers at once have one each."""
    gc.collect()
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # it was that of the listing
    return len([link for link in links if not link.endswith("Data.fs")])


def surroundings() -> list[Any]:
    """All that a test must not leave behind."""
    handlers = getGlobalSiteManager().registeredHandlers()
    return [
        {thread for thread in threading.enumerate() if thread.name.startswith("zcasync-")},
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        [each for each in handlers if each.required == (events.IDispatcherActivated,)],
        list(logging.getLogger("collective.zcasync").handlers),
        dispatchers.get(),
        descriptors(),
    ]


def test_two_tests_in_a_row_have_a_dispatcher_each_and_leave_nothing(db: Any) -> None:
    seen = []
    stacked = DB(DemoStorage(base=db.storage))  # what is loaded once, at the first time, is no leak
    ftesting.setUp(stacked.open())
    ftesting.tearDown()
    before = surroundings()
    for number in range(2):
        connection = stacked.open()
        ftesting.setUp(connection)
        dispatcher = dispatchers.serving(stacked)
        assert dispatcher.poll_interval == 0.1
        assert dispatcher.polls.count >= 2
        seen.append(dispatcher.UUID)
        connection.transaction_manager.begin()
        queue = get_queue(connection)
        assert list(queue.dispatchers[dispatcher.UUID]) == ["main"]
        job = queue.put(Job(enginejobs.add, number, 1))
        transaction.commit()
        assert wait_for_result(job) == number + 1
        connection.close()
        ftesting.tearDown()
        assert surroundings() == before
    assert len(set(seen)) == 2
    ftesting.tearDown()  # once more changes nothing


def test_the_database_comes_from_the_root_folder_of_the_callers_module(db: Any) -> None:
    connection = db.open()
    globals()["getRootFolder"] = connection.root
    try:
        ftesting.setUp()
    finally:
        del globals()["getRootFolder"]
    assert dispatchers.serving(db) is not None
    connection.close()


def test_without_a_database_the_caller_is_told_what_to_pass() -> None:
    with pytest.raises(InvalidValueError, match="pass a connection, or have getRootFolder"):
        ftesting.setUp()


def test_a_second_set_up_is_refused(db: Any) -> None:
    with db.transaction() as connection:
        ftesting.setUp(connection)
        with pytest.raises(InvalidValueError, match=r"call ftesting\.tearDown first"):
            ftesting.setUp(connection)


def test_critical_messages_are_printed(db: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with db.transaction() as connection:
        ftesting.setUp(connection)
    logging.getLogger("collective.zcasync.events").critical("trouble")
    logging.getLogger("collective.zcasync.events").error("not so bad")
    ftesting.tearDown()
    logging.getLogger("collective.zcasync.events").critical("later")
    assert capsys.readouterr().out == "CRITICAL [collective.zcasync.events] trouble\n"


def test_messages_go_to_a_file_or_nowhere_as_the_test_says(db: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    with db.transaction() as connection:
        ftesting.setUp(connection, log_file=file, log_level=logging.ERROR)
        logging.getLogger("collective.zcasync.events").error("to the file")
        ftesting.tearDown()
        ftesting.setUp(connection, log_file=None)
        logging.getLogger("collective.zcasync.events").critical("nowhere")
    assert file.getvalue() == "ERROR [collective.zcasync.events] to the file\n"
    assert capsys.readouterr().out == ""


def test_the_installers_may_be_others(db: Any) -> None:
    with db.transaction() as connection:
        ftesting.setUp(
            connection,
            queue_installer=subscribers.QueueInstaller(("", "mail")),
            dispatcher_installer=subscribers.ThreadedDispatcherInstaller(0.2, queues=("mail",)),
            agent_installer=subscribers.AgentInstaller("fast", size=1),
        )
    dispatcher = dispatchers.serving(db)
    with db.transaction() as connection:
        assert dict(get_queue(connection, "mail").dispatchers[dispatcher.UUID]).keys() == {"fast"}
        assert dispatcher.UUID not in get_queue(connection).dispatchers


def test_an_installer_that_starts_nothing_is_an_error_that_leaves_nothing(db: Any) -> None:
    before = surroundings()
    with db.transaction() as connection:
        with pytest.raises(InvalidValueError, match="has started no dispatcher"):
            ftesting.setUp(connection, dispatcher_installer=lambda event: None)
    assert surroundings()[:5] == before[:5]


def test_a_job_that_hangs_is_named_and_the_rest_is_undone(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collective.zcasync.testwait.END", 0.1)
    connection = db.open()
    before = surroundings()
    ftesting.setUp(connection)
    connection.transaction_manager.begin()
    job = get_queue(connection).put(Job(enginejobs.wait))
    transaction.commit()
    assert enginejobs.started["a"].wait(10)
    threads = list(dispatchers.serving(db).queues[""]["main"].jobids)
    with pytest.raises(TearDownDispatcherError, match=r"failed to stop: .*enginejobs\.wait"):
        ftesting.tearDown()
    enginejobs.released["a"].set()
    for thread in threads:
        thread.join(10)
    assert surroundings()[1:5] == before[1:5]
    assert job.queue is not None
    connection.close()
