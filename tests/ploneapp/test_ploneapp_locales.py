"""The catalogs of translations: complete, and true to the placeholders of the original."""

from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import ast
import collective.zcasync
import pytest
import re

PACKAGE = Path(collective.zcasync.__path__[0])
LOCALES = PACKAGE / "locales"
TRANSLATIONS = sorted(LOCALES.glob("*/LC_MESSAGES/collective.zcasync.po"))

#: Marks what nobody who speaks the language has read.
UNREVIEWED = "# Machine translation, not reviewed."


#: The namespace of what a template says about translations.
I18N = "{http://xml.zope.org/namespaces/i18n}"

#: What a template may leave out.
PREFIXES = " ".join(f'xmlns:{name}="http://xml.zope.org/namespaces/{name}"' for name in ("i18n", "metal", "tal"))


def read(path):
    """msgid -> (default, msgstr)."""
    entries = {}
    for block in path.read_text(encoding="utf-8").strip().split("\n\n")[1:]:
        default = re.search(r'^#\. Default: "(.*)"$', block, re.MULTILINE)
        msgid, msgstr = re.split(r"^msgstr ", block.split("msgid ", 1)[1], maxsplit=1, flags=re.MULTILINE)
        entries[text(msgid)] = (default.group(1) if default else text(msgid), text(msgstr))
    return entries


def text(quoted):
    return "".join(re.findall(r'"(.*)"', quoted))


def test_there_is_a_template_and_a_translation():
    assert len(read(LOCALES / "collective.zcasync.pot")) > 100
    assert TRANSLATIONS


def in_python(module):
    """msgid and default of each text that a module has in ``_()``; None for a default that is said elsewhere."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        known = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_"
        if known and isinstance(node.args[0], ast.Constant):
            default = next((word.value.value for word in node.keywords if word.arg == "default"), None)
            yield node.args[0].value, default


def in_template(template):
    """msgid and default of each text of a page template, and each translated attribute."""
    text = re.sub(
        r"&(?!amp;|lt;|gt;|quot;)\w+;", lambda entity: unescape(entity[0]), template.read_text(encoding="utf-8")
    )
    for element in ElementTree.fromstring(f"<page {PREFIXES}>{text}</page>").iter():
        msgid = element.get(f"{I18N}translate")
        if msgid is not None:
            yield msgid, " ".join(shown(element).split())
        for pair in (element.get(f"{I18N}attributes") or "").split(";"):
            if pair.strip():
                attribute, msgid = pair.split()
                yield msgid, element.get(attribute)


def shown(element):
    """The text of an element, with the names of what is put in by others."""
    parts = [element.text or ""]
    for child in element:
        name = child.get(f"{I18N}name")
        parts += [f"${{{name}}}" if name else shown(child), child.tail or ""]
    return "".join(parts)


def test_each_text_of_the_code_is_in_the_template_and_says_the_same_everywhere():
    template = read(LOCALES / "collective.zcasync.pot")
    texts = [text for module in PACKAGE.rglob("*.py") for text in in_python(module)]
    texts += [text for page in PACKAGE.rglob("*.pt") for text in in_template(page)]
    assert len(texts) > 500
    wrong = [
        (msgid, default, template.get(msgid))
        for msgid, default in texts
        if msgid not in template or default not in (None, template[msgid][0].replace('\\"', '"').replace("\\n", "\n"))
    ]
    assert not wrong
    elsewhere = "".join(path.read_text() for kind in ("*.zcml", "*.xml") for path in PACKAGE.rglob(kind))
    assert not [msgid for msgid in set(template) - {msgid for msgid, _default in texts} if msgid not in elsewhere]


def test_there_are_the_languages_that_the_add_on_speaks():
    assert {path.parts[-3] for path in TRANSLATIONS} >= {"ar", "de"}


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.parts[-3])
def test_a_translation_is_complete_and_keeps_the_placeholders(path):
    template, translation = read(LOCALES / "collective.zcasync.pot"), read(path)
    assert set(translation) == set(template), sorted(set(translation) ^ set(template))
    for msgid, (default, msgstr) in translation.items():
        assert default == template[msgid][0], f"{msgid} was translated when its text was another one"
        assert msgstr, msgid
        assert set(re.findall(r"\$\{\w+\}", msgstr)) == set(re.findall(r"\$\{\w+\}", default)), msgid


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.parts[-3])
def test_nothing_in_a_translation_is_switched_off_or_waits_to_be_looked_at(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith(("#~", "#, fuzzy"))]


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.parts[-3])
def test_a_translation_that_nobody_has_reviewed_says_so_at_its_head_and_at_each_text(path):
    head, *blocks = path.read_text(encoding="utf-8").strip().split("\n\n")
    marked = [UNREVIEWED in block.splitlines() for block in blocks]
    if "not reviewed" in head:
        assert any(marked), "somebody has reviewed all of it: say who at its head"
    else:
        assert not any(marked), "texts that nobody has reviewed, and the head does not say so"


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.parts[-3])
@pytest.mark.parametrize("refusal", ["not_an_address", "not_a_web_address"])
def test_a_refusal_of_a_setting_has_no_quotes_that_volto_would_stumble_over(path, refusal):
    assert not set("'\"\\") & set("".join(read(path)[refusal]))
