"""What pages show of a terminal is what the console script prints, with a database that has the page's jobs in it."""

from collections.abc import Iterator
from collective.zcasync.job import Job
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.queue import get_queue
from collective.zcasync.reactor import start
from collective.zcasync.testing import wait_for_result
from collective.zcasync.zopeapp.cli import get_parser
from collective.zcasync.zopeapp.cli import main
from docblocks import Block
from docblocks import blocks
from docblocks import DOCS
from docblocks import used
from pathlib import Path
from typing import Any

import doctest
import importlib
import pytest
import re
import shlex
import transaction
import ZEO
import ZODB

PAGE = DOCS / "how-to-guides" / "command-line.md"

ZOPE_CONF = """\
instancehome {folder}
<zodb_db main>
  mount-point /
  <zeoclient>
    server 127.0.0.1:{port}
  </zeoclient>
</zodb_db>
"""

MAILS = """\
def send(address):
    if "@" not in address:
        raise ValueError(f"{address} is no address")
    return "sent"
"""

#: Commands that start Zope: test_zopeapp_commands_processes runs them. And some that test_zopeapp_commands runs.
NOT_SHOWN = {"run", "worker", "purge", "discard", "move-queue", "pause-dispatcher", "resume-dispatcher"}

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def ids(modules: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The page's database over ZEO; id of each job by that in the page."""
    (modules / "mails.py").write_text(MAILS)
    mails = importlib.import_module("mails")
    (modules / "etc").mkdir()
    (modules / "var").mkdir()
    monkeypatch.chdir(modules)
    monkeypatch.setenv("COLUMNS", "120")
    (host, port), stop = ZEO.server(str(modules / "var" / "Data.fs"))
    (modules / "etc" / "zope.conf").write_text(ZOPE_CONF.format(folder=modules, port=port))
    db = ZODB.DB(ZEO.client((host, port)), database_name="main")
    connection = db.open()
    try:
        yield tell(db, connection, mails)
    finally:
        transaction.abort()
        connection.close()
        db.close()
        stop()


def tell(db: Any, connection: Any, mails: Any) -> dict[str, str]:
    """A worker ran two jobs, one of which failed, and has ended; then more were put, one of which was set aside."""
    running = start(db, threads=1)
    try:
        transaction.begin()
        queue = get_queue(connection)
        jobs = {}
        for name, address in (("4a0", "ada@example.org"), ("4a1", "nowhere")):
            jobs[name] = queue.put(Job(mails.send, address))
            transaction.commit()
            wait_for_result(jobs[name])
    finally:
        running.stop()
    transaction.begin()
    for name, address in (("4b0", "bob@example.org"), ("4b1", "eve@example.org"), ("4c0", "zoe@example.org")):
        jobs[name] = queue.put(Job(mails.send, address))
    transaction.commit()
    queue.take_out(jobs["4c0"])
    insert(queue.quarantine, make_key(), ("its process died 3 times under it", jobs["4c0"]))
    queue.adjust("quarantined", 1)
    transaction.commit()
    return {name: job.id for name, job in jobs.items()}


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command line of a block, and what follows it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield line, output


def replaced(text: str, names: dict[str, str]) -> str:
    """The text with whole words replaced."""
    return re.sub(r"\b(\w+)\b", lambda match: names.get(match[1], match[1]), text)


def test_the_console_script_prints_what_the_page_shows(ids: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    shown_ids = {id: name for name, id in ids.items()}
    code, shown = 0, set(NOT_SHOWN)
    for block in blocks(PAGE, "console"):
        for line, expected in commands(block):
            if line == "echo $?":
                got = f"{code}\n"
            else:
                program, *arguments = shlex.split(replaced(line, ids))
                assert program == "zcasync"
                code = main(arguments)
                shown.add(arguments[0])
                printed = capsys.readouterr()
                got = replaced(printed.out + printed.err, shown_ids)
            assert doctest.OutputChecker().check_output(expected, got, FLAGS), f"{block}: {line} prints\n{got}"
        used.add(block)
    (parser,) = (action.choices for action in get_parser()._actions if action.choices)
    assert shown == set(parser)
