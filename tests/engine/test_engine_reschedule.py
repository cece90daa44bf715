"""A policy that answers with a time: the job leaves its thread, and comes back."""

from collective.zcasync.job import Job
from collective.zcasync.retry import NeverRetry
from collective.zcasync.testing import wait_for_result
from datetime import timedelta
from typing import Any

import transaction

tries: list[str] = []


class InAWhile(NeverRetry):
    """More than what a thread waits by itself."""

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        data_cache["told"] = data_cache.get("told", 0) + 1
        return timedelta(seconds=1.1)


def fail_once() -> str:
    tries.append("try")
    if len(tries) == 1:
        raise ValueError("not yet")
    return "done"


def test_a_job_that_its_policy_reschedules_frees_its_thread_and_is_run_again(queue: Any, dispatch: Any) -> None:
    tries.clear()
    dispatch(threads=1)
    job = queue.put(Job(fail_once), retry_policy_factory=InAWhile)
    transaction.commit()
    other = queue.put(Job(len, ()))
    transaction.commit()

    assert wait_for_result(other) == 0
    assert wait_for_result(job) == "done"
    assert job.attempts == 2
    assert [kind for _when, kind, _text in job.attempt_log] == ["error"]
    assert job.active_start > other.active_end
