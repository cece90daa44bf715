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


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.parts[-3])
def test_a_translation_is_complete_and_keeps_the_placeholders(path):
    template, translation = read(LOCALES / "collective.zcasync.pot"), read(path)
    assert set(translation) <= set(template)
    # What a machine has made may lag a little behind, until it is made anew.
    allowed = len(template) // 10 if UNREVIEWED in path.read_text(encoding="utf-8") else 0
    assert len(template) - len(translation) <= allowed, sorted(set(template) - set(translation))
    for msgid, (default, msgstr) in translation.items():
        assert msgstr, msgid
        assert set(re.findall(r"\$\{\w+\}", msgstr)) == set(re.findall(r"\$\{\w+\}", default)), msgid
