"""Details of jobs, callbacks and events on which code written for zc.async relies."""

from collections.abc import Iterator
from collective.zcasync import events
from collective.zcasync import local
from collective.zcasync import z3
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.interfaces import KEY
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import callback_retry_policy_factory
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.queue import Queue
from collective.zcasync.retry import NeverRetry
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.testing import wait_for_result
from datetime import timedelta
from enginejobs import make_agent
from typing import Any
from uuid import uuid4
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.component import provideUtility
from zope.component.hooks import setSite
from zope.interface.interfaces import IObjectEvent

import enginejobs
import logging
import pytest
import threading
import transaction
import urllib.parse
import zope.event


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """The events of the test."""
    heard: list[Any] = []
    zope.event.subscribers.append(heard.append)
    yield heard
    zope.event.subscribers.remove(heard.append)


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("no words")


class LookingBack(Job):
    """After each attempt it looks at the database from outside."""

    def tearDown(self, setup_info: Any) -> None:
        with self._p_jar.db().transaction() as other:
            enginejobs.calls.append((other.get(self._p_oid).status, other.root().get("count"), self.result))
        enginejobs.calls.append("changed" in self._p_jar.root())


class Later(NeverRetry):
    def jobError(self, failure: Any, data_cache: Any) -> Any:
        return timedelta(hours=1)


def conflict_and_tell_start(*_result: Any) -> Any:
    enginejobs.calls.append(local.getJob().active_start)
    if len(enginejobs.calls) < 4:
        raise ConflictError
    return "done"


def fail_at_commit_after_a_failure() -> Any:
    def hook() -> None:
        raise RuntimeError("the hook says no")

    transaction.get().addBeforeCommitHook(hook)
    return enginejobs.change_and_return_failure()


def urljoin_badly() -> str:
    recipe = "with onions"
    return urllib.parse.urljoin(recipe, 7)  # type: ignore[type-var]


def note_thread(_result: Any) -> int:
    return threading.get_ident()


def handle(failure: Any) -> str:
    return f"handled {failure.value}"


def _stored(connection: Any, job: Any) -> Any:
    connection.root()["job"] = job
    transaction.commit()
    return job


def test_the_events_of_a_dispatcher_are_object_events_of_its_agents(queue: Any, told: list[Any]) -> None:
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    da.activate()
    da.deactivate()
    da.reactivate()
    da.deactivate()
    queue.dispatchers.unregister(name)

    wanted = ["Registered", "Activated", "Deactivated", "Reactivated", "Deactivated", "Unregistered"]
    heard = [event for event in told if type(event).__name__.startswith("Dispatcher")]
    assert [type(event).__name__ for event in heard] == [f"Dispatcher{word}" for word in wanted]
    for event, word in zip(heard, wanted, strict=True):
        assert event.object is da and IObjectEvent.providedBy(event)
        kind = getattr(events, f"IDispatcher{word}")
        assert kind.providedBy(event) and kind.isOrExtends(IObjectEvent)


def test_the_events_of_new_queues_carry_what_was_added(connection: Any, told: list[Any]) -> None:
    install(connection, ("first", "second"))
    install(connection, ("first", "second", "third"))
    queues = connection.root()[KEY]
    added = [event for event in told if events.IObjectAdded.providedBy(event)]

    assert [(event.object, event.parent, event.name) for event in added if event.object is not queues] == [
        (queues[name], queues, name) for name in ("first", "second", "third")
    ]
    for event in added:
        assert IObjectEvent.providedBy(event) and type(event) is events.ObjectAdded


def test_a_queue_that_is_replaced_is_nobodys_and_the_mapping_reads_as_one(connection: Any) -> None:
    queues = install(connection)
    queues["b"], queues["a"] = first, other = Queue(), Queue()
    queues["b"] = second = Queue()

    assert (first.parent, first.name, second.parent, second.name) == (None, "", queues, "b")
    assert (list(queues), len(queues), "b" in queues, "c" in queues) == (["", "a", "b"], 3, True, False)
    assert queues.values()[1:] == [other, second] and queues.items()[-1] == ("b", second)
    assert queues.get("c") is None and queues["a"] is other and IQueue.providedBy(queues.values()[0])


def test_a_callback_of_a_claimed_job_finds_the_agent_and_the_queue(queue: Any) -> None:
    agent, job = make_agent(queue), Job(enginejobs.add)
    callback = job.addCallback(enginejobs.note)
    nested = callback.addCallback(enginejobs.note)
    queue.put(job)
    transaction.commit()
    assert [each.queue for each in (job, callback, nested)] == [queue] * 3 and nested.agent is None
    assert agent.claimJob() is job
    assert [each.agent for each in (job, callback, nested)] == [agent] * 3
    assert [each.status for each in (job, callback, nested)] == [ASSIGNED] * 3
    assert nested.queue is queue and nested.parent is callback


def test_keywords_can_be_changed_until_the_start_and_the_callable_until_the_put(queue: Any, dispatch: Any) -> None:
    job = queue.put(Job(sorted, [2, 3, 1]))
    transaction.commit()
    job.kwargs["reverse"] = False
    job.kwargs.update(reverse=True)
    transaction.commit()
    dispatch()
    assert wait_for_result(job) == [3, 2, 1]


def test_a_repr_never_raises(connection: Any) -> None:
    job = Job(enginejobs.note, Unspeakable())
    assert repr(job).startswith("<collective.zcasync.job.Job object at")


def test_retries_in_a_thread_do_not_move_the_start_of_a_job_and_of_its_callbacks(connection: Any) -> None:
    job = _stored(connection, Job(conflict_and_tell_start))
    assert job() == "done"
    assert len(enginejobs.calls) == 4 and set(enginejobs.calls) == {job.active_start}
    enginejobs.fresh()
    main = Job(enginejobs.add, 1)
    callback = main.addCallback(conflict_and_tell_start)
    _stored(connection, main)()
    assert callback.result == "done" and len(enginejobs.calls) == 4
    assert set(enginejobs.calls) == {callback.active_start}


def test_a_job_is_torn_down_after_its_commit(connection: Any) -> None:
    job = _stored(connection, LookingBack(enginejobs.count))
    job()
    assert enginejobs.calls == [(COMPLETED, 1, 1), False]


def test_a_job_is_torn_down_after_its_changes_were_taken_back(connection: Any) -> None:
    job = _stored(connection, LookingBack(enginejobs.change_and_raise))
    job()
    assert enginejobs.calls[-1] is False and job.result.check(ValueError)


def test_a_callback_gets_the_failure_of_its_job_and_handling_it_is_a_success(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(enginejobs.change_and_raise)
    given = Job(handle)
    assert job.addCallback(given) is given and given.parent is job and list(job.callbacks) == [given]
    seen = job.addCallback(enginejobs.note)
    assert isinstance(seen, Job)
    queue.put(job)
    transaction.commit()
    with caplog.at_level(logging.INFO, "collective.zcasync.events"):
        dispatch()
        assert wait_for_result(job).check(ValueError)

    assert given.result == "handled on purpose" and not given.failed
    (result,) = enginejobs.calls
    assert isinstance(result, Failure) and result.check(ValueError)
    assert not [
        record for record in caplog.records if record.levelno > logging.INFO and "handle" in record.getMessage()
    ]


def test_a_proxy_that_has_chosen_tells_status_and_result_of_its_choice(connection: Any) -> None:
    job = Job(enginejobs.add, 1)
    proxy = job.addCallbacks(success=enginejobs.note, failure=enginejobs.make)
    assert (proxy.job, proxy.status, proxy.result) == (None, NEW, None)
    _stored(connection, job)()
    assert (proxy.job, proxy.status, proxy.result) == (proxy.success, COMPLETED, 1)
    assert proxy.failure.status != COMPLETED and proxy.getJob(None) is proxy.success


def test_the_policy_of_callbacks_can_be_asked_for_and_given_to_other_jobs(connection: Any) -> None:
    job, registry = Job(enginejobs.add), getGlobalSiteManager()
    callback = job.addCallback(enginejobs.note)
    assert callback.failure_log_level == logging.CRITICAL
    job.retry_policy_factory = callback_retry_policy_factory
    for each in (job, callback):
        assert type(callback_retry_policy_factory(each)) is type(each.getRetryPolicy()) is RetryCommonForever
    registry.registerAdapter(NeverRetry, (IJob,), IRetryPolicy, "callback")
    try:
        for each in (job, callback):
            assert type(callback_retry_policy_factory(each)) is type(each.getRetryPolicy()) is NeverRetry
    finally:
        registry.unregisterAdapter(NeverRetry, (IJob,), IRetryPolicy, "callback")
    assert type(callback.getRetryPolicy()) is type(job.getRetryPolicy()) is RetryCommonForever


def test_a_callback_that_is_late_is_not_called_and_that_is_told_as_an_error(
    connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(enginejobs.add, 1)
    late = job.addCallback(enginejobs.note)
    chained = late.addCallbacks(failure=handle)
    late.begin_by = timedelta(minutes=1)
    intime = job.addCallback(enginejobs.note)
    intime.begin_by = timedelta(hours=1)
    job._status_id, job._result, job.active_end = 2, 7, utcnow() - timedelta(minutes=2)
    _stored(connection, job)
    with caplog.at_level(logging.ERROR, "collective.zcasync.events"):
        job.resumeCallbacks()

    assert late.result.check("collective.zcasync.exceptions.TimeoutError") and chained.result.startswith("handled")
    assert enginejobs.calls == [7] and intime.result == 7 and job.status == COMPLETED
    assert [record.levelname for record in caplog.records if "is late" in record.getMessage()] == ["ERROR"]


def test_a_call_that_is_put_off_returns_the_job_itself(queue: Any) -> None:
    agent = make_agent(queue)
    job = queue.put(Job(enginejobs.change_and_raise), retry_policy_factory=Later)
    transaction.commit()
    assert agent.claimJob() is job
    transaction.commit()
    before = utcnow()
    assert job() is job

    assert (job.status, job.active_start, list(agent)) == (PENDING, None, [])
    assert job.begin_after >= before + timedelta(hours=1) and list(queue) == [job]


@pytest.mark.parametrize(("level", "logged"), [(None, "ERROR"), (logging.WARNING, "WARNING")])
def test_a_failure_that_is_lost_with_its_commit_is_logged_at_the_level_of_its_job(
    level: Any, logged: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(fail_at_commit_after_a_failure)
    job.failure_log_level = level
    _stored(connection, job)
    with caplog.at_level(logging.DEBUG, "collective.zcasync.events"):
        assert job().check(RuntimeError)

    (lost,) = (record for record in caplog.records if "Prior to this" in record.getMessage())
    assert lost.levelname == logged and "ValueError: returned" in lost.getMessage()
    assert "changed" not in connection.root()


@pytest.mark.parametrize("asked", [False, True])
def test_the_log_tells_frames_of_ones_own_code_and_their_locals_if_the_job_asks(
    asked: bool, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(urljoin_badly)
    job.capture_locals = asked
    _stored(connection, job)
    with caplog.at_level(logging.ERROR, "collective.zcasync.events"):
        job()
    (record,) = (record for record in caplog.records if "failed with traceback" in record.getMessage())
    text = record.getMessage()
    assert "urljoin_badly" in text and "parse.py" in job.result.getTraceback() and "parse.py" not in text
    assert ("recipe : 'with onions'" in text) is asked


def test_a_late_callback_runs_in_the_callers_thread_and_is_committed(connection: Any, db: Any) -> None:
    job = _stored(connection, Job(enginejobs.add, 1))
    job()
    late = job.addCallback(note_thread)
    transaction.abort()
    assert late.result == threading.get_ident()
    with db.transaction() as other:
        seen = other.get(job._p_oid)
        assert [callback.result for callback in seen.callbacks] == [threading.get_ident()] and seen.status == COMPLETED


def test_a_job_of_a_class_of_its_own_is_that_for_all_clients(connection: Any, clients: Any) -> None:
    job = _stored(connection, LookingBack(enginejobs.count, "mine"))
    with clients().transaction() as fresh:
        seen = fresh.get(job._p_oid)
        assert type(seen) is LookingBack and list(seen.args) == ["mine"] and seen.callable is enginejobs.count


class Site:
    def getSiteManager(self) -> Any:
        return getGlobalSiteManager()


class NoContext:
    """Remembers nothing."""

    def capture(self, job: Any, run_as: str | None = None) -> Any:
        return "site", "me", ()

    def shelve(self, value: Any) -> Any:
        return value


def test_a_job_of_z3_is_refused_in_a_site_that_nothing_remembers(queue: Any) -> None:
    assert z3.Participation("me").principal == "me" and z3.Participation("me").interaction is None
    plain = queue.put(z3.Job(enginejobs.add, 1))
    assert isinstance(plain, Job) and plain.status == PENDING
    setSite(Site())
    try:
        with pytest.raises(PutRefused, match="IJobContext"):
            queue.put(z3.Job(enginejobs.add, 1))
        assert list(queue) == [plain]
        provideUtility(context := NoContext(), IJobContext)
        try:
            assert queue.put(z3.Job(enginejobs.add, 1)).group == "site"
        finally:
            getGlobalSiteManager().unregisterUtility(context, IJobContext)
    finally:
        setSite(None)
