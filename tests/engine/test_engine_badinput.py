"""Wrong types, values, statuses and names: a package exception says what to do, and nothing half-done stays."""

from collections.abc import Callable
from collective.zcasync.agent import Agent
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidArgumentError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotInQueue
from collective.zcasync.exceptions import NotHere
from collective.zcasync.exceptions import OutOfRange
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.job import Job
from collective.zcasync.queue import Queue
from collective.zcasync.queue import Queues
from datetime import datetime
from datetime import timedelta
from typing import Any
from uuid import uuid4

import enginejobs
import functools
import logging
import pytest
import threading
import transaction

NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001


def _set(name: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda queue, job: setattr(job, name, value)


def _with(name: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda queue, job: queue.put(enginejobs.add, **{name: value})


def _put_naming(*names: Any) -> Callable[[Any, Any], None]:
    def put(queue: Any, job: Any) -> None:
        new = Job(enginejobs.add)
        new.quota_names = names
        queue.put(new)

    return put


@pytest.mark.parametrize(
    ("act", "error", "builtin", "words"),
    [
        # What is put
        (lambda q, j: q.put(7), InvalidJobError, TypeError, "7 cannot be a job"),
        (lambda q, j: q.put(int), InvalidJobError, TypeError, "wrap it"),
        (lambda q, j: q.put(functools.partial(enginejobs.add, 1)), InvalidJobError, TypeError, "functools.partial"),
        (lambda q, j: q.put(lambda: 1), InvalidJobError, TypeError, "with def"),
        (lambda q, j: q.put(j), InvalidValueError, ValueError, "only a NEW job that nobody holds"),
        (lambda q, j: q.put(Job(enginejobs.note, threading.Lock())), InvalidArgumentError, TypeError, "argument 1"),
        (lambda q, j: Job(), InvalidJobError, TypeError, "needs something to call"),
        (lambda q, j: Job(7), InvalidJobError, TypeError, "7 .* cannot be called"),
        # How it is put
        (_with("begin_after", NAIVE), InvalidValueError, ValueError, "timezone-naive"),
        (_with("begin_after", 5), InvalidValueError, ValueError, "must be a datetime, not 5"),
        (_with("begin_by", timedelta(-1)), InvalidValueError, ValueError, "zero or more"),
        (_with("begin_by", 60), InvalidValueError, ValueError, "must be a timedelta .*60"),
        (_with("failure_log_level", "ERROR"), InvalidValueError, ValueError, "a level such as .*'ERROR'"),
        (_with("failure_log_level", -1), InvalidValueError, ValueError, "not -1"),
        (_with("retry_policy_factory", 7), InvalidJobError, TypeError, "7 .* cannot be called"),
        (_with("retry_policy_factory", enginejobs.Counter().increase), InvalidJobError, TypeError, "not a method"),
        (_put_naming("nobody"), QuotaNotFound, ValueError, "unknown quota name.*nobody"),
        # What a waiting job takes
        (_set("quota_names", "one"), InvalidJobError, TypeError, "write \\('one',\\)"),
        (_set("quota_names", 7), InvalidJobError, TypeError, "must be a tuple of names, not 7"),
        (_set("quota_names", (7,)), InvalidJobError, TypeError, "must be a tuple of names"),
        (_set("quota_names", ("nobody",)), QuotaNotFound, ValueError, "unknown quota name.*nobody"),
        (_set("begin_after", None), BadStatusError, ZCAsyncError, "on a NEW job only, this one is pending"),
        (_set("callable", enginejobs.note), BadStatusError, ZCAsyncError, "on a NEW job only, this one is pending"),
        (_set("begin_by", "soon"), InvalidValueError, ValueError, "must be a timedelta .*'soon'"),
        (_set("failure_log_level", 1.5), InvalidValueError, ValueError, "not 1.5"),
        (_set("retry_policy_factory", 7), InvalidJobError, TypeError, "cannot be called"),
        (_set("policy", 7), InvalidTypeError, TypeError, "policy must be a name"),
        (_set("assignerUUID", "me"), InvalidTypeError, TypeError, "must be a UUID or None, not 'me'"),
        (lambda q, j: j.set_priority("high"), InvalidValueError, ValueError, "-16 to 15, not 'high'"),
        (lambda q, j: j.args.append(lambda: 1), InvalidArgumentError, TypeError, "argument 2"),
        (lambda q, j: j.kwargs.update(x=threading.Lock()), InvalidArgumentError, TypeError, "keyword 'x'"),
        (lambda q, j: j(), BadStatusError, ZCAsyncError, "NEW or ASSIGNED job can be called, this one is pending"),
        (lambda q, j: j.fail("because"), InvalidValueError, ValueError, "not with 'because'"),
        (lambda q, j: j.handleInterrupt(), BadStatusError, ZCAsyncError, "only an ACTIVE job"),
        (lambda q, j: j.resumeCallbacks(), BadStatusError, ZCAsyncError, "a job in CALLBACKS"),
        (lambda q, j: j.addCallback(7), InvalidJobError, TypeError, "7 cannot be a job"),
        (lambda q, j: j.addCallbacks(failure=7), InvalidJobError, TypeError, "7 cannot be a job"),
        (lambda q, j: j.addCallback(j), BadStatusError, ZCAsyncError, "of itself"),
        (lambda q, j: j.addCallback(enginejobs.add, "high"), InvalidValueError, ValueError, "not 'high'"),
        (lambda q, j: j.addCallback(enginejobs.add, None, 7), InvalidJobError, TypeError, "cannot be called"),
        # What a queue is asked
        (lambda q, j: q.pull(5), OutOfRange, IndexError, "no job at place 5"),
        (lambda q, j: q.pull(-2), OutOfRange, IndexError, "no job at place -2"),
        (lambda q, j: q.pull("first"), InvalidTypeError, TypeError, "a whole number, not 'first'"),
        (lambda q, j: q[0:1], InvalidTypeError, TypeError, "use list"),
        (lambda q, j: q.remove(Job(enginejobs.add)), JobNotInQueue, LookupError, "not in queue"),
        (lambda q, j: q.remove(7), JobNotInQueue, LookupError, "not in queue.*7"),
        (lambda q, j: q.putBack(j), BadStatusError, ZCAsyncError, "this one is pending"),
        (lambda q, j: q.putBack(7), InvalidJobError, TypeError, "not 7"),
        (lambda q, j: q.claim(filter=7), InvalidTypeError, TypeError, "7 is none"),
        (lambda q, j: q.set_template("worker", "main", size=0), InvalidValueError, ValueError, "size .* not 0"),
        # Quotas
        (lambda q, j: q.quotas.create("", 1), InvalidValueError, ValueError, "name must be a text"),
        (lambda q, j: q.quotas.create(7), InvalidValueError, ValueError, "name must be a text, not 7"),
        (lambda q, j: q.quotas.create("new", 0), InvalidValueError, ValueError, "'new' .* not 0"),
        (lambda q, j: q.quotas.create("new", "2"), InvalidValueError, ValueError, "not '2'"),
        (lambda q, j: q.quotas.resize("nobody", 2), QuotaNotFound, KeyError, "unknown quota name"),
        (lambda q, j: q.quotas.remove("nobody"), QuotaNotFound, KeyError, "unknown quota name"),
        (lambda q, j: q.quotas["nobody"], QuotaNotFound, KeyError, "unknown quota name"),
        (lambda q, j: setattr(q.quotas["one"], "size", -1), InvalidValueError, ValueError, "size .* not -1"),
        (lambda q, j: q.quotas["one"].add(7), InvalidValueError, ValueError, "takes jobs, not 7"),
        (lambda q, j: q.quotas["one"].add(j), InvalidValueError, ValueError, "does not name the quota"),
        (lambda q, j: q.quotas["one"][3], OutOfRange, IndexError, "no job at place 3"),
        # Dispatchers and agents
        (lambda q, j: q.dispatchers[uuid4()], NotHere, KeyError, "no dispatcher"),
        (lambda q, j: q.dispatchers.ping(uuid4()), NotHere, KeyError, "no dispatcher"),
        (lambda q, j: q.dispatchers.unregister(uuid4()), NotHere, KeyError, "no dispatcher"),
        (lambda q, j: _da(q)["nobody"], NotHere, KeyError, "no agent is named 'nobody'"),
        (lambda q, j: _da(q).__setitem__("main", 7), InvalidValueError, ValueError, "an agent is wanted"),
        (lambda q, j: _da(q).__setitem__(7, Agent()), InvalidTypeError, TypeError, "must be a text, not 7"),
        (lambda q, j: Agent(size=-1), InvalidValueError, ValueError, "size .* not -1"),
        (lambda q, j: setattr(Agent(), "size", "3"), InvalidValueError, ValueError, "size .* not '3'"),
        (lambda q, j: Agent(len, len), InvalidValueError, ValueError, "cannot set both chooser and filter"),
        (lambda q, j: Agent(filter=7), InvalidJobError, TypeError, "cannot be called"),
        (lambda q, j: Agent(chooser=lambda agent: None), InvalidJobError, TypeError, "with def"),
        (lambda q, j: Agent().index(j), InvalidValueError, ValueError, "is not held"),
        (lambda q, j: Agent().remove(j), InvalidValueError, ValueError, "is not held"),
        (lambda q, j: Agent().pull(0), OutOfRange, IndexError, "no job at place 0"),
        # Queues
        (lambda q, j: q.parent["nobody"], NotHere, KeyError, "no queue is named 'nobody'; there are: ''"),
        (lambda q, j: q.parent.__delitem__("nobody"), NotHere, KeyError, "no queue is named"),
        (lambda q, j: q.parent.__setitem__("new", 7), InvalidValueError, ValueError, "value must be IQueue, not 7"),
        (lambda q, j: q.parent.__setitem__(7, Queue()), InvalidTypeError, TypeError, "must be a text, not 7"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value_and_leaves_nothing_behind(
    act: Callable[[Any, Any], Any], error: type, builtin: type, words: str, queue: Any, clients: Any
) -> None:
    queue.quotas.create("one")
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    before = queue.counts()
    with pytest.raises(error, match=words) as caught:
        act(queue, job)
    assert isinstance(caught.value, ZCAsyncError) and isinstance(caught.value, builtin)
    transaction.commit()

    with clients().transaction() as fresh:
        again = fresh.get(queue._p_oid)
        assert again.counts() == before == {**before, "waiting": 1}
        (waiting,) = again
        assert (list(waiting.args), dict(waiting.kwargs), waiting.quota_names) == ([1], {}, ())
        assert waiting.callbacks == () and waiting.failure_log_level is None and waiting.status == "pending-status"
        assert again.quotas.keys() == ["one"] and again.parent.keys() == [""]


def _da(queue: Any) -> Any:
    queue.dispatchers.register(name := uuid4())
    da = queue.dispatchers[name]
    queue.dispatchers.unregister(name)
    return da


def test_a_job_of_another_connection_is_refused_at_the_put(queue: Any, db: Any) -> None:
    manager = transaction.TransactionManager()
    other = db.open(manager)
    job = other.root()["job"] = Job(enginejobs.add)
    manager.commit()
    with pytest.raises(PutRefused, match="is stored by a connection to 'unnamed'"):
        queue.put(job)
    manager.abort()
    other.close()
    assert len(queue) == 0


def test_what_may_be_set_is_set_and_checked_values_survive_the_database(queue: Any, clients: Any) -> None:
    job, agent = Job(enginejobs.add), Agent(size=7)
    job.failure_log_level, job.policy = logging.WARNING, "mine"
    queue.quotas.create("one", 4)
    queue._p_jar.root()["agent"] = agent
    queue.put(job)
    agent.size = 8
    queue.quotas["one"].size = 5
    transaction.commit()

    with clients().transaction() as fresh:
        again = fresh.get(job._p_oid)
        assert (again.failure_log_level, again.policy) == (logging.WARNING, "mine")
        assert (fresh.root()["agent"].size, fresh.get(queue._p_oid).quotas["one"].size) == (8, 5)
    assert (Job(enginejobs.add).failure_log_level, Job(enginejobs.add).policy, Agent().size) == (None, None, 3)


def test_an_empty_mapping_of_queues_is_one() -> None:
    queues = Queues()
    assert bool(queues) and len(queues) == 0 and 7 not in queues and not hasattr(queues, "copy")
