"""Jobs that return a Deferred, and jobs that await some: ``async def``."""

from collective.zcasync import api
from collective.zcasync import callbackruns
from collective.zcasync import deferreds
from collective.zcasync import local
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import StopRequested
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.job import Job
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.tasks import register
from collective.zcasync.tasks import Task
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from persistent.mapping import PersistentMapping
from twisted.internet import defer
from twisted.python.failure import Failure as TwistedFailure
from typing import Any
from ZODB.POSException import ConflictError

import asyncio
import enginejobs
import pytest
import threading
import transaction

#: What the jobs of a test have returned or await, in their order.
made: list[Any] = []


@pytest.fixture(autouse=True)
def none_made() -> None:
    made.clear()


def fire(running: Any, value: Any, index: int = -1) -> None:
    """Fire what a job has returned, in the reactor's thread, and wait until that has happened."""
    done = threading.Event()

    def call() -> None:
        deferred = made[index]
        deferred.errback(value) if isinstance(value, BaseException) else deferred.callback(value)
        done.set()

    running.reactor.callFromThread(call)
    assert done.wait(20)


def deferred_job(key: str = "count") -> Any:
    """Changes the database, and returns a Deferred."""
    enginejobs.count(key)
    made.append(defer.Deferred())
    return made[-1]


def deferred_in(mapping: Any) -> Any:
    mapping["runs"] = mapping.get("runs", 0) + 1
    made.append(defer.Deferred())
    return made[-1]


rerun_task = register(Task(deferred_job, name="deferred that runs again", rerun=True))


def deferred_that_conflicts() -> Any:
    """The commit of its first attempt meets a conflict."""

    def hook() -> None:
        raise ConflictError

    if not made:
        transaction.get().addBeforeCommitHook(hook)
    return deferred_job()


def fired_job(value: Any) -> Any:
    return defer.succeed(value)


def failed_job() -> Any:
    return defer.fail(ValueError("fired before"))


def soon() -> Any:
    """A Deferred that the dispatcher's reactor fires a moment later."""
    deferred: Any = defer.Deferred()
    reactor = local.getReactor()
    reactor.callFromThread(reactor.callLater, 0.05, deferred.callback, "later")
    return deferred


def deferred_callback(result: Any) -> Any:
    enginejobs.calls.append(("callback", result))
    made.append(defer.Deferred())
    return made[-1]


def _until_deferred(job: Any, running: Any) -> None:
    wait_until(job, lambda: any(job._p_oid in slot.deferreds for slot in job.queue.slots.values()), 20)


def test_a_job_that_returns_a_deferred_holds_no_thread_and_gets_its_result_when_it_fires(
    queue: Any, connection: Any, dispatch: Any
) -> None:
    running = dispatch(threads=1)
    job = queue.put(Job(deferred_job))
    job.addCallback(enginejobs.note)
    transaction.commit()
    _until_deferred(job, running)

    assert (job.status, job.result, connection.root()["count"]) == (ACTIVE, None, 1)
    assert queue.counts()["running"] == 1 and [found for found, *_ in queue.running()] == [job]
    assert len(queue.dispatchers[running.dispatcher.UUID]["main"]) == 0
    other = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    assert wait_for_result(other, 20) == 1, "the only thread is free"
    fire(running, {"fired": 42})

    assert wait_for_result(job, 20) == {"fired": 42}
    assert enginejobs.calls == [{"fired": 42}] and connection.root()["count"] == 1
    wait_until(queue, lambda: queue.counts()["running"] == 0 and job in list(queue.finished()), 20)
    assert len(running.dispatcher.around.deferreds) == 0


def test_the_failure_of_a_deferred_is_that_of_its_job(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    job = queue.put(Job(deferred_job))
    transaction.commit()
    _until_deferred(job, running)
    fire(running, KeyError("nothing there"))

    failure = wait_for_result(job, 20)
    assert failure.check(KeyError) and "nothing there" in failure.getErrorMessage()
    assert job.outcome == "failed"


def test_a_deferred_that_has_fired_already_is_its_result(queue: Any, dispatch: Any) -> None:
    dispatch()
    jobs = [queue.put(Job(fired_job, 3)), queue.put(Job(failed_job)), queue.put(Job(soon))]
    transaction.commit()

    assert wait_for_result(jobs[0], 20) == 3
    assert wait_for_result(jobs[1], 20).getErrorMessage() == "fired before"
    assert wait_for_result(jobs[2], 20) == "later"


def test_a_deferred_that_fires_with_a_job_makes_its_job_wait_for_that_one(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    job = queue.put(Job(deferred_job))
    job.addCallback(enginejobs.note)
    transaction.commit()
    _until_deferred(job, running)
    fire(running, Job(enginejobs.add, 40, 2))

    assert wait_for_result(job, 20) == 42
    assert enginejobs.calls == [42]
    wait_until(queue, lambda: queue.counts()["succeeded"] == 2 and queue.counts()["awaiting"] == 0, 20)


def test_a_result_that_meets_conflicts_is_stored_all_the_same(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ZEO.Exceptions import ClientDisconnected
    from ZODB.POSException import ConflictError

    troubles = [ConflictError(), ClientDisconnected("gone"), *(ConflictError() for _ in range(10))]
    end = deferreds.end

    def troubled(*args: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return end(*args)

    monkeypatch.setattr(deferreds, "end", troubled)
    running = dispatch()
    job = queue.put(Job(deferred_job))
    transaction.commit()
    _until_deferred(job, running)
    fire(running, "stored")

    assert wait_for_result(job, 30) == "stored" and troubles == []


def test_a_callback_that_returns_a_deferred_lets_those_behind_it_wait(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    main = queue.put(Job(enginejobs.add, 1))
    callback = main.addCallback(deferred_callback)
    callback.addCallback(enginejobs.note)
    main.addCallback(enginejobs.note)
    transaction.commit()
    _until_deferred(main, running)
    assert (callback.status, enginejobs.calls) == (ACTIVE, [("callback", 1)])
    fire(running, "from the callback")

    assert wait_for_result(main, 20) == 1
    assert enginejobs.calls == [("callback", 1), "from the callback", 1]


@pytest.mark.parametrize("how", ["stop", "crash"])
@pytest.mark.parametrize("stage", ["listed", "reported"])
def test_a_job_whose_dispatcher_ends_while_it_waits_for_a_deferred_is_aborted_and_its_changes_stay(
    queue: Any, connection: Any, dispatch: Any, how: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = dispatch()
    if stage == "reported":
        monkeypatch.setattr("collective.zcasync.claiming.Claimer.report", lambda *_args: None)
    job = queue.put(Job(deferred_job))
    job.addCallback(enginejobs.note)
    transaction.commit()
    wait_until(job, lambda: job.deferred, 20)
    if stage == "listed":
        _until_deferred(job, running)
    monkeypatch.undo()
    running.stop(grace=0) if how == "stop" else running.crash()
    if how == "crash":
        _bury(queue, running.dispatcher.UUID)
    transaction.begin()
    assert connection.root()["count"] == 1
    dispatch()

    failure = wait_for_result(job, 20)
    assert failure.check(AbortedError) and "waited for a Deferred" in failure.getErrorMessage()
    assert connection.root()["count"] == 1 and len(made) == 1
    assert enginejobs.calls[0].check(AbortedError)
    wait_until(queue, lambda: queue.counts()["running"] == 0, 20)


def _bury(queue: Any, uuid: Any) -> None:
    transaction.begin()
    queue.dispatchers[uuid].deactivate(died=True)
    queue.dispatchers.unregister(uuid)
    transaction.commit()


def test_a_task_that_says_rerun_runs_again_when_its_dispatcher_died(queue: Any, connection: Any, dispatch: Any) -> None:
    first = dispatch()
    job = queue.put(Job(rerun_task))
    transaction.commit()
    _until_deferred(job, first)
    first.crash()
    _bury(queue, first.dispatcher.UUID)
    second = dispatch()
    wait_until(job, lambda: len(made) == 2, 20)
    _until_deferred(job, second)
    fire(second, "second time")

    assert wait_for_result(job, 20) == "second time"
    assert connection.root()["count"] == 2


def test_a_deferred_that_fires_after_a_takeover_leaves_everything_alone(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = dispatch()
    plain = queue.put(Job(deferred_job, "plain"))
    transaction.commit()
    _until_deferred(plain, running)
    again = queue.put(Job(rerun_task, "again"))
    transaction.commit()
    _until_deferred(again, running)
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID].deactivate(died=True)  # taken for dead, and alive
    transaction.commit()
    assert plain.result.check(AbortedError)
    for number in range(2):
        fire(running, "too late", number)
    wait_until(queue, lambda: caplog.text.count("has ended or has a new owner") == 2, 20)
    wait_until(queue, lambda: len(made) == 3 and again.deferred, 20)

    transaction.begin()
    assert plain.result.check(AbortedError) and again.status == ACTIVE and again.result is None


def test_a_job_that_waits_for_a_deferred_can_be_cancelled(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    job = queue.put(Job(deferred_job))
    transaction.commit()
    _until_deferred(job, running)
    assert queue.cancel(job) == "stopping"
    transaction.commit()

    assert wait_for_result(job, 20).check(CancelledError)
    assert job.outcome == "cancelled" and made[0].called


def test_beyond_the_limit_a_job_keeps_its_thread_until_a_deferred_has_fired(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferreds, "MOST", 2)
    queue_root = queue._p_jar.root()
    for number in range(3):
        queue_root[number] = PersistentMapping()
    running = dispatch(threads=1)
    jobs = [queue.put(Job(deferred_in, queue_root[number])) for number in range(3)]
    last = queue.put(Job(enginejobs.note, "last"))
    transaction.commit()
    wait_until(queue, lambda: all(job.deferred for job in jobs), 20)
    wait_until(queue, lambda: sum(len(slot.deferreds) for slot in queue.slots.values()) == 2, 20)
    assert enginejobs.calls == [] and last.status != COMPLETED
    fire(running, "first", 0)

    assert wait_for_result(jobs[0], 20) == "first"
    assert wait_for_result(last, 20) == "last"
    for number in (1, 2):
        fire(running, number, number)
        assert wait_for_result(jobs[number], 20) == number


def test_a_job_that_is_called_directly_gets_its_result_from_a_thread(connection: Any, queue: Any) -> None:
    connection.root()["job"] = job = Job(deferred_job)
    job.addCallback(enginejobs.note)
    transaction.commit()
    assert job() is None
    assert (job.status, job.result) == (ACTIVE, None)
    thread = threading.Thread(target=made[0].callback, args=("threaded",))
    thread.start()
    thread.join(20)
    transaction.begin()

    assert (job.status, job.result) == (COMPLETED, "threaded")
    assert enginejobs.calls == ["threaded"]


def test_a_deferred_whose_attempt_could_not_be_committed_is_cancelled_and_the_next_one_counts(connection: Any) -> None:
    connection.root()["job"] = job = Job(deferred_that_conflicts)
    transaction.commit()
    assert job() is None

    assert [deferred.called for deferred in made] == [True, False]
    made[1].callback("second")
    transaction.begin()
    assert (job.result, job.attempts, connection.root()["count"]) == ("second", 2, 1)


def test_callbacks_behind_one_that_waits_for_a_deferred_wait_also_when_they_are_resumed(connection: Any) -> None:
    connection.root()["job"] = job = Job(enginejobs.add, 1)
    callback = job.addCallback(deferred_callback)
    transaction.commit()
    assert job() == 1 and callback.status == ACTIVE
    job.addCallback(enginejobs.note)
    transaction.commit()
    around = Surroundings(connection.db())
    assert callbackruns.run_callbacks(job, transaction.manager, around) == "deferred"
    assert enginejobs.calls == [("callback", 1)], "neither did it run again nor what is behind it"


# async def


async def awaiting(mapping: Any) -> Any:
    """Its code runs in the job's thread, connection and transaction, before and after each await."""
    threads = [threading.get_ident()]
    mapping["before"] = local.getJob()
    results = []
    for _number in range(3):
        made.append(soon())
        results.append(await made[-1])
        threads.append(threading.get_ident())
    mapping["after"] = "changed"
    return results, len(set(threads)), local.getJob() is mapping["before"]


async def await_one() -> Any:
    made.append(defer.Deferred())
    enginejobs.calls.append("awaits")
    try:
        return await made[-1]
    except ValueError as error:
        return f"caught {error}"
    except StopRequested:
        enginejobs.calls.append("asked to stop")
        raise
    finally:
        enginejobs.calls.append("finally")


async def await_asyncio(what: str) -> Any:
    if what == "future":
        loop = asyncio.new_event_loop()
        try:
            return await loop.create_future()
        finally:
            loop.close()
    return await asyncio.sleep(0.01 if what == "sleep" else 0)


async def forgets_to_await() -> Any:
    return await_asyncio("nothing")


async def generator() -> Any:
    yield 1


async def returns_a_job() -> Any:
    await soon()
    return Job(enginejobs.add, 1, 1)


def run_asyncio() -> Any:
    async def inside() -> int:
        await asyncio.sleep(0)
        return 7

    return asyncio.run(inside())


def test_an_async_job_runs_in_its_thread_and_commits_once(queue: Any, connection: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    connection.root()["mapping"] = mapping = PersistentMapping()
    job = queue.put(Job(awaiting, mapping))
    transaction.commit()

    assert wait_for_result(job, 20) == (["later"] * 3, 1, True)
    assert mapping["after"] == "changed"


def test_the_failure_of_an_awaited_deferred_is_thrown_into_the_job(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    job, other = queue.put(Job(await_one)), None
    transaction.commit()
    wait_until(job, lambda: made, 20)
    fire(running, ValueError("inside"))
    assert wait_for_result(job, 20) == "caught inside"
    other = queue.put(Job(await_one))
    transaction.commit()
    wait_until(other, lambda: len(made) == 2, 20)
    fire(running, KeyError("outside"))

    failure = wait_for_result(other, 20)
    assert failure.check(KeyError) and "await_one" in failure.getTraceback()


@pytest.mark.parametrize("what", ["future", "sleep", "zero"])
def test_awaiting_asyncio_fails_at_once_and_names_the_way_out(queue: Any, dispatch: Any, what: str) -> None:
    dispatch()
    job, good = queue.put(Job(await_asyncio, what)), queue.put(Job(run_asyncio))
    transaction.commit()

    failure = wait_for_result(job, 20)
    assert failure.check(TypeError) and "asyncio.run(...)" in failure.getErrorMessage()
    assert wait_for_result(good, 20) == 7


def test_what_was_not_awaited_is_a_clear_failure(queue: Any, dispatch: Any) -> None:
    dispatch()
    jobs = [queue.put(Job(call)) for call in (forgets_to_await, generator)]
    transaction.commit()

    assert "write 'await' before it" in wait_for_result(jobs[0], 20).getErrorMessage()
    assert "async for item in" in wait_for_result(jobs[1], 20).getErrorMessage()


def test_an_async_job_may_return_a_job(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    job = queue.put(Job(returns_a_job))
    transaction.commit()
    assert wait_for_result(job, 20) == 2


@pytest.mark.parametrize("grace", [0, 20])
def test_a_stop_while_a_job_awaits_a_deferred_interrupts_it(queue: Any, dispatch: Any, grace: float) -> None:
    running = dispatch(threads=1)
    job = queue.put(Job(await_one))
    transaction.commit()
    wait_until(job, lambda: enginejobs.calls == ["awaits"], 20)
    running.stop(grace)
    wait_until(queue, lambda: "finally" in enginejobs.calls, 20)
    assert queue.counts()["running"] == 0 and len(queue) == 1
    second = dispatch(threads=1)
    wait_until(job, lambda: len(made) == 2, 20)
    fire(second, "after all")

    assert wait_for_result(job, 20) == "after all"


def test_a_cancel_reaches_a_job_that_awaits_a_deferred(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    job = queue.put(Job(await_one))
    transaction.commit()
    wait_until(job, lambda: enginejobs.calls == ["awaits"], 20)
    queue.cancel(job)
    transaction.commit()

    assert wait_for_result(job, 20).check(CancelledError)
    assert enginejobs.calls == ["awaits", "asked to stop", "finally"]


def test_an_async_task_can_be_put_by_the_api(queue: Any, connection: Any, dispatch: Any) -> None:
    dispatch()
    local.job = queue.put(Job(enginejobs.add))  # api finds its connection through the running job
    try:
        job = api.put(returns_a_job)
    finally:
        local.job = None
    transaction.commit()
    assert wait_for_result(job, 20) == 2


async def await_fired() -> Any:
    return await defer.succeed(5), await defer.succeed(6)


def test_run_jobs_runs_async_jobs_and_deferreds_inline(queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [queue.put(Job(await_fired)), queue.put(Job(fired_job, 1))]
    transaction.commit()
    run_jobs(queue)
    assert [job.result for job in jobs] == [(5, 6), 1]

    monkeypatch.setattr("collective.zcasync.coroutines.PATIENCE", 0.3)
    stuck = [queue.put(Job(await_one)), queue.put(Job(deferred_job))]
    transaction.commit()
    run_jobs(queue, raises=False)
    for job in stuck:
        assert "no reactor runs here" in job.result.getErrorMessage()


def test_a_failure_of_twisted_is_stored_as_plain_data(queue: Any, dispatch: Any) -> None:
    running = dispatch()
    job = queue.put(Job(deferred_job))
    transaction.commit()
    _until_deferred(job, running)
    made[0].addErrback(lambda failure: TwistedFailure(RuntimeError("changed")))
    fire(running, OSError("first"))

    assert wait_for_result(job, 20).check(OSError) or wait_for_result(job, 20).check(RuntimeError)
