"""A job in a log record is written out before a handler takes its lock."""

from collective.zcasync.job import Job
from typing import Any

import enginejobs
import logging
import pytest


class Watching(logging.Handler):
    """Formats its records, as all handlers do: under its lock."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append((self.format(record), record.args))


class LikeAJob:
    """To write it out may load a record, and that may log in turn."""

    def __init__(self, handler: Watching) -> None:
        self.handler = handler
        self.locked: list[bool] = []

    def __repr__(self) -> str:
        self.locked.append(self.handler.lock._is_owned())  # type: ignore[union-attr]
        return "<a job>"


@pytest.mark.parametrize("name", ["collective.zcasync.events", "collective.zcasync.trace"])
def test_a_job_is_written_out_before_a_handler_takes_its_lock_and_only_once(name: str) -> None:
    handler = Watching()
    job = LikeAJob(handler)
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        logger.critical("%r has ended", job)
    finally:
        logger.removeHandler(handler)

    assert handler.told == [("<a job> has ended", None)]
    assert job.locked == [False]


def test_a_call_with_wrong_arguments_is_left_to_the_handlers_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, wrong = Watching(), []
    monkeypatch.setattr(handler, "handleError", wrong.append)
    monkeypatch.setattr(handler, "emit", lambda record: logging.StreamHandler.emit(handler, record))  # type: ignore
    logger = logging.getLogger("collective.zcasync.events")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(handler)
    try:
        logger.critical("%d jobs", "many")
    finally:
        logger.removeHandler(handler)

    assert [record.args for record in wrong] == [("many",)]


def test_a_job_whose_connection_is_closed_is_written_out_before_a_handler_takes_its_lock(db: Any) -> None:
    handler = Watching()
    with db.transaction() as connection:
        connection.root()["job"] = Job(enginejobs.note, 1)
    connection = db.open()
    job = connection.root()["job"]
    job._p_deactivate()
    connection.close()
    logger = logging.getLogger("collective.zcasync.events")
    logger.addHandler(handler)
    try:
        logger.critical("%r has ended", job)
    finally:
        logger.removeHandler(handler)

    ((text, args),) = handler.told
    assert args is None
    assert text.startswith("<collective.zcasync.job.Job") and text.endswith("has ended")
