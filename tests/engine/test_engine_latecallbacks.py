"""Callbacks that come, wait or are resumed outside of the job's own run: none is lost, none runs twice."""

from collective.zcasync import callbackruns
from collective.zcasync import direct
from collective.zcasync import execution
from collective.zcasync import sweeping
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.lookup import main_of
from collective.zcasync.retry import NeverRetry
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from enginejobs import make_agent
from enginejobs import put_and_commit
from typing import Any
from ZODB.POSException import ConflictError

import enginejobs
import logging
import pytest
import threading
import transaction


class Later(NeverRetry):
    """A policy that wants another attempt in an hour."""

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        return timedelta(hours=1)

    def interrupted(self) -> Any:
        return timedelta(hours=1)


def exits_first(result: Any) -> str:
    enginejobs.calls.append("tried")
    if len(enginejobs.calls) == 1:
        raise SystemExit
    return "resumed"


def test_a_process_that_dies_in_the_callbacks_of_a_failed_job_leaves_them_to_a_dispatcher(
    queue: Any, dispatch: Any
) -> None:
    job = Job(enginejobs.add)
    first, second = job.addCallback(exits_first), job.addCallback(Job(enginejobs.count, "second"))
    second.args[:] = []
    put_and_commit(queue, job)
    with pytest.raises(SystemExit):
        job.fail()
    transaction.abort()

    assert job.status == CALLBACKS and queue.counts()["waiting"] == 1 and job.queue is queue
    set_now(utcnow() + direct.LEASE + timedelta(seconds=1))
    dispatch()
    assert wait_for_result(job).check(TimeoutError)
    assert (first.result, second.status) == ("resumed", COMPLETED) and enginejobs.calls == ["tried", "tried"]
    wait_until(queue, lambda: list(queue.finished()) == [job], what="the job's filing")


def test_the_callbacks_of_a_failed_job_are_left_to_its_caller_while_he_may_live(queue: Any) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add)
    job.addCallback(exits_first)
    put_and_commit(queue, job)
    with pytest.raises(SystemExit):
        job.fail()
    transaction.abort()

    assert Taker(queue, agent.slot).take(5) == []
    transaction.commit()
    set_now(utcnow() + direct.LEASE + timedelta(seconds=1))
    assert [(one.job, one.kind) for one in Taker(queue, agent.slot).take(5)] == [(job, "resume")]


def test_a_caller_who_takes_too_long_over_callbacks_loses_them_to_a_dispatcher(
    queue: Any, clients: Any, caplog: pytest.LogCaptureFixture
) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add)
    job.addCallback(enginejobs.wait)
    job.addCallback(enginejobs.note)
    job.callbacks[0].args[:] = []
    put_and_commit(queue, job)
    enginejobs.calls.append("a")

    def take_over() -> None:
        assert enginejobs.started["a"].wait(10)
        set_now(utcnow() + direct.LEASE + timedelta(seconds=1))
        with clients().transaction() as connection:
            mine, da = connection.get(job._p_oid), connection.get(agent._p_oid).parent
            (taken,) = Taker(da.queue, da.slot).take(5)
            assert taken.kind == "resume" and taken.job is mine
            da["main"].hold(mine, True)
        enginejobs.released["a"].set()

    thread = threading.Thread(target=take_over)
    thread.start()
    job.callbacks[0].args[:] = []
    transaction.commit()
    with caplog.at_level(logging.ERROR, "collective.zcasync"):
        _fail_with_name(job)
    thread.join(10)
    enginejobs.catch_up([queue._p_jar])

    assert "a dispatcher has gone on" in caplog.text
    assert job.status == CALLBACKS and job.agent is agent and job.callbacks[1].status != COMPLETED


def _fail_with_name(job: Any) -> None:
    """``wait`` gets the result as its name: let the text of the failure be one."""
    enginejobs.started["failure"] = enginejobs.started["a"]
    original = enginejobs.wait

    def wait(result: Any) -> str:
        return original("a")

    wait.__module__, wait.__qualname__ = "enginejobs", "wait"
    wait.__wrapped__ = original  # type: ignore[attr-defined]
    enginejobs.wait = wait
    try:
        job.fail()
    finally:
        enginejobs.wait = original


@pytest.mark.parametrize("later", [False, True])
def test_a_failed_job_is_out_of_its_queue_and_filed_once(later: bool, queue: Any) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add)
    callback = job.addCallback(enginejobs.note)
    queue.put(job, begin_after=utcnow() + timedelta(hours=1) if later else None)
    transaction.commit()
    if later:
        assert Taker(queue, agent.slot).take(1) == [] and queue.counts()["later"] == 1
        transaction.commit()
    job.fail(ValueError("not wanted any more"))

    assert job.result.check(ValueError) and callback.result.check(ValueError)
    assert job.status == COMPLETED and list(queue) == []
    for _claim in range(2):
        assert Taker(queue, agent.slot).take(5) == []
        transaction.commit()
    none = dict.fromkeys(
        ("waiting", "later", "parked", "awaiting", "running", "quarantined", "succeeded", "cancelled"), 0
    )
    assert queue.counts() == {**none, "failed": 1} and list(queue.finished()) == [job]


def test_fail_takes_an_exception_or_a_failure_and_nothing_else(queue: Any) -> None:
    job = put_and_commit(queue, Job(enginejobs.add))
    with pytest.raises(InvalidValueError, match="with an exception or a Failure, not with 'no reason'"):
        job.fail("no reason")
    assert job.status == PENDING and list(queue) == [job]


def test_a_callback_that_stands_in_a_queue_by_its_job_only_can_be_failed(queue: Any, dispatch: Any) -> None:
    job = Job(enginejobs.add, 1)
    callback, other = job.addCallback(enginejobs.note), job.addCallback(enginejobs.note)
    put_and_commit(queue, job)
    assert callback.status == PENDING
    callback.fail(KeyError("not this one"))
    assert callback.result.check(KeyError) and list(queue) == [job]
    dispatch()
    assert wait_for_result(job) == 1 and other.result == 1 and enginejobs.calls == [1]


@pytest.mark.parametrize("busy", [False, True], ids=["at once", "as a job"])
def test_a_job_that_gets_callbacks_after_its_end_stays_one_finished_job(busy: bool, queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put_and_commit(queue, Job(enginejobs.add, 5))
    wait_for_result(job)
    wait_until(queue, lambda: list(queue.finished()) == [job], what="the job's filing")
    ended = job.finished_at
    for _late in range(2):
        if busy:
            queue._p_jar.root()["mine"] = utcnow()
        late = job.addCallback(enginejobs.note)
        transaction.commit()
        assert wait_for_result(late) == 5
        counts = {"waiting": 0, "later": 0, "running": 0}
        wait_until(queue, lambda: counts.items() <= queue.counts().items(), what="an empty queue")  # noqa: B023

    assert list(queue.finished()) == [job] and queue.counts()["succeeded"] == 1
    assert job.finished_at == ended and job.result == 5


def test_a_callback_that_comes_as_the_last_one_ends_is_run_or_its_adder_conflicts(connection: Any, db: Any) -> None:
    job = connection.root()["job"] = Job(enginejobs.add, 3)
    job.addCallback(enginejobs.note)
    transaction.commit()
    manager = transaction.TransactionManager()
    other, complete = db.open(manager), Job._complete

    def add_another(self: Any, now: Any) -> None:
        if len(self.callbacks) == 1:
            manager.begin()
            other.get(job._p_oid).addCallback(enginejobs.note)
            manager.commit()
        complete(self, now)

    Job._complete = add_another  # type: ignore[method-assign]
    try:
        job()
        assert job.status == COMPLETED and enginejobs.calls == [3, 3]
        manager.begin()
        stale = other.get(job._p_oid)
        assert [callback.result for callback in stale.callbacks] == [3, 3]
    finally:
        Job._complete = complete  # type: ignore[method-assign]
        manager.abort()
        other.close()


def test_whoever_adds_a_callback_to_a_job_that_has_just_ended_conflicts_and_tries_again(
    connection: Any, db: Any
) -> None:
    job = connection.root()["job"] = Job(enginejobs.add, 3)
    transaction.commit()
    manager = transaction.TransactionManager()
    other = db.open(manager)
    other.get(job._p_oid).addCallback(enginejobs.note)
    job()
    with pytest.raises(ConflictError):
        manager.commit()
    manager.abort()
    late = other.get(job._p_oid).addCallback(enginejobs.note)
    assert late.result == 3 and enginejobs.calls == [3]
    manager.abort()
    other.close()


def test_a_callback_that_wants_to_wait_where_no_queue_is_ends_its_job_without_an_error_for_the_caller(
    connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = connection.root()["job"] = Job(enginejobs.add, 3)
    callback = job.addCallback(enginejobs.fails_first, retry_policy_factory=Later)
    after = job.addCallback(enginejobs.note)
    transaction.commit()
    with caplog.at_level(logging.CRITICAL, "collective.zcasync"):
        assert job() == 3

    assert callback.result.check(ValueError) and after.result == 3 and job.status == COMPLETED
    assert "cannot be rescheduled" in caplog.text


def test_a_late_callback_that_wants_to_wait_lets_its_job_wait_in_the_queue(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = dispatch()
    job = put_and_commit(queue, Job(enginejobs.add, 3))
    wait_for_result(job)
    callback = job.addCallback(enginejobs.fails_first, retry_policy_factory=Later)
    after = job.addCallback(enginejobs.note)
    transaction.commit()

    assert job.status == CALLBACKS and job.queue is queue and after.result is None
    set_now(utcnow() + timedelta(hours=1, seconds=1))
    running.dispatcher.poll_soon()
    assert wait_for_result(after) == 3 and callback.result == "after 3"
    assert enginejobs.calls == ["tried", "tried", 3] and "interrupted" not in caplog.text


def test_a_late_callback_that_has_to_run_as_a_job_does_not_wait_for_the_lease_of_one_before_it(
    queue: Any, dispatch: Any
) -> None:
    running = dispatch()
    job = put_and_commit(queue, Job(enginejobs.add, 3))
    wait_for_result(job)
    wait_until(queue, lambda: list(queue.finished()) == [job], what="the job's filing")
    running.stop()
    transaction.begin()
    first = job.addCallback(enginejobs.note)  # runs here, under a lease
    transaction.commit()
    assert first.result == 3

    queue._p_jar.root()["more"] = 1
    second = job.addCallback(enginejobs.note)
    transaction.commit()
    assert second.result is None and job.resume_at is None
    dispatch()
    assert wait_for_result(second) == 3


def test_a_callback_called_by_hand_that_wants_to_wait_goes_on_with_its_job(queue: Any, dispatch: Any) -> None:
    agent = make_agent(queue)
    job = Job(enginejobs.add, 3)
    callback = job.addCallback(enginejobs.fails_first, retry_policy_factory=Later)
    put_and_commit(queue, job)
    assert agent.claimJob() is job
    transaction.commit()

    assert callback("early") is callback and callback.status == ASSIGNED
    assert job() == 3
    assert job.status == COMPLETED and callback.result == "after 3"


def test_a_database_that_is_away_is_waited_for_in_a_direct_call_too(connection: Any) -> None:
    job = connection.root()["job"] = Job(enginejobs.disconnect_times, 3)
    transaction.commit()

    assert job() == 4 and job.attempts == 1


def test_an_interrupted_callback_that_its_policy_would_reschedule_runs_at_once_and_says_so(
    connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = connection.root()["job"] = Job(enginejobs.add, 3)
    callback = job.addCallback(enginejobs.note, retry_policy_factory=Later)
    job._status_id, job._result, callback._status_id = 2, 3, 1
    transaction.commit()
    with caplog.at_level(logging.ERROR, "collective.zcasync"):
        job.resumeCallbacks()

    assert (job.status, callback.result) == (COMPLETED, 3)
    assert "cannot be rescheduled: it runs now" in caplog.text


def test_resuming_skips_what_has_ended_and_goes_on_inside_what_had_ended_but_for_its_own_callbacks(
    connection: Any,
) -> None:
    job = connection.root()["job"] = Job(enginejobs.add, 3)
    done, inside, aborted, fresh = (job.addCallback(enginejobs.note) for _ in range(4))
    nested = inside.addCallback(enginejobs.note)
    aborted.retry_policy_factory = "NeverRetry"
    job._status_id, job._result = 2, 3
    done._status_id = 3
    inside._status_id, inside._result = 2, "inside"
    aborted._status_id = 1
    transaction.commit()
    job.resumeCallbacks()

    assert enginejobs.calls == ["inside", 3] and nested.result == "inside" and fresh.result == 3
    assert aborted.result.check(AbortedError) and aborted.status == inside.status == job.status == COMPLETED
    with pytest.raises(BadStatusError, match="only resume the callbacks of a job in CALLBACKS"):
        job.resumeCallbacks()


def test_a_job_that_is_called_by_hand_leaves_the_agent_that_holds_it(queue: Any) -> None:
    agent, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 1))
    assert agent.claimJob() is job
    transaction.commit()
    assert job() == 1

    assert list(agent) == [] and list(agent.completed) == [job] and job.agent is agent


def test_a_late_callback_runs_though_another_dispatcher_ended_the_job_before_the_first_looked_again(
    queue: Any, dispatch: Any
) -> None:
    first, job = make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    assert first.claimJob() is job
    transaction.commit()
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    queue.give_back(job)  # as a job thread does that reschedules it
    transaction.commit()
    dispatch()
    wait_for_result(job)
    wait_until(queue, lambda: job in list(queue.finished()), what="the job's filing")
    sweeping.sweep(queue, first.slot, [(job._p_oid, "returned")])
    transaction.commit()

    assert wait_for_result(late) == 5
    wait_until(queue, lambda: job.status == COMPLETED and not queue.counts()["running"], what="the job's end")
    assert list(queue.finished()) == [job] and queue.counts()["succeeded"] == 1 and job.attempts == 1


def test_who_takes_a_job_whose_deferred_has_fired_takes_its_letters_and_files_it_alone(queue: Any) -> None:
    first, second, job = make_agent(queue), make_agent(queue), put_and_commit(queue, Job(enginejobs.add, 5))
    assert first.claimJob() is job
    row = first.slot.running[job._p_oid]
    first.slot.release(job._p_oid)
    first.slot.deferreds = {job._p_oid: row}  # as a sweep does when the job waits for a Deferred of a callback
    transaction.commit()
    late = job.addCallback(enginejobs.note)
    transaction.commit()
    queue.give_back(job)  # with the Deferred's result; if the answer to that is lost, the job is reported as finished
    transaction.commit()
    report = enginejobs.perform(second)
    for agent in (second, first):
        sweeping.sweep(queue, agent.slot, [(job._p_oid, report)])
    transaction.commit()

    assert late.result == 5 and list(queue.finished()) == [job] and queue.counts()["succeeded"] == 1
    assert first.slot.deferreds == second.slot.running == {}


def test_a_retry_does_not_move_the_deadline_of_its_job(queue: Any, dispatch: Any) -> None:
    dispatch(poll_interval=0.2)
    job = queue.put(Job(enginejobs.change_and_raise), begin_by=timedelta(minutes=10), retry_policy_factory=Later)
    begin = job.begin_after
    transaction.commit()
    wait_until(queue, lambda: job.attempts == 1 and job.status == PENDING, what="the reschedule")

    assert job.begin_after > begin + timedelta(minutes=50)
    assert job.deadline() == begin + timedelta(minutes=10)
    set_now(utcnow() + timedelta(minutes=11))
    assert wait_for_result(job, 10).check(TimeoutError)


def test_two_callbacks_can_be_added_at_once_to_a_callback_that_has_ended(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    first = job.addCallback(enginejobs.note)
    queue.put(job)
    transaction.commit()
    wait_for_result(job)
    transaction.begin()
    queue._p_jar.root()["changed"] = True  # so that they are put, and do not run here
    late = [first.addCallback(enginejobs.note), first.addCallback(enginejobs.note)]
    transaction.commit()
    for one in late:
        wait_for_result(one)

    assert [one.result for one in late] == [1, 1] and enginejobs.calls == [1, 1, 1]


@pytest.mark.parametrize("how", ["swept", "taken over", "claimed anew"])
def test_a_callback_that_came_by_mail_for_a_resumed_callback_runs(how: str, queue: Any, dispatch: Any) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add, 5)
    resumed = job.addCallback(enginejobs.note)
    put_and_commit(queue, job)
    assert agent.claimJob() is job
    job._finish(5, utcnow())
    resumed.token = "resumed"
    resumed._begin(utcnow())
    transaction.commit()
    late = resumed.addCallback(enginejobs.note)
    transaction.commit()
    assert resumed.callbacks == () and len(agent.slot.mailbox) == 1
    resumed._finish(6, utcnow())
    transaction.commit()
    if how == "swept":
        job._complete(utcnow())
        transaction.commit()
        sweeping.sweep(queue, agent.slot, [(job._p_oid, "finished")])
    elif how == "taken over":
        job._complete(utcnow())
        transaction.commit()
        agent.parent.deactivate(died=True)
    else:
        queue.give_back(job)
    transaction.commit()
    dispatch()
    wait_until(queue, lambda: queue.counts()["waiting"] + queue.counts()["running"] == 0, what="an empty queue")

    assert late.result == 6 and [job.status, resumed.status] == [COMPLETED, COMPLETED]
    assert list(queue.finished()) == [job]


def test_a_callback_that_comes_right_after_the_end_is_left_to_those_who_then_own_the_job(
    queue: Any, dispatch: Any, db: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Overtaken(callbackruns.Run):
        """Its thread sees, at its next look after the commit of the end, what another one has done since."""

        def go(self, begun: bool = False) -> str:
            ended = super().go(begun)
            if self.job.callable_name.endswith("add"):
                add_callback()
                self.manager.begin()
            return ended

    def add_callback() -> None:
        manager = transaction.TransactionManager()
        connection = db.open(manager)
        try:
            connection.get(queue._p_oid).paused = True  # a change of its own, so the callback is put as a job
            connection.get(job._p_oid).addCallback(enginejobs.note)
            manager.commit()
        finally:
            manager.abort()
            connection.close()

    monkeypatch.setattr(callbackruns, "Run", Overtaken)
    running = dispatch(threads=1)
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    wait_until(queue, lambda: queue.paused and queue.counts()["running"] == 0, what="the report of the thread")

    assert (enginejobs.calls, job.status) == ([], CALLBACKS)
    queue.paused = False
    transaction.commit()
    running.dispatcher.poll_soon()
    wait_until(queue, lambda: list(queue.finished()) == [job], what="the end of the callback")
    assert (enginejobs.calls, job.status, job.callbacks[0].attempts) == ([1], COMPLETED, 1)
    assert [record for record in caplog.records if record.levelno >= logging.CRITICAL] == []


def _with_an_ended_callback(queue: Any, agent: Any, chained: bool = False) -> tuple[Job, Any]:
    """A claimed job with two callbacks, of which the first has ended, with 6; ``chained``: and that behind it."""
    job = Job(enginejobs.add, 5)
    ended = job.addCallback(enginejobs.note)
    job.addCallback(enginejobs.note)
    behind = ended.addCallback(enginejobs.note) if chained else None
    put_and_commit(queue, job)
    assert agent.claimJob() is job
    job._finish(5, utcnow())
    ended._begin(utcnow())
    ended._finish(6, utcnow())
    if behind is not None:
        behind._begin(utcnow())
        behind._finish(6, utcnow())
        ended._complete(utcnow())
    transaction.commit()
    return job, behind or ended


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("owned", [True, False])
def test_a_callback_on_an_ended_one_is_left_to_who_runs_the_others_of_its_job(
    owned: bool, chained: bool, queue: Any, dispatch: Any
) -> None:
    agent = make_agent(queue)
    job, ended = _with_an_ended_callback(queue, agent, chained)
    if not owned:
        agent.slot.release(job._p_oid)
        queue.give_back(job)
        transaction.commit()
    late = ended.addCallback(enginejobs.note)
    transaction.commit()

    assert enginejobs.calls == [] and main_of(ended) is job
    assert (ended.status, len(agent.slot.mailbox)) == ((COMPLETED, 1) if owned else (CALLBACKS, 0))
    if owned:
        agent.parent.deactivate(died=True)
        transaction.commit()
    dispatch()
    wait_until(late, lambda: late.status == COMPLETED, what="the late callback's end")
    wait_until(queue, lambda: list(queue.finished()) == [job] and queue.counts()["running"] == 0, what="the filing")
    assert late.result == 6 and sorted(enginejobs.calls) == [5, 6] and ended.status == COMPLETED


def test_who_ends_a_job_as_one_of_its_callbacks_gets_a_late_one_conflicts(queue: Any, db: Any) -> None:
    agent = make_agent(queue)
    job, ended = _with_an_ended_callback(queue, agent)
    agent.slot.release(job._p_oid)
    queue.give_back(job)
    job.callbacks[1]._begin(utcnow())
    job.callbacks[1]._finish(7, utcnow())
    transaction.commit()
    manager = transaction.TransactionManager()
    other = db.open(manager)
    other.get(job._p_oid)._complete(utcnow())
    ended.addCallback(enginejobs.note)
    transaction.commit()
    with pytest.raises(ConflictError):
        manager.commit()
    manager.abort()
    other.close()


def test_a_callback_that_stands_in_the_queue_itself_is_left_to_who_took_it_there(queue: Any) -> None:
    first, second = make_agent(queue), make_agent(queue)
    job = Job(enginejobs.add, 5)
    alone = job.addCallback(enginejobs.note)
    put_and_commit(queue, job)
    sweeping.sweep(queue, first.slot, [(job._p_oid, enginejobs.perform(first))])
    transaction.commit()
    queue.put(Job(enginejobs.add))  # something else, so that the callback cannot run at once
    mine = alone.addCallback(Job(enginejobs.note))
    transaction.commit()
    first.hold_all((one.job, True) for one in Taker(queue, first.slot).take(5))
    transaction.commit()
    told = alone.addCallback(enginejobs.note)
    transaction.commit()
    assert len(first.slot.mailbox) == 1
    queue.put(Job(enginejobs.add))
    other = job.addCallback(enginejobs.note)
    transaction.commit()
    second.hold_all((one.job, True) for one in Taker(queue, second.slot).take(5))
    transaction.commit()
    assert (alone.agent, job.agent) == (first, second)
    around = Surroundings(queue._p_jar.db())
    report = execution.perform(around.database, job._p_oid, "resume", job.token, around)
    transaction.begin()
    sweeping.sweep(queue, second.slot, [(job._p_oid, report)])
    transaction.commit()

    assert (report, other.status, mine.status, told.status) == ("finished", COMPLETED, ASSIGNED, ASSIGNED)
    assert len(first.slot.mailbox) == 1 and alone.status == CALLBACKS


def test_a_callback_that_comes_to_stand_in_the_queue_itself_gets_the_mail_that_came_before(
    queue: Any, dispatch: Any
) -> None:
    agent = make_agent(queue)
    job, ended = _with_an_ended_callback(queue, agent)
    told = ended.addCallback(enginejobs.note)
    job.callbacks[1]._begin(utcnow())
    transaction.commit()
    job.callbacks[1]._finish(7, utcnow())
    job._complete(utcnow())
    transaction.commit()
    late = ended.addCallback(enginejobs.note)  # the mail is not opened yet, and the job has ended
    transaction.commit()
    assert (late.status, told.status, ended.parent) == (COMPLETED, PENDING, queue)
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "finished")])
    transaction.commit()
    dispatch()
    wait_until(told, lambda: told.status == COMPLETED, what="the end of the callback that came by mail")
    wait_until(queue, lambda: queue.counts()["waiting"] + queue.counts()["running"] == 0, what="an empty queue")

    assert told.result == 6 and list(queue.finished()) == [job] and len(agent.slot.mailbox) == 0
