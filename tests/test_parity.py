"""The table of what zc.async offered is whole, and names tests that exist; `make parity` counts what they prove."""

from pathlib import Path

import ast
import functools
import importlib
import parity
import pytest
import re
import subprocess
import sys

ROWS = parity.read(parity.PAGE)

#: In pieces, so that the test of skipped tests does not find itself.
SKIP = "pytest.sk" + "ip('not today')"

TESTS = f"""
import pytest

def test_that_passes():
    assert True

@pytest.mark.parametrize("number", [1, 2])
def test_that_passes_once(number):
    assert number == 1

def test_that_says_nothing():
    {SKIP}
"""

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))


@functools.cache
def functions(path: Path) -> set[str]:
    """The tests of a file: "test_name", and "TestClass::test_name"."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.update(f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef))
    return found


def is_there(name: str) -> bool:
    """Whether the package has a file, a module, or something in a module under this name."""
    if (parity.PAGE.parents[2] / "src" / "collective" / "zcasync" / name).is_file():
        return True
    parts = name.removesuffix("()").split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(("collective.zcasync", *parts[:length])))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", ())
            found = getattr(found, part)
        return True
    return False


def test_every_feature_of_zc_async_has_one_row() -> None:
    assert [row.number for row in ROWS] == list(range(1, parity.ROWS + 1))


@every_row
def test_a_row_says_what_it_is_about_where_it_is_and_what_differs(row: parity.Row) -> None:
    assert row.behaviour
    names = parity.CODE.findall(row.where)
    assert names and [name for name in names if not is_there(name)] == []
    assert row.verdict in parity.VERDICTS
    assert bool(row.told) == (row.verdict != "same")


@every_row
def test_the_tests_of_a_row_exist(row: parity.Row, repository: Path) -> None:
    assert row.tests
    for test in row.tests:
        path, _, name = test.partition("::")
        assert name in functions(repository / path), f"there is no {test}"


def test_only_rows_whose_tests_all_pass_are_counted(tmp_path: Path, repository: Path) -> None:
    names = re.findall(r"def (\w+)", TESTS)
    (tmp_path / "test_it.py").write_text(TESTS)
    rows = [f"| {n} | it works | same | `here` | `test_it.py::{name}` |" for n, name in enumerate(names, 1)]
    (tmp_path / "page.md").write_text("\n".join(rows))
    command = [sys.executable, repository / "scripts" / "parity.py", "page.md"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-3:] == [
        "row 2: test_it.py::test_that_passes_once: failed",
        "row 3: test_it.py::test_that_says_nothing: skipped",
        "1 of 139",
    ]
