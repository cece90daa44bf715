"""Every command, path and setting that README and documentation name must exist, and be taken as it is written."""

from collective.zcasync.zopeapp.cli import get_parser
from collective.zcasync.zopeapp.config import read_settings
from collective.zcasync.zopeapp.config import Settings
from dataclasses import fields
from docblocks import blocks
from docblocks import DOCS
from docblocks import PAGES
from docblocks import REPOSITORY
from pathlib import Path

import demo
import pytest
import re
import shlex
import subprocess

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))

SECTION = re.compile(r"<product-config collective\.zcasync>\n(.*?)</product-config>", re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page: those of its shell blocks, and those in its sentences."""
    lines = [line for block in blocks(page, "sh") for line in block.text.splitlines()]
    lines += re.findall(r"`((?:make|zcasync) [^`]+)`", page.read_text())
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@every_page
def test_make_knows_its_targets_and_their_arguments(page: Path) -> None:
    for target, *variables in (words[1:] for words in commands(page) if words[0] == "make" and words[1:]):
        shown = subprocess.run(
            ["make", "--dry-run", target, *variables],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "No rule to make target" not in shown.stderr
        if target == "demo":
            arguments = [value.removeprefix("ARGS=") for value in variables if value.startswith("ARGS=")]
            demo.get_parser().parse_args(shlex.split(" ".join(arguments)))


@every_page
def test_the_console_script_takes_what_is_said(page: Path) -> None:
    for words in commands(page):
        if Path(words[0]).name == "zcasync" and len(words) > 2:
            get_parser().parse_args(words[1:])


@every_page
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


@every_page
def test_settings_are_taken_as_they_are_written(page: Path) -> None:
    for section in SECTION.findall(page.read_text()):
        read_settings(dict(line.split(None, 1) for line in section.splitlines() if line.strip()))


def test_all_settings_are_documented_with_their_defaults() -> None:
    text = (REPOSITORY / "docs" / "reference" / "zope-conf.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", text, re.MULTILINE))
    known = {field.name.replace("_", "-"): field.default for field in fields(Settings) if field.name != "given"}
    assert rows.keys() == known.keys()
    for name, default in known.items():
        if default not in (None, ""):
            assert rows[name] == f"`{as_written(default)}`", name


def as_written(value: object) -> str:
    """A setting as zope.conf says it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"\]\(([^)]+\.md)\)", (DOCS / "index.md").read_text())
    assert sorted(linked) == sorted(
        str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.name != "index.md"
    )
