"""The code blocks of a Markdown file, so that tests can run what the documentation says."""

from pathlib import Path
from typing import NamedTuple

import re

FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str


def blocks(path: Path, language: str | None = None) -> list[Block]:
    """The blocks of a file in their order; those of one language, if it is given."""
    found = [Block(match["language"], match["text"]) for match in FENCE.finditer(path.read_text())]
    return [block for block in found if language in (None, block.language)]
