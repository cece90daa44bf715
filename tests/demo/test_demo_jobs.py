"""The demo's jobs in a site: pages, failures, report."""

from collective.zcasync.demo import batch
from collective.zcasync.demo.tasks import report
from collective.zcasync.demo.tasks import Unfinished
from collective.zcasync.demo.tasks import WaitForJobs
from collective.zcasync.failure import Failure
from collective.zcasync.queue import get_queues
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import run_jobs
from datetime import timedelta
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from types import SimpleNamespace
from typing import Any

import pytest

#: Two that have a README, and one that is not there.
NAMES = ("PIP", "nh3", "no-such-distribution")


@pytest.fixture
def site(portal: Any) -> Any:
    setRoles(portal, TEST_USER_ID, ["Manager"])
    return portal


def test_each_distribution_becomes_a_page_and_the_report_tells_of_all(site: Any) -> None:
    folder = batch.put_all(site, NAMES)
    assert [job.title for job in put_jobs(site)].count("Import a distribution's description") == 3
    run_jobs(site, raises=False)

    assert sorted(folder.objectIds()) == ["nh3", "pip", "report"]
    assert folder.pip.title.startswith("pip ")
    assert folder.pip.description == "The PyPA recommended tool for installing Python packages."
    assert "Licence" in folder.pip.text.raw
    assert folder.report.description == "2 distributions imported, 1 failed"
    assert "no-such-distribution is not installed here" in folder.report.text.raw
    assert f'href="{folder.nh3.absolute_url()}"' in folder.report.text.raw


def test_the_status_counts_jobs_and_names_those_that_failed(site: Any) -> None:
    folder = batch.put_all(site, NAMES)
    before = batch.status(folder)
    assert (before["put"], before["imported"], before["failed"], before["seconds"]) == (3, 0, [], 0)
    assert before["report"] == {"ended": False, "error": ""}

    run_jobs(site, raises=False)
    after = batch.status(folder)
    assert (after["put"], after["imported"]) == (3, 2)
    assert [(job["name"], job["error"]) for job in after["failed"]] == [
        ("no-such-distribution", "NoDescription: no-such-distribution is not installed here")
    ]
    assert after["report"] == {"ended": True, "error": ""}
    assert batch.pages(folder) == {"expected": ["nh3", "pip"], "catalogued": ["nh3", "pip"]}


def test_a_page_too_many_is_seen(site: Any) -> None:
    folder = batch.put_all(site, NAMES)
    run_jobs(site, raises=False)
    folder.invokeFactory("Document", "pip-1")
    assert batch.pages(folder)["catalogued"] == ["nh3", "pip", "pip-1"]


def test_a_second_round_gets_a_folder_of_its_own(site: Any) -> None:
    first, second = batch.put_all(site, NAMES), batch.put_all(site, NAMES)
    run_jobs(site, raises=False)
    assert first.getId() != second.getId()
    assert batch.pages(first) == batch.pages(second)


def test_the_report_waits_for_jobs_that_have_not_ended(site: Any) -> None:
    folder = batch.put_all(site, NAMES)
    waiting = [(job.title, job.id) for job in put_jobs(site)][:1]
    with pytest.raises(Unfinished, match="1 of 1 jobs have not ended yet"):
        report(folder, waiting)


def test_its_policy_tries_again_after_two_seconds_and_gives_up_on_other_errors() -> None:
    policy = WaitForJobs(SimpleNamespace(id="1", task="report"))
    assert policy.jobError(Failure.from_exception(Unfinished()), {}) == timedelta(seconds=2)
    assert policy.jobError(Failure.from_exception(ValueError()), {}) is False


def test_the_profile_allows_four_jobs_at_once(site: Any) -> None:
    queue = get_queues(site._p_jar)[""]
    assert queue.templates["embedded"]["main"].size == 4
