"""The code blocks of the documentation's pages, so that tests can run them; and a record of those that were run."""

from pathlib import Path
from typing import Any
from typing import NamedTuple

import re

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"

#: All that people read.
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

#: Pages whose Python needs a Plone site, and is run in one by test_docs_code. That of all others needs a bare ZODB.
PLONE_PAGES = [
    README,
    DOCS / "tutorials" / "first-job.md",
    DOCS / "how-to-guides" / "put-in-a-view.md",
    DOCS / "how-to-guides" / "test-your-addon.md",
]

#: Languages of what somebody types or sends: tests run all such blocks.
TYPED = ("python", "pycon", "console", "http")

FENCE = re.compile(r"^(?P<fence>```+|~~~+)(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)

#: How a text says which file the next block is.
FILE = re.compile(r"This is\s+`(?P<name>[^`]+)`[^`]*\Z")


class Block(NamedTuple):
    """One fenced block, and the line of its page in which its text begins."""

    page: Path
    line: int
    language: str
    text: str
    #: The file that the block is, if the text before it says so: "This is `my/site/jobs.py`:".
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line} {self.language}"


#: The blocks that tests have run.
used: set[Block] = set()


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page in their order; those of one language, if it is given."""
    text, found, end = page.read_text(), [], 0
    for match in FENCE.finditer(text):
        file = FILE.search(text[end : match.start()])
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["language"].strip(), match["text"], file and file["name"]))
        end = match.end()
    return [block for block in found if language in (None, block.language)]


def run(block: Block, name: str, **names: Any) -> dict[str, Any]:
    """Execute Python; the names that exist then. ``names``: what the page takes for given."""
    space = {"__name__": name, **names}
    execute(block, space)
    used.add(block)
    return space


def execute(block: Block, space: dict[str, Any]) -> None:
    """Execute Python in the given names; tracebacks tell the lines of the page."""
    exec(compile("\n" * (block.line - 1) + block.text, str(block.page), "exec"), space)


def save(block: Block, folder: Path) -> Path:
    """Write the file that the block is."""
    assert block.file is not None
    path = folder / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)
    used.add(block)
    return path
