"""Spans of OpenTelemetry for puts and attempts; needs the extra ``opentelemetry``, and nothing else imports it."""

from collections.abc import Callable
from collective.zcasync import tracing
from collective.zcasync.instanceuuid import process_identity
from collective.zcasync.lookup import main_of
from collective.zcasync.queues import shown_queue
from contextvars import ContextVar
from opentelemetry import trace
from opentelemetry.trace import Link
from opentelemetry.trace import SpanContext
from opentelemetry.trace import SpanKind
from opentelemetry.trace import Status
from opentelemetry.trace import StatusCode
from opentelemetry.trace import TraceFlags
from typing import Any

import re

#: What a job stores of its put: version, trace, span and flags, as the header ``traceparent`` of W3C has them.
_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

_current: ContextVar["JobSpan | None"] = ContextVar("zcasync_span", default=None)


def switch_on(event: Any = None) -> None:
    """Follow all puts and attempts of this process, from when it has a tracer provider on. Also a subscriber."""
    tracing.tracer = JobTracer()


def switch_off() -> None:
    """Follow no more."""
    tracing.tracer = None


class JobTracer:
    """See tracing.Tracer. ``provider``: None: the one of the process, also if it comes later."""

    def __init__(self, provider: Any = None) -> None:
        self._tracer = trace.get_tracer("collective.zcasync", str(process_identity()["version"]), provider)

    def put(self, job: Any, queue: str) -> str:
        """See tracing.Tracer."""
        span = self._tracer.start_span(f"put {job.task}", kind=SpanKind.PRODUCER)
        if not span.is_recording():
            return ""
        span.set_attributes({**_attributes(job, queue), "messaging.operation.type": "send"})
        span.end()
        context = span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def begin(self, job: Any, attempt: int) -> "JobSpan | None":
        """See tracing.Tracer. A trace of its own, as the put may be days ago, with a link to that of the put."""
        parent = put_of(main_of(job).trace_parent)
        span = self._tracer.start_span(
            f"run {job.task}",
            trace.set_span_in_context(trace.INVALID_SPAN),
            kind=SpanKind.CONSUMER,
            links=[] if parent is None else [Link(parent)],
        )
        if not span.is_recording():
            return None
        queue = job.queue
        span.set_attributes(
            {
                **_attributes(job, "" if queue is None else queue.name),
                "messaging.operation.type": "process",
                "zcasync.attempt": attempt,
            }
        )
        return JobSpan(span)

    def failed(self, error: BaseException) -> None:
        """See tracing.Tracer."""
        current = _current.get()
        if current is not None:
            current.failed(error)


class JobSpan:
    """See tracing.Span."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def call(self, code: Callable[[], Any]) -> Any:
        """See tracing.Span."""
        before = _current.set(self)
        try:
            with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
                return code()
        finally:
            _current.reset(before)

    def failed(self, error: BaseException) -> None:
        """Record an error with its traceback."""
        self._span.record_exception(error)
        self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))

    def end(self, outcome: str, error: str = "") -> None:
        """See tracing.Span."""
        self._span.set_attribute("zcasync.outcome", outcome)
        if outcome in ("failed", tracing.INTERRUPTED):
            self._span.set_status(Status(StatusCode.ERROR, error or outcome))
        self._span.end()


def put_of(stored: str) -> SpanContext | None:
    """The span of the put that a job has stored; None if nobody followed it."""
    found = _PARENT.fullmatch(stored)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _attributes(job: Any, queue: str) -> dict[str, str]:
    """What is told of a job: nothing of its arguments. The first three are OpenTelemetry's own names."""
    return {
        "messaging.system": "zcasync",
        "messaging.destination.name": shown_queue(queue),
        "messaging.message.id": job.id or "",
        "zcasync.task": job.task or "",
        "zcasync.site": job.group or "",
    }
