"""The jobs of a queue move to another database: whenever the process dies, each of them waits once or is on its way."""

from collections.abc import Iterator
from collective.zcasync import doctor
from collective.zcasync import queueactions
from collective.zcasync import queuemoves
from collective.zcasync import waiting
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.job import parallel
from collective.zcasync.job import serial
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.queuemoves import move_queue
from collective.zcasync.reactor import start
from collective.zcasync.states import STORED
from collective.zcasync.testing import wait_until
from datetime import timedelta
from pathlib import Path
from persistent.mapping import PersistentMapping
from types import ModuleType
from typing import Any
from uuid import uuid4
from ZODB.FileStorage import FileStorage

import enginejobs
import gc
import pytest
import sys
import transaction
import ZODB

LONG = 20


class Two:
    """Two databases, with a connection and a manager for each."""

    def __init__(self, folder: Path) -> None:
        self.databases = {name: ZODB.DB(FileStorage(str(folder / f"{name}.fs")), database_name=name) for name in NAMES}
        self.managers = {name: transaction.TransactionManager() for name in NAMES}
        self.connections = {name: db.open(self.managers[name]) for name, db in self.databases.items()}
        install(self.old).get("").paused = True
        self.managers["main"].commit()

    @property
    def old(self) -> Any:
        return self.connections["main"]

    @property
    def new(self) -> Any:
        return self.connections["beside"]

    def begin(self) -> tuple[Any, Any]:
        """The queue in both of them, as they are now; None where there is none."""
        for manager in self.managers.values():
            manager.begin()
        return get_queue(self.old), install(self.new)[""]

    def put(self, *jobs: Any, **options: Any) -> list[Any]:
        queue = get_queue(self.old)
        put = [queue.put(job, **options) for job in jobs]
        self.managers["main"].commit()
        return put

    def close(self) -> None:
        for name in NAMES:
            self.managers[name].abort()
            self.connections[name].close()
            self.databases[name].close()


NAMES = ("main", "beside")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path)
    yield made
    made.close()


def notes(queue: Any) -> list[Any]:
    return [job.args[0] for job in queue]


def test_what_waits_moves_in_its_order_with_all_that_belongs_to_it(two: Two) -> None:
    old = get_queue(two.old)
    old.quotas.create("mail", 2)
    jobs = two.put(*(Job(enginejobs.note, number) for number in range(5)))
    (late,) = two.put(Job(enginejobs.note, "late"), begin_after=utcnow() + timedelta(hours=1))
    rich = Job(enginejobs.note, ["a", "list"])
    rich.addCallbacks(Job(enginejobs.note, "success"), Job(enginejobs.note, "failure"))
    rich.quota_names = ("mail",)
    rich.annotations["colour"] = "blue"
    two.put(rich)
    rich.attempts = 2
    two.managers["main"].commit()

    assert move_queue(two.old, two.new) == queuemoves.Moved(7)
    old, new = two.begin()
    assert (len(old), len(new), new.quotas["mail"].size) == (0, 7, 2)
    assert notes(new)[:5] == [0, 1, 2, 3, 4]
    moved = {str(job.args[0]): job for job in new}
    assert moved["late"].begin_after == late.begin_after and moved["late"] is not late
    copy = moved["['a', 'list']"]
    (callback,) = copy.callbacks
    assert (copy.annotations["colour"], copy.quota_names, copy.attempts) == ("blue", ("mail",), 2)
    assert callback.parent is copy and callback.success.args[0] == "success" and callback.success._p_jar is two.new
    assert (copy.queue, copy.put_at) == (new, rich.put_at)
    assert not (new.arriving or old.departed) and all(job.id.endswith("@beside") for job in new)
    assert {job.parent for job in jobs} == {None}


def test_the_moved_jobs_run_with_their_callbacks(two: Two) -> None:
    job = Job(enginejobs.note, "first")
    job.addCallback(Job(enginejobs.note))
    two.put(job, Job(enginejobs.note, "second"))
    move_queue(two.old, two.new)
    running = start(two.databases["beside"], threads=1)
    try:
        two.begin()
        wait_until(two.new, lambda: get_queue(two.new).counts()["succeeded"] == 2, LONG, "both")
    finally:
        running.stop(grace=0)
    assert enginejobs.calls == ["first", "first", "second"] or enginejobs.calls == ["first", "second", "first"]


@pytest.mark.parametrize("stage", ["it is not paused", "1 running", "1 awaiting"])
def test_a_queue_that_is_not_at_rest_is_not_moved(two: Two, stage: str) -> None:
    queue = get_queue(two.old)
    two.put(Job(enginejobs.note, 1))
    if stage == "it is not paused":
        queue.paused = False
    elif stage == "1 awaiting":
        queue.adjust("awaiting", 1)
    else:
        queue.paused = False
        queue.dispatchers.register(name := uuid4())
        da = queue.dispatchers[name]
        da.activate()
        da["main"] = agent = enginejobs.Agent()
        two.managers["main"].commit()
        assert agent.claimJob() is not None
        queue.paused = True
    two.managers["main"].commit()

    with pytest.raises(BadStatusError, match=f"cannot be moved .{stage}.: pause it, and wait"):
        move_queue(two.old, two.new)
    assert len(two.begin()[1]) == 0


def test_a_queue_does_not_move_to_where_it_is(two: Two) -> None:
    with pytest.raises(InvalidValueError, match="is in the database 'main' already"):
        move_queue(two.old, two.old)


def test_a_job_that_holds_an_object_of_the_old_database_stays_and_keeps_nobody(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queuemoves, "BATCH", 2)
    two.old.root()["page"] = page = PersistentMapping()
    two.managers["main"].commit()
    stay = two.put(*(Job(enginejobs.note, page) for _ in range(3)))
    two.put(serial(Job(enginejobs.note, "a"), Job(enginejobs.note, "b")), Job(enginejobs.note, "goes"))

    moved = move_queue(two.old, two.new)
    assert moved.number == 2 and set(moved.left) == {job.id for job in stay}
    assert "it holds an object of this database (persistent.mapping.PersistentMapping)" in moved.left[stay[0].id]
    old, new = two.begin()
    assert list(old) == stay and len(new) == 2 and not new.arriving


def test_a_job_that_has_run_or_whose_code_is_missing_stays_and_is_told_of(two: Two) -> None:
    module = ModuleType("queuemoves_gone")
    sys.modules[module.__name__] = module
    exec("from collective.zcasync.job import Job\nclass Special(Job):\n    pass\n", module.__dict__)
    broken, ran, _goes = two.put(
        module.__dict__["Special"](enginejobs.add, 1), Job(enginejobs.add, 2), Job(enginejobs.add, 3)
    )
    ran._status_id, ids = STORED[CALLBACKS], [broken.id, ran.id]
    two.managers["main"].commit()
    two.old.cacheMinimize()
    del sys.modules[module.__name__], broken, module
    gc.collect()

    moved = move_queue(two.old, two.new)
    assert (moved.number, sorted(moved.left)) == (1, sorted(ids))
    assert "its code is missing here" in moved.left[ids[0]] and "its callbacks end it" in moved.left[ids[1]]


def test_a_serial_job_that_goes_on_stays_with_those_of_its_jobs_that_wait(two: Two) -> None:
    first, second = Job(enginejobs.note, "first"), Job(enginejobs.note, "second")
    (main,) = two.put(parallel(first, second))
    main._status_id, main.goes_on = STORED[ACTIVE], True  # it has put both, the first has ended, and it comes again
    first._status_id, second.sequence = STORED[COMPLETED], main
    two.put(second, Job(enginejobs.note, "goes"))

    moved = move_queue(two.old, two.new)
    assert (moved.number, sorted(moved.left)) == (1, sorted([main.id, second.id]))
    assert "goes on in this database" in moved.left[main.id] and "goes on in this database" in moved.left[second.id]
    old, new = two.begin()
    assert (notes(new), list(old), main.queue, second.queue) == (["goes"], [second], old, old)


def test_a_job_for_which_one_of_another_queue_waits_stays(two: Two) -> None:
    awaited, _other = two.put(Job(enginejobs.note, "stays"), Job(enginejobs.note, "goes"))
    other = install(two.old, ("other",))["other"]
    outer = other.put(Job(enginejobs.note, "waits"))
    other.take_out(outer)
    outer._status_id, outer.waiting_for = STORED[ACTIVE], awaited
    waiting.begin(other, None, outer)
    two.managers["main"].commit()

    moved = move_queue(two.old, two.new)
    assert (moved.number, moved.left) == (1, {awaited.id: "a job of this database waits for it"})
    old, new = two.begin()
    assert (notes(new), list(old), outer._status_id) == (["goes"], [awaited], STORED[ACTIVE])


class Killed(BaseException):
    """The process has died."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("which", range(1, 12))
def test_a_move_that_is_killed_at_any_commit_is_finished_by_the_next_and_loses_and_doubles_nothing(
    two: Two, which: int, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queuemoves, "BATCH", 2)
    two.put(*(Job(enginejobs.note, number) for number in range(4)))
    commits = 0

    def die_there(commit: Any) -> Any:
        def call() -> None:
            nonlocal commits
            commits += 1
            if commits == which and not after:
                raise Killed
            commit()
            if commits == which:
                raise Killed

        return call

    with monkeypatch.context() as patch:
        for manager in two.managers.values():
            patch.setattr(manager, "commit", die_there(manager.commit))
        try:
            move_queue(two.old, two.new)
        except Killed:
            pass
        assert commits <= which
    for manager in two.managers.values():
        manager.abort()
    old, new = two.begin()
    waits = notes(old) + notes(new)
    assert len(waits) == len(set(waits))
    broken_off = bool(new.arriving or old.departed)
    kinds = {finding.kind for connection in (two.old, two.new) for finding in doctor.examine(connection)}
    assert ("arriving" in kinds) is broken_off
    for manager in two.managers.values():
        manager.abort()

    move_queue(two.old, two.new)
    old, new = two.begin()
    assert (notes(old), sorted(notes(new))) == ([], [0, 1, 2, 3])
    assert not (new.arriving or old.departed)


def test_a_job_that_is_cancelled_while_it_is_on_its_way_does_not_run_there(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job, other) = two.put(Job(enginejobs.note, "cancelled"), Job(enginejobs.note, "goes"))

    def settle(move: Any) -> None:
        if get_queue(two.new).arriving:
            get_queue(two.old).cancel(job)
            two.managers["main"].commit()
        real(move)

    real = queuemoves._Move._settle
    monkeypatch.setattr(queuemoves._Move, "_settle", settle)
    assert move_queue(two.old, two.new).number == 1
    assert notes(two.begin()[1]) == ["goes"] and job.outcome == "cancelled" and other.parent is None


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_a_callback_that_a_job_gets_while_it_is_on_its_way_goes_with_it(
    killed: bool, behind: bool, two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, told = Job(enginejobs.note, "goes"), []
    callback = job.addCallback(enginejobs.note)
    two.put(job)

    def settle(move: Any) -> None:
        if get_queue(two.new).arriving and not told:
            told.append((callback if behind else job).addCallback(enginejobs.note))
            two.managers["main"].commit()
            if killed:
                raise Killed
        real(move)

    real = queuemoves._Move._settle
    monkeypatch.setattr(queuemoves._Move, "_settle", settle)
    if killed:
        with pytest.raises(Killed):
            move_queue(two.old, two.new)
    assert move_queue(two.old, two.new).number == 1
    old, new = two.begin()
    (copy,) = new
    assert told and len((copy.callbacks[0] if behind else copy).callbacks) == (1 if behind else 2)
    assert list(old) == [] and not new.arriving


def test_a_queue_with_jobs_on_their_way_is_not_removed(two: Two) -> None:
    queue = queueactions.create_queue(two.new, "mail")
    queue.arriving = {"a": 1}
    with pytest.raises(InUse, match="on their way between databases"):
        queueactions.remove_queue(queue)
