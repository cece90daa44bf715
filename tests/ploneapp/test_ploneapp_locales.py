"""The catalogs of translations: complete, and true to the placeholders of the original."""

from pathlib import Path

import collective.zcasync
import pytest
import re

LOCALES = Path(collective.zcasync.__path__[0]) / "locales"
TRANSLATIONS = sorted(LOCALES.glob("*/LC_MESSAGES/collective.zcasync.po"))

#: Marks what nobody who speaks the language has read.
UNREVIEWED = "# Machine translation, not reviewed."


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
