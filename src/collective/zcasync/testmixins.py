"""Mixins for unittest: put, run and assert jobs, freeze the clock, run a dispatcher; all undone after the test."""

from collective.zcasync import reactor
from collective.zcasync import testtime
from collective.zcasync.job import Job
from collective.zcasync.testing import run_jobs
from collective.zcasync.testputs import assert_put
from collective.zcasync.testputs import assert_put_count
from collective.zcasync.testputs import put_jobs
from collective.zcasync.testwait import get_poll
from collective.zcasync.testwait import tear_down_dispatcher
from collective.zcasync.testwait import wait_for_result
from datetime import datetime
from typing import Any


class JobsMixin:
    """The helpers of ``collective.zcasync.testing`` as methods, for the database of ``jobs_context``.

    By default that is the site of a layer: ``self.layer["portal"]``. Set another one (a persistent object or a
    connection) where there is none.
    """

    layer: Any

    @property
    def jobs_context(self) -> Any:
        return self.layer["portal"]

    def put_jobs(self, task: Any = None, /, *args: Any, **kwargs: Any) -> list[Job]:
        """See testing.put_jobs."""
        return put_jobs(self.jobs_context, task, *args, **kwargs)

    def run_jobs(self, raises: bool = True) -> list[Any]:
        """See testing.run_jobs."""
        return run_jobs(self.jobs_context, raises)

    def assert_put(self, task: Any, /, *args: Any, **kwargs: Any) -> Job:
        """See testing.assert_put."""
        return assert_put(self.jobs_context, task, *args, **kwargs)

    def assert_put_count(self, count: int, task: Any, /, *args: Any, **kwargs: Any) -> list[Job]:
        """See testing.assert_put_count."""
        return assert_put_count(self.jobs_context, count, task, *args, **kwargs)


class FrozenTimeMixin:
    """The package's clock stands still during each test, from ``START`` on until ``set_now``."""

    #: Where it stands at the beginning.
    START = testtime.START

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        testtime.setUpDatetime(self.START)
        self.addCleanup(testtime.tearDownDatetime)  # type: ignore[attr-defined]

    def set_now(self, when: datetime) -> None:
        """See testing.set_now."""
        testtime.set_now(when)


class DispatcherMixin:
    """A dispatcher that works in threads beside the test, for layers with a database of their own."""

    def start_dispatcher(self, db: Any, **options: Any) -> Any:
        """Start a dispatcher, wait for its first poll, and end it after the test. ``options``: see Dispatcher."""
        options.setdefault("threads", 2)
        running = reactor.start(db, **options)
        self.addCleanup(tear_down_dispatcher, running)  # type: ignore[attr-defined]
        get_poll(running.dispatcher, 0)
        return running.dispatcher

    @staticmethod
    def wait_for_result(job: Job, seconds: float = 6.0) -> Any:
        """See testing.wait_for_result."""
        return wait_for_result(job, seconds)
