"""Do what a page for a bare ZODB says, as a reader would: type its Python, block after block, in an empty folder.

Usage: python pagerun.py PAGE. Before the page's own blocks come those with which BARE begins, behind them its last one.
"""

from docblocks import Block
from docblocks import blocks
from docblocks import DOCS
from docblocks import execute
from docblocks import save
from pathlib import Path
from typing import Any

import doctest
import importlib
import os
import sys
import traceback

#: The page that shows how to start and to stop.
BARE = DOCS / "tutorials" / "bare-zodb.md"

#: What starts the engine is in the first blocks of BARE.
START = 2

TYPED = ("python", "pycon")

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def typed(page: Path) -> list[Block]:
    """What somebody types who reads the page."""
    return [block for block in blocks(page) if block.language in TYPED]


def do(block: Block, space: dict[str, Any]) -> None:
    """Type one block, or save the file that it is."""
    if block.file:
        save(block, Path.cwd())
        importlib.invalidate_caches()
    elif block.language == "python":
        execute(block, space)
    else:
        test = doctest.DocTestParser().get_doctest(block.text, {}, str(block), str(block.page), block.line - 1)
        test.globs = space
        if doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False).failed:
            raise AssertionError(f"{block} shows something else")


def main(page: Path) -> None:
    everything = typed(page)
    if page != BARE:
        frame = typed(BARE)
        everything = [*frame[:START], *everything, frame[-1]]
    sys.path.insert(0, os.getcwd())
    space: dict[str, Any] = {"__name__": "page"}
    for block in everything:
        do(block, space)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # a dispatcher that nobody stopped must not keep this process
