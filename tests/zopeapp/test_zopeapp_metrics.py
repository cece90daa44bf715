"""The text for Prometheus: well-formed, with all figures, and without a word about people or content."""

from collections.abc import Iterator
from collective.zcasync import figures
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.zopeapp.metrics import CONTENT_TYPE
from collective.zcasync.zopeapp.metrics import of_worker
from prometheus_client.parser import text_string_to_metric_families
from typing import Any
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage

import instancejobs
import pytest
import subprocess
import sys


@pytest.fixture
def database() -> Iterator[Any]:
    """One with a job that waits, of somebody, for something."""
    database = DB(MappingStorage())
    with database.transaction() as connection:
        install(connection)
        job = get_queue(connection).put(Job(instancejobs.greet, "secret argument"))
        job.user, job.group, job.where = "anna", "/Plone/secret-site", "/Plone/secret-page"
        connection.root()["secret"] = job
    yield database
    database.close()


def families(text: bytes) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_prometheus_reads_the_text_with_all_figures_of_database_and_process(database: Any) -> None:
    found = families(of_worker(database)())
    with database.transaction() as connection:
        expected = [*figures.of_databases(connection), *figures.of_process()]
    assert {figure.name for figure in expected if figure.samples} <= set(found)
    for figure in expected:
        if figure.samples:
            assert (found[figure.name].type, found[figure.name].documentation) == (figure.kind, figure.help)
    jobs = {sample.labels["state"]: sample.value for sample in found["zcasync_jobs"].samples}
    assert jobs["waiting"] == 1
    assert "process_resident_memory_bytes" in found, "of this process, as all that use the library tell it"


def test_counters_and_histograms_have_the_names_that_prometheus_wants(database: Any) -> None:
    figures.counters.ran("", "instancejobs.greet", 0.2)
    figures.counters.happened("finished", "instancejobs.greet")
    lines = of_worker(database)().decode().splitlines()
    assert any(line.startswith('zcasync_process_job_events_total{task="instancejobs.greet",what="') for line in lines)
    assert any(line.startswith("zcasync_process_run_seconds_bucket{") and 'le="+Inf"' in line for line in lines)
    assert any(line.startswith("zcasync_process_run_seconds_sum{") for line in lines)


def test_promtool_has_nothing_to_say_against_it(database: Any) -> None:
    figures.counters.ran("", "instancejobs.greet", 0.2)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=of_worker(database)(), capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_no_word_about_people_or_content_is_in_it(database: Any) -> None:
    text = of_worker(database)().decode()
    assert [word for word in ("secret", "anna", "Plone") if word in text] == []


def test_the_form_is_the_one_that_every_prometheus_reads() -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_without_the_library_the_way_out_is_told(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'collective.zcasync\[prometheus\]'"):
        of_worker(database)()
