"""zopeapp.jsonlog: each line is one JSON object, and tells the job that it was written in."""

from collections.abc import Iterator
from collective.zcasync import reactor
from collective.zcasync.queue import get_queue
from collective.zcasync.zopeapp import jsonlog
from collective.zcasync.zopeapp.limits import Drained
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import io
import json
import logging
import pytest
import time

logger = logging.getLogger("jsonlog.test")

#: Seconds that any single step may take on a busy machine.
PATIENCE = 30


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the root logger's only handler writes."""
    written = io.StringIO()
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(written)])
    monkeypatch.setattr(root, "level", logging.INFO)
    jsonlog.install()
    yield written


def lines(stream: io.StringIO, name: str = "jsonlog.test") -> list[dict[str, Any]]:
    """The objects that one logger has written."""
    return [told for line in stream.getvalue().splitlines() if (told := json.loads(line))["logger"] == name]


def say() -> None:
    """A job that logs."""
    logger.info("in the job")


def test_a_line_is_one_object_whatever_the_message_holds(stream: io.StringIO) -> None:
    logger.warning("two\nlines, %r, ü", "quoted")
    (told,) = lines(stream)
    assert told["message"] == "two\nlines, 'quoted', ü"
    assert told["level"] == "WARNING"
    assert told["time"].endswith("+00:00")
    assert not set(jsonlog.FIELDS) & set(told)


def test_an_error_brings_its_traceback(stream: io.StringIO) -> None:
    try:
        raise LookupError("here")
    except LookupError:
        logger.exception("It failed")
    (told,) = lines(stream)
    assert "LookupError: here" in told["traceback"]


def test_each_record_of_a_job_names_job_task_site_and_attempt(stream: io.StringIO, tmp_path: Path) -> None:
    db = DB(FileStorage(str(tmp_path / "Data.fs")))
    running = reactor.start(db)
    try:
        with db.transaction() as connection:
            job = get_queue(connection).put(say)
            job.group, id = "/Plone", job.id
        drained, end = Drained(running.dispatcher), time.monotonic() + PATIENCE
        while not drained():
            assert time.monotonic() < end
    finally:
        running.stop()
        db.close()
    (told,) = lines(stream)
    assert (told["job"], told["site"], told["attempt"]) == (id, "/Plone", 1)
    assert told["task"].endswith("say")
