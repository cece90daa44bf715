"""A context of the application's own, without Plone: what it captured is in force around each attempt."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.job import Job
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.interface import implementer
from zope.interface.verify import verifyObject

import collective.zcasync
import enginejobs
import pytest
import threading
import transaction

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class Handle:
    """Something of the application that is stored by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()  # so it cannot be stored itself


@dataclass(frozen=True)
class Reference:
    """What is stored in place of a handle."""

    name: str


@implementer(IJobContext)
class TenantContext:
    """Remembers for whom a job was put."""

    def __init__(self) -> None:
        self.entered: list[str] = []

    def capture(self, job: Any, run_as: str | None = None) -> tuple[str, str, tuple[Any, ...]]:
        return tenant.get(), run_as or "", (("tenant", tenant.get()),)

    @contextmanager
    def enter(self, job: Any, connection: Any) -> Iterator[None]:
        token = tenant.set(dict(job.context_data)["tenant"])
        self.entered.append(tenant.get())
        try:
            yield
        finally:
            tenant.reset(token)
            self.entered.append("left")

    def after_job(self, job: Any) -> None:
        """Nothing is left to the commit."""

    def lets_pass(self, participant: Any) -> bool:
        return False

    def shelve(self, value: Any) -> Any:
        return Reference(value.name) if isinstance(value, Handle) else value

    def unshelve(self, value: Any) -> Any:
        return Handle(value.name) if isinstance(value, Reference) else value


@pytest.fixture
def context() -> Iterator[TenantContext]:
    registry, context = getGlobalSiteManager(), TenantContext()
    registry.registerUtility(context)
    yield context
    registry.unregisterUtility(context)


@contextmanager
def on_behalf_of(name: str) -> Iterator[None]:
    token = tenant.set(name)
    try:
        yield
    finally:
        tenant.reset(token)


def test_a_job_runs_for_whom_it_was_put_and_its_thread_is_clean_afterwards(
    context: TenantContext, dispatch: Callable[..., RunningDispatcher], queue: Any
) -> None:
    verifyObject(IJobContext, context)
    dispatch(threads=1)
    with on_behalf_of("acme"):
        first = queue.put(Job(whose))
    second = queue.put(Job(whose))
    transaction.commit()
    assert wait_for_result(first)[0] == "acme"
    assert wait_for_result(second)[0] == "nobody"
    assert first.result[1] == second.result[1] != threading.current_thread().name
    assert (first.group, second.group) == ("acme", "nobody")
    wait_until(queue, lambda: context.entered[1::2] == ["left", "left"])  # after the commit


def test_hooks_before_the_commit_are_still_inside_the_context(
    context: TenantContext, dispatch: Callable[..., RunningDispatcher], queue: Any
) -> None:
    dispatch()
    with on_behalf_of("acme"):
        job = queue.put(Job(note_in_a_hook))
    transaction.commit()
    assert wait_for_result(job) == "hooked"
    transaction.begin()
    assert queue._p_jar.root()["hook ran for"] == "acme"


def test_callbacks_inner_jobs_and_retries_have_the_context_too(
    context: TenantContext, dispatch: Callable[..., RunningDispatcher], queue: Any
) -> None:
    dispatch()
    with on_behalf_of("acme"):
        job = queue.put(Job(conflict_once_and_put))
        callback = job.addCallback(for_whom)
    transaction.commit()
    assert wait_for_result(job)[0] == "acme"  # the result of the inner job, which it returned
    assert callback.result == "acme"
    assert enginejobs.calls == ["acme", "acme"]


def test_the_context_is_left_after_a_failure(context: TenantContext, queue: Any) -> None:
    with on_behalf_of("acme"):
        job = queue.put(Job(enginejobs.change_and_raise))
    run_jobs(queue, raises=False)
    assert isinstance(job.result, Failure)
    assert tenant.get() == "nobody"
    assert context.entered == ["acme", "left"]


def test_arguments_and_results_are_stored_as_the_context_says(
    context: TenantContext, dispatch: Callable[..., RunningDispatcher], queue: Any
) -> None:
    dispatch()
    job = queue.put(Job(name_of, Handle("one"), [Handle("two")]))
    transaction.commit()
    assert wait_for_result(job) == Reference("one two")
    assert list(job.args) == [Reference("one"), [Reference("two")]]


def whose() -> tuple[str, str]:
    return tenant.get(), threading.current_thread().name


def for_whom(result: Any) -> str:
    return tenant.get()


def note_in_a_hook() -> str:
    root = enginejobs.root()

    def hook() -> None:
        root["hook ran for"] = tenant.get()

    transaction.get().addBeforeCommitHook(hook)
    return "hooked"


def conflict_once_and_put() -> Any:
    enginejobs.calls.append(tenant.get())
    if len(enginejobs.calls) < 2:
        raise ConflictError
    inner = Job(whose)
    collective.zcasync.local.getQueue().put(inner)
    return inner


def name_of(handle: Handle, others: list[Handle]) -> Handle:
    return Handle(" ".join(one.name for one in (handle, *others)))
