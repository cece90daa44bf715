"""Each page and each of its buttons, asked by people in each role; and what was sent by a form that is not ours."""

from collections.abc import Callable
from pathlib import Path
from plone.app.testing import login
from plone.app.testing import logout
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.protect.authenticator import createToken
from plone.testing import zope
from plone.testing.zope import Browser
from restclient import basic
from restjobs import failed
from restjobs import greet
from restjobs import prepare
from restjobs import put_as
from restjobs import set_aside
from typing import Any
from urllib.parse import urlencode
from visitor import PASSWORD
from xml.etree import ElementTree

import collective.zcasync
import pytest
import restjobs
import transaction

#: People of the site: id and roles there. ``root`` is a Manager of the Zope root.
PEOPLE = {
    "member": ["Member"],
    "editor": ["Editor", "Member"],
    "admin": ["Member", "Site Administrator"],
    "manager": ["Manager", "Member"],
}

#: Who asks, in the order of the letters below.
WHO = (None, *PEOPLE, "root")

#: What the letters say of an answer.
SHOWN, DONE, LOGIN, FORBIDDEN, NOWHERE = "SDLF-"

#: Path below the site, what is sent (None: a GET), and the answer for each of WHO: (S)hown, (D)one, or led on to
#: another page; asked to (L)og in as somebody else; (F)orbidden; (-) not there, as the frame of all pages, which is no
#: page itself, and the file of a job that has returned none. ``{job}`` waits and is the admin's, ``{failed}`` and
#: ``{aside}`` too; ``{own}`` waits and is of the one who asks (of the admin, where that is nobody).
ALLOWED: list[tuple[str, dict[str, str] | None, str]] = [
    ("@@zcasync-panel", None, "------"),
    ("@@zcasync-overview", None, "LLLSSS"),
    ("@@zcasync-dispatchers", None, "LLLSSS"),
    ("@@zcasync-dispatchers", {"uuid": "none", "pause": "1"}, "LLLDDD"),
    ("@@zcasync-jobs", None, "LLLSSS"),
    ("@@zcasync-jobs-change", None, "LLLDDD"),
    ("@@zcasync-jobs-change", {"state": "waiting", "verb": "cancel", "ids": "{job}", "sure": "1"}, "LLLDDD"),
    ("@@zcasync-jobs-change", {"state": "waiting", "verb": "cancel", "everything": "1", "sure": "1"}, "LLLDDD"),
    ("@@zcasync-job?id={job}", None, "LLLSSS"),
    ("@@zcasync-job?id={own}", None, "LLLSSS"),
    ("@@zcasync-job", {"id": "{job}", "cancel": "1"}, "LLLDDD"),
    ("@@zcasync-job", {"id": "{failed}", "retry": "1"}, "LLLDDD"),
    ("@@zcasync-job", {"id": "{aside}", "discard": "1", "sure": "1"}, "LLLDDD"),
    ("@@zcasync-job-retry?id={failed}", None, "LLLSSS"),
    ("@@zcasync-job-retry?id={failed}", {"form.buttons.start": "1", "form.widgets.path": "/b"}, "LLLDDD"),
    ("@@zcasync-queues", None, "LLLSSS"),
    ("@@zcasync-queues", {"queue": "mine", "pause": "1"}, "LLLDDD"),
    ("@@zcasync-queues", {"queue": "shared", "pause": "1"}, "LLLFFD"),
    ("@@zcasync-queues", {"pause_site": "1"}, "LLLDDD"),
    ("@@zcasync-queues", {"pause_all": "1"}, "LLLFFD"),
    ("@@zcasync-queue?name=mine", None, "LLLSSS"),
    ("@@zcasync-queue?name=shared", None, "LLLSSS"),
    ("@@zcasync-queue", {"name": "mine", "pause": "1"}, "LLLDDD"),
    ("@@zcasync-queue", {"name": "shared", "pause": "1"}, "LLLFFD"),
    ("@@zcasync-queue", {"name": "mine", "quota_set": "1", "quota": "q", "size": "1"}, "LLLDDD"),
    ("@@zcasync-queue", {"name": "shared", "remove": "1", "sure": "1"}, "LLLFFD"),
    ("@@zcasync-queue-settings?name=mine", None, "LLLSSS"),
    ("@@zcasync-queue-settings?name=shared", None, "LLLFFS"),
    ("@@zcasync-queue-settings?name=mine", {"form.buttons.save": "1"}, "LLLSSS"),
    ("@@zcasync-queue-settings?name=shared", {"form.buttons.save": "1"}, "LLLFFS"),
    ("@@zcasync-queue-add", None, "LLLSSS"),
    ("@@zcasync-queue-add", {"form.buttons.add": "1", "form.widgets.name": "new"}, "LLLSSS"),
    ("@@zcasync-policies", None, "LLLSSS"),
    ("@@zcasync-policy?name=mine", None, "LLLSSS"),
    ("@@zcasync-policy?name=shared", None, "LLLFFS"),
    ("@@zcasync-policy?name=mine", {"form.buttons.save": "1"}, "LLLSSS"),
    ("@@zcasync-policy?name=shared", {"form.buttons.save": "1"}, "LLLFFS"),
    ("@@zcasync-policy-preview", None, "LLLSSS"),
    ("@@zcasync-policy-add", None, "LLLSSS"),
    ("@@zcasync-policy-add", {"form.buttons.add": "1", "form.widgets.name": "new"}, "LLLSSS"),
    ("@@zcasync-policy-delete?name=mine", None, "LLLSSS"),
    ("@@zcasync-policy-delete?name=mine", {"form.buttons.delete": "1"}, "LLLDDD"),
    ("@@zcasync-policy-delete?name=shared", {"form.buttons.delete": "1"}, "LLLFFD"),
    ("@@zcasync-settings", None, "LLLSSS"),
    ("@@zcasync-settings", {"form.buttons.save": "1"}, "LLLSSS"),
    ("@@zcasync-who-may", None, "LLLFSS"),
    ("@@zcasync-who-may", {"form.buttons.save": "1", "form.widgets.own": "Member"}, "LLLFDD"),
    ("@@zcasync-tasks", None, "LSSSSS"),
    ("@@zcasync-task?name=my.site.greet", None, "LSSSSS"),
    ("@@zcasync-task?name=my.site.clean", None, "LDDSSS"),
    ("@@zcasync-task?name=my.site.greet", {"form.buttons.start": "1", "form.widgets.name": "Ada"}, "LDDDDD"),
    ("@@zcasync-my-jobs", None, "LSSSSS"),
    ("@@zcasync-my-jobs", {"cancel": "{own}"}, "LDDDDD"),
    ("@@zcasync-my-news", None, "LSSSSS"),
    ("@@zcasync-my-result?id={own}", None, "L-----"),
]

#: The pages at the Zope root, where the people of the site are nobody; no button of theirs changes anything.
AT_THE_ROOT = [
    ("@@zcasync-overview", "LLLLLS"),
    ("@@zcasync-jobs", "LLLLLS"),
    ("@@zcasync-job?id={job}", "LLLLLS"),
    ("@@zcasync-queues", "LLLLLS"),
    ("@@zcasync-dispatchers", "LLLLLS"),
]

#: No page of the panel: it is a form of Plone's content rules, whose own permission it has.
ELSEWHERE = {"zcasync.StartTask"}


@pytest.fixture(autouse=True)
def known_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    restjobs.register(monkeypatch)


@pytest.fixture
def site(functional: Any) -> Any:
    """A site with those people, that has a queue and a policy of its own, and shares one of each with all sites."""
    portal = functional["portal"]
    for name, roles in PEOPLE.items():
        portal.acl_users.userFolderAddUser(name, PASSWORD, roles, [])
    prepare(portal)
    return portal


Ask = Callable[..., str]


@pytest.fixture
def ask(functional: Any, site: Any) -> Ask:
    """What somebody is answered, as a letter. ``genuine``: with the token that our forms have."""
    made: dict[str, Callable[[str | None], Any]] = {
        "{job}": lambda who: put_as(site, "admin", greet, "Ada"),
        "{own}": lambda who: put_as(site, who if who in PEOPLE else "admin", greet, "Ada"),
        "{failed}": lambda who: failed(site),
        "{aside}": lambda who: set_aside(site),
    }

    def asked(who: str | None, url: str, sent: dict[str, str] | None, genuine: bool = True) -> str:
        body = None if sent is None else urlencode(sent, safe="{}")
        for name, make in made.items():
            if name in url or name in (body or ""):
                id = make(who).id
                url, body = url.replace(name, id), body and body.replace(name, id)
        headers = {"Host": "nohost"}
        if who is not None:
            name, password = (SITE_OWNER_NAME, SITE_OWNER_PASSWORD) if who == "root" else (who, PASSWORD)
            headers["Authorization"] = basic(name, password)
        if body is not None and genuine:
            body += f"&_authenticator={token_of(functional, who)}"
        method = "GET" if body is None else "POST"
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        transaction.commit()
        testapp = Browser(functional["app"]).testapp
        answer = testapp.request(url, method=method, headers=headers, body=(body or "").encode(), expect_errors=True)
        transaction.begin()
        return letter(answer.status_int, answer.headers.get("Location", ""))

    return asked


def letter(status: int, location: str) -> str:
    """One of the letters of the table."""
    if status in (301, 302, 303):
        return LOGIN if "/require_login" in location or "/login" in location else DONE
    return {200: SHOWN, 204: SHOWN, 401: LOGIN, 403: FORBIDDEN, 404: NOWHERE}.get(status, str(status))


def token_of(functional: Any, who: str | None) -> str:
    if who is None:
        logout()
    elif who == "root":
        zope.login(functional["app"].acl_users, SITE_OWNER_NAME)
    else:
        login(functional["portal"], who)
    return str(createToken())


def name_of(row: tuple[Any, ...]) -> str:
    return " ".join((row[0], *(key for key in row[1] or () if "widgets" not in key)))


@pytest.mark.parametrize(("path", "sent", "letters"), ALLOWED, ids=map(name_of, ALLOWED))
def test_each_page_and_button_is_for_those_who_may(
    site: Any, ask: Ask, path: str, sent: dict[str, str] | None, letters: str
) -> None:
    found = ""
    for who in WHO:
        found += ask(who, f"{site.absolute_url()}/{path}", sent)
        prepare(site)  # what one of them has removed, the next one finds again
    assert found == letters


@pytest.mark.parametrize(("path", "letters"), AT_THE_ROOT)
def test_the_pages_at_the_root_are_for_those_who_manage_it(site: Any, ask: Ask, path: str, letters: str) -> None:
    assert "".join(ask(who, f"{site.aq_parent.absolute_url()}/{path}", None) for who in WHO) == letters


def test_what_was_sent_without_the_token_of_our_forms_is_refused_to_everybody(site: Any, ask: Ask) -> None:
    for path, sent, letters in ALLOWED:
        if sent is not None:
            before = site._p_jar.db().lastTransaction() if "{" not in path + str(sent) else None
            assert ask("root", f"{site.absolute_url()}/{path}", sent, genuine=False) == FORBIDDEN, (path, sent)
            assert before in (None, site._p_jar.db().lastTransaction()), (path, sent)
            assert letters[-1] in SHOWN + DONE


def test_each_page_is_in_the_tables() -> None:
    registered: dict[str, set[str]] = {"browser": set(), "zopeapp": set(), "demo": set()}
    for zcml in Path(collective.zcasync.__path__[0]).rglob("*.zcml"):
        for page in ElementTree.parse(zcml).iter("{http://namespaces.zope.org/browser}page"):
            if page.attrib["name"].startswith("zcasync"):
                registered[zcml.parent.name].add(page.attrib["name"])
    assert registered["browser"] - ELSEWHERE == {row[0].split("?")[0].removeprefix("@@") for row in ALLOWED}
    assert registered["zopeapp"] == {row[0].split("?")[0].removeprefix("@@") for row in AT_THE_ROOT}
