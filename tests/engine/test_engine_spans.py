"""Spans: one for each put and each attempt, linked, with what a person looks for, and nothing where nobody traces."""

from collections.abc import Iterator
from collective.zcasync import tracing
from collective.zcasync.job import Job
from collective.zcasync.retry import NeverRetry
from collective.zcasync.spans import JobTracer
from collective.zcasync.spans import put_of
from collective.zcasync.spans import switch_off
from collective.zcasync.spans import switch_on
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from opentelemetry.trace import StatusCode
from pathlib import Path
from typing import Any

import enginejobs
import pytest
import subprocess
import sys
import transaction

ADD = "enginejobs.add"


class Told:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def spans(self, verb: str) -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(f"{verb} ")]

    def outcomes(self) -> list[str]:
        return [span.attributes["zcasync.outcome"] for span in self.spans("run")]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(tracing, "tracer", JobTracer(told.provider))
    return told


@pytest.fixture
def put(queue: Any) -> Any:
    def put(*call: Any, **attributes: Any) -> Any:
        job = queue.put(Job(*call))
        for name, value in attributes.items():
            setattr(job, name, value)
        transaction.commit()
        return job

    return put


def waited(told: Told, connection: Any, number: int) -> list[Any]:
    """So many runs, as soon as they have ended: a span ends a moment after the commit."""
    wait_until(connection, lambda: len(told.spans("run")) >= number)
    return told.spans("run")


def test_the_run_of_a_job_is_linked_with_its_put(told: Told, put: Any, dispatch: Any, connection: Any) -> None:
    with told.provider.get_tracer("test").start_as_current_span("request") as request:
        job = put(enginejobs.add, 1, 2)
    job.group = "/Plone"
    transaction.commit()
    dispatch()
    wait_for_result(job)
    [run], [one] = waited(told, connection, 1), told.spans("put")

    assert (one.name, one.kind) == (f"put {ADD}", SpanKind.PRODUCER)
    assert one.parent.span_id == request.get_span_context().span_id
    assert (run.name, run.kind) == (f"run {ADD}", SpanKind.CONSUMER)
    assert run.parent is None
    [link] = run.links
    assert (link.context.trace_id, link.context.span_id) == (one.context.trace_id, one.context.span_id)
    assert link.context.is_remote
    same = {"messaging.system": "zcasync", "messaging.destination.name": "default", "messaging.message.id": job.id}
    assert dict(one.attributes) == {
        **same,
        "messaging.operation.type": "send",
        "zcasync.task": ADD,
        "zcasync.site": "",
    }
    assert dict(run.attributes) == {
        **same,
        "messaging.operation.type": "process",
        "zcasync.task": ADD,
        "zcasync.site": "/Plone",
        "zcasync.attempt": 1,
        "zcasync.outcome": "succeeded",
    }
    assert run.status.status_code is StatusCode.UNSET


def test_each_attempt_has_a_span_with_the_error_that_it_met(
    told: Told, put: Any, dispatch: Any, connection: Any
) -> None:
    job = put(enginejobs.conflict_times, 2)
    dispatch()
    wait_for_result(job)
    runs = waited(told, connection, 3)
    assert [run.attributes["zcasync.attempt"] for run in runs] == [1, 2, 3]
    assert told.outcomes() == ["retried", "retried", "succeeded"]
    assert [run.status.status_code for run in runs] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert [[event.attributes["exception.type"] for event in run.events] for run in runs] == [
        ["ZODB.POSException.ConflictError"],
        ["ZODB.POSException.ConflictError"],
        [],
    ]
    assert len({run.context.trace_id for run in runs}) == 3


def test_a_job_that_fails_says_with_what(told: Told, put: Any, dispatch: Any, connection: Any) -> None:
    job = put(enginejobs.change_and_raise, retry_policy_factory=NeverRetry)
    dispatch()
    wait_for_result(job)
    [run] = waited(told, connection, 1)
    assert told.outcomes() == ["failed"]
    assert run.status.status_code is StatusCode.ERROR
    assert "on purpose" in run.status.description
    [event] = run.events
    assert event.attributes["exception.message"] == "on purpose"


def test_a_failure_that_is_returned_is_an_error_too(told: Told, put: Any, dispatch: Any, connection: Any) -> None:
    job = put(enginejobs.change_and_return_failure)
    dispatch()
    wait_for_result(job)
    [run] = waited(told, connection, 1)
    assert told.outcomes() == ["failed"]
    assert run.status.description == "ValueError: returned"


def test_what_a_job_does_belongs_to_its_span_and_so_does_what_it_puts(
    told: Told, put: Any, dispatch: Any, connection: Any
) -> None:
    put(enginejobs.put_one)
    dispatch()
    runs = {run.name: run for run in waited(told, connection, 2)}
    puts = {one.name: one for one in told.spans("put")}
    assert puts[f"put {ADD}"].parent.span_id == runs["run enginejobs.put_one"].context.span_id
    assert runs[f"run {ADD}"].links[0].context.span_id == puts[f"put {ADD}"].context.span_id


def test_a_callback_is_linked_with_the_put_of_its_job(told: Told, queue: Any, dispatch: Any, connection: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    job.addCallback(Job(enginejobs.note))
    transaction.commit()
    dispatch()
    wait_for_result(job)
    runs = {run.name: run for run in waited(told, connection, 2)}
    [one] = told.spans("put")
    assert runs["run enginejobs.note"].links[0].context.span_id == one.context.span_id


def test_jobs_that_share_a_transaction_have_spans_of_their_own(
    told: Told, put: Any, dispatch: Any, connection: Any
) -> None:
    jobs = [put(enginejobs.add, number, groupable=True) for number in range(5)]
    dispatch(threads=1)
    for job in jobs:
        wait_for_result(job)
    runs = waited(told, connection, 5)
    assert told.outcomes() == ["succeeded"] * 5
    assert {run.attributes["messaging.message.id"] for run in runs} == {job.id for job in jobs}


def test_jobs_that_have_to_run_alone_after_all_say_so(told: Told, put: Any, dispatch: Any, connection: Any) -> None:
    jobs = [put(enginejobs.add, number, groupable=True) for number in range(3)]
    jobs.append(put(enginejobs.change_and_raise, groupable=True, retry_policy_factory=NeverRetry))
    dispatch(threads=1)
    for job in jobs:
        wait_for_result(job)
    wait_until(connection, lambda: sorted(told.outcomes()).count("succeeded") == 3 and "failed" in told.outcomes())
    assert set(told.outcomes()) <= {"succeeded", "failed", "alone"}


def test_a_job_that_waits_for_another_has_waiting_as_its_outcome(
    told: Told, queue: Any, dispatch: Any, connection: Any
) -> None:
    first = queue.put(Job(enginejobs.add, 1))
    outer = queue.put(Job(enginejobs.note, first))
    transaction.commit()
    dispatch(threads=1)
    wait_for_result(outer)
    waited(told, connection, 2)
    assert set(told.outcomes()) <= {"succeeded", "waiting"}


def test_a_tracer_that_is_not_active_stores_nothing(queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "tracer", JobTracer(TracerProvider(sampler=ALWAYS_OFF)))
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    assert "trace_parent" not in job.__getstate__()
    dispatch()
    wait_for_result(job)


def test_nothing_is_stored_where_nobody_traces(queue: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    assert "trace_parent" not in job.__getstate__()


def test_a_stored_put_that_is_none_is_no_link() -> None:
    assert put_of("") is put_of("99-strange") is None
    context = put_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert context is not None
    assert (f"{context.trace_id:x}", f"{context.span_id:x}") == ("af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


@pytest.fixture
def switched() -> Iterator[None]:
    yield
    switch_off()


@pytest.mark.usefixtures("switched")
def test_switched_on_it_follows_from_when_the_process_has_a_provider() -> None:
    switch_on()
    assert isinstance(tracing.tracer, JobTracer)
    assert not trace.get_current_span().is_recording()
    switch_off()
    assert tracing.tracer is None


def test_the_engine_works_without_the_library_and_never_imports_it(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["opentelemetry"] = None
import pkgutil, importlib, collective.zcasync
from collective.zcasync import queue, job, reactor, testing
import ZODB, transaction, operator
database = ZODB.DB(None)
with database.transaction() as connection:
    queue.install(connection)
connection = database.open()
one = queue.get_queue(connection).put(job.Job(operator.add, 1, 2))
transaction.commit()
running = reactor.start(database)
print("result:", testing.wait_for_result(one))
running.stop(grace=0)
print("imported:", sorted(name for name in sys.modules if name.startswith("opentelemetry.")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout.splitlines() == ["result: 3", "imported: []"], done.stderr
