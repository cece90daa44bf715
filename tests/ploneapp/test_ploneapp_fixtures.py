"""The fixtures for pytest, as the tests of an add-on use them."""

from collections.abc import Callable
from collective.zcasync import api as jobs
from collective.zcasync import clock
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync.ploneapp import pytest_fixtures
from collective.zcasync.testing import wait_for_result
from datetime import timedelta
from plone import api
from plone.app.testing import TEST_USER_ID
from typing import Any

import pytest
import threading
import transaction

# What `pytest_plugins` does in the conftest.py of an add-on.
globals().update({name: getattr(pytest_fixtures, name) for name in pytest_fixtures.__all__})


def rename(title: str) -> tuple[str, str]:
    api.portal.get().setTitle(title)
    return api.user.get_current().getId(), threading.current_thread().name


def test_jobs_are_listed_asserted_and_run_in_an_integration_test(
    portal: Any, put_jobs: Any, run_jobs: Any, assert_put: Any, assert_put_count: Any
) -> None:
    job = jobs.put(rename, "renamed")
    assert put_jobs() == [job]
    assert assert_put(rename, "renamed") is job
    assert assert_put_count(0, rename, "other") == []
    assert run_jobs() == [job]
    assert portal.title == "renamed"
    with pytest.raises(AssertionError, match="should wait, 0 do; what was put:\n  nothing"):
        assert_put(rename, "renamed")


def test_in_a_functional_test_the_same_fixtures_mean_its_site(functional_portal: Any, jobs_context: Any) -> None:
    assert jobs_context == functional_portal


def test_jobs_run_at_each_commit(functional: Any, inline_jobs: None, put_jobs: Any) -> None:
    job = jobs.put(rename, "renamed")
    transaction.commit()
    assert job.result == (TEST_USER_ID, threading.current_thread().name)
    assert functional["portal"].title == "renamed"
    assert put_jobs() == []


def test_a_dispatcher_works_beside_a_functional_test(functional: Any, start_dispatcher: Callable[..., Any]) -> None:
    assert dispatchers.serving(functional["zodbDB"]) is None
    dispatcher = start_dispatcher(threads=1)
    assert dispatchers.serving(functional["zodbDB"]) is dispatcher
    job = jobs.put(rename, "renamed")
    transaction.commit()
    assert wait_for_result(job, 30)[0] == TEST_USER_ID


def test_the_dispatcher_is_gone_after_the_test(functional: Any) -> None:
    assert dispatchers.serving(functional["zodbDB"]) is None


def test_the_clock_stands_where_the_test_says(portal: Any, frozen_time: Any, run_jobs: Any) -> None:
    job = jobs.options(begin_after=timedelta(hours=1)).put(rename, "late")
    assert run_jobs() == []
    frozen_time(clock.utcnow() + timedelta(hours=1))
    assert run_jobs() == [job]
    assert portal.title == "late"


def test_the_clock_runs_again_after_the_test() -> None:
    assert clock.utcnow().year > 2006
