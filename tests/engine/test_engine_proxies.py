"""Callbacks that are chosen by the result: by success and failure, or by conditions."""

from collective.zcasync.callbacks import ConditionalCallbackProxy
from collective.zcasync.callbacks import SuccessFailureCallbackProxy
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import ICallbackProxy
from collective.zcasync.interfaces import NEW
from collective.zcasync.job import Job
from typing import Any
from zope.interface.verify import verifyObject

import enginejobs
import logging
import pytest
import transaction


def is_small(result: Any) -> bool:
    enginejobs.calls.append("small?")
    return result < 10


def is_even(result: Any) -> bool:
    enginejobs.calls.append("even?")
    return result % 2 == 0


def is_broken(result: Any) -> bool:
    raise ZeroDivisionError("the condition is broken")


def small(result: Any) -> str:
    return f"small {result}"


def even(result: Any) -> str:
    return f"even {result}"


def other(result: Any) -> str:
    return f"other {result}"


def _run(connection: Any, number: int, proxy: Any) -> Any:
    """A job that is called here, with one callback; the callback is returned."""
    job = connection.root()["job"] = Job(enginejobs.add, number)
    job.addCallback(proxy)
    transaction.commit()
    assert job() == number and job.status == COMPLETED
    return proxy


@pytest.mark.parametrize(
    ("number", "result", "asked"),
    [(4, "small 4", ["small?"]), (12, "even 12", ["small?", "even?"]), (13, "other 13", ["small?", "even?"])],
)
def test_the_first_condition_that_is_true_chooses_and_the_last_callback_takes_the_rest(
    number: int, result: str, asked: list[str], connection: Any
) -> None:
    proxy = _run(connection, number, ConditionalCallbackProxy((is_small, small), (is_even, even), other))

    assert (proxy.result, enginejobs.calls) == (result, asked)
    assert proxy.job in proxy.jobs and proxy.status == COMPLETED


def test_what_is_chained_behind_an_empty_choice_gets_the_result_unchanged(connection: Any) -> None:
    for proxy in (
        ConditionalCallbackProxy((is_small, None), other),
        ConditionalCallbackProxy((is_even, other)),
        ConditionalCallbackProxy(),
    ):
        chained = proxy.addCallback(enginejobs.note)
        job = connection.root()["job"] = Job(enginejobs.add, 7)
        assert job.addCallback(proxy) is proxy and proxy.job is None
        transaction.commit()
        job()
        assert (proxy.result, chained.result, proxy.callbacks) == (7, 7, (chained,))


def test_before_the_choice_a_proxy_is_new_and_has_neither_job_nor_result(connection: Any) -> None:
    proxy = ConditionalCallbackProxy((is_small, small), other)
    job = Job(enginejobs.add, 1)
    two = job.addCallbacks(success=small, failure=other)
    job.addCallback(proxy)

    for each in (two, proxy):
        assert verifyObject(ICallbackProxy, each)
        assert (each.job, each.status, each.result, each.parent) == (None, NEW, None, job)
    assert isinstance(two, SuccessFailureCallbackProxy)
    assert two.success.callable is small and two.failure.callable is other
    assert [callback.callable for callback in proxy.jobs] == [small, other] and proxy.default is proxy.jobs[1]
    assert [job.addCallbacks().success, job.addCallbacks().failure] == [None, None]


def test_what_is_chained_to_a_proxy_belongs_to_the_chosen_job_and_so_does_what_comes_later(connection: Any) -> None:
    proxy = SuccessFailureCallbackProxy(Job(enginejobs.add, 1), None)
    before = proxy.addCallback(Job(enginejobs.add, 2))
    behind = proxy.addCallbacks(enginejobs.add, enginejobs.add)
    _run(connection, 5, proxy)
    assert proxy.job is proxy.success
    assert (before.parent, behind.parent, behind.job.parent) == (proxy.job, proxy.job, proxy.job)
    later = proxy.addCallback(enginejobs.add, failure_log_level=logging.INFO, retry_policy_factory="NeverRetry")
    assert (later.parent, later.failure_log_level, later.retry_policy_factory) == (
        proxy.job,
        logging.INFO,
        "NeverRetry",
    )


def test_a_choice_once_made_stays(connection: Any) -> None:
    proxy = _run(connection, 4, ConditionalCallbackProxy((is_small, small), other))

    assert proxy.getJob(100) is proxy.jobs[0]
    late = proxy.addCallback(enginejobs.note)
    assert late.result == "small 4"


def test_a_condition_that_raises_fails_its_callback_only(connection: Any, caplog: pytest.LogCaptureFixture) -> None:
    proxy = ConditionalCallbackProxy((is_broken, small), other)
    behind = proxy.addCallbacks(failure=other)
    job = connection.root()["job"] = Job(enginejobs.add, 1)
    job.addCallback(proxy)
    after = job.addCallback(enginejobs.note)
    transaction.commit()
    with caplog.at_level(logging.CRITICAL, "collective.zcasync"):
        assert job() == 1

    assert proxy.result.check(ZeroDivisionError) and "the condition is broken" in behind.result
    assert after.result == 1 and job.status == COMPLETED
    assert [record.levelname for record in caplog.records] == ["CRITICAL"] and "is_broken" in caplog.text


def test_conditional_callbacks_have_the_level_and_policy_of_their_proxy_or_those_of_callbacks() -> None:
    proxy = ConditionalCallbackProxy(
        (is_small, small), other, failure_log_level=logging.WARNING, retry_policy_factory="NeverRetry"
    )
    plain = ConditionalCallbackProxy((is_small, small), other)

    assert {job.failure_log_level for job in proxy.jobs} == {logging.WARNING} == {proxy.failure_log_level}
    assert {type(job.getRetryPolicy()).__name__ for job in proxy.jobs} == {"NeverRetry"}
    assert {job.failure_log_level for job in plain.jobs} == {logging.CRITICAL}
    assert {type(job.getRetryPolicy()).__name__ for job in plain.jobs} == {"RetryCommonForever"}


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (((is_small,), other), "a choice is a tuple"),
        (((is_small, small, other),), "a choice is a tuple"),
        ((small, (is_small, small)), "a choice is a tuple"),
        (((lambda result: True, small),), "lambda"),
        (((enginejobs.Counter().increase, small),), "is a method"),
        (((7, small),), "cannot be called"),
        (((is_small, 7),), "cannot be a job"),
        ((7,), "cannot be a job"),
    ],
)
def test_what_is_no_choice_is_refused(choices: Any, words: str) -> None:
    with pytest.raises(InvalidJobError, match=words):
        ConditionalCallbackProxy(*choices)


def test_only_a_new_job_that_nobody_holds_becomes_a_callback(queue: Any) -> None:
    put, job = queue.put(Job(enginejobs.note)), Job(enginejobs.add, 1)
    mine = job.addCallback(enginejobs.note)
    for callback in (put, mine):
        with pytest.raises(BadStatusError, match="only a NEW job that nobody holds"):
            job.addCallback(callback)
    with pytest.raises(BadStatusError, match="of itself"):
        job.addCallback(job)
    with pytest.raises(InvalidJobError, match="cannot be a job"):
        job.addCallback(7)

    assert list(job.callbacks) == [mine] and put.parent is queue
