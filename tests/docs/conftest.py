"""The layer that the guide on testing shows is the one in which the documentation's code is run."""

from collections.abc import Iterator
from docblocks import blocks
from docblocks import DOCS
from docblocks import PAGES
from docblocks import run
from docblocks import TYPED
from docblocks import used
from layers import layer_fixtures
from pathlib import Path

import pytest
import sys
import types

GUIDE = DOCS / "how-to-guides" / "test-your-addon.md"

HERE = Path(__file__).parent

# Layers are found by the name of their module.
module = sys.modules["guide_layers"] = types.ModuleType("guide_layers")
vars(module).update(run(blocks(GUIDE, "python")[0], module.__name__))

globals().update(
    layer_fixtures(((module.INTEGRATION, "integration"), (module.FUNCTIONAL, "functional"), (module.INLINE, "inline")))
)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path for modules that a page tells to write; forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


class Everything:
    """Whether all tests of this folder are run: then no block of Python may be left over at the end."""

    def __init__(self) -> None:
        self.deselected = False

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected = self.deselected or bool(items)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        asked = [Path(session.config.rootpath, arg) for arg in session.config.args]
        if exitstatus or self.deselected or not any(path == HERE or path in HERE.parents for path in asked):
            return
        places = {(block.page, block.line) for block in used}  # a test may have given a block another file
        typed = [block for page in PAGES for block in blocks(page) if block.language in TYPED]
        left = [str(block) for block in typed if (block.page, block.line) not in places]
        if left:
            session.config.get_terminal_writer().line(f"No test has run: {', '.join(left)}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


everything = Everything()
pytest_deselected = everything.pytest_deselected
pytest_sessionfinish = everything.pytest_sessionfinish
