"""In a site the figures stand among the metrics of plone.observability, as they do for a worker."""

from collective.zcasync import figures
from collective.zcasync.ploneapp import observability
from plone.observability.interfaces import IMetricFormatter
from plone.observability.interfaces import IMetricProvider
from plone.observability.metrics.formatters import PrometheusFormatter
from prometheus_client.parser import text_string_to_metric_families
from zope.component import getAdapter
from zope.interface.verify import verifyObject

import pytest
import transaction


@pytest.fixture
def provider(functional):
    provider = getAdapter(functional["app"], IMetricProvider, name="zcasync")
    yield provider
    observability._reading = None


def test_the_provider_keeps_its_contract(provider):
    assert verifyObject(IMetricProvider, provider)
    assert verifyObject(IMetricFormatter, PrometheusFormatter())


def test_a_scrape_of_the_site_gives_what_that_of_a_worker_gives(functional, provider):
    for task in ("some.task", "other.task"):
        figures.counters.ran("", task, 0.2)
    figures.counters.happened("finished", 'a "task" of \\ signs')
    transaction.commit()

    found = {
        family.name: family
        for family in text_string_to_metric_families(PrometheusFormatter().format(provider.collect()))
    }

    expected = [*figures.of_databases(functional["app"]._p_jar), *figures.of_process()]
    for figure in expected:
        for values, number in figure.samples:
            labels = dict(zip(figure.labels, values, strict=True))
            if figure.kind == figures.HISTOGRAM:
                counts = found[f"{figure.name}_count"].samples
                assert [one.value for one in counts if labels.items() <= one.labels.items()] == [sum(number.numbers)]
            else:
                [sample] = [one for one in found[figure.name].samples if labels.items() <= one.labels.items()]
                assert sample.labels["scope"] == ("global" if figure.shared else "instance")
                assert figure.shared or sample.value == number
    assert found["zcasync_process_job_events"].type == "counter"


def test_requests_of_a_process_share_one_reading_of_the_database(functional, provider, monkeypatch):
    reading = observability.reading_of(functional["app"])
    list(provider.collect())
    assert observability.reading_of(functional["app"]) is reading
    monkeypatch.setattr(observability.os, "getpid", lambda: -1)
    assert observability.reading_of(functional["app"]) is not reading, "a fork inherits no thread that reads"
