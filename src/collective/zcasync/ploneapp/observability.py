"""The figures of this process and of its databases among the metrics that plone.observability publishes."""

from collections.abc import Iterator
from collective.zcasync import figures
from collective.zcasync.figurereading import Reading
from plone.observability.interfaces import IMetricProvider
from plone.observability.metric import Metric
from typing import Any
from zope.interface import implementer

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
        """See IMetricProvider. Histograms come as the series of which they consist."""
        for figure in (*figures.of_process(), *reading_of(self.context).figures()):
            for values, number in figure.samples:
                labels = dict(zip(figure.labels, map(_safe, values), strict=True))
                if figure.kind != figures.HISTOGRAM:
                    ending = "_total" if figure.kind == figures.COUNTER else ""
                    yield _metric(figure, ending, number, labels)
                    continue
                for bound, at_most in figures.bounds_of(number):
                    yield _metric(figure, "_bucket", at_most, {**labels, "le": bound})
                yield _metric(figure, "_sum", number.seconds, labels)
                yield _metric(figure, "_count", sum(number.numbers), labels)


def reading_of(context: Any) -> Reading:
    """The one for all requests of this process, which begins at the database of the first."""
    global _reading
    db = context._p_jar.db()
    if _reading is None or _reading.db is not db:
        _reading = Reading(db)
    return _reading


def _metric(figure: figures.Figure, ending: str, number: float, labels: dict[str, str]) -> Metric:
    return Metric(
        name=figure.name + ending,
        value=number,
        type="gauge" if figure.kind == figures.GAUGE else "counter",
        scope="global" if figure.shared else "instance",
        help=figure.help,
        labels=labels,
    )


def _safe(value: str) -> str:
    """What is written between quotes as it is."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
