"""Jobs that return a job: they wait for it without holding a thread, and end as it does."""

from collective.zcasync import local
from collective.zcasync import waiting
from collective.zcasync.agent import Agent
from collective.zcasync.api import cancel
from collective.zcasync.clock import utcnow
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from uuid import uuid4
from ZODB.POSException import ConflictError

import enginejobs
import pytest
import transaction


def hand_on(inner: Any) -> Any:
    """A job that returns one that was made outside, and notes that its code has run."""
    enginejobs.calls.append("outer")
    root = enginejobs.root()
    root["outer"] = root.get("outer", 0) + 1
    return inner


def begin(call: Any, *args: Any) -> Any:
    """A job that makes the job that it returns, and puts it nowhere."""
    enginejobs.calls.append("outer")
    return Job(call, *args)


def put_elsewhere(name: str) -> Any:
    """A job that returns a job of another queue."""
    return get_queue(local.getJob()._p_jar, name).put(Job(enginejobs.wait))


def itself() -> Any:
    return local.getJob()


def nested(depth: int) -> Any:
    return Job(nested, depth - 1) if depth else "bottom"


def noted(result: Any) -> Any:
    enginejobs.calls.append(("callback", getattr(result, "type_name", result)))
    return result


def wait_after_callback(result: Any) -> Any:
    """A callback that returns a job."""
    enginejobs.calls.append("callback begins")
    return Job(enginejobs.wait)


def _until_awaiting(job: Any, inner: Any = None) -> None:
    wait_until(job, lambda: dict(job.queue.awaiting()).get(job) is not None, 20, f"{job!r} waiting for a job")


def test_a_job_that_returns_a_job_is_active_until_that_one_ends_and_ends_as_it_does(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    outer = queue.put(Job(begin, enginejobs.wait))
    outer.addCallback(noted)
    transaction.commit()
    assert enginejobs.started["a"].wait(20)  # on the only thread
    _until_awaiting(outer)
    inner = outer.result

    assert (outer.status, inner.status, outer.waiting_for) == (ACTIVE, ACTIVE, inner)
    assert inner.queue is queue
    counts = queue.counts()
    assert (counts["awaiting"], counts["running"], counts["waiting"]) == (1, 1, 0)
    assert outer.agent is None and outer not in queue.dispatchers[running.dispatcher.UUID]["main"]
    enginejobs.released["a"].set()
    assert wait_for_result(outer, 20) == "a"
    assert enginejobs.calls == ["outer", "a", ("callback", "a")]
    wait_until(queue, lambda: set(queue.finished()) == {outer, inner}, 20)
    assert queue.counts()["awaiting"] == 0 and len(queue.waiting_for) == 0


def test_a_job_that_returns_one_that_has_ended_ends_at_once(queue: Any, dispatch: Any) -> None:
    dispatch()
    inner = queue.put(Job(enginejobs.add, 20, 22))
    transaction.commit()
    wait_for_result(inner, 20)
    outer = queue.put(Job(hand_on, inner))
    transaction.commit()

    assert wait_for_result(outer, 20) == 42
    assert outer.outcome == "succeeded" and len(queue.waiting_for) == 0


def test_results_come_out_through_many_levels(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    outer = queue.put(Job(nested, 6))
    transaction.commit()

    assert wait_for_result(outer, 30) == "bottom"
    wait_until(queue, lambda: queue.counts()["succeeded"] == 7, 20)
    assert queue.counts()["awaiting"] == 0


def test_the_failure_of_the_inner_job_is_that_of_the_outer(queue: Any, dispatch: Any) -> None:
    dispatch()
    outer = queue.put(Job(begin, enginejobs.change_and_raise))
    outer.addCallback(noted)
    transaction.commit()

    failure = wait_for_result(outer, 20)
    assert failure.check(ValueError) and failure.getErrorMessage() == "on purpose"
    assert "change_and_raise" in failure.getTraceback()
    assert outer.outcome == "failed" and enginejobs.calls[-1] == ("callback", "builtins.ValueError")


@pytest.mark.parametrize("how", ["cancel", "remove", "pull", "expire", "fail", "set aside"])
def test_whatever_ends_a_waiting_inner_job_ends_the_outer(queue: Any, dispatch: Any, how: str) -> None:
    queue.quotas.create("closed", 1)
    blocker = Job(enginejobs.wait, "b")
    blocker.quota_names = ("closed",)
    queue.put(blocker)
    inner = Job(enginejobs.add, 1)
    inner.quota_names = ("closed",)
    queue.put(inner, begin_by=timedelta(seconds=0.5) if how == "expire" else None)
    outer = queue.put(Job(hand_on, inner))
    transaction.commit()
    running = dispatch(poll_interval=0.2)
    assert enginejobs.started["b"].wait(20)
    if how != "expire":
        _until_awaiting(outer)
    if how == "cancel":
        queue.cancel(inner)
    elif how == "remove":
        queue.remove(inner)
    elif how == "pull":
        assert queue.pull() is inner
    elif how == "fail":
        inner.fail()
    elif how == "set aside":
        queue.take_out(inner)
        insert(queue.quarantine, make_key(), ("on purpose", inner))
    transaction.commit()
    failure = wait_for_result(outer, 20)

    expected = {"cancel": CancelledError, "expire": "TimeoutError", "fail": "TimeoutError"}.get(how, AbortedError)
    if isinstance(expected, str):
        assert failure.type_name.endswith(expected)
    else:
        assert failure.check(expected)
    if how in ("remove", "pull"):
        assert "taken out of its queue" in failure.getErrorMessage()
    poll_now(running.dispatcher)
    enginejobs.released["b"].set()
    wait_until(queue, lambda: len(queue.waiting_for) == 0 and queue.counts()["awaiting"] == 0, 20)


def test_an_outer_job_that_is_cancelled_while_it_waits_ends_and_the_inner_goes_on(queue: Any, dispatch: Any) -> None:
    dispatch()
    outer = queue.put(Job(begin, enginejobs.wait))
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    _until_awaiting(outer)
    inner = outer.result
    assert queue.cancel(outer) == "cancelled"
    transaction.commit()
    assert wait_for_result(outer, 20).check(CancelledError)
    enginejobs.released["a"].set()

    assert wait_for_result(inner, 20) == "a"
    wait_until(queue, lambda: queue.counts()["awaiting"] == 0 and len(queue.waiting_for) == 0, 20)
    assert queue.counts()["cancelled"] == 1


def begin_with(result: Any, call: Any) -> Any:
    """A callback that returns a job."""
    return Job(call)


def test_a_callback_that_is_cancelled_while_it_waits_ends_and_so_does_its_job(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(Job(begin_with, call=enginejobs.wait))
    callback.addCallback(noted)
    queue.put(job)
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    wait_until(queue, lambda: queue.counts()["awaiting"] == 1, 20)
    assert queue.cancel(callback) == "cancelled"
    transaction.commit()

    assert wait_for_result(job, 20) == 1
    assert callback.result.check(CancelledError) and enginejobs.calls[-1][1].endswith("CancelledError")
    enginejobs.released["a"].set()
    wait_until(queue, lambda: queue.counts()["awaiting"] == 0 and len(queue.waiting_for) == 0, 20)
    wait_until(queue, lambda: queue.counts()["succeeded"] == 2, 20)


def test_a_job_can_wait_for_one_of_another_queue_that_another_dispatcher_serves(
    queue: Any, connection: Any, dispatch: Any
) -> None:
    install(connection, ("", "other"))
    transaction.commit()
    dispatch(queues=("",), threads=1)
    dispatch(queues=("other",), threads=1)
    outer = queue.put(Job(put_elsewhere, "other"))
    outer.addCallback(noted)
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    _until_awaiting(outer)
    assert outer.result.queue is get_queue(connection, "other")
    enginejobs.released["a"].set()

    assert wait_for_result(outer, 20) == "a"
    assert enginejobs.calls[-1] == ("callback", "a")
    wait_until(queue, lambda: list(queue.finished()) == [outer] and queue.counts()["awaiting"] == 0, 20)


def test_a_job_that_returns_itself_or_one_that_waits_for_it_fails_with_a_clear_message(
    queue: Any, dispatch: Any
) -> None:
    dispatch()
    alone = queue.put(Job(itself))
    first, second = Job(hand_on), Job(hand_on)
    first.args.append(second)
    second.args.append(first)
    queue.put(first)
    queue.put(second)
    transaction.commit()

    assert "cannot end before" in wait_for_result(alone, 20).getErrorMessage()
    for job in (first, second):
        failure = wait_for_result(job, 20)
        assert failure.check(TypeError) and "return a job that does not wait for this one" in failure.getErrorMessage()


def test_no_death_of_a_dispatcher_runs_a_waiting_job_again(queue: Any, dispatch: Any, connection: Any) -> None:
    first = dispatch(threads=1)
    outer = queue.put(Job(hand_on, queue.put(Job(enginejobs.wait), begin_after=None)))
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    enginejobs.released["a"].set()
    wait_for_result(outer, 20)
    transaction.begin()
    late = queue.put(Job(enginejobs.wait, "b"))
    waiting = queue.put(Job(hand_on, late))
    late.addCallback(noted)
    transaction.commit()
    assert enginejobs.started["b"].wait(20)
    first.crash()
    transaction.begin()
    queue.dispatchers[first.dispatcher.UUID].deactivate(died=True)
    queue.dispatchers.unregister(first.dispatcher.UUID)
    transaction.commit()
    enginejobs.released["b"].set()
    dispatch(threads=1)

    assert wait_for_result(waiting, 30) == "b"
    assert connection.root()["outer"] == 2, "each outer job's code has run once"


def test_a_death_between_the_finish_commit_and_the_sweep_runs_no_code_again(
    queue: Any, dispatch: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dispatch(threads=1)
    told: list[str] = []
    monkeypatch.setattr(Dispatcher, "report", lambda self, queue, oid, report, *_more: told.append(report))
    outer = Job(hand_on, Job(enginejobs.wait))
    queue.put(outer)
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    assert told == ["waiting"]  # and nobody has heard of it
    first.crash()
    monkeypatch.undo()
    transaction.begin()
    queue.dispatchers[first.dispatcher.UUID].deactivate(died=True)
    transaction.commit()
    assert outer.status == ACTIVE and dict(queue.awaiting()) == {outer: outer.result}
    enginejobs.released["a"].set()
    dispatch(threads=1)

    assert wait_for_result(outer, 20) == "a"
    assert connection.root()["outer"] == 1


def test_a_callback_that_returns_a_job_lets_its_own_job_wait_outside_the_thread(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    main = queue.put(Job(enginejobs.add, 1))
    callback = main.addCallback(wait_after_callback)
    callback.addCallback(noted)
    main.addCallback(enginejobs.note)
    transaction.commit()
    assert enginejobs.started["a"].wait(20)  # on the only thread
    wait_until(queue, lambda: main in dict(queue.awaiting()), 20)
    assert callback.status == ACTIVE and main.status != COMPLETED
    enginejobs.released["a"].set()

    assert wait_for_result(main, 20) == 1
    assert callback.result == "a"
    assert enginejobs.calls == ["callback begins", "a", ("callback", "a"), 1]
    wait_until(queue, lambda: queue.counts()["awaiting"] == 0 and len(queue.waiting_for) == 0, 20)


def test_callbacks_that_come_while_a_job_waits_run_at_its_end(queue: Any, dispatch: Any) -> None:
    dispatch()
    outer = queue.put(Job(begin, enginejobs.wait))
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    _until_awaiting(outer)
    callback = outer.addCallback(noted)
    transaction.commit()
    enginejobs.released["a"].set()

    assert wait_for_result(callback, 20) == "a"


def test_an_inner_job_of_the_same_quota_takes_the_place_of_the_outer(queue: Any, dispatch: Any) -> None:
    dispatch()
    queue.quotas.create("one", 1)
    inner, outer = Job(enginejobs.add, 1), Job(hand_on)
    inner.quota_names = outer.quota_names = ("one",)
    outer.args.append(inner)
    queue.put(outer)
    transaction.commit()

    assert wait_for_result(outer, 20) == 1
    wait_until(queue, lambda: len(queue.quotas["one"]) == 0, 20)


def test_a_waiting_job_keeps_its_place_in_a_quota_until_it_ends(queue: Any, dispatch: Any) -> None:
    dispatch()
    queue.quotas.create("one", 1)
    outer, other = Job(begin, enginejobs.wait), Job(enginejobs.note, "other")
    outer.quota_names = other.quota_names = ("one",)
    queue.put(outer)
    queue.put(other)
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    _until_awaiting(outer)
    assert list(queue.quotas["one"]) == [outer] and "other" not in enginejobs.calls
    enginejobs.released["a"].set()

    wait_for_result(other, 20)
    assert enginejobs.calls == ["outer", "a", "other"]


def test_a_poll_finds_those_whom_nobody_told(queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = dispatch(poll_interval=60)
    outer = queue.put(Job(begin, enginejobs.wait))
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    _until_awaiting(outer)
    inner = outer.result
    with monkeypatch.context() as patch:
        patch.setattr(waiting, "ended", lambda *_args, **_kwargs: None)
        enginejobs.released["a"].set()
        wait_until(queue, lambda: inner in list(queue.finished()), 20)
    assert outer.status == ACTIVE
    poll_now(running.dispatcher)

    assert wait_for_result(outer, 20) == "a"
    assert queue.counts()["awaiting"] == 0


def test_a_job_that_is_called_directly_waits_too(connection: Any, queue: Any) -> None:
    connection.root()["outer job"] = outer = Job(hand_on, Job(enginejobs.add, 2))
    outer.addCallback(noted)
    transaction.commit()
    inner = outer()
    assert inner is outer.args[0] and outer.status == ACTIVE and outer.result is inner
    inner()

    assert (outer.status, outer.result) == (COMPLETED, 2)
    assert enginejobs.calls == ["outer", ("callback", 2)]


def test_run_jobs_runs_inner_jobs_inline(queue: Any) -> None:
    outer = queue.put(Job(nested, 2))
    outer.addCallback(wait_for_add)
    transaction.commit()
    done = run_jobs(queue)

    assert outer.result == "bottom" and outer.callbacks[0].result == 3
    assert outer in done and queue.counts()["awaiting"] == 0
    assert queue.counts()["succeeded"] == 4


def wait_for_add(result: Any) -> Any:
    return Job(enginejobs.add, 1, 2)


def test_cancel_by_id_ends_a_waiting_job(queue: Any, dispatch: Any, connection: Any) -> None:
    dispatch()
    outer = queue.put(Job(begin, enginejobs.wait))
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    _until_awaiting(outer)
    local.job = outer  # api finds its connection through the running job
    try:
        assert cancel(outer.id) == "cancelled"
    finally:
        local.job = None
    transaction.commit()

    assert outer.outcome == "cancelled"


def test_who_begins_to_wait_conflicts_with_an_end_of_the_inner_job_that_comes_between(queue: Any, db: Any) -> None:
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da["main"] = agent = Agent()
    inner, outer = queue.put(Job(enginejobs.add, 1)), queue.put(Job(hand_on))
    transaction.commit()
    for job in (inner, outer):
        assert agent.queue.claim() is job
        agent.hold(job, active=True)
    outer._wait_for(inner, again=False)
    transaction.commit()
    with db.transaction() as other:  # the inner job's thread
        other.get(inner._p_oid)._finish(1, utcnow())
        waiting.begin(queue, da.slot, outer)  # a claim that has not seen that yet
        assert dict(queue.awaiting()) == {outer: inner}
    with pytest.raises(ConflictError):
        transaction.commit()
    transaction.begin()
    waiting.begin(queue, da.slot, outer)

    assert (outer.result, outer.status) == (1, COMPLETED) and len(queue.waiting_for) == 0


def test_a_job_that_returns_one_that_has_ended_does_not_wait_for_it(queue: Any) -> None:
    agent = enginejobs.make_agent(queue)
    inner = queue.put(Job(enginejobs.add, 20, 22))
    outer = queue.put(Job(hand_on, inner))
    transaction.commit()

    assert [enginejobs.perform(agent) for _job in (inner, outer)] == ["finished"] * 2
    assert outer.result == 42 and outer.waiting_for is None
