"""A dispatcher that finds a copy of a database, or a restored backup, runs nothing until a person decides."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import alarms
from collective.zcasync import clock
from collective.zcasync import copies
from collective.zcasync import deployment
from collective.zcasync import dispatchers
from collective.zcasync import doctor
from collective.zcasync import joblists
from collective.zcasync import ownership
from collective.zcasync import processes
from collective.zcasync.exceptions import InUse
from collective.zcasync.interfaces import KEY
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.reactor import start
from collective.zcasync.seenfile import SeenFile
from collective.zcasync.testing import poll_now
from collective.zcasync.testwait import wait_until
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from ZODB.FileStorage import FileStorage

import enginejobs
import logging
import pytest
import shutil
import threading
import time
import transaction
import ZEO
import ZODB
import ZODB.BaseStorage

DAY = 86400


class Place:
    """A database in a folder, and the dispatchers that run on it. ``options``: of its dispatchers."""

    def __init__(self, folder: Path, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "Data.fs"
        self.options = {"threads": 1, "poll_interval": 0.2, "seen_file": str(folder / "seen.json"), **options}
        self.db: Any = None
        self.running: list[RunningDispatcher] = []

    def open(self) -> None:
        self.db = ZODB.DB(FileStorage(str(self.path)), pool_size=20)
        with self.db.transaction() as connection:
            install(connection)

    def close(self) -> None:
        self.stop()
        if self.db is not None:
            self.db.close()
            self.db = None

    def start(self, **options: Any) -> RunningDispatcher:
        """A dispatcher, after its first poll."""
        if self.db is None:
            self.open()
        self.running.append(start(self.db, **{**self.options, **options}))
        self.running[-1].dispatcher.polls.wait_for(0, 20)
        return self.running[-1]

    def stop(self) -> None:
        enginejobs.release_all()  # else a thread outlives its database
        for one in self.running:
            if one.reactor is not None and one.dispatcher.activated:
                one.stop(grace=0)
        self.running.clear()

    def worked(self) -> "Place":
        """After a dispatcher has been at work here, and ended."""
        self.start()
        self.stop()
        return self

    def put(self, *args: Any, **options: Any) -> None:
        with self.db.transaction() as connection:
            connection.root()[KEY][""].put(Job(*(args or (enginejobs.note, "ran"))), **options)

    def worked_and_restored(self) -> None:
        """As it stands now, after a dispatcher has been at work here: restored from a backup."""
        backup = self.path.with_name("backup")
        shutil.copy(self.path, backup)
        self.worked().close()
        shutil.copy(backup, self.path)
        self.path.with_name("Data.fs.index").unlink()
        self.open()

    def copy_to(self, other: "Place") -> "Place":
        """Copy the file as it stands now, also beside a running dispatcher."""
        shutil.copy(self.path, other.path)
        other.open()
        return other

    def look(self, what: Callable[[Any], Any]) -> Any:
        """What is told of the queues, in a transaction of its own."""
        with self.db.transaction() as connection:
            return what(connection.root()[KEY])

    def registered(self) -> Any:
        """``held`` of the dispatchers as the database knows it."""
        return self.look(lambda queues: [da.held for da in queues[""].dispatchers.active()])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(name: str = "first", **options: Any) -> Place:
        made.append(Place(tmp_path / name, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()
    enginejobs.end_threads()
    for one in made:
        one.close()


def in_the_past(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on the storage's clock stands so much earlier."""
    past = SimpleNamespace(time=lambda: time.time() - seconds, gmtime=time.gmtime)
    patch.setattr(ZODB.BaseStorage, "time", past)


def told(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


def wait_for_run(one: Place, number: int = 1) -> None:
    with one.db.transaction() as connection:
        wait_until(connection, lambda: len(enginejobs.calls) >= number, 15, "jobs that ran")


# Who is held


def test_a_copy_under_another_path_is_held_and_runs_nothing(
    place: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    first = place().worked()
    first.put()
    copy = first.copy_to(place("copy"))
    running = copy.start()
    poll_now(running.dispatcher)

    assert "belongs to the deployment" in running.dispatcher.held
    assert copy.registered() == [("copy", str(first.path))]
    assert enginejobs.calls == [] and copy.look(lambda queues: len(queues[""])) == 1
    (line,) = told(caplog, "is HELD")
    assert "zcasync release --deployment" in line and "zcasync discard --deployment" in line
    assert str(first.path) in line and "Jobs that wait: 1" in line
    assert [record.levelno for record in caplog.records if "is HELD" in record.getMessage()] == [logging.CRITICAL]


def test_a_copy_in_which_nothing_waits_goes_on_with_one_log_line(
    place: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    copy = place().worked().copy_to(place("copy"))
    caplog.clear()
    running = copy.start()

    assert running.dispatcher.held is None
    assert len(told(caplog, "belong to the deployment")) == 1 and told(caplog, "is HELD") == []
    copy.put()
    wait_for_run(copy)
    copy.stop()
    copy.put()
    assert copy.start().dispatcher.held is None, "it is its own now"


def test_another_deployment_is_held_though_the_path_is_the_same(place: Callable[..., Place]) -> None:
    one = place(deployment="production").worked()
    one.put()
    assert one.start(deployment="staging").dispatcher.held is not None
    one.stop()
    assert one.start(deployment="production").dispatcher.held is None
    wait_for_run(one)


def test_an_ordinary_restart_is_never_held(place: Callable[..., Place]) -> None:
    one = place().worked()
    one.put(begin_after=clock.utcnow() + timedelta(days=1))
    for _time in range(3):
        one.close()
        assert one.start().dispatcher.held is None


def test_what_was_put_before_any_dispatcher_came_is_no_copy(place: Callable[..., Place]) -> None:
    one = place()
    one.open()
    one.put()
    assert one.start().dispatcher.held is None
    wait_for_run(one)


def test_a_deployment_that_gets_a_name_stays_the_same(place: Callable[..., Place]) -> None:
    one = place().worked()
    one.put(begin_after=clock.utcnow() + timedelta(days=1))
    assert one.start(deployment="production").dispatcher.held is None
    one.stop()
    assert one.start().dispatcher.held is not None, "whose key is missing now may be a copy"


def test_a_backup_of_an_hour_ago_is_held_under_the_same_instance(
    place: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    one = place().worked()
    one.put(begin_after=clock.utcnow() + timedelta(days=1))
    one.worked_and_restored()
    one.put()  # somebody opens the site before a dispatcher comes

    assert "was restored" in one.start().dispatcher.held
    one.stop()
    assert "was restored" in one.start().dispatcher.held, "its own pings do not make it forget"
    assert "was restored" in one.start(seen_file=None).dispatcher.held, "it holds for all that come"
    assert enginejobs.calls == []


def test_another_process_of_the_instance_that_pings_meanwhile_makes_no_restored_backup(
    zeo_database: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"threads": 1, "poll_interval": 0.2, "seen_file": str(tmp_path / "seen.json")}
    first = start(zeo_database(), **options)
    assert first.dispatcher.polls.wait_for(0, 10) is not None
    with zeo_database().transaction() as connection:
        later = clock.utcnow() + timedelta(days=1)
        connection.root()[KEY][""].put(Job(enginejobs.add, 1), begin_after=later)
    read, pinging = SeenFile.read, threading.Lock()

    def ping_and_read(file: SeenFile, identity: str) -> bytes:
        if pinging.acquire(blocking=False):  # a ping reads too
            first.dispatcher.heartbeat._ping()
            pinging.release()
        return read(file, identity)

    monkeypatch.setattr(SeenFile, "read", ping_and_read)
    second = start(zeo_database(), **options)
    try:
        assert second.dispatcher.polls.wait_for(0, 10) is not None
        assert second.dispatcher.held is None
    finally:
        second.stop(0)
        first.stop(0)


def test_a_database_without_any_sign_for_a_day_is_held(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = place()
    with monkeypatch.context() as patch:
        in_the_past(patch, 2 * DAY)
        one.worked()
        one.put(begin_after=clock.utcnow() + timedelta(days=1))
    assert one.start(stale_after=3 * DAY).dispatcher.held is None
    one.close()
    one.path.with_name("seen.json").unlink()

    other = place("other")
    with monkeypatch.context() as patch:
        in_the_past(patch, 2 * DAY)
        other.worked()
        other.put()
    other.close()
    assert "no dispatcher has worked" in other.start().dispatcher.held
    other.stop()
    assert "no dispatcher has worked" in other.start().dispatcher.held
    assert enginejobs.calls == []


def test_a_machine_whose_clock_is_days_ahead_takes_no_database_for_a_copy(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = place().worked()
    one.put()
    monkeypatch.setattr(ownership, "time", SimpleNamespace(time=lambda: time.time() + 3 * DAY))
    assert one.start().dispatcher.held is None
    wait_for_run(one)


def test_what_could_not_be_stored_was_not_decided(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the one that finds a conflict when it says that a database is old would go on as if it had been released."""
    one = place()
    with monkeypatch.context() as patch:
        in_the_past(patch, 2 * DAY)
        one.worked()
        one.put()
    one.close()
    one.open()
    look, failed = ownership.Ownership.look, []

    def conflict_once(self: Any, queues: Any) -> bool:
        changed = look(self, queues)
        if queues.deployment.hold is not None and not failed:
            failed.append(queues.deployment.hold)
            with one.db.transaction() as connection:  # another one writes that record just now
                connection.root()[KEY].deployment.get_to_know("", "another address")
        return changed

    monkeypatch.setattr(ownership.Ownership, "look", conflict_once)
    assert one.start().dispatcher.held is not None
    assert [kind for kind, _detail in failed] == ["stale"]
    assert enginejobs.calls == [] and one.look(ownership.held) == failed[0]


# What a held one does not do


def test_a_held_dispatcher_takes_nobody_over(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    first = place()
    first.start()
    first.put(enginejobs.wait, "a")
    assert enginejobs.started["a"].wait(10)
    copy = first.copy_to(place("copy"))
    monkeypatch.setattr(dispatchers.instanceuuid, "process_is_gone", lambda process: True)
    poll_now(copy.start().dispatcher)

    assert copy.look(lambda queues: sum(len(slot.running) for slot in queues[""].slots.values())) == 1
    assert copy.look(lambda queues: len(queues[""].dispatchers.active())) == 2


def test_a_held_dispatcher_with_the_uuid_of_its_predecessor_leaves_its_jobs_to_a_release(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = uuid4()
    first = place(uuid=uuid)
    first.start()
    first.put(enginejobs.wait, "a")
    assert enginejobs.started["a"].wait(10)
    copy = first.copy_to(place("copy"))
    first.stop()
    assert enginejobs.calls == ["a"]
    monkeypatch.setattr(dispatchers.instanceuuid, "process_is_gone", lambda process: True)

    def running() -> Any:
        return copy.look(lambda queues: [(one.id, one.status, one.deaths) for one, *_ in queues[""].running()])

    before = running()
    held = copy.start(uuid=uuid).dispatcher
    poll_now(held)
    assert sorted(copy.registered(), key=str) == [held.membership.ownership.held, None]
    assert len(before) == 1 and running() == before

    enginejobs.fresh()
    enginejobs.release_all()
    copy.look(copies.release)
    wait_for_run(copy)  # it was taken over, and runs once more
    assert copy.look(lambda queues: [da.UUID for da in queues[""].dispatchers.active()]) == [uuid]


def test_a_held_dispatcher_pings_and_ends_cleanly(place: Callable[..., Place]) -> None:
    first = place().worked()
    first.put()
    copy = first.copy_to(place("copy"))
    copy.start()
    assert copy.look(lambda queues: queues[""].dispatchers.active()[0].last_ping.count) == 1
    copy.stop()
    assert copy.registered() == []
    assert copy.look(lambda queues: queues[""].dispatchers.serves()) is False


# Those that share one database under several names


def test_a_worker_that_knows_the_server_by_another_name_goes_on_when_a_sibling_pings(
    place: Callable[..., Place], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    one = place()
    first = one.start()
    one.put(begin_after=clock.utcnow() + timedelta(days=1))
    monkeypatch.setattr(deployment, "address_of", lambda storage: "zeo:localhost:8100/1")
    second = one.start()
    assert "belongs to the deployment" in second.dispatcher.held
    (line,) = told(caplog, "is HELD")
    assert "goes on by itself" in line
    first.dispatcher.heartbeat._ping()
    poll_now(second.dispatcher)

    assert second.dispatcher.held is None
    assert one.look(lambda queues: queues.deployment.addresses) == (str(one.path), "zeo:localhost:8100/1")
    one.stop()
    assert one.start().dispatcher.held is None, "it is known by now"


def test_another_deployment_stays_held_beside_the_owner_that_pings(place: Callable[..., Place]) -> None:
    one = place(deployment="production")
    first = one.start()
    one.put(begin_after=clock.utcnow() + timedelta(days=1))
    second = one.start(deployment="staging")
    first.dispatcher.heartbeat._ping()
    poll_now(second.dispatcher)
    assert second.dispatcher.held is not None and first.dispatcher.held is None
    with pytest.raises(InUse, match="works on this database"):
        one.look(lambda queues: copies.release(queues, "staging"))
    with one.db.transaction() as connection, pytest.raises(InUse):
        copies.discard(connection, "staging")
    one.put()
    wait_for_run(one)


# The ways out


def test_a_release_lets_a_running_dispatcher_go_on_at_once(
    place: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    first = place().worked()
    first.put()
    copy = first.copy_to(place("copy", poll_interval=60))
    running = copy.start()
    assert running.dispatcher.held is not None
    assert copy.look(lambda queues: copies.release(queues, by="admin")) == 1
    wait_for_run(copy)

    assert running.dispatcher.held is None and copy.registered() == [None]
    assert len(told(caplog, "is held no longer")) == 1
    copy.stop()
    copy.put(begin_after=clock.utcnow() + timedelta(days=1))
    assert copy.start().dispatcher.held is None


def test_a_restored_backup_that_was_released_without_a_dispatcher_is_not_held_again(
    place: Callable[..., Place],
) -> None:
    one = place().worked()
    one.put()
    one.worked_and_restored()
    enginejobs.fresh()
    one.look(lambda queues: copies.release(queues, address=str(one.path)))
    assert one.start().dispatcher.held is None
    wait_for_run(one)


def test_a_discard_removes_all_that_would_run_and_then_the_database_is_at_work(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "BATCH", 3)
    first = place()
    first.start()
    first.look(lambda queues: queues[""].quotas.create("mail", size=1))
    first.put(enginejobs.wait, "a")
    assert enginejobs.started["a"].wait(10)
    for _number in range(7):
        first.put()
    first.put(begin_after=clock.utcnow() + timedelta(days=1))
    first.put(begin_by=timedelta(days=2))
    copy = first.copy_to(place("copy"))
    running = copy.start()
    assert copy.look(ownership.held) is not None
    with copy.db.transaction() as connection, pytest.raises(InUse, match="try again in a minute"):
        copies.discard(connection)
    clock.set_now(clock.utcnow() + timedelta(minutes=2))
    with copy.db.transaction() as connection:
        assert copies.discard(connection, by="admin") == 10
    clock.set_now(None)

    assert copy.look(ownership.waiting) == 0
    assert copy.look(lambda queues: [len(queues[""].deadlines), ownership.held(queues)]) == [0, None]
    at_work = enginejobs.released["a"]
    enginejobs.fresh()
    poll_now(running.dispatcher)
    copy.put(enginejobs.note, "mine")
    wait_for_run(copy)
    assert enginejobs.calls == ["mine"]
    at_work.set()
    transaction.abort()


# What an instance remembers


def test_what_is_remembered_never_goes_back_and_is_kept_for_each_database(tmp_path: Path) -> None:
    file = SeenFile(str(tmp_path / "seen.json"))
    file.write("one", b"\2" * 8)
    file.write("one", b"\1" * 8)
    file.write("two", b"\3" * 8)
    again = SeenFile(str(tmp_path / "seen.json"))
    assert (again.read("one"), again.read("two"), again.read("three")) == (b"\2" * 8, b"\3" * 8, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["seen.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"one": 3}', '{"one": "xy"}', "\0"])
def test_a_file_that_cannot_be_used_is_told_of_once_and_stops_nobody(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "seen.json"
    path.write_text(content)
    file = SeenFile(str(path))
    assert file.read("one") == b"" and file.read("one") == b""
    assert len(told(caplog, "seen-file")) == 1
    assert SeenFile(None).read("one") == b""
    SeenFile(str(tmp_path / "nowhere" / "seen.json")).write("one", b"\1" * 8)
    assert len(told(caplog, "seen-file")) == 2


@pytest.mark.parametrize(
    ("adapter", "address"),
    [
        ({"_dsn": "dbname='zodb' user='me' host='db' password='secret'"}, "sql:host='db' dbname='zodb'"),
        ({"_dsn": "postgresql://me:secret@db:5433/zodb?sslmode=off"}, "sql:db:5433/zodb"),
        ({"_params": {"host": "db", "user": "me", "passwd": "secret", "db": "zodb"}}, "sql:host=db dbname=zodb"),
        ({}, ""),
    ],
)
def test_the_address_of_a_database_tells_no_password(adapter: dict[str, Any], address: str) -> None:
    storage = SimpleNamespace(_adapter=SimpleNamespace(**adapter), lastTransaction=None)
    assert deployment.address_of(storage) == address


def test_the_address_of_a_storage_is_its_path_or_its_servers() -> None:
    client: Any = SimpleNamespace(_addr=[("db", 8100), "/run/zeo"], _storage="main")
    assert deployment.address_of(client) == "zeo:/run/zeo,db:8100/main"
    assert deployment.address_of(SimpleNamespace(_addr=("db", 8100), _storage="1")) == "zeo:db:8100/1"
    file = SimpleNamespace(_file_name="/var/Data.fs")
    wrapped = SimpleNamespace(storage=file)
    file.lastTransaction = None
    assert deployment.address_of(wrapped) == "/var/Data.fs"
    assert deployment.address_of(SimpleNamespace()) == ""


# What is said of it


@pytest.mark.parametrize(
    ("kind", "word"), [("copy", "another deployment"), ("stale", "old copy"), ("restored", "backup")]
)
def test_alarms_and_doctor_say_that_jobs_are_held_instead_of_that_nobody_serves(
    kind: str, word: str, place: Callable[..., Place]
) -> None:
    first = place().worked()
    first.put()
    copy = first.copy_to(place("copy"))
    running = copy.start()

    def hold(queues: Any) -> None:
        queues[""].dispatchers[running.dispatcher.UUID].held = (kind, "somebody")

    running.dispatcher.crash()
    copy.look(hold)
    (alarm,) = copy.look(alarms.examine)
    assert (alarm.kind, alarm.urgent, alarm.queue) == ("held", True, None)
    assert word in alarm.text.default and alarm.text.mapping == {"detail": "somebody"}
    with copy.db.transaction() as connection:
        (finding,) = (one for one in doctor.examine(connection) if one.problem)
    assert (finding.kind, finding.queue) == ("held", None)
    assert "1 job waits" in finding.what and "zcasync release --deployment" in finding.way_out
    row = copy.look(lambda queues: joblists.queues(queues)[0])
    assert (row.served, row.dispatchers[0].state) == (False, "held")
    assert copy.look(processes.processes)[0].state == "held"


def test_two_names_of_one_zeo_server_are_two_addresses_and_no_copy(tmp_path: Path) -> None:
    (_host, port), stop = ZEO.server(str(tmp_path / "Data.fs"))
    first, second = (ZODB.DB(ZEO.client((host, port), wait_timeout=10)) for host in ("127.0.0.1", "localhost"))
    running = [start(first)]
    running[0].dispatcher.polls.wait_for(0, 20)
    with first.transaction() as connection:
        connection.root()[KEY][""].put(Job(enginejobs.note, "later"), begin_after=clock.utcnow() + timedelta(days=1))
    try:
        running.append(start(second, poll_interval=0.2))
        running[1].dispatcher.polls.wait_for(0, 20)
        assert f"zeo:127.0.0.1:{port}/1" in running[1].dispatcher.held
        running[0].dispatcher.heartbeat._ping()
        with second.transaction() as connection:
            owner = connection.root()[KEY].deployment
            both = (f"zeo:127.0.0.1:{port}/1", f"zeo:localhost:{port}/1")
            wait_until(connection, lambda: owner.addresses == both, 20, "a sibling's ping")
        assert running[1].dispatcher.held is None
    finally:
        for one in running:
            one.stop(grace=0)
        for database in (first, second):
            database.close()
        stop()
