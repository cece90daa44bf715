"""Log lines as JSON, each with the job that it was written in."""

from collective.zcasync.threadlocal import local
from datetime import datetime
from datetime import timezone

import json
import logging

#: What each record gets; where no job runs, nothing of it is shown.
FIELDS = ("job", "task", "site", "attempt")


def name_job(record: logging.LogRecord) -> bool:
    """A filter that lets all pass, and notes which job runs in the record's thread. Handlers call it before they take
    their lock; it reads memory only."""
    running = local.running
    if getattr(running, "id", None) is not None:
        record.job, record.task = running.id, running.task
        record.site, record.attempt = running.site, running.attempt
    return True


class Formatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, process, thread; in jobs also FIELDS; with an error
    ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        """See the standard library."""
        told = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "thread": record.threadName,
            **{field: getattr(record, field) for field in FIELDS if hasattr(record, field)},
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def is_on() -> bool:
    """Whether ``install`` was called."""
    return any(isinstance(handler.formatter, Formatter) for handler in logging.getLogger().handlers)


def install() -> None:
    """From now on all handlers of the root logger write JSON."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(name_job)
        handler.setFormatter(Formatter())
