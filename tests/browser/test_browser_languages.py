"""Pages in German and Arabic: all texts are, in Arabic they lie from right to left, and they fit a phone."""

from collections.abc import Iterator
from pathlib import Path
from plone import api
from pythongettext.msgfmt import Msgfmt
from screens import Screen
from test_browser_pages import pages
from typing import Any
from zope.component import getGlobalSiteManager
from zope.i18n.gettextmessagecatalog import GettextMessageCatalog
from zope.i18n.interfaces import ITranslationDomain
from zope.i18n.translationdomain import TranslationDomain

import collective.zcasync
import pytest
import re
import transaction

pytestmark = pytest.mark.browser

__all__ = ["pages"]  # the fixture

LOCALES = Path(collective.zcasync.__path__[0]) / "locales"

#: Characters from which on an English text is looked for: shorter ones may be names, or words of both languages.
LEAST = 12

#: How the page's text lies.
DIRECTION = "getComputedStyle(document.querySelector('#content') ?? document.body).direction"

#: What of our pages is shown; the rest is Plone's, of which the tests have no translations.
OURS = """(document.querySelector('#content') ?? document.querySelector('main')).innerText"""

#: Pages on which people see texts of the demo, or a form of Plone's own.
OTHERS = {"task", "rule-action"}

#: Pages that are looked at more closely, from right to left.
PICTURES = {"overview", "jobs-failed", "job-failed", "queue", "policy", "my-jobs"}


@pytest.fixture(params=["de", "ar"])
def language(request: pytest.FixtureRequest, acceptance: Any, tmp_path: Path) -> Iterator[str]:
    """The site speaks it, with our catalog as a wheel has it."""
    code = request.param
    compiled = tmp_path / "collective.zcasync.mo"
    with catalog_of(code).open("rb") as source:
        compiled.write_bytes(Msgfmt(source, "collective.zcasync").get())
    domain = TranslationDomain("collective.zcasync")
    domain.addCatalog(GettextMessageCatalog(code, "collective.zcasync", str(compiled)))
    known = getGlobalSiteManager()
    before = known.queryUtility(ITranslationDomain, "collective.zcasync")
    known.registerUtility(domain, ITranslationDomain, "collective.zcasync")
    api.portal.set_registry_record("plone.available_languages", [code])
    api.portal.set_registry_record("plone.default_language", code)
    transaction.commit()
    yield code
    known.unregisterUtility(domain, ITranslationDomain, "collective.zcasync")
    if before is not None:
        known.registerUtility(before, ITranslationDomain, "collective.zcasync")


def catalog_of(code: str) -> Path:
    return LOCALES / code / "LC_MESSAGES" / "collective.zcasync.po"


def english(code: str) -> list[str]:
    """Texts that must not be seen in that language."""
    said = re.findall(r'^#\. Default: "(.*)"\n(?:#.*\n)*msgid .*\nmsgstr "(.*)"$', catalog_of(code).read_text(), re.M)
    assert len(said) > 500
    return [text for text, translated in said if len(text) >= LEAST and "${" not in text and text not in translated]


def test_pages_are_in_that_language_and_fit(language: str, screen: Screen, pages: dict[str, str]) -> None:
    screen.page.set_extra_http_headers({"Accept-Language": language})
    wrong = []
    foreign = english(language)
    for name, path in pages.items():
        screen.page.set_viewport_size({"width": 360, "height": 900})
        screen.open(path)
        taken = screen.page.evaluate("document.documentElement.scrollWidth")
        wrong += [f"{name} takes {taken} pixels of 360"] if taken > 360 else []
        shown = screen.page.evaluate(OURS)
        wrong += [f"{name}: {text}" for text in foreign if name not in OTHERS and text in shown]
        if not screen.in_zmi and screen.page.evaluate(DIRECTION) != ("rtl" if language == "ar" else "ltr"):
            wrong.append(f"{name} lies the wrong way")
        if language == "ar" and name in PICTURES:
            wrong += screen.look(f"arabic-{name}")
    assert not wrong, "\n\n".join(wrong)
