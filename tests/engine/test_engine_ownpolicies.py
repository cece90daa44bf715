"""Retry policies that somebody wrote: what they remember by themselves, and what a job's record cannot hold."""

from collections.abc import Iterator
from collective.zcasync import decisions
from collective.zcasync.agent import Agent
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.retry import RetryCommonFourTimes
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import timedelta
from persistent import Persistent
from typing import Any
from uuid import uuid4
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.interface import Interface

import enginejobs
import logging
import pytest
import threading
import transaction


@pytest.fixture(autouse=True)
def three_is_forgotten() -> Iterator[None]:
    yield
    getGlobalSiteManager().unregisterAdapter(Three, (Interface,), IRetryPolicy)


class Three(Persistent):
    """Counts in itself, as a policy that zc.async stored with the job could."""

    count = 0
    answer: Any = True

    def __init__(self, job: Any) -> None:
        self.parent = self.__parent__ = job
        self.lock = "none"

    def _again(self) -> Any:
        self.count += 1
        enginejobs.calls.append(self.count)
        return self.answer if self.count < 3 else False

    def jobError(self, failure: Any, data_cache: Any) -> Any:
        return self._again()

    def commitError(self, failure: Any, data_cache: Any) -> Any:
        return self._again()

    def interrupted(self) -> Any:
        return self._again()

    def updateData(self, data_cache: Any) -> None:
        """Nothing more."""


class ThreeLater(Three):
    answer = timedelta(seconds=1.1)


class Storing:
    """Counts in itself what it has stored, and wants its job to run again at once."""

    stored = 0

    def __init__(self, job: Any) -> None:
        self.parent = job

    def jobError(self, failure: Any, data_cache: Any) -> Any:
        enginejobs.calls.append((failure.getErrorMessage(), self.stored))
        data_cache["asked"] = len(enginejobs.calls)
        return timedelta(0)

    def updateData(self, data_cache: Any) -> None:
        self.stored += 1
        self.parent.policy_data["asked"] = data_cache["asked"]


class Slotted:
    """Keeps nothing in itself."""

    __slots__ = ("job",)

    def __init__(self, job: Any) -> None:
        self.job = job

    def jobError(self, failure: Any, data_cache: Any) -> Any:
        data_cache["asked"] = data_cache.get("asked", 0) + 1
        return data_cache["asked"] < 3


class Hoarder(RetryCommonFourTimes):
    """Notes what no record can hold."""

    def jobError(self, failure: Any, data_cache: Any) -> Any:
        data_cache["lock"], data_cache["failure"] = threading.Lock(), failure
        self.lock = threading.Lock()
        data_cache["times"] = data_cache.get("times", 0) + 1
        return timedelta(seconds=1.1) if data_cache["times"] < 2 else False

    def updateData(self, data_cache: Any) -> None:
        """Nothing is stored."""


def fail() -> None:
    raise ValueError("always")


def conflict(*_result: Any) -> None:
    raise ConflictError


def test_a_policy_remembers_what_it_counts_in_itself(connection: Any) -> None:
    for number, call in enumerate((fail, conflict)):
        job = connection.root()[number] = Job(call)
        job.retry_policy_factory = Three
        transaction.commit()
        assert isinstance(job(), Failure) and job.attempts == 3
    assert enginejobs.calls == [1, 2, 3] * 2


def test_a_policy_that_is_an_adapter_remembers_it_too(connection: Any) -> None:
    getGlobalSiteManager().registerAdapter(Three, (Interface,), IRetryPolicy)
    job = connection.root()["job"] = Job(fail)
    transaction.commit()
    assert isinstance(job(), Failure) and enginejobs.calls == [1, 2, 3]


def test_what_a_policy_counts_in_itself_survives_a_wait_in_the_queue(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    job = queue.put(Job(fail), retry_policy_factory=ThreeLater)
    transaction.commit()
    assert wait_for_result(job, 30).check(ValueError)
    assert enginejobs.calls == [1, 2, 3] and job.attempts == 3


def test_what_a_policy_counts_in_itself_survives_interruptions(queue: Any) -> None:
    job = queue.put(Job(enginejobs.add), retry_policy_factory=Three)
    transaction.commit()
    for number in (1, 2, 3):
        queue.dispatchers.register(name := uuid4())
        da = queue.dispatchers[name]
        da.activate()
        da["main"] = agent = Agent()
        assert queue.claim() is job
        agent.hold(job, True)
        transaction.commit()
        job.handleInterrupt()
        transaction.commit()
        assert enginejobs.calls[-1] == number
        assert job.status == PENDING if number < 3 else job.result.check(AbortedError)


def test_what_a_record_cannot_hold_is_left_behind_with_a_warning_and_the_job_goes_on(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "collective.zcasync.events")
    dispatch(threads=1)
    job = queue.put(Job(fail), retry_policy_factory=Hoarder)
    transaction.commit()
    wait_until(queue, lambda: job.attempts == 1 and job.status == PENDING, 20, "that it waits")
    assert dict(job._retry_cache) == {"failure": "ValueError: always", "times": 1}
    assert [r.levelname for r in caplog.records if "'lock', which is no small plain" in r.getMessage()] == ["WARNING"]
    assert wait_for_result(job, 30).check(ValueError) and job.attempts == 2


def test_a_policy_is_told_what_was_raised_and_stores_its_counts_each_time_the_job_goes_back(queue: Any) -> None:
    agent = enginejobs.make_agent(queue)
    job = queue.put(Job(fail), retry_policy_factory=Storing)
    transaction.commit()
    for number in (1, 2):
        assert enginejobs.perform(agent) == "returned"
        assert job.status == PENDING and dict(job.policy_data) == {"asked": number}
    assert enginejobs.calls == [("always", 0), ("always", 1)], "it remembers what it counted as it stored"


def test_a_policy_that_has_no_room_for_attributes_is_asked_as_others_are(connection: Any) -> None:
    job = connection.root()["job"] = Job(fail)
    job.retry_policy_factory = Slotted
    transaction.commit()
    assert isinstance(job(), Failure) and job.attempts == 3


def test_a_failure_that_a_policy_noted_goes_with_a_job_as_its_own_text_whatever_was_raised_last() -> None:
    job, noted = Job(fail), Failure.from_exception(KeyError("noted"))
    try:
        fail()
    except ValueError:
        decisions.keep_cache(job, {"failure": noted})
    assert dict(job._retry_cache) == {"failure": noted.summary} and "noted" in noted.summary
