"""Jobs that share one transaction: each is all or nothing all the same, and runs by itself where that cannot be."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync import entries
from collective.zcasync import events
from collective.zcasync import execution
from collective.zcasync import groups
from collective.zcasync import surroundings
from collective.zcasync.agentclaims import execution_items
from collective.zcasync.claims import Taker
from collective.zcasync.exceptions import InGroupError
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.job import Job
from collective.zcasync.neighbours import Neighbours
from collective.zcasync.outcomes import DEFERRED
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.outcomes import WAITING
from collective.zcasync.running import CANCEL
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.tasks import make_job
from collective.zcasync.tasks import task
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from collective.zcasync.threadpool import AgentThreadPool
from contextlib import contextmanager
from twisted.internet.defer import Deferred
from types import SimpleNamespace
from typing import Any
from ZEO.Exceptions import ClientDisconnected
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.interface import implementer

import enginejobs
import pytest
import threading
import transaction
import zope.event

LONG = 20


@pytest.fixture
def agent(queue: Any) -> Any:
    return enginejobs.make_agent(queue)


class Scene:
    """Claimed jobs, and a thread that runs them in one transaction as long as they let it."""

    def __init__(self, db: Any, queue: Any, agent: Any) -> None:
        self.db, self.queue, self.agent = db, queue, agent
        self.around = Surroundings(db, bundle=lambda who: 60.0)  # however slow the machine is
        self.items: list[entries.Item] = []
        self.done = groups.Done([], [])

    def put(self, *jobs: Job) -> None:
        for job in jobs:
            job.groupable = True
            self.queue.put(job)
        transaction.commit()

    def claim(self, *jobs: Job) -> None:
        if jobs[0].put_at is None:
            self.put(*jobs)
        taken = Taker(self.queue).take(len(jobs))
        for job, _kind in taken:
            self.agent.hold(job, False)
        transaction.commit()
        self.items = execution_items(taken, False, "")

    def share(self) -> "Scene":
        """Let the claimed jobs run together."""
        transaction.abort()
        first, *others = self.items
        rest = iter(others)
        self.done = groups.Group(self.db, self.around, lambda: next(rest, None)).perform(first)
        self.items = [*self.done.alone, *rest]
        transaction.begin()
        return self

    def run_alone(self) -> list[str]:
        """Let those that have still to run do so, each by itself; what is reported of them."""
        transaction.abort()
        reports = [
            execution.perform(self.db, item.oid, item.kind, item.token, self.around, item.info, item.conflicts)
            for item in self.items
        ]
        transaction.begin()
        return reports


@pytest.fixture
def scene(db: Any, queue: Any, agent: Any) -> Scene:
    return Scene(db, queue, agent)


def counting(number: int) -> list[Job]:
    return [Job(enginejobs.count) for _ in range(number)]


def root(scene: Scene) -> Any:
    return scene.queue._p_jar.root()


# What they share


def test_what_several_jobs_do_is_one_commit_and_each_of_them_is_finished(scene: Scene) -> None:
    jobs = counting(8)
    scene.claim(*jobs)
    assert [report for _item, report in scene.share().done.ended] == [FINISHED] * 8

    assert [job.result for job in jobs] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert root(scene)["count"] == 8 and {job._p_serial for job in jobs} == {root(scene)._p_serial}
    for job in jobs:
        assert (job.status, job.outcome, job.attempts, job.attempt_log) == (COMPLETED, "succeeded", 1, ())
        assert job.put_at <= job.active_start <= job.active_end == job.finished_at
    assert scene.items == []


def test_the_transaction_tells_of_all_its_jobs(scene: Scene) -> None:
    jobs = counting(2)
    scene.claim(*jobs)
    scene.share()
    note = scene.db.undoInfo()[0]["description"]

    assert [line for line in note.splitlines() if line] == [f"job {job.id} enginejobs.count" for job in jobs]


def test_each_is_the_running_job_while_its_code_runs(scene: Scene) -> None:
    scene.claim(*(jobs := [Job(own_id) for _ in range(3)]))
    scene.share()

    assert [job.result for job in jobs] == [job.id for job in jobs]


def own_id() -> Any:
    api.progress(1, 2)
    return enginejobs.local.getJob().id


def test_progress_that_they_told_is_kept(scene: Scene) -> None:
    scene.claim(*(jobs := [Job(own_id) for _ in range(2)]))
    scene.share()

    assert [job.progress for job in jobs] == [(1, 2, None), (1, 2, None)]


def test_they_are_told_of_when_they_are_stored_and_not_before(scene: Scene) -> None:
    told: list[Any] = []

    def hear(event: Any) -> None:
        if isinstance(event, events.JobEvent):
            told.append((type(event).__name__, event.id, scene.db.lastTransaction()))

    scene.claim(*(jobs := counting(2)))
    zope.event.subscribers.append(hear)
    try:
        scene.share()
    finally:
        zope.event.subscribers.remove(hear)

    assert {job.status for job in jobs} == {COMPLETED}
    stored = jobs[0]._p_serial
    assert told == [(kind, job.id, stored) for job in jobs for kind in ("JobStarted", "JobFinished")]


def test_a_job_that_returns_a_failure_fails_and_the_others_keep_what_they_did(scene: Scene) -> None:
    bad = Job(enginejobs.change_and_return_failure)
    scene.claim(first := Job(enginejobs.count), bad, last := Job(enginejobs.count))
    assert len(scene.share().done.ended) == 3

    assert (first.result, bad.error, last.result) == (1, "ValueError: returned", 2)
    assert root(scene)["changed"] is True


def test_what_a_job_knows_is_what_its_dispatcher_tells_of_it(scene: Scene) -> None:
    scene.claim(*counting(2))
    infos = [item.info for item in scene.items]
    scene.share()

    assert [info["result"] for info in infos] == ["1", "2"]
    assert all(info["started"] <= info["completed"] for info in infos)


# All or nothing


def test_if_one_of_eight_raises_nothing_is_stored_and_each_runs_once_by_itself(scene: Scene) -> None:
    jobs = [*counting(5), Job(enginejobs.change_and_raise), *counting(2)]
    scene.claim(*jobs)
    assert scene.share().done.ended == []
    assert "count" not in root(scene) and {job.status for job in jobs} == {ASSIGNED}

    assert scene.run_alone() == [FINISHED] * 8
    assert root(scene)["count"] == 7 and "changed" not in root(scene)
    assert [job.outcome for job in jobs] == ["succeeded"] * 5 + ["failed"] + ["succeeded"] * 2
    assert {job.attempts for job in jobs} == {1}
    assert {job.attempt_log for job in jobs} == {()}


def test_a_conflict_at_their_commit_lets_each_run_once_by_itself(scene: Scene, db: Any) -> None:
    scene.claim(*counting(3), Job(disturb, "count"))
    assert scene.share().done.ended == []
    assert [item.conflicts for item in scene.items] == [1] * 4

    enginejobs.calls.append("quiet")
    assert scene.run_alone() == [FINISHED] * 4
    assert root(scene)["count"] == 100 + 3


def disturb(key: str) -> None:
    """Another connection writes what the jobs write, once."""
    if not enginejobs.calls:
        manager = transaction.TransactionManager()
        connection = enginejobs.root()._p_jar.db().open(manager)
        connection.root()[key] = 100
        manager.commit()
        connection.close()


def test_a_conflict_is_learned_once_for_all_of_them(scene: Scene) -> None:
    learned: list[Any] = []

    class Learning(Neighbours):
        def learn(self, who: Any, conflict: bool, collided: str = "", attempts: int = 1) -> bool:
            learned.append((who, conflict, collided))
            return super().learn(who, conflict, collided, attempts)

    scene.around.neighbours = Learning(4)
    scene.claim(*(Job(enginejobs.conflict_times, 1) for _ in range(3)))
    scene.share()
    assert learned == [(("", "enginejobs.conflict_times"), True, "ConflictError")]

    scene.run_alone()
    assert learned[1:] == [(("", "enginejobs.conflict_times"), False, "")] * 3


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopRequested])
def test_what_ends_a_thread_is_met_again_by_the_job_itself(scene: Scene, error: type[BaseException]) -> None:
    scene.claim(good := Job(enginejobs.count), Job(enginejobs.make, error))
    scene.share()

    assert scene.done.ended == [] and len(scene.items) == 2
    scene.items.pop()
    assert scene.run_alone() == [FINISHED] and good.result == 1


def test_a_doomed_transaction_lets_each_run_by_itself(scene: Scene) -> None:
    scene.claim(good := Job(enginejobs.count), bad := Job(enginejobs.doom))
    scene.share()
    scene.run_alone()

    assert (good.result, bad.outcome, root(scene)["count"]) == (1, "failed", 1)


def test_a_result_that_cannot_be_stored_is_kept_as_text_among_others(scene: Scene) -> None:
    scene.claim(*counting(1), bad := Job(enginejobs.unpicklable))
    scene.share()

    assert len(scene.done.ended) == 2 and "lock object" in bad.result


def test_a_commit_of_which_only_the_answer_was_lost_is_not_done_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = transaction.TransactionManager.commit

    def lose(manager: Any) -> None:
        commit(manager)
        monkeypatch.undo()
        raise ConflictError("the answer was lost")

    scene.claim(*(jobs := counting(3)))
    monkeypatch.setattr(transaction.TransactionManager, "commit", lose)
    scene.share()

    assert len(scene.done.ended) == 3 and scene.items == []
    assert [job.result for job in jobs] == [1, 2, 3]


# Transactions are not the jobs' own


def commit_alone() -> None:
    enginejobs.count()
    transaction.commit()


def commit_alone_and_say_nothing() -> None:
    enginejobs.count()
    try:
        transaction.get().commit()
    except InGroupError:
        enginejobs.calls.append("refused")


def abort_alone() -> None:
    enginejobs.count()
    transaction.abort()


def begin_alone() -> None:
    transaction.begin()
    enginejobs.count()


def reach_checkpoint() -> None:
    enginejobs.count()
    api.checkpoint()


@pytest.mark.parametrize(
    ("code", "counted"),
    [
        (commit_alone, 2),
        (commit_alone_and_say_nothing, 2),
        (abort_alone, 1),
        (begin_alone, 2),
        (reach_checkpoint, 2),
    ],
)
def test_a_job_that_commits_or_aborts_by_itself_runs_by_itself(
    scene: Scene, code: Callable[[], None], counted: int
) -> None:
    scene.claim(good := Job(enginejobs.count), own := Job(code))
    assert scene.share().done.refused == f"test_engine_groups.{code.__name__}"
    assert scene.done.ended == [] and "count" not in root(scene)

    assert scene.run_alone() == [FINISHED, FINISHED]
    assert root(scene)["count"] == counted
    assert (good.outcome, own.outcome) == ("succeeded", "succeeded")


def test_the_refusal_names_the_task_and_the_way_out(scene: Scene) -> None:
    scene.claim(*counting(1), Job(note_refusal))
    scene.share()

    assert "test_engine_groups.note_refusal commits, aborts or begins" in enginejobs.calls[0]
    assert "take groupable=True from the task" in enginejobs.calls[0]


def note_refusal() -> None:
    try:
        transaction.commit()
    except InGroupError as error:
        enginejobs.calls.append(str(error))


def test_a_savepoint_is_the_jobs_own_affair(scene: Scene) -> None:
    scene.claim(*counting(1), Job(try_and_take_back), *counting(1))
    scene.share()

    assert len(scene.done.ended) == 3 and root(scene)["count"] == 2


def try_and_take_back() -> None:
    point = transaction.savepoint()
    enginejobs.count()
    point.rollback()


# What ends a group


def hook_before() -> None:
    transaction.get().addBeforeCommitHook(enginejobs.calls.append, ("hook",))


def hook_after() -> None:
    transaction.get().addAfterCommitHook(lambda committed: enginejobs.calls.append("hook"))


class Foreign:
    """A data manager of something else."""

    transaction_manager = transaction.manager

    def sortKey(self) -> str:
        return "~foreign"

    def tpc_vote(self, txn: Any) -> None:
        enginejobs.calls.append("hook")

    def abort(self, txn: Any) -> None:
        """Nothing was done."""

    tpc_begin = commit = tpc_finish = tpc_abort = abort


def join_foreign() -> None:
    transaction.get().join(Foreign())


@pytest.mark.parametrize("code", [hook_before, hook_after, join_foreign])
def test_a_job_that_has_effects_elsewhere_at_the_commit_is_the_last_of_it(
    scene: Scene, code: Callable[[], None]
) -> None:
    scene.claim(*counting(2), Job(code), *counting(2))
    scene.share()

    assert len(scene.done.ended) == 3 and enginejobs.calls == ["hook"]
    assert len(scene.items) == 2


def test_a_hook_that_fails_fails_only_its_own_job(scene: Scene) -> None:
    scene.claim(good := Job(enginejobs.count), bad := Job(enginejobs.failing_hook))
    scene.share()
    assert scene.done.ended == []

    scene.run_alone()
    assert (good.outcome, bad.error) == ("succeeded", "RuntimeError: the hook says no")


def test_a_job_that_puts_jobs_may_be_followed_by_others(scene: Scene) -> None:
    scene.claim(*(Job(put_another) for _ in range(3)))
    scene.share()

    assert len(scene.done.ended) == 3 and len(scene.queue) == 3


def put_another() -> None:
    enginejobs.local.getQueue().put(Job(enginejobs.add, 1))


def test_no_more_than_sixteen_share_a_transaction(scene: Scene) -> None:
    scene.claim(*counting(18))
    scene.share()

    assert (len(scene.done.ended), len(scene.items)) == (16, 2) and groups.MOST == 16


def test_the_time_that_jobs_may_share_a_transaction_is_said_by_their_surroundings(scene: Scene) -> None:
    scene.around.bundle = lambda who: 0.0 if who == ("", "enginejobs.count") else 10.0
    scene.claim(*counting(3))
    scene.share()

    assert (len(scene.done.ended), len(scene.items)) == (1, 2)
    assert surroundings.bundle(("", "any")) == 0.2


# Who shares


def test_only_jobs_of_one_context_that_may_run_twice_and_have_no_history_share(scene: Scene) -> None:
    def bundle(**values: Any) -> Any:
        job = Job(enginejobs.count)
        job.groupable = True
        for name, value in values.items():
            setattr(job, name, value)
        return groups.bundle_of(job)

    assert bundle() == ("", "", None)
    assert bundle(group="site", user="me", context_data=(("a", 1),)) == ("site", "me", (("a", 1),))
    assert bundle(groupable=False) is None
    assert bundle(policy="NeverRetry") is None
    assert bundle(attempts=1) is None
    assert bundle(deaths=1) is None
    assert bundle(interrupted_by="stop") is None
    hooked = enginejobs.Hooked(enginejobs.count)
    hooked.groupable = True
    assert groups.bundle_of(hooked) is None


@task(name="groups.short", groupable=True)
def short() -> int:
    return enginejobs.count()


@task(name="groups.alone")
def alone() -> int:
    return enginejobs.count()


def test_a_task_says_whether_its_jobs_share_and_so_do_those_that_repeat_them() -> None:
    assert make_job("groups.short", (), {}).groupable and make_job("groups.short", (), {}).again().groupable
    assert not make_job("groups.alone", (), {}).groupable
    job = make_job("groups.short", (), {})
    job.callable = alone
    assert not job.groupable and "groupable" in vars(job)
    assert "groupable" not in vars(make_job("groups.alone", (), {}))


# The fence


def test_a_job_that_was_taken_over_before_its_turn_is_left_out_and_the_others_are_stored(scene: Scene) -> None:
    scene.claim(*(jobs := counting(4)))
    jobs[2].token = "another"
    transaction.commit()
    scene.share()
    assert [job.result for job in jobs] == [1, 2, None, 3]

    assert scene.run_alone() == [execution.REASSIGNED]
    assert jobs[2].status == ASSIGNED and root(scene)["count"] == 3


def test_a_job_that_is_taken_over_before_the_commit_is_lost_alone_and_the_others_run_once(scene: Scene) -> None:
    scene.claim(*(jobs := [*counting(3), Job(take_over)]))
    root(scene)["victim"] = jobs[1]
    transaction.commit()
    scene.share()
    assert scene.done.ended == []

    assert scene.run_alone() == [FINISHED, execution.REASSIGNED, FINISHED, FINISHED]
    assert root(scene)["count"] == 2 and jobs[1].token == "another"


def take_over() -> None:
    """Somebody else takes a job of the same transaction, whose code has run; once."""
    if not enginejobs.calls:
        enginejobs.calls.append("taken")
        manager = transaction.TransactionManager()
        connection = enginejobs.root()._p_jar.db().open(manager)
        connection.root()["victim"].token = "another"
        manager.commit()
        connection.close()


def test_the_first_of_them_may_be_taken_over_as_well(scene: Scene) -> None:
    scene.claim(*(jobs := counting(2)))
    jobs[0].token = "another"
    transaction.commit()
    scene.share()

    assert scene.done.ended == []
    scene.items = scene.done.alone
    assert scene.run_alone() == [execution.REASSIGNED]


# Callbacks, and jobs that wait


def test_callbacks_run_after_the_commit_each_in_one_of_its_own(scene: Scene) -> None:
    first, second = jobs = counting(2)
    callback = first.addCallback(enginejobs.note)
    scene.claim(*jobs)
    scene.share()
    assert (first.status, second.status, enginejobs.calls) == (CALLBACKS, COMPLETED, [])
    assert first._p_serial == second._p_serial

    assert scene.run_alone() == [FINISHED]
    assert (first.status, callback.result, enginejobs.calls) == (COMPLETED, 1, [1])


def return_job() -> Any:
    return Job(enginejobs.add, 1)


def test_a_job_that_returns_a_job_waits_for_it(scene: Scene) -> None:
    scene.claim(outer := Job(return_job), *counting(1))
    scene.share()

    assert [report for _item, report in scene.done.ended] == [WAITING, FINISHED]
    assert outer.status == ACTIVE and outer.waiting_for.queue is scene.queue


class Kept:
    """Keeps the Deferreds of jobs."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, job: Any, deferred: Any) -> None:
        self.kept.append((job.id, deferred))


deferreds: list[Any] = []


def return_deferred() -> Any:
    deferreds.append(Deferred(lambda gone: deferreds.remove(gone)))
    return deferreds[-1]


def test_a_job_that_returns_a_deferred_waits_for_it_once_it_is_stored(scene: Scene) -> None:
    scene.around.deferreds = Kept()
    scene.claim(outer := Job(return_deferred), *counting(1))
    scene.share()

    assert [report for _item, report in scene.done.ended] == [DEFERRED, FINISHED]
    assert scene.around.deferreds.kept == [(outer.id, deferreds.pop())]


def test_the_deferred_of_a_transaction_that_failed_is_cancelled(scene: Scene) -> None:
    scene.around.deferreds = Kept()
    scene.claim(Job(return_deferred), Job(enginejobs.change_and_raise))
    scene.share()

    assert scene.around.deferreds.kept == [] and deferreds == []


async def wait_for_nothing() -> int:
    return enginejobs.count()


def test_a_coroutine_runs_to_its_end_among_others(scene: Scene) -> None:
    scene.claim(*(jobs := [Job(wait_for_nothing), Job(wait_for_nothing)]))
    scene.share()

    assert [job.result for job in jobs] == [1, 2] and len(scene.done.ended) == 2


# Requests to stop


@pytest.mark.parametrize("number", [0, 2])
def test_a_job_whose_record_cannot_be_read_just_then_runs_by_itself_as_all_of_them(
    number: int, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.claim(*(jobs := counting(4)))
    ghost_of = groups.ghost_of

    def read(connection: Any, oid: bytes, cls: Any) -> Any:
        if oid == jobs[number]._p_oid:
            raise ClientDisconnected("the answer to a read is lost")
        return ghost_of(connection, oid, cls)

    monkeypatch.setattr(groups, "ghost_of", read)
    given = [item.oid for item in scene.items]
    assert scene.share().done.ended == [] and [item.oid for item in scene.items] == given

    assert scene.run_alone() == [FINISHED] * 4 and root(scene)["count"] == 4


def test_a_job_that_was_cancelled_before_its_turn_ends_by_itself(scene: Scene) -> None:
    class Mail:
        def enter(self, running: Any) -> None:
            if running.oid == cancelled._p_oid:
                running.ask(CANCEL)

        def leave(self, running: Any) -> None:
            """Nothing to do."""

    scene.around.mail = Mail()
    first, cancelled, last = jobs = counting(3)
    scene.claim(*jobs)
    scene.share()
    assert [job.result for job in jobs] == [1, None, 2]

    assert scene.run_alone() == [FINISHED]
    assert (cancelled.outcome, root(scene)["count"]) == ("cancelled", 2)


def test_a_job_is_not_overdue_because_of_those_that_follow_it(scene: Scene) -> None:
    seen: list[Any] = []

    class Mail:
        def enter(self, running: Any) -> None:
            seen.append((running, running.timeout, [one.timeout for one, *_rest in seen]))

        def leave(self, running: Any) -> None:
            """Nothing to do."""

    scene.around.mail = Mail()
    for job in (jobs := counting(2)):
        job.timeout = 5.0
    scene.claim(*jobs)
    scene.share()

    assert [(timeout, before) for _running, timeout, before in seen] == [(5.0, []), (5.0, [None])]


# The context


@implementer(IJobContext)
class Context:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.is_gone = False

    def capture(self, job: Any, run_as: str | None = None) -> tuple[str, str, tuple[Any, ...]]:
        return "site", "me", (("a", 1),)

    @contextmanager
    def enter(self, job: Any, connection: Any) -> Iterator[None]:
        self.told.append("enter")
        if self.is_gone:
            raise LookupError("the site is gone")
        before = connection.db().lastTransaction()
        yield
        self.told.append("committed" if connection.db().lastTransaction() != before else "nothing")

    def after_job(self, job: Any) -> None:
        self.told.append("after")
        if enginejobs.root().get("count") == 13:
            raise ValueError("what the job has left cannot be done")

    def lets_pass(self, participant: Any) -> bool:
        return participant == enginejobs.calls.append

    def shelve(self, value: Any) -> Any:
        return value

    def unshelve(self, value: Any) -> Any:
        return value


@pytest.fixture
def context() -> Iterator[Context]:
    registry, context = getGlobalSiteManager(), Context()
    registry.registerUtility(context)
    yield context
    registry.unregisterUtility(context)


def test_their_context_is_entered_once_and_left_after_the_commit(context: Context, scene: Scene) -> None:
    scene.claim(*counting(2))
    scene.share()

    assert context.told == ["enter", "after", "after", "committed"]


def test_if_their_context_cannot_be_entered_each_meets_that_by_itself(context: Context, scene: Scene) -> None:
    scene.claim(*(jobs := counting(3)))
    context.is_gone, given = True, [item.oid for item in scene.items]
    scene.share()
    assert [item.oid for item in scene.items] == given

    scene.run_alone()
    assert [job.outcome for job in jobs] == ["failed"] * 3 and "the site is gone" in jobs[0].error


def test_what_fails_after_a_job_fails_in_its_stead(context: Context, scene: Scene) -> None:
    root(scene)["count"] = 11
    scene.claim(*counting(3))
    scene.share()

    assert scene.done.ended == [] and root(scene)["count"] == 11


def test_the_context_tells_what_of_its_own_does_not_end_a_group(context: Context, scene: Scene) -> None:
    scene.claim(Job(hook_before), Job(hook_before), Job(join_foreign), *counting(1))
    scene.share()

    assert len(scene.done.ended) == 3


# With a dispatcher


def waiting_ahead(running: Any, queue: Any, jobs: list[Job], *first: Job) -> Any:
    """Put jobs behind one that holds the only thread until they have been claimed ahead; the pool."""
    pool = running.dispatcher.queues[""]["main"]
    pool.mean = 0.001
    running.dispatcher.around.bundle = lambda who: 60.0
    queue.put(Job(enginejobs.wait, "a"))
    for job in jobs:
        job.groupable = True
        queue.put(job)
    transaction.commit()  # all at once: nothing is claimed ahead of a thread that has met a long job
    assert enginejobs.started["a"].wait(LONG)
    wait_until(queue, lambda: len(pool.waiting) == len(jobs), LONG, "the claim")
    return pool


def test_a_thread_runs_what_was_claimed_ahead_in_few_transactions(queue: Any, dispatch: Any) -> None:
    pool = waiting_ahead(dispatch(threads=1), queue, jobs := counting(16))
    enginejobs.released["a"].set()
    for job in jobs:
        wait_for_result(job, LONG)

    assert queue._p_jar.root()["count"] == 16 and len({job._p_serial for job in jobs}) <= 4
    wait_until(queue, lambda: queue.counts()["running"] == 0 and pool.idle(), LONG, "the sweep")
    assert {job.status for job in jobs} == {COMPLETED} and pool.known() == set()
    assert queue.counts()["succeeded"] == 17


def test_jobs_of_others_are_not_among_them(context: Context, queue: Any, dispatch: Any) -> None:
    jobs = counting(6)
    pool = waiting_ahead(dispatch(threads=1), queue, jobs)
    pool.waiting = type(pool.waiting)(
        item._replace(bundle=("site", "me" if number % 2 else "you", None)) for number, item in enumerate(pool.waiting)
    )
    enginejobs.released["a"].set()
    for job in jobs:
        wait_for_result(job, LONG)

    assert len({job._p_serial for job in jobs}) == 2
    assert len({job._p_serial for job in jobs[::2]}) == 1


def test_a_job_that_fails_among_others_is_tried_once_by_itself(queue: Any, dispatch: Any) -> None:
    jobs = [*counting(4), Job(enginejobs.change_and_raise), *counting(3)]
    pool = waiting_ahead(dispatch(threads=1), queue, jobs)
    enginejobs.released["a"].set()
    for job in jobs:
        wait_for_result(job, LONG)

    assert queue._p_jar.root()["count"] == 7
    assert [job.attempts for job in jobs] == [1] * 8 and jobs[4].outcome == "failed"
    assert pool._sizes._most[("", "enginejobs.count")] < 8 < groups.MOST


def test_short_jobs_are_left_to_the_transaction_of_a_thread_that_will_soon_take_them_up(scene: Scene) -> None:
    scene.claim(*counting(groups.MOST + 1))
    parts = {"neighbours": Neighbours(2), "around": scene.around, "claim_soon": lambda: None}
    pool = AgentThreadPool(SimpleNamespace(**parts), "", "main", 0)
    pool.give(scene.items)  # which starts no thread, as there are to be none
    pool.size, pool.mean = 1, 0.0001
    first = pool._take()  # this thread is the first one
    assert first is not None
    places = {first.who}
    assert (list(pool._without_promised()[0]), pool._without_promised()[1]) == ([pool.waiting[-1]], True)

    pool.mean = 0.01
    assert len(list(pool._without_promised()[0])) == groups.MOST
    pool.mean = 0.0001
    pool._began[threading.current_thread()] -= 1  # its job takes longer than such jobs do
    assert len(list(pool._without_promised()[0])) == groups.MOST
    while pool._join(threading.current_thread(), first, places) is not None:
        pass
    assert not pool.waiting and pool._without_promised() == (pool.waiting, False)


def test_jobs_that_a_process_shared_a_transaction_for_when_it_died_run_once(queue: Any, dispatch: Any) -> None:
    jobs = [*counting(3), Job(enginejobs.wait_and_count, "b"), *counting(2)]
    first = dispatch(threads=1)
    waiting_ahead(first, queue, jobs)
    enginejobs.released["a"].set()
    assert enginejobs.started["b"].wait(LONG)
    first.crash()  # with three done, and nothing committed
    enginejobs.started["b"].clear()

    second = dispatch(threads=1)
    with queue._p_jar.db().transaction() as connection:
        connection.get(queue._p_oid).dispatchers[first.dispatcher.UUID].deactivate()
    second.dispatcher.poll_soon()
    assert enginejobs.started["b"].wait(LONG)
    enginejobs.released["b"].set()
    for job in jobs:
        wait_for_result(job, LONG)

    wait_until(queue, lambda: queue._p_jar.root().get("count") == 6, LONG, "the last count")
    assert [job.outcome for job in jobs] == ["succeeded"] * 6


def test_where_sharing_has_failed_fewer_jobs_share_and_tasks_that_commit_never_do(scene: Scene) -> None:
    scene.claim(*counting(1), Job(enginejobs.add, 1))
    one, other = scene.items
    sizes = groups.Sizes()
    assert sizes.most(one) == groups.MOST and sizes.most(one._replace(bundle=None)) == 1
    sizes.learn(one.who, groups.Done([], [one] * 10))
    assert sizes.most(one) == 5
    for _ in range(2):
        sizes.learn(one.who, groups.Done([], [one] * sizes.most(one)))
    assert (sizes.most(one), sizes.most(other)) == (2, groups.MOST)
    for _ in range(groups.MOST):
        sizes.learn(one.who, groups.Done([(one, FINISHED)], []))
    assert sizes.most(one) == groups.MOST
    sizes.learn(one.who, groups.Done([], [], refused="enginejobs.add"))
    assert (sizes.most(one), sizes.most(other)) == (groups.MOST, 1)
