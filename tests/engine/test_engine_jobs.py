"""What a job is by itself: its call, its options, its hooks, its words, and how it is called directly."""

from collective.zcasync import interfaces
from collective.zcasync import local
from collective.zcasync.claims import Taker
from collective.zcasync.clock import set_now
from collective.zcasync.clock import UTC
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import FullError
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import ASSIGNED
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IAgent
from collective.zcasync.interfaces import ICompletedCollection
from collective.zcasync.interfaces import IDispatcherAgents
from collective.zcasync.interfaces import IDispatchers
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IQueue
from collective.zcasync.interfaces import IQuota
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.interfaces import IUUID
from collective.zcasync.interfaces import NEW
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.retry import NeverRetry
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.retry import RetryCommonFourTimes
from collective.zcasync.testing import wait_for_result
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from enginejobs import make_agent
from persistent import Persistent
from persistent.mapping import PersistentMapping
from typing import Any
from uuid import uuid1
from uuid import uuid4
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.i18nmessageid import Message
from zope.interface import implementer
from zope.interface.verify import verifyObject

import BTrees.OOBTree
import enginejobs
import logging
import operator
import pytest
import re
import time
import transaction


@implementer(IQueue)
class StubQueue(Persistent):
    parent = None


@implementer(IAgent)
class StubAgent(Persistent):
    parent = None


class Hooks(Job):
    """Notes its hooks; what a test put into ``trouble`` raises there."""

    trouble: dict[str, Any] = {}

    def setUp(self) -> str:
        enginejobs.calls.append("up")
        if "setUp" in self.trouble:
            raise self.trouble["setUp"]
        return "prepared"

    def tearDown(self, setup_info: Any) -> None:
        enginejobs.calls.append(("down", setup_info))
        if "tearDown" in self.trouble:
            raise self.trouble["tearDown"]


class Own(Job):
    """A job that calls a method of its own."""

    def __init__(self, factor: int) -> None:
        super().__init__(self.multiply, 7)
        self.factor = factor

    def multiply(self, number: int) -> int:
        return number * self.factor


def show(job: Any, *words: str) -> tuple[Any, ...]:
    enginejobs.calls.append(job)
    return (local.getJob() is job, *words)


def call_myself(job: Any) -> Any:
    return job()


def call(job: Any, result: Any = None) -> Any:
    return job()


def look_for_locals() -> None:
    recipe = "with onions"  # noqa: F841
    raise ValueError("on purpose")


def _store(connection: Any, job: Any) -> Any:
    connection.root()["job"] = job
    transaction.commit()
    return job


def _put(queue: Any, job: Any) -> Any:
    queue.put(job)
    transaction.commit()
    return job


def test_the_statuses_are_texts_that_can_be_translated() -> None:
    texts = {
        "NEW": ("new-status", "New"),
        "PENDING": ("pending-status", "Pending"),
        "ASSIGNED": ("assigned-status", "Assigned"),
        "ACTIVE": ("active-status", "Active"),
        "CALLBACKS": ("callback-status", "Performing Callbacks"),
        "COMPLETED": ("completed-status", "Completed"),
    }
    for name, (text, default) in texts.items():
        status = getattr(interfaces, name)
        assert isinstance(status, Message) and status == text
        assert (status.default, status.domain) == (default, "collective.zcasync")


def test_a_status_that_is_not_stored_is_read_from_what_holds_the_job() -> None:
    job, callback = Job(enginejobs.add), Job(enginejobs.add)
    job.addCallback(callback)
    assert (job.status, callback.status) == (NEW, NEW)
    job.parent = StubQueue()
    assert (job.status, callback.status, callback.queue) == (PENDING, PENDING, job.parent)
    job.parent = agent = StubAgent()
    agent.parent = StubQueue()
    assert (job.status, callback.status, callback.agent, job.queue) == (ASSIGNED, ASSIGNED, agent, agent.parent)
    job._status_id = 1
    assert (job.status, callback.status) == (ACTIVE, ASSIGNED)


@pytest.mark.parametrize("name", ["status", "result", "callbacks", "queue", "agent"])
def test_what_the_engine_says_of_a_job_cannot_be_assigned(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Job(enginejobs.add), name, "mine")


def test_the_errors_of_zc_async_are_those_of_this_package() -> None:
    for error in (AbortedError, TimeoutError, BadStatusError, ReassignedError, FullError):
        assert issubclass(error, ZCAsyncError) and getattr(interfaces, error.__name__) is error
    assert not issubclass(TimeoutError, __builtins__["TimeoutError"])


def test_the_arguments_of_a_call_follow_and_override_those_of_the_job(connection: Any) -> None:
    job = _store(connection, Job(divmod, 17))
    assert job(5) == (3, 2)
    named = Job(enginejobs.annotate_and_wait, name="a")
    assert (list(named.args), dict(named.kwargs), named.callable) == ([], {"name": "a"}, enginejobs.annotate_and_wait)
    other = Job(sorted, [3, 1, 2], reverse=False)
    connection.root()["other"] = other
    assert other(reverse=True) == [3, 2, 1]


def test_what_has_not_begun_can_be_changed(queue: Any, dispatch: Any) -> None:
    job = Job(enginejobs.note, 1)
    job.callable = enginejobs.add
    queue.put(job)
    job.args.append(2)
    job.args[0] = 40
    transaction.commit()
    job.args.extend([100])
    del job.args[-1]
    transaction.commit()
    dispatch()
    assert wait_for_result(job) == 42


@pytest.mark.parametrize("make", [PersistentMapping, BTrees.OOBTree.OOBTree], ids=["mapping", "BTree"])
def test_methods_of_stored_objects_run_on_them(make: Any, queue: Any, dispatch: Any) -> None:
    counter, mapping = enginejobs.Counter(), make()
    queue._p_jar.root()["mine"] = PersistentMapping({"counter": counter, "mapping": mapping})
    transaction.commit()
    dispatch()
    assert wait_for_result(_put(queue, Job(counter.increase, 5))) == 5
    assert wait_for_result(_put(queue, Job(mapping.__setitem__, "key", "value"))) is None
    assert counter.value == 5 and mapping["key"] == "value"


def test_builtins_are_called_by_name(queue: Any, dispatch: Any) -> None:
    dispatch()
    before = time.time()
    assert wait_for_result(_put(queue, Job(operator.mul, 14, 3))) == 42
    clock = queue.put(time.time)
    transaction.commit()
    assert before <= wait_for_result(clock) <= time.time()
    assert repr(Job(operator.mul, 14, 3)).endswith("``_operator.mul(14, 3)``>")


def test_a_job_of_a_class_of_its_own_calls_its_own_method(queue: Any, dispatch: Any) -> None:
    job = Own(6)
    assert (job.queue, job.agent, job.status) == (None, None, NEW) and job.callable == job.multiply
    _put(queue, job)
    assert (job.queue, job.status) == (queue, PENDING)
    dispatch()
    assert wait_for_result(job) == 42 and type(job) is Own


def test_a_job_that_holds_the_method_of_a_job_leads_to_its_queue_from_both(queue: Any) -> None:
    inner = Own(6)
    outer = queue.put(Job(inner.multiply, 2))
    assert inner.parent is outer and inner.queue is queue
    inner.parent, outer.parent = outer, inner
    assert (inner.queue, outer.agent, outer.status) == (None, None, NEW)


def test_a_bound_job_gets_itself_as_first_argument(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job.bind(show, "one", "two")
    assert wait_for_result(_put(queue, job)) == (True, "one", "two")
    assert job.args[0] is job and type(Hooks.bind(show)) is Hooks


def test_a_repr_names_class_oid_database_and_call(queue: Any) -> None:
    job = Job(enginejobs.add, 1, show, key="value")
    assert repr(job) == (
        "<collective.zcasync.job.Job (oid ?, db ?) ``enginejobs.add(1, test_engine_jobs.show, key='value')``>"
    )
    counter = queue._p_jar.root()["counter"] = enginejobs.Counter()
    method = Job(counter.increase, counter)
    queue.put(job)
    queue.put(method)
    transaction.commit()
    oid, mine = (int.from_bytes(each._p_oid, "big") for each in (method, counter))
    assert re.fullmatch(
        r"<collective\.zcasync\.job\.Job \(oid \d+, db 'unnamed'\) ``enginejobs\.add\(.*\)``>", repr(job)
    )
    stored = f"enginejobs.Counter (oid {mine}, db 'unnamed')"
    assert repr(method) == (f"<collective.zcasync.job.Job (oid {oid}, db 'unnamed') ``{stored} :increase({stored})``>")
    assert re.match(r"<test_engine_jobs\.Own \(oid \?, db \?\) ``.* :multiply\(7\)``>", repr(Own(2)))


def test_annotations_are_stored_with_the_job(queue: Any, clients: Any) -> None:
    job = queue.put(Job(enginejobs.add))
    assert dict(job.annotations) == {}
    job.annotations["step"] = 1
    job.annotations["stored"] = PersistentMapping()
    transaction.commit()
    job.annotations["step"] = 2
    transaction.commit()
    with clients().transaction() as fresh:
        again = fresh.get(job._p_oid).annotations
        assert again["step"] == 2 and isinstance(again, BTrees.OOBTree.OOBTree) and len(again["stored"]) == 0


def test_security_code_climbs_to_the_parent_unless_it_is_told_otherwise(queue: Any, clients: Any) -> None:
    job = queue.put(Job(enginejobs.add))
    assert job.__parent__ is job.parent is queue
    job.__parent__ = counter = enginejobs.Counter()
    transaction.commit()
    assert job.__parent__ is counter and job.parent is queue and job.status == PENDING
    with clients().transaction() as fresh:
        assert isinstance(fresh.get(job._p_oid).__parent__, enginejobs.Counter)


def test_the_stages_of_a_job_are_aware_times_in_utc_and_in_order(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    job.addCallback(enginejobs.note)
    assert (job.active_start, job.active_end, job.initial_callbacks_end) == (None, None, None)
    wait_for_result(_put(queue, job))
    stages = [job.put_at, job.begin_after, job.active_start, job.active_end, job.initial_callbacks_end]
    assert stages == sorted(stages) and {stage.tzinfo for stage in stages} == {UTC}
    assert job.active_end <= job.callbacks[0].active_start


def test_a_begin_is_kept_in_utc_and_is_that_of_the_put_if_nobody_said(queue: Any) -> None:
    eastern = timezone(timedelta(hours=-5), "EST")
    job = Job(enginejobs.add)
    job.begin_after = datetime(2030, 8, 10, 15, 44, tzinfo=eastern)
    assert job.begin_after == datetime(2030, 8, 10, 20, 44, tzinfo=UTC) and job.begin_after.tzinfo is UTC
    set_now(now := datetime(2030, 1, 1, tzinfo=UTC))
    assert queue.put(Job(enginejobs.add)).begin_after == now
    queue.put(job)
    transaction.commit()
    set_now(job.begin_after - timedelta(seconds=1))
    assert queue.claim() is not job and queue.claim() is None
    set_now(job.begin_after)
    assert queue.claim() is job


def test_without_a_begin_by_a_job_never_expires(queue: Any) -> None:
    set_now(now := datetime(2030, 1, 1, tzinfo=UTC))
    forever, hurried = queue.put(Job(enginejobs.add)), queue.put(Job(enginejobs.add), begin_by=timedelta(hours=1))
    transaction.commit()
    assert (forever.begin_by, hurried.begin_by) == (None, timedelta(hours=1))
    hurried.begin_by = timedelta(hours=2)
    set_now(now + timedelta(hours=1.5))
    assert [one.kind for one in Taker(queue).take(2)] == ["run", "run"]
    transaction.abort()
    set_now(now + timedelta(days=4000))
    assert [(one.job, one.kind) for one in Taker(queue).take(2)] == [(forever, "run"), (hurried, "expire")]


def test_quota_names_are_free_until_the_put_and_then_those_of_the_queue(queue: Any) -> None:
    queue.quotas.create("one")
    job = Job(enginejobs.add)
    job.quota_names = ["one", "two"]
    assert job.quota_names == ("one", "two")
    with pytest.raises(ValueError, match="unknown quota name"):
        queue.put(job)
    job.quota_names = ()
    _put(queue, job).quota_names = ("one",)
    assert queue.claim() is job
    make_agent(queue).hold(job, True)
    for wrong in ((), ("one",)):
        with pytest.raises(BadStatusError, match="NEW or PENDING"):
            job.quota_names = wrong
    assert job.quota_names == ("one",)


@pytest.mark.parametrize(("level", "logged"), [(None, "ERROR"), (logging.WARNING, "WARNING")])
def test_a_failure_is_logged_at_the_level_of_its_job(
    level: Any, logged: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = _store(connection, Job(enginejobs.change_and_raise))
    job.failure_log_level = level
    transaction.commit()
    with caplog.at_level(logging.DEBUG, "collective.zcasync.events"):
        job()
    assert [record.levelname for record in caplog.records if "traceback" in record.getMessage()] == [logged]


def test_a_policy_is_given_as_a_class_a_name_or_not_at_all(connection: Any) -> None:
    registry = getGlobalSiteManager()
    job = Job(enginejobs.add)
    assert type(job.getRetryPolicy()) is RetryCommonFourTimes
    job.retry_policy_factory = NeverRetry
    assert type(job.getRetryPolicy()) is NeverRetry and job.getRetryPolicy().parent is job
    for name in ("", "mine"):
        registry.registerAdapter(RetryCommonForever, (IJob,), IRetryPolicy, name)
    try:
        job.retry_policy_factory = "mine"
        assert type(job.getRetryPolicy()) is RetryCommonForever
        job.retry_policy_factory = None
        assert type(job.getRetryPolicy()) is RetryCommonForever
    finally:
        for name in ("", "mine"):
            registry.unregisterAdapter(RetryCommonForever, (IJob,), IRetryPolicy, name)


def test_a_put_notes_the_process_and_a_removal_forgets_it(queue: Any, dispatch: Any) -> None:
    registry, here = getGlobalSiteManager(), uuid1()
    registry.registerUtility(here, IUUID)
    try:
        job, other = queue.put(Job(enginejobs.add)), Job(enginejobs.add)
        other.assignerUUID = elsewhere = uuid4()
        queue.put(other)
        transaction.commit()
    finally:
        registry.unregisterUtility(here, IUUID)
    assert (job.assignerUUID, other.assignerUUID) == (here, elsewhere)
    queue.putBack(queue.claim())
    assert job.assignerUUID == here
    queue.remove(job)
    assert queue.pull() is other
    assert (job.assignerUUID, other.assignerUUID, job.parent, job.status) == (None, None, None, NEW)


@pytest.mark.parametrize("make", [lambda: Hooks(enginejobs.note, "ran"), lambda: Hooks(enginejobs.change_and_raise)])
def test_the_hooks_of_a_job_are_called_once_for_each_attempt(make: Any, connection: Any) -> None:
    job = _store(connection, make())
    job()
    assert [call for call in enginejobs.calls if call != "ran"] == ["up", ("down", "prepared")]
    assert job.failed is ("change" in job.task)


def test_the_hooks_are_called_again_for_each_retry(connection: Any) -> None:
    job = _store(connection, Hooks(enginejobs.conflict_times, 4))
    job()
    attempts = ["up", "conflict", ("down", "prepared")]
    assert enginejobs.calls[:6] == attempts * 2 and enginejobs.calls.count(("down", "prepared")) == job.attempts


def test_an_error_in_set_up_is_one_of_the_job_and_the_code_is_not_called(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hooks, "trouble", {"setUp": KeyError("no key")})
    job = _store(connection, Hooks(enginejobs.note, "ran"))
    assert job().check(KeyError) and job.status == COMPLETED
    assert enginejobs.calls == ["up", ("down", None)]


def test_a_conflict_in_set_up_is_tried_again(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hooks, "trouble", {"setUp": ConflictError()})
    job = _store(connection, Hooks(enginejobs.note, "ran"))
    assert job().check(ConflictError) and enginejobs.calls == ["up", ("down", None)] * 5


def test_an_error_in_tear_down_is_logged_and_changes_nothing(
    connection: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Hooks, "trouble", {"tearDown": KeyError("no key")})
    job = _store(connection, Hooks(enginejobs.add, 1))
    with caplog.at_level(logging.ERROR, "collective.zcasync"):
        assert job() == 1 and job.status == COMPLETED
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_a_direct_call_runs_with_commits_and_ends_a_job_for_good(connection: Any) -> None:
    job = _store(connection, Job(enginejobs.count))
    assert job() == 1
    transaction.abort()
    assert connection.root()["count"] == 1 and job.status == COMPLETED and job.result == 1
    with pytest.raises(BadStatusError, match="NEW or ASSIGNED"):
        job()


def conflict_and_abort() -> None:
    """The first attempt conflicts; the second takes back what its transaction has noted, its own start too."""
    enginejobs.calls.append(utcnow())
    if len(enginejobs.calls) == 1:
        raise ConflictError
    transaction.abort()


def test_a_job_whose_code_aborts_began_when_its_first_attempt_did(queue: Any) -> None:
    agent, job = make_agent(queue), queue.put(Job(conflict_and_abort))
    transaction.commit()
    before = utcnow()
    assert enginejobs.perform(agent) == "finished"

    assert (job.outcome, job.attempts) == ("succeeded", 2)
    assert before <= job.active_start <= enginejobs.calls[0] <= job.active_end


def test_a_job_that_an_agent_holds_can_be_called_and_one_that_waits_cannot(queue: Any) -> None:
    agent, job = make_agent(queue), _put(queue, Job(enginejobs.add, 1))
    with pytest.raises(BadStatusError, match="this one is pending"):
        job()
    assert agent.claimJob() is job and job.status == ASSIGNED
    transaction.commit()
    assert job() == 1 and list(agent.completed) == [job]


def test_a_job_can_neither_call_itself_nor_be_called_by_its_callback(connection: Any) -> None:
    job = _store(connection, Job.bind(call_myself))
    assert job().check(BadStatusError)
    main = Job(enginejobs.add, 1)
    callback = main.addCallback(Job(call, main))
    connection.root()["main"] = main
    transaction.commit()
    assert main() == 1 and callback.result.check(BadStatusError)


def test_a_result_is_returned_and_stored_and_an_error_takes_all_changes_back(connection: Any) -> None:
    good, bad = Job(enginejobs.count), Job(enginejobs.change_and_raise)
    _store(connection, good)
    connection.root()["bad"] = bad
    transaction.commit()
    assert good() == good.result == 1
    assert isinstance(bad(), Failure) and bad.result.check(ValueError) and "changed" not in connection.root()


@pytest.mark.parametrize("asked", [False, True])
def test_the_failure_of_a_job_keeps_locals_only_if_the_job_asks_for_them(asked: bool, connection: Any) -> None:
    job = _store(connection, Job(look_for_locals))
    job.capture_locals = asked
    transaction.commit()
    text = job().getTraceback(detail="verbose")
    assert ("recipe : 'with onions'" in text) is asked and "look_for_locals" in text


def test_all_that_has_an_interface_keeps_it(queue: Any) -> None:
    agent = make_agent(queue)
    queue.quotas.create("one")
    job = queue.put(Job(enginejobs.add))
    for interface, thing in (
        (IJob, job),
        (IQueue, queue),
        (IQuota, queue.quotas["one"]),
        (IDispatchers, queue.dispatchers),
        (IDispatcherAgents, agent.parent),
        (IAgent, agent),
        (ICompletedCollection, agent.completed),
        *((IRetryPolicy, policy(job)) for policy in (RetryCommonFourTimes, RetryCommonForever, NeverRetry)),
    ):
        assert verifyObject(interface, thing)
