"""Run the tests that docs/reference/zc-async-parity.md names, and count the rows whose tests all pass: `make parity`.

Usage: .venv/bin/python scripts/parity.py [PAGE]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import re
import sys

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "zc-async-parity.md"

#: So many features has zc.async.
ROWS = 139

VERDICTS = ("same", "fixed", "better")

CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Row:
    """One feature of zc.async, and what became of it here."""

    number: int
    behaviour: str
    #: "same", "fixed" or "better".
    verdict: str
    #: The old bug, or the difference.
    told: str
    #: Names in backticks, and words.
    where: str
    #: Node ids without parameters.
    tests: tuple[str, ...]


def read(page: Path) -> list[Row]:
    """The rows of the page's tables, in their order."""
    rows = []
    for line in page.read_text().splitlines():
        if re.match(r"\| \d+ \|", line):
            number, behaviour, outcome, where, tests = (cell.strip() for cell in line.strip("| ").split(" | "))
            verdict, _, told = outcome.partition(": ")
            rows.append(Row(int(number), behaviour, verdict, told, where, tuple(CODE.findall(tests))))
    return rows


class Results:
    """A plugin that notes how tests end."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.others: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("[")[0]
        if not report.passed:
            self.others[name] = report.outcome
        elif report.when == "call":
            self.passed.add(name)

    def faults(self, tests: Iterable[str], missing: str | None = "not run") -> list[str]:
        """What keeps these tests from proving a row. ``missing``: what to say of those that were not run, or None."""
        ends = {test: self.others.get(test, None if test in self.passed else missing) for test in tests}
        return [f"{test}: {end}" for test, end in ends.items() if end]


def main(arguments: list[str]) -> int:
    rows = read(Path(arguments[0]) if arguments else PAGE)
    results = Results()
    tests = list(dict.fromkeys(test for row in rows for test in row.tests))
    options: list[Any] = ["-q", "--no-header", "-W", "ignore::DeprecationWarning"]
    pytest.main([*options, *tests], plugins=[results])
    proven = 0
    for row in rows:
        faults = results.faults(row.tests) if row.tests else ["it names no test"]
        proven += not faults
        for fault in faults:
            print(f"row {row.number}: {fault}")
    print(f"{proven} of {ROWS}")
    return 0 if proven == ROWS else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
