"""The pages about the console script: the reference names every command and option, and what the guide shows is run."""

from argparse import ArgumentParser
from argparse import SUPPRESS
from collections.abc import Iterator
from collective.zcasync.clock import utcnow
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.queue import install
from collective.zcasync.zopeapp.cli import get_parser
from collective.zcasync.zopeapp.cli import main
from docblocks import blocks
from docblocks import DOCS
from pathlib import Path
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import pytest
import shlex

REFERENCE = DOCS / "reference" / "cli.md"
GUIDE = DOCS / "how-to-guides" / "command-line.md"

#: They start Zope; test_zopeapp_commands_processes runs them.
WITH_ZOPE = ("run", "worker", "purge")


def parsers() -> dict[str, ArgumentParser]:
    """The parser of each command."""
    (choices,) = (action.choices for action in get_parser()._actions if action.choices)
    return dict(choices)


def described(name: str, parser: ArgumentParser) -> str:
    """What the reference says of one command, word by word."""
    lines = [f"## {name}", "", parser.description or "", "", "| argument | meaning |", "| --- | --- |"]
    for action in parser._actions:
        if action.default == SUPPRESS:
            continue
        shown = ", ".join(f"`{option}`" for option in action.option_strings)
        if action.metavar or action.choices:
            value = action.metavar or "|".join(action.choices or ())
            many = "..." if action.nargs in ("*", "+") else ""
            shown = f"{shown} `{value}{many}`".strip()
        lines.append(f"| {shown} | {action.help} |")
    return "\n".join(lines).replace("detail` `brief|default|verbose", "detail` `brief\\|default\\|verbose") + "\n"


@pytest.mark.parametrize("name", parsers())
def test_the_reference_says_of_a_command_what_its_parser_knows(name: str) -> None:
    assert described(name, parsers()[name]) in REFERENCE.read_text()


def test_the_reference_has_no_command_that_is_gone() -> None:
    headings = [line.removeprefix("## ") for line in REFERENCE.read_text().splitlines() if line.startswith("## ")]
    assert headings == list(parsers())


@pytest.fixture
def ids(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An instance as the guide has it: the ids that the guide writes, and those of such jobs."""
    for folder in ("etc", "var"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "var" / "Data.fs"
    (tmp_path / "etc" / "zope.conf").write_text(
        f"instancehome {tmp_path}\n<zodb_db main>\n mount-point /\n <filestorage>\n path {path}\n"
        " </filestorage>\n</zodb_db>\n"
    )
    db = DB(FileStorage(str(path)), database_name="main")
    with db.transaction() as connection:
        queue = install(connection)[""]
        waiting, failed, aside, other = (queue.put(Job(len, name)) for name in "abcd")
        connection.transaction_manager.savepoint()
        for job in (failed, aside):
            queue.take_out(job)
        insert(queue.quarantine, make_key(), ("its code is missing", aside))
        queue.adjust("quarantined", 1)
        failed._finish(Failure.from_exception(ValueError("on purpose")), utcnow())
        queue.give_back(failed)
        found = {"1f": waiting.id, "2a": failed.id, "3c": aside.id, "4d": other.id}
    db.close()
    yield found


def test_the_commands_of_the_guide_do_what_they_say(
    ids: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks(GUIDE, "sh") for line in block.text.splitlines()]
    ran = []
    for line in lines:
        script, name, *others = shlex.split(line)
        assert script == "zcasync"
        if name not in WITH_ZOPE:
            assert main([name, *(ids.get(word, word) for word in others)]) in (0, 1), line
            assert capsys.readouterr().err == ""
            ran.append(name)
    assert set(ran) == set(parsers()) - set(WITH_ZOPE) - {"discard"}
