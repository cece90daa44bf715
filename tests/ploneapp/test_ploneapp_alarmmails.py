"""Mails about alarms: one when one begins, one when it has ended, to the address that the site names."""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync.job import Job
from collective.zcasync.ploneapp import alarmmails
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp.alarmmails import AlarmMails
from collective.zcasync.ploneapp.interfaces import ISettings
from collective.zcasync.ploneapp.settings import settings_of
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.queue import Site
from collective.zcasync.tasks import task
from collective.zcasync.zopeapp import watching
from collective.zcasync.zopeapp.interfaces import IWatch
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from email import message_from_bytes
from email import policy
from plone import api
from Products.MailHost.MailHost import MailBase
from typing import Any
from z3c.form.validator import SimpleFieldValidator
from ZODB.DB import DB
from ZODB.POSException import ConflictError
from zope.component import getUtilitiesFor
from zope.component import provideUtility
from zope.component.hooks import site as local_site
from zope.schema import ValidationError

import logging
import pytest
import threading
import transaction
import uuid

ADDRESS = "operators@example.org"


@task(title="Greet somebody")
def greet(who: str) -> str:
    return f"hello {who}"


@pytest.fixture
def portal(functional: Any) -> Any:
    portal = functional["portal"]
    api.portal.set_registry_record("plone.email_from_address", "site@example.org")
    api.portal.set_registry_record("plone.email_from_name", "The site")
    settings_of(portal).alarm_address = ADDRESS
    transaction.commit()
    return portal


class Mailer:
    """Stands for the mail server."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.away = False

    def vote(self, *message: Any) -> None:
        if self.away:
            raise OSError("the mail server is away")

    def abort(self) -> None:
        """Nothing was sent, so nothing is left."""

    def send(self, sender: str, recipients: Any, message: Any) -> None:
        self.recipients = list(recipients)
        self.sent.append(message)


@pytest.fixture
def mailer(monkeypatch: pytest.MonkeyPatch) -> Mailer:
    mailer = Mailer()
    monkeypatch.setattr(MailBase, "_makeMailer", lambda mailhost: mailer)
    return mailer


@pytest.fixture
def queue(portal: Any) -> Any:
    return get_queue(portal._p_jar)


@pytest.fixture
def look(functional: Any, portal: Any, mailer: Mailer) -> Callable[..., list[Any]]:
    """A look of a dispatcher; the mails that it has sent."""
    mails = AlarmMails()

    def look(by: AlarmMails = mails) -> list[Any]:
        transaction.commit()
        mailer.sent.clear()
        with ThreadPoolExecutor(1) as thread:  # where there is no request, as in a dispatcher's process
            thread.submit(by, functional["zodbDB"]).result(30)
        transaction.begin()
        return [message_from_bytes(text, policy=policy.default) for text in mailer.sent]

    return look


def test_an_alarm_is_told_of_once_and_its_end_once(queue: Any, look: Any) -> None:
    assert look() == []
    greet.put("somebody")
    (mail,) = look()
    assert mail["To"] == ADDRESS
    assert mail["Subject"] == "Background jobs: No dispatcher serves the queue. Jobs in it: 1."
    assert "zcasync worker" in mail.get_content()
    assert look() == []
    queue.pull()
    assert look() == [] and look() == []
    (mail,) = look()
    assert mail["Subject"] == "Background jobs: all is well again"
    assert "Over: No dispatcher serves the queue." in mail.get_content()
    assert look() == []


def test_it_is_told_to_all_who_are_named(portal: Any, mailer: Mailer, look: Any) -> None:
    settings_of(portal).alarm_address = f"{ADDRESS}, chief@example.org"
    greet.put("somebody")
    assert len(look()) == 1
    assert mailer.recipients == [ADDRESS, "chief@example.org"]


def test_an_alarm_that_comes_and_goes_is_one(queue: Any, look: Any) -> None:
    greet.put("somebody")
    assert len(look()) == 1
    for _time in range(3):
        queue.pull()
        assert look() == []
        greet.put("somebody")
        assert look() == []


def test_of_two_dispatchers_that_look_one_tells(look: Any) -> None:
    greet.put("somebody")
    assert [len(look(AlarmMails())), len(look(AlarmMails()))] == [1, 0]


def test_sites_of_two_databases_are_two_though_their_oids_are_equal(
    functional: Any, portal: Any, mailer: Mailer, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, path, main = sites.group_of(portal), sites.path_of(portal), functional["zodbDB"]
    beside = DB(None, databases=main.databases, database_name="beside")
    with local_site(None), beside.transaction() as connection:
        install(connection).sites[group] = Site(path)
        get_queue(connection).put(Job(print))
    monkeypatch.setattr(alarmmails, "locate", lambda *args: portal)
    greet.put("somebody")
    transaction.commit()
    mails = AlarmMails()

    def told() -> int:
        """Mails after a look at one database, and then at the other."""
        mailer.sent.clear()
        with ThreadPoolExecutor(1) as thread:
            for database in (main, beside):
                thread.submit(mails, database).result(30)
        transaction.begin()
        return len(mailer.sent)

    assert told() == 2
    get_queue(portal._p_jar).pull()
    transaction.commit()
    assert [told(), told(), told()] == [0, 0, 1]  # though the other site has its alarm still


def test_a_site_that_names_no_address_gets_no_mail(portal: Any, look: Any) -> None:
    settings_of(portal).alarm_address = ""
    greet.put("somebody")
    assert look() == []


def test_limits_of_the_site_hold_for_mails_too(portal: Any, queue: Any, look: Any, dispatch: Any) -> None:
    queue.paused = True
    greet.put("somebody").put_at = clock.utcnow() - timedelta(minutes=20)
    settings_of(portal).alarm_waiting = 30
    assert look() == []
    settings_of(portal).alarm_waiting = 10
    (mail,) = look()
    assert "has waited for 20:" in mail["Subject"]


@pytest.fixture
def dispatch(queue: Any) -> None:
    """A dispatcher that serves the queue, as far as the database says."""
    queue.dispatchers.register(key := uuid.uuid4())
    queue.dispatchers[key].activate()


def test_a_mail_that_cannot_be_sent_is_logged_once_and_tried_again(
    mailer: Mailer, look: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mailer.away = True
    greet.put("somebody")
    with caplog.at_level(logging.ERROR, "collective.zcasync.ploneapp"):
        assert look() == [] and look() == []
    assert len([record for record in caplog.records if "no mail about alarms" in record.message]) == 1
    mailer.away = False
    assert len(look()) == 1


def test_one_that_conflicts_says_nothing(
    look: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def conflict(*args: Any, **options: Any) -> None:
        raise ConflictError

    greet.put("somebody")
    monkeypatch.setattr(api.portal, "send_email", conflict)
    with caplog.at_level(logging.ERROR, "collective.zcasync.ploneapp"):
        assert look() == [] and not caplog.records


@pytest.mark.parametrize("text", ["nobody", "a@b; c@d", "a@b,", "a b@c", "<a@b>"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="@|nobody"):
        SimpleFieldValidator(None, None, None, ISettings["alarm_address"], None).validate(text)


@pytest.mark.usefixtures("functional")
def test_a_thread_of_a_process_with_a_dispatcher_looks_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    assert "alarms" in dict(getUtilitiesFor(IWatch))
    looks = threading.Semaphore(0)

    def fail(database: Any) -> None:
        looks.release()
        raise ValueError("a reason")

    asked = iter([OSError("away"), None, None])

    def databases() -> list[Any]:
        trouble = next(asked, None)
        if trouble is not None:
            raise trouble
        return [None]

    provideUtility(fail, IWatch, "fails")
    thread = watching.Watching(databases, 0.01)
    assert looks.acquire(timeout=10) and looks.acquire(timeout=10)
    thread.stop()
    assert not thread._thread.is_alive()
    assert "The look of fails failed" in caplog.text and "which databases to look at" in caplog.text
