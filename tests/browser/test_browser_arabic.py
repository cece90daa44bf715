"""Pages in Arabic: their texts are, and lie from right to left, on a desktop and on a phone."""

from collections.abc import Iterator
from collective.zcasync.tasks import task
from pathlib import Path
from plone import api
from pythongettext.msgfmt import Msgfmt
from screens import Screen
from typing import Any
from zope.component import getGlobalSiteManager
from zope.i18n.gettextmessagecatalog import GettextMessageCatalog
from zope.i18n.interfaces import ITranslationDomain
from zope.i18n.translationdomain import TranslationDomain

import collective.zcasync
import pytest
import transaction

pytestmark = pytest.mark.browser

CATALOG = Path(collective.zcasync.__path__[0]) / "locales" / "ar" / "LC_MESSAGES" / "collective.zcasync.po"

#: Names of pictures, pages, and a word of each.
PAGES = {
    "overview": ("@@zcasync-overview", "مهام الخلفية"),
    "jobs": ("@@zcasync-jobs?state=failed", "فاشلة"),
    "job": ("@@zcasync-job?id={id}", "المحاولات"),
    "queue": ("@@zcasync-queue?name=", "الوكلاء"),
    "policy": ("@@zcasync-policy?name=default", "المحاولات"),
    "my-jobs": ("@@zcasync-my-jobs", "مهامي"),
}

#: How the page's text lies.
DIRECTION = "getComputedStyle(document.querySelector('#content')).direction"


@task(title="Polish the silver", visible=True)
def polish(what: str = "spoons") -> str:
    raise ValueError(f"{what} does not shine")


@pytest.fixture
def arabic(acceptance: Any, tmp_path: Path) -> Iterator[None]:
    """The site speaks Arabic, with our catalog as a wheel has it."""
    compiled = tmp_path / "collective.zcasync.mo"
    with CATALOG.open("rb") as source:
        compiled.write_bytes(Msgfmt(source, "collective.zcasync").get())
    domain = TranslationDomain("collective.zcasync")
    domain.addCatalog(GettextMessageCatalog("ar", "collective.zcasync", str(compiled)))
    known = getGlobalSiteManager()
    before = known.queryUtility(ITranslationDomain, "collective.zcasync")
    known.registerUtility(domain, ITranslationDomain, "collective.zcasync")
    api.portal.set_registry_record("plone.available_languages", ["ar"])
    api.portal.set_registry_record("plone.default_language", "ar")
    transaction.commit()
    yield
    known.unregisterUtility(domain, ITranslationDomain, "collective.zcasync")
    if before is not None:
        known.registerUtility(before, ITranslationDomain, "collective.zcasync")


def test_pages_are_arabic_from_right_to_left_and_fit(
    arabic: None, acceptance: Any, dispatcher: Any, screen: Screen
) -> None:
    job = polish.put("soap")
    transaction.commit()
    screen.open("@@zcasync-jobs?state=failed")
    screen.reload_until("does not shine")
    wrong = []
    for name, (path, word) in PAGES.items():
        screen.open(path.format(id=job.id))
        if screen.page.evaluate(DIRECTION) != "rtl":
            wrong.append(f"{name} is from left to right")
        if word not in screen.text:
            wrong.append(f"{word} is not on {name}")
        wrong += screen.look(f"arabic-{name}")
    assert not wrong, "\n\n".join(wrong)
