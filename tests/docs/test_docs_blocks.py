"""Every fenced block of every page is run, or read by what reads such files."""

from collections.abc import Callable
from collective.zcasync.ploneapp import profilexml
from configparser import RawConfigParser
from docblocks import Block
from docblocks import blocks
from docblocks import PAGES
from docblocks import PLONE_PAGES
from docblocks import REPOSITORY
from docblocks import save
from docblocks import TYPED
from docblocks import used
from pathlib import Path
from serverprocess import SCRIPTS
from zope.configuration import xmlconfig
from Zope2.Startup.options import ZopeWSGIOptions

import importlib
import os
import pagerun
import pytest
import shlex
import shutil
import states
import subprocess
import sys
import textwrap

#: Commands of a shell that are no scripts of ours.
SYSTEM = {"cd", "git", "mkdir", "python3", "docker", "kill"}

#: What a buildout makes.
BUILDOUT = {"bin/instance", "bin/worker", "bin/pytest"}

BARE_PAGES = [page for page in PAGES if page not in PLONE_PAGES and pagerun.typed(page)]

every_bare_page = pytest.mark.parametrize("page", BARE_PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
every_block = pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page)], ids=str)


@every_bare_page
def test_a_page_for_a_bare_zodb_does_what_it_says(page: Path, tmp_path: Path) -> None:
    command = [sys.executable, pagerun.__file__, page]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    used.update(pagerun.typed(page))


def read_zope_conf(block: Block, folder: Path) -> None:
    """As Zope does at its start; a part of a zope.conf is read within a whole one."""
    text = block.text
    if "instancehome" not in text:
        text = f"instancehome {folder}\n{text}"
    if "%define INSTANCE" not in text:
        text = f"%define INSTANCE {folder}\n{text}"
    (folder / "var" / "blobstorage").mkdir(parents=True)
    path = folder / "zope.conf"
    path.write_text(text.replace("/srv/plone/instance", str(folder)))
    assert ZopeWSGIOptions(configfile=str(path))().configroot.instancehome == str(folder)


def read_xml(block: Block, folder: Path) -> None:
    """zcasync.xml as the import step does, all other XML as ZCML, beside the page's own modules and the tutorial's."""
    if block.text.lstrip().startswith("<zcasync"):
        profilexml.parse(block.text)
        return
    for python in (*blocks(PLONE_PAGES[1], "python"), *blocks(block.page, "python")):
        if python.file:
            save(python, folder)
    (folder / "my" / "site" / "__init__.py").touch()
    text = block.text
    if "<configure" not in text:
        text = f'<configure xmlns="http://namespaces.zope.org/zope">{text}</configure>'
    context = xmlconfig.file("meta.zcml", importlib.import_module("zope.component"))
    for package in ("Products.Five", "collective.zcasync"):
        xmlconfig.file("meta.zcml", importlib.import_module(package), context=context)
    context.package = importlib.import_module("my.site")
    xmlconfig.string(text, context=context, execute=False)


def read_ini(block: Block, folder: Path) -> None:
    """As buildout does: its own configuration is compared by test_docs_install."""
    parser = RawConfigParser(delimiters=("=",))
    parser.read_string(block.text)
    assert parser.sections()


def read_commands(block: Block, folder: Path) -> None:
    """The commands exist. Their arguments are for test_docs_commands, and guides are followed by test_docs_install."""
    for line in textwrap.dedent(block.text.replace("\\\n", "")).splitlines():
        for word in shlex.split(line, comments=True)[:1]:
            known = word == "make" or word in SYSTEM | BUILDOUT or (SCRIPTS / Path(word).name).exists()
            assert known or shutil.which(word), f"nothing is called {word}"


def read_mermaid(block: Block, folder: Path) -> None:
    """The picture is made by the script, from the code's own table."""
    assert block.text in states.picture()


READERS: dict[str, Callable[[Block, Path], None]] = {
    "ini": read_ini,
    "mermaid": read_mermaid,
    "sh": read_commands,
    "xml": read_xml,
    "zopeconf": read_zope_conf,
}


@every_block
def test_a_block_is_typed_or_read_by_what_reads_such_files(block: Block, modules: Path) -> None:
    if block.language not in TYPED:
        assert block.language in READERS, f"nothing runs or reads {block}: add what does to READERS"
        READERS[block.language](block, modules)
