"""Fixtures for pytest, beside those of pytest-plone: in the conftest.py at the root of your tests, say

pytest_plugins = ["collective.zcasync.ploneapp.pytest_fixtures"]

They use the fixtures ``integration`` and ``functional`` that pytest-plone makes of your layers: a test that asks for
``functional`` or ``functional_portal`` gets the jobs of that site, any other those of ``portal``.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import testing
from collective.zcasync.ploneapp.testing import bare_thread
from collective.zcasync.ploneapp.testing import running_dispatcher
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Any

import pytest

__all__ = (
    "assert_put",
    "assert_put_count",
    "frozen_time",
    "inline_jobs",
    "jobs_context",
    "put_jobs",
    "run_jobs",
    "start_dispatcher",
)


@pytest.fixture
def jobs_context(request: pytest.FixtureRequest) -> Any:
    """The site whose jobs the fixtures of this module mean. Override it where you have another one."""
    functional = {"functional", "functional_portal"} & set(request.fixturenames)
    return request.getfixturevalue("functional")["portal"] if functional else request.getfixturevalue("portal")


@pytest.fixture
def put_jobs(jobs_context: Any) -> Callable[..., list[Any]]:
    """``put_jobs()``: see testing.put_jobs."""
    return partial(testing.put_jobs, jobs_context)


@pytest.fixture
def run_jobs(jobs_context: Any) -> Callable[..., list[Any]]:
    """``run_jobs()``: see testing.run_jobs."""
    return partial(testing.run_jobs, jobs_context)


@pytest.fixture
def assert_put(jobs_context: Any) -> Callable[..., Any]:
    """``assert_put(task, *args, **kwargs)``: see testing.assert_put."""
    return partial(testing.assert_put, jobs_context)


@pytest.fixture
def assert_put_count(jobs_context: Any) -> Callable[..., list[Any]]:
    """``assert_put_count(2, task, *args, **kwargs)``: see testing.assert_put_count."""
    return partial(testing.assert_put_count, jobs_context)


@pytest.fixture
def inline_jobs(functional: Any) -> Iterator[None]:
    """As long as the test lasts, jobs run at the end of each request and at each commit, in the thread that commits."""
    with testing.inline_jobs(functional["zodbDB"], bare_thread):
        yield


@pytest.fixture
def start_dispatcher(functional: Any) -> Iterator[Callable[..., Any]]:
    """``start_dispatcher()`` starts a dispatcher beside the test, and returns it; it ends with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_dispatcher(functional["zodbDB"], **options))


@pytest.fixture
def frozen_time() -> Iterator[Callable[[datetime], None]]:
    """The package's clock stands still; ``frozen_time(when)`` sets it to another aware time."""
    testing.setUpDatetime()
    yield testing.set_now
    testing.tearDownDatetime()
