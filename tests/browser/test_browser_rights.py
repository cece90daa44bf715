"""Each page and each of its buttons, asked by people in each role; forms that are not ours; and who has done it."""

from collections.abc import Callable
from collective.zcasync.browser import jobverbs
from collective.zcasync.ploneapp.permissions import VIEW_JOBS
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
from restjobs import makers
from restjobs import prepare
from typing import Any
from urllib.parse import urlencode
from visitor import PASSWORD
from visitor import Visitor
from xml.etree import ElementTree
from zope.dottedname.resolve import resolve

import collective.zcasync
import pytest
import re
import restjobs
import transaction

#: People of the site: id and roles there. Reviewers may view jobs, and no more. ``root`` is a Manager of the Zope root.
PEOPLE = {
    "member": ["Member"],
    "editor": ["Editor", "Member"],
    "viewer": ["Member", "Reviewer"],
    "admin": ["Member", "Site Administrator"],
    "manager": ["Manager", "Member"],
}

#: Who asks, in the order of the letters below.
WHO = (None, *PEOPLE, "root")

#: What the letters say of an answer.
SHOWN, DONE, LOGIN, FORBIDDEN, NOWHERE = "SDLF-"

#: What some buttons take besides.
LATER, HIGHER = {"value": "2999-01-01T00:00", "sure": "1"}, {"value": "3", "sure": "1"}
AGENT = {"role": "worker", "agent": "extra"}

#: Path below the site, what is sent (None: a GET), and the answer for each of WHO: (S)hown, (D)one, or led on to
#: another page; asked to (L)og in as somebody else; (F)orbidden; (-) not there, as the frame of all pages, which is no
#: page itself, and the file of a job that has returned none. For ``{job}`` and the like see makers; somebody is the one
#: who asks, and the admin where that is nobody.
ALLOWED: list[tuple[str, dict[str, str] | None, str]] = [
    ("@@zcasync-panel", None, "-------"),
    ("@@zcasync-overview", None, "LLLSSSS"),
    ("@@zcasync-dispatchers", None, "LLLSSSS"),
    ("@@zcasync-dispatchers", {"uuid": "none", "pause": "1"}, "LLLDDDD"),
    ("@@zcasync-dispatchers", {"uuid": "{mine}", "pause": "1"}, "LLLFDDD"),
    ("@@zcasync-dispatchers", {"uuid": "{mine}", "resume": "1"}, "LLLFDDD"),
    ("@@zcasync-dispatchers", {"uuid": "{shared}", "pause": "1"}, "LLLFFFD"),
    ("@@zcasync-dispatchers", {"release": "1", "sure": "1"}, "LLLFFFD"),
    ("@@zcasync-dispatchers", {"discard": "1", "sure": "1"}, "LLLFFFD"),
    ("@@zcasync-jobs", None, "LLLSSSS"),
    ("@@zcasync-jobs-change", None, "LLLLDDD"),
    ("@@zcasync-jobs-change", {"state": "waiting", "verb": "cancel", "ids": "{job}", "sure": "1"}, "LLLLDDD"),
    ("@@zcasync-jobs-change", {"state": "waiting", "verb": "cancel", "everything": "1", "sure": "1"}, "LLLLDDD"),
    ("@@zcasync-jobs-change", {"state": "failed", "verb": "retry", "ids": "{failed}"}, "LLLLDDD"),
    ("@@zcasync-jobs-change", {"state": "failed", "verb": "delete", "ids": "{failed}", "sure": "1"}, "LLLLDDD"),
    ("@@zcasync-jobs-change", {"state": "quarantined", "verb": "release", "ids": "{aside}"}, "LLLLDDD"),
    ("@@zcasync-jobs-change", {"state": "waiting", "verb": "run", "ids": "{job}"}, "LLLLDDD"),
    ("@@zcasync-jobs-change", {"state": "waiting", "verb": "schedule", "ids": "{job}", **LATER}, "LLLLDDD"),
    ("@@zcasync-jobs-change", {"state": "waiting", "verb": "priority", "ids": "{job}", **HIGHER}, "LLLLDDD"),
    ("@@zcasync-job?id={job}", None, "LLLSSSS"),
    ("@@zcasync-job?id={own}", None, "LLLSSSS"),
    ("@@zcasync-job", {"id": "{job}", "cancel": "1"}, "LLLFDDD"),
    ("@@zcasync-job", {"id": "{failed}", "retry": "1"}, "LLLFDDD"),
    ("@@zcasync-job", {"id": "{aside}", "discard": "1", "sure": "1"}, "LLLFDDD"),
    ("@@zcasync-job", {"id": "{running}", "cancel": "1"}, "LLLFDDD"),
    ("@@zcasync-job", {"id": "{running}", "ask": "1"}, "LLLFDDD"),
    ("@@zcasync-job-retry?id={failed}", None, "LLLLSSS"),
    ("@@zcasync-job-retry?id={failed}", {"form.buttons.start": "1", "form.widgets.path": "/b"}, "LLLLDDD"),
    ("@@zcasync-job-retry?id={failed}", {"form.buttons.cancel": "1"}, "LLLLDDD"),
    ("@@zcasync-queues", None, "LLLSSSS"),
    ("@@zcasync-queues", {"queue": "mine", "pause": "1"}, "LLLFDDD"),
    ("@@zcasync-queues", {"queue": "shared", "pause": "1"}, "LLLFFFD"),
    ("@@zcasync-queues", {"pause_site": "1"}, "LLLFDDD"),
    ("@@zcasync-queues", {"pause_all": "1"}, "LLLFFFD"),
    ("@@zcasync-queues", {"queue": "mine", "resume": "1"}, "LLLFDDD"),
    ("@@zcasync-queues", {"queue": "shared", "resume": "1"}, "LLLFFFD"),
    ("@@zcasync-queues", {"resume_site": "1"}, "LLLFDDD"),
    ("@@zcasync-queues", {"resume_all": "1"}, "LLLFFFD"),
    ("@@zcasync-queue?name=mine", None, "LLLSSSS"),
    ("@@zcasync-queue?name=shared", None, "LLLSSSS"),
    ("@@zcasync-queue", {"name": "mine", "pause": "1"}, "LLLFDDD"),
    ("@@zcasync-queue", {"name": "shared", "pause": "1"}, "LLLFFFD"),
    ("@@zcasync-queue", {"name": "mine", "quota_set": "1", "quota": "q", "size": "1"}, "LLLFDDD"),
    ("@@zcasync-queue", {"name": "shared", "remove": "1", "sure": "1"}, "LLLFFFD"),
    ("@@zcasync-queue", {"name": "mine", "resume": "1"}, "LLLFDDD"),
    ("@@zcasync-queue", {"name": "mine", "quota_remove": "1", "quota": "q"}, "LLLFDDD"),
    ("@@zcasync-queue", {"name": "mine", "agent_set": "1", **AGENT, "size": "1"}, "LLLFDDD"),
    ("@@zcasync-queue", {"name": "mine", "agent_remove": "1", **AGENT}, "LLLFDDD"),
    ("@@zcasync-queue", {"name": "shared", "agent_set": "1", **AGENT, "size": "1"}, "LLLFFFD"),
    ("@@zcasync-queue", {"name": "mine", "remove": "1", "sure": "1"}, "LLLFDDD"),
    ("@@zcasync-queue-settings?name=mine", None, "LLLLSSS"),
    ("@@zcasync-queue-settings?name=shared", None, "LLLLFFS"),
    ("@@zcasync-queue-settings?name=mine", {"form.buttons.save": "1"}, "LLLLSSS"),
    ("@@zcasync-queue-settings?name=shared", {"form.buttons.save": "1"}, "LLLLFFS"),
    ("@@zcasync-queue-settings?name=mine", {"form.buttons.cancel": "1"}, "LLLLDDD"),
    ("@@zcasync-queue-add", None, "LLLLSSS"),
    ("@@zcasync-queue-add", {"form.buttons.add": "1", "form.widgets.name": "new"}, "LLLLSSS"),
    ("@@zcasync-queue-add", {"form.buttons.cancel": "1"}, "LLLLDDD"),
    ("@@zcasync-policies", None, "LLLLSSS"),
    ("@@zcasync-policy?name=mine", None, "LLLLSSS"),
    ("@@zcasync-policy?name=shared", None, "LLLLFFS"),
    ("@@zcasync-policy?name=mine", {"form.buttons.save": "1"}, "LLLLSSS"),
    ("@@zcasync-policy?name=shared", {"form.buttons.save": "1"}, "LLLLFFS"),
    ("@@zcasync-policy?name=mine", {"form.buttons.preview": "1"}, "LLLLSSS"),
    ("@@zcasync-policy?name=mine", {"form.buttons.copy": "1"}, "LLLLDDD"),
    ("@@zcasync-policy?name=default", {"form.buttons.reset": "1"}, "LLLLDDD"),
    ("@@zcasync-policy?name=mine", {"form.buttons.delete": "1"}, "LLLLDDD"),
    ("@@zcasync-policy?name=mine", {"form.buttons.cancel": "1"}, "LLLLDDD"),
    ("@@zcasync-policy-preview", None, "LLLLSSS"),
    ("@@zcasync-policy-add", None, "LLLLSSS"),
    ("@@zcasync-policy-add", {"form.buttons.add": "1", "form.widgets.name": "new"}, "LLLLSSS"),
    ("@@zcasync-policy-add", {"form.buttons.preview": "1"}, "LLLLSSS"),
    ("@@zcasync-policy-add", {"form.buttons.cancel": "1"}, "LLLLDDD"),
    ("@@zcasync-policy-delete?name=mine", None, "LLLLSSS"),
    ("@@zcasync-policy-delete?name=mine", {"form.buttons.delete": "1"}, "LLLLDDD"),
    ("@@zcasync-policy-delete?name=shared", {"form.buttons.delete": "1"}, "LLLLFFD"),
    ("@@zcasync-policy-delete?name=mine", {"form.buttons.cancel": "1"}, "LLLLDDD"),
    ("@@zcasync-settings", None, "LLLLSSS"),
    ("@@zcasync-settings", {"form.buttons.save": "1"}, "LLLLSSS"),
    ("@@zcasync-settings", {"form.buttons.cancel": "1"}, "LLLLDDD"),
    ("@@zcasync-who-may", None, "LLLLFSS"),
    ("@@zcasync-who-may", {"form.buttons.save": "1", "form.widgets.own": "Member"}, "LLLLFDD"),
    ("@@zcasync-who-may", {"form.buttons.cancel": "1"}, "LLLLFDD"),
    ("@@zcasync-tasks", None, "LSSSSSS"),
    ("@@zcasync-task?name=my.site.greet", None, "LSSSSSS"),
    ("@@zcasync-task?name=my.site.clean", None, "LDDDSSS"),
    ("@@zcasync-task?name=my.site.greet", {"form.buttons.start": "1", "form.widgets.name": "Ada"}, "LDDDDDD"),
    ("@@zcasync-task?name=my.site.clean", {"form.buttons.start": "1"}, "LDDDDDD"),
    ("@@zcasync-task?name=my.site.greet", {"form.buttons.cancel": "1"}, "LDDDDDD"),
    ("@@zcasync-my-jobs", None, "LSSSSSS"),
    ("@@zcasync-my-jobs", {"cancel": "{own}"}, "LDDDDDD"),
    ("@@zcasync-my-jobs", {"dismiss": "{ended}"}, "LDDDDDD"),
    ("@@zcasync-my-jobs", {"dismiss_all": "1", "shown": "{ended}"}, "LDDDDDD"),
    ("@@zcasync-my-jobs", {"mail": "1"}, "LDDDDDD"),
    ("@@zcasync-my-news", None, "LSSSSSS"),
    ("@@zcasync-my-result?id={own}", None, "L------"),
]

#: The pages at the Zope root, where the people of the site are nobody; no button of theirs changes anything.
AT_THE_ROOT = [
    ("@@zcasync-overview", "LLLLLLS"),
    ("@@zcasync-jobs", "LLLLLLS"),
    ("@@zcasync-job?id={job}", "LLLLLLS"),
    ("@@zcasync-queues", "LLLLLLS"),
    ("@@zcasync-dispatchers", "LLLLLLS"),
]

#: Forms of a template that are posted: where to, and what is in them; and the names of their buttons.
FORMS = re.compile(r'<form\b[^>]*action="([^"]*)"[^>]*method="post"[^>]*>(.*?)</form>', re.DOTALL)
BUTTONS = re.compile(r'<button\b[^>]*\bname="([^"]+)"')

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
    portal.manage_permission(VIEW_JOBS, ["Manager", "Site Administrator", "Reviewer"])
    prepare(portal)
    return portal


Ask = Callable[..., str]


@pytest.fixture
def ask(functional: Any, site: Any, caplog: pytest.LogCaptureFixture) -> Ask:
    """What somebody is answered, as a letter. ``genuine``: with the token that our forms have.

    The log has to name who has changed something, and nobody changes anything who may not.
    """
    caplog.set_level("INFO", "collective.zcasync")
    made = makers(site)

    def asked(who: str | None, url: str, sent: dict[str, str] | None, genuine: bool = True) -> str:
        body = None if sent is None else urlencode(sent, safe="{}")
        for name, make in made.items():
            if name in url or name in (body or ""):
                id = make(who if who in PEOPLE else "admin")
                url, body = url.replace(name, id), body and body.replace(name, id)
        headers = {"Host": "nohost"}
        if who is not None:
            password = SITE_OWNER_PASSWORD if who == "root" else PASSWORD
            headers["Authorization"] = basic(name_in_log(who), password)
        if body is not None and genuine:
            body += f"&_authenticator={token_of(functional, who)}"
        method = "GET" if body is None else "POST"
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        transaction.commit()
        caplog.clear()
        before = site._p_jar.db().lastTransaction()
        testapp = Browser(functional["app"]).testapp
        answer = testapp.request(url, method=method, headers=headers, body=(body or "").encode(), expect_errors=True)
        transaction.begin()
        found = letter(answer.status_int, answer.headers.get("Location", ""))
        if site._p_jar.db().lastTransaction() != before:
            assert found in SHOWN + DONE, (who, url, sent)
            # A page that is shown may be the first to show some portlet, which Plone stores.
            assert found == SHOWN or re.search(rf"\b{name_in_log(who)}\b", caplog.text), (who, url, sent, caplog.text)
        return found

    return asked


def name_in_log(who: str | None) -> str:
    return SITE_OWNER_NAME if who == "root" else str(who)


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


#: What changes one job that is there afterwards; who only asks where it is changes nothing.
CHANGES = [
    (path, sent)
    for path, sent, _letters in ALLOWED
    if sent and set(sent.values()) & {"{job}", "{failed}", "{aside}", "{running}"}
    if not {"delete", "discard", "ask"} & {*sent, *sent.values()}
]


@pytest.mark.parametrize(("path", "sent"), CHANGES, ids=map(name_of, CHANGES))
def test_the_timeline_of_a_job_tells_who_has_changed_it(
    site: Any, functional: Any, ask: Ask, path: str, sent: dict[str, str]
) -> None:
    kind = next(value for value in sent.values() if value.startswith("{"))
    job = makers(site)[kind]("admin")
    ask("manager", f"{site.absolute_url()}/{path}", {key: value.replace(kind, job) for key, value in sent.items()})
    page = Visitor(functional, "manager").open(f"@@zcasync-job?id={job}")
    assert "manager" in page.partition('id="zcasync-timeline"')[2].partition("</ol>")[0]


@pytest.mark.parametrize(("path", "letters"), AT_THE_ROOT)
def test_the_pages_at_the_root_are_for_those_who_manage_it(site: Any, ask: Ask, path: str, letters: str) -> None:
    assert "".join(ask(who, f"{site.aq_parent.absolute_url()}/{path}", None) for who in WHO) == letters


def test_who_sees_the_zmi_and_is_no_manager_reads_no_arguments_and_tracebacks(functional: Any, site: Any) -> None:
    app = site.aq_parent
    app.manage_permission("View management screens", ["Manager", "Authenticated"], acquire=0)
    app.acl_users.userFolderAddUser("auditor", PASSWORD, [], [])
    transaction.commit()
    page = f"../@@zcasync-job?id={failed(site, path='/secret').id}"
    told = Visitor(functional, SITE_OWNER_NAME, SITE_OWNER_PASSWORD).open(page)
    assert "Traceback" in told and "'/secret'" in told
    told = Visitor(functional, "auditor").open(page)
    assert "my.site.fail" in told and "may hold confidential data" in told
    assert "Traceback" not in told and "'/secret'" not in told


def test_what_was_sent_without_the_token_of_our_forms_is_refused_to_everybody(site: Any, ask: Ask) -> None:
    for path, sent, letters in ALLOWED:
        if sent is not None:
            assert ask("root", f"{site.absolute_url()}/{path}", sent, genuine=False) == FORBIDDEN, (path, sent)
            assert letters[-1] in SHOWN + DONE


#: The pages that are registered, by folder and name, with what configure.zcml says of each.
PAGES: dict[str, dict[str, dict[str, str]]] = {
    zcml.parent.name: {
        page.attrib["name"]: dict(page.attrib)
        for page in ElementTree.parse(zcml).iter("{http://namespaces.zope.org/browser}page")
        if page.attrib["name"].startswith("zcasync")
    }
    for zcml in Path(collective.zcasync.__path__[0]).glob("*/configure.zcml")
}


def page_of(path: str) -> str:
    return path.split("?")[0].removeprefix("@@")


def test_each_page_is_in_the_tables() -> None:
    assert set(PAGES["browser"]) - ELSEWHERE == {page_of(row[0]) for row in ALLOWED}
    assert set(PAGES["zopeapp"]) == {page_of(row[0]) for row in AT_THE_ROOT}


def test_each_button_is_in_the_table() -> None:
    asked = {(page_of(path), key, value) for path, sent, _letters in ALLOWED for key, value in (sent or {}).items()}
    pressed = {(page, value if key == "verb" else key) for page, key, value in asked}
    offered = {button for name in set(PAGES["browser"]) - ELSEWHERE for button in buttons_of(name)}
    assert len(offered) > 50
    assert not offered - pressed


def buttons_of(name: str) -> set[tuple[str, str]]:
    """Each page and button that a page has in forms of its own, and in those of its templates."""
    page = PAGES["browser"][name]
    view = resolve(f"collective.zcasync.browser{page['class']}")
    form = getattr(view, "form", None)
    found = {(name, f"form.buttons.{button}") for button in form.buttons} if hasattr(form, "buttons") else set()
    folder = Path(collective.zcasync.__path__[0])
    templates = [folder / "browser" / page["template"]] if "template" in page else []
    templates += [Path(view.body.filename)] if hasattr(view, "body") else []
    for template in templates:
        for sent_to, buttons in FORMS.findall(template.read_text()):
            other = re.search(r"page_url\('([\w-]+)'\)", sent_to)
            target = other[1] if other else name
            for button in BUTTONS.findall(buttons):
                if button == "verb":
                    found |= {(target, verb) for verb in jobverbs.VERBS}
                elif button == "${action/name}":
                    found |= {(target, verb) for verb in resolve(view.__module__).VERBS}
                else:
                    found.add((target, button))
    return found
