"""An application whose jobs are in a database of their own, and that is killed between the commits of the two."""

from collections.abc import Callable
from collective.zcasync import local
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.reactor import start
from pathlib import Path
from typing import Any
from ZODB.FileStorage import FileStorage

import os
import signal
import threading
import transaction
import ZODB

#: Storages commit in the order of their names: the files of content and of jobs, so that one or the other is first.
FILES = {"jobs first": ("b-content.fs", "a-jobs.fs"), "content first": ("a-content.fs", "b-jobs.fs")}

_thread = threading.local()


def opened(folder: str, order: str) -> tuple[Any, Any]:
    """The databases of content and of jobs."""
    databases: dict[str, Any] = {}
    content, jobs = (
        ZODB.DB(FileStorage(str(Path(folder) / file)), database_name=name, databases=databases)
        for name, file in zip(("main", "async"), FILES[order], strict=True)
    )
    return content, jobs


def change() -> None:
    """The job: it changes content."""
    root = local.getJob()._p_jar.get_connection("main").root()
    root["changes"] = root.get("changes", 0) + 1


def put(connection: Any) -> None:
    """Change content, and put a job, in one transaction."""
    connection.root()["asked"] = True
    get_queue(connection.get_connection("async")).put(Job(change))
    transaction.commit()


def die_between(content: Any, jobs: Any) -> None:
    """Let the process kill itself where the first storage has finished a transaction, and the second has not."""
    first, second = sorted((content.storage, jobs.storage), key=lambda storage: storage.sortKey())
    finish_first, finish_second = first.tpc_finish, second.tpc_finish

    def noted(*args: Any, **kwargs: Any) -> Any:
        found = finish_first(*args, **kwargs)
        _thread.finished = True
        return found

    def last(*args: Any, **kwargs: Any) -> Any:
        if getattr(_thread, "finished", False):
            os.kill(os.getpid(), signal.SIGKILL)
        return finish_second(*args, **kwargs)

    first.tpc_finish, second.tpc_finish = noted, last


def main(folder: str, order: str, when: str) -> None:
    """``when``: in the midst of the "put", or of the "job"."""
    content, jobs = opened(folder, order)
    with jobs.transaction() as connection:
        install(connection)
    arm: Callable[[], None] = lambda: die_between(content, jobs)  # noqa: E731
    connection = content.open()
    if when == "put":
        arm()
    put(connection)
    arm()
    start(jobs, threads=1)
    threading.Event().wait(60)
