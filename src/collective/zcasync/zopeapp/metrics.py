"""Figures as text for Prometheus: those of a worker are of its process and of its databases."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import figures
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.figurereading import Reading
from typing import Any

#: What tells Prometheus the form of the text.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NEEDED = "metrics need the library prometheus_client: pip install 'collective.zcasync[prometheus]'"


class Metrics:
    """Calling it gives the text, as bytes; ConfigurationError if the library is missing.

    ``tell``: gives the figures beside those that everything tells of its process that uses the library.
    """

    def __init__(self, tell: Callable[[], Iterable[figures.Figure]]) -> None:
        self._tell = tell

    def __call__(self) -> bytes:
        try:
            from prometheus_client import CollectorRegistry
            from prometheus_client import generate_latest
            from prometheus_client import ProcessCollector
        except ImportError as error:
            raise ConfigurationError(_NEEDED) from error
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        text: bytes = generate_latest(registry)
        return text

    def collect(self) -> Iterator[Any]:
        """What the registry asks for: families of the library, one a figure."""
        return map(_family, self._tell())


def of_worker(db: Any) -> Metrics:
    """Those of this process, and of its databases. ``db``: the one that holds the queues."""
    reading = Reading(db)
    return Metrics(lambda: (*figures.of_process(), *reading.figures()))


def _family(figure: figures.Figure) -> Any:
    from prometheus_client import core

    if figure.kind == figures.HISTOGRAM:
        histogram = core.HistogramMetricFamily(figure.name, figure.help, labels=figure.labels)
        for values, spread in figure.samples:
            histogram.add_metric(values, list(figures.bounds_of(spread)), spread.seconds)
        return histogram
    kind = core.CounterMetricFamily if figure.kind == figures.COUNTER else core.GaugeMetricFamily
    family = kind(figure.name, figure.help, labels=figure.labels)
    for values, number in figure.samples:
        family.add_metric(values, number)
    return family
