"""The code blocks of a Markdown file, so that tests can run what the documentation says."""

from pathlib import Path
from typing import Any
from typing import NamedTuple

import re

FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

#: How a text says which file the next block is.
FILE = re.compile(r"This is `(?P<name>[^`]+)`[^`]*\Z")


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str
    #: The file that the block is, if the text before it says so: "This is `my/site/jobs.py`:".
    file: str | None = None


def blocks(path: Path, language: str | None = None) -> list[Block]:
    """The blocks of a file in their order; those of one language, if it is given."""
    text, found, end = path.read_text(), [], 0
    for match in FENCE.finditer(text):
        file = FILE.search(text[end : match.start()])
        found.append(Block(match["language"], match["text"], file and file["name"]))
        end = match.end()
    return [block for block in found if language in (None, block.language)]


def run(block: Block, name: str, **names: Any) -> dict[str, Any]:
    """Execute Python; the names that exist then. ``names``: what the page takes for given."""
    space = {"__name__": name, **names}
    exec(compile(block.text, name, "exec"), space)
    return space
