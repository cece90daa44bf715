"""Each test that a page of concepts names is there."""

from pathlib import Path
from test_parity import functions

import pytest
import re

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts"

NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


@pytest.mark.parametrize("page", sorted(CONCEPTS.glob("*.md")), ids=lambda page: page.stem)
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    for path, name in NAMED.findall(page.read_text()):
        assert name in functions(CONCEPTS.parents[1] / path), f"{page.name}: {path}::{name}"


def test_each_promise_has_a_test() -> None:
    parts = re.split("^## ", (CONCEPTS / "guarantees.md").read_text(), flags=re.MULTILINE)
    promises, table = (
        next(part for part in parts if part.startswith(title)) for title in ("Guaranteed", "Each promise")
    )
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 10 and all(NAMED.search(row) for row in rows)
    told = {row.split("|")[1].strip() for row in rows}
    promised = [found.rstrip(".") for found in re.findall(r"^- \*\*(.+?)\*\*", promises, re.MULTILINE | re.DOTALL)]
    assert len(promised) > 10 and not {" ".join(one.split()) for one in promised} - told
