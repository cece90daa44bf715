"""What the log tells authors and managers of jobs: messages that nobody sees, and puts that have to wait."""

from collections.abc import Iterator
from collective.zcasync import api
from collective.zcasync.ploneapp import context
from collective.zcasync.ploneapp.seldom import Seldom
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queues
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from plone import api as plone_api
from Products.statusmessages.interfaces import IStatusMessage
from transaction.interfaces import TransientError
from typing import Any
from zope.globalrequest import getRequest

import pytest
import transaction

UNINSTALL = "profile-collective.zcasync:uninstall"
INSTALL = "profile-collective.zcasync:default"

#: How often the job that conflicts was tried.
tries = []


def show(*texts: str) -> list[str]:
    for text in texts:
        plone_api.portal.show_message(text)
    IStatusMessage(getRequest()).addStatusMessage("by the old name")
    return [message.message for message in IStatusMessage(getRequest()).show()]


def show_and_conflict() -> None:
    plone_api.portal.show_message("Once")
    tries.append(1)
    if len(tries) == 1:
        raise TransientError("try again")


def nothing() -> None:
    pass


@pytest.fixture(autouse=True)
def all_is_new() -> Iterator[None]:
    tries.clear()
    context.held_puts.clear()
    yield


def lines(caplog: Any, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


PART = "shows a status message"


class TestMessages:
    def test_a_message_in_a_job_warns_once_and_names_progress(self, integration, caplog):
        job = api.put(show, "Saved", "Saved again")
        run_jobs(integration["portal"])
        (line,) = lines(caplog, PART)
        assert f"show (job {job.id}) shows a status message that nobody will see" in line
        assert "'Saved'" in line
        assert "tell how far it is by collective.zcasync.api.progress(done, total, text)" in line

    def test_code_in_the_job_still_finds_its_messages(self, integration):
        job = api.put(show, "Saved")
        run_jobs(integration["portal"])
        assert job.result == ["Saved", "by the old name"]

    def test_each_job_is_told(self, integration, caplog):
        api.put(show, "One")
        api.put(show, "Two")
        run_jobs(integration["portal"])
        assert len(lines(caplog, PART)) == 2

    def test_a_job_that_is_tried_again_is_told_once(self, functional, caplog):
        job = api.put(show_and_conflict)
        transaction.commit()
        with running_dispatcher(functional["zodbDB"]):
            wait_for_result(job)
        assert (job.error, len(tries)) == ("", 2)
        assert len(lines(caplog, PART)) == 1

    def test_a_message_in_a_request_warns_of_nothing(self, integration, caplog):
        plone_api.portal.show_message("Saved", request=integration["request"])
        assert lines(caplog, PART) == []


class TestHeld:
    @pytest.fixture
    def portal(self, functional):
        portal = functional["portal"]
        portal.portal_setup.runAllImportStepsFromProfile(UNINSTALL)
        transaction.commit()
        return portal

    def test_a_put_by_an_uninstalled_site_warns_once_in_a_minute(self, portal, caplog):
        first, second = api.put(nothing), api.put(nothing)
        transaction.commit()
        assert lines(caplog, "is not installed") == [
            f"Job {first.id} (test_ploneapp_warnings.nothing) waits: collective.zcasync is not installed in /plone. It"
            " runs when the add-on is installed there again (Site Setup, Add-ons); to delete the site's jobs: zcasync"
            " purge --site /plone"
        ]
        assert run_jobs(portal) == []
        portal.portal_setup.runAllImportStepsFromProfile(INSTALL)
        assert run_jobs(portal) == [first, second]

    def test_after_a_minute_it_warns_again(self, portal, caplog, monkeypatch):
        monkeypatch.setattr(context.held_puts, "seconds", 0)
        for _number in range(2):
            api.put(nothing)
        transaction.commit()
        assert len(lines(caplog, "is not installed")) == 2

    def test_a_put_that_was_aborted_warns_of_nothing(self, portal, caplog):
        api.put(nothing)
        transaction.abort()
        assert lines(caplog, "is not installed") == []

    def test_a_put_of_another_site_warns_of_nothing(self, portal, caplog):
        get_queues(portal._p_jar)[""].held_groups = ("ffff",)
        api.put(nothing)
        transaction.commit()
        assert lines(caplog, "is not installed") == []


class TestSeldom:
    def test_it_speaks_once_for_each_key(self):
        first = Seldom(60)
        assert [first("a"), first("a"), first("b")] == [True, False, True]

    def test_it_speaks_again_after_its_seconds(self):
        first = Seldom(0)
        assert [first("a"), first("a")] == [True, True]

    def test_it_forgets_the_oldest(self):
        first = Seldom(60, most=2)
        assert [first(key) for key in "abca"] == [True, True, True, True]
