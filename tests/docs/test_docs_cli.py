"""The reference of the console script names every command and option; test_docs_console runs the guide."""

from argparse import ArgumentParser
from argparse import SUPPRESS
from collective.zcasync.zopeapp.cli import get_parser
from docblocks import DOCS

import pytest

REFERENCE = DOCS / "reference" / "cli.md"


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
