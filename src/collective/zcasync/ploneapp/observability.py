"""The figures of this process and of its databases among the metrics that plone.observability publishes."""

from collections.abc import Iterator
from collective.zcasync import figures
from collective.zcasync.figurereading import Reading
from plone.observability.interfaces import IMetricProvider
from plone.observability.metric import Metric
from typing import Any
from zope.interface import implementer

import os

_reading: Reading | None = None


@implementer(IMetricProvider)
class JobMetrics:
    """See IMetricProvider; made anew for each request. All processes tell the same of the database, which they read now
    and then: a request never waits for more than that, and loads nothing of it itself."""

    name = "zcasync"
    scope = "instance"

    def __init__(self, context: Any) -> None:
        self.context = context

    def collect(self) -> Iterator[Metric]:
        """See IMetricProvider."""
        for figure in (*figures.of_process(), *reading_of(self.context).figures()):
            yield from _histogram(figure) if figure.kind == figures.HISTOGRAM else _simple(figure)


def reading_of(context: Any) -> Reading:
    """The one for all requests of this process, which begins at the database of the first. A fork has its own."""
    global _reading
    db = context._p_jar.db()
    if _reading is None or _reading.db is not db or _reading.pid != os.getpid():
        _reading = Reading(db)
    return _reading


def _simple(figure: figures.Figure) -> Iterator[Metric]:
    ending = "_total" if figure.kind == figures.COUNTER else ""
    for values, number in figure.samples:
        yield _metric(figure, ending, values, number)


def _histogram(figure: figures.Figure) -> Iterator[Metric]:
    """The series of which it consists, each as a whole, as Prometheus wants it."""
    for values, spread in figure.samples:
        for bound, at_most in figures.bounds_of(spread):
            yield _metric(figure, "_bucket", values, at_most, le=bound)
    for values, spread in figure.samples:
        yield _metric(figure, "_sum", values, spread.seconds)
    for values, spread in figure.samples:
        yield _metric(figure, "_count", values, sum(spread.numbers))


def _metric(figure: figures.Figure, ending: str, values: tuple[str, ...], number: float, **labels: str) -> Metric:
    return Metric(
        name=figure.name + ending,
        value=number,
        type="gauge" if figure.kind == figures.GAUGE else "counter",
        scope="global" if figure.shared else "instance",
        help=figure.help,
        labels={**dict(zip(figure.labels, map(_safe, values), strict=True)), **labels},
    )


def _safe(value: str) -> str:
    """What is written between quotes as it is."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
