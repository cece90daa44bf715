"""How Sphinx makes pages of the Markdown files: ``make docs``."""

from pathlib import Path
from pygments.lexers.configs import ApacheConfLexer
from pygments.token import Comment
from sphinx.application import Sphinx

import re
import tomllib

ROOT = Path(__file__).parent.parent

project = "collective.zcasync"
author = "Collective contributors"
copyright = author
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
exclude_patterns = ["_build"]
nitpicky = True

myst_enable_extensions = ["deflist"]
mermaid_height = "auto"
mermaid_fullscreen = False
# GitHub shows such blocks as pictures too.
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "source_repository": "https://github.com/collective/collective.zcasync/",
    "source_branch": "main",
    "source_directory": "docs/",
}

#: A section of index.md that lists pages, and a page in it.
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
PAGE = re.compile(r"^- \[[^\]]+\]\(([^)]+)\.md\)", re.MULTILINE)


class ZopeConfLexer(ApacheConfLexer):
    """zope.conf looks like Apache's configuration, but for %define and %import."""

    name = "zope.conf"
    aliases = ["zopeconf"]
    tokens = {**ApacheConfLexer.tokens, "root": [(r"%.*$", Comment.Preproc), *ApacheConfLexer.tokens["root"]]}


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Make Sphinx' tables of contents of the lists in index.md, which thus stays plain Markdown."""
    if name != "index":
        return
    for heading, text in SECTION.findall(source[0]):
        pages = PAGE.findall(text)
        if pages:
            source[0] += "\n".join(("", "```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```", ""))


def setup(app: Sphinx) -> None:
    app.add_lexer("zopeconf", ZopeConfLexer)
    app.connect("source-read", add_navigation)
