"""What the small instances run: jobs, a task in ZCML, and a view that puts them."""

from collective.zcasync import api
from collective.zcasync import mail
from pathlib import Path
from Products.Five.browser import BrowserView
from typing import Any

import gc
import logging
import os
import signal
import threading
import time

logger = logging.getLogger("instancejobs")

#: Seconds that a job waits for its test at most.
PATIENCE = 60


def greet(name: str) -> str:
    """The job: its line in the log is what the tests wait for."""
    logger.info("hello %s from a job in process %s", name, os.getpid())
    return f"hello {name}"


def fail(name: str) -> None:
    """A job that fails."""
    raise LookupError(f"there is no {name}")


def wait_for_file(path: str) -> str:
    """A job that runs until its test creates a file."""
    logger.info("waiting for %s", path)
    deadline, glance = time.monotonic() + PATIENCE, threading.Event()
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        glance.wait(0.02)  # the test is another process: a file is all that it can give
    logger.info("found %s", path)
    return path


@api.task(name="hang", timeout=0.2)
def hang(path: str) -> str:
    """A job that never looks whether it should stop, in a process that soon takes it for hung."""
    mail.HUNG_AFTER = 0.2
    return wait_for_file(path)


@api.task(name="count_kept")
def count_kept(text: str) -> None:
    """Tells whether the garbage collector need not look at most of what there is."""
    logger.info("most are kept: %s", gc.get_freeze_count() > len(gc.get_objects()))


class Put(BrowserView):
    """Puts a task by its name, in the request's transaction."""

    def __call__(self) -> Any:
        form = self.request.form
        job = api.put(form["task"], form["argument"])
        return f"put {job.id}"


def swallow_a_signal(event: Any) -> None:
    """A subscriber in whose midst the process is told to stop: as code that takes all errors for a missing module."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        for _step in range(1000):
            pass
    except BaseException:
        return
    raise AssertionError("no signal came")
