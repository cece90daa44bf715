"""Records of the package's loggers become text before any handler sees them."""

import logging


def make_text(record: logging.LogRecord) -> bool:
    """A filter that lets all pass, and writes out what the message names: jobs, above all.

    A handler formats under its lock. To write a job out, its record is loaded, which may log in its turn (if its
    connection was closed); two threads that come to two handlers in different order would wait for each other for
    ever. And a handler that formats later, in a thread of its own, would find a job whose connection is gone.
    """
    try:
        text = record.getMessage()
    except Exception:
        return True  # the handler tells what is wrong with the call
    record.msg, record.args = text, None
    return True


def install() -> None:
    """Put the filter on the loggers that name jobs. Twice is once."""
    for name in ("events", "trace"):
        logging.getLogger(f"collective.zcasync.{name}").addFilter(make_text)
