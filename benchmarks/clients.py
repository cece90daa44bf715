"""The processes that take part: this one and others, each with the database open and perhaps a dispatcher at work."""

from benchmarks.storages import Place
from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import notify
from collective.zcasync import reactor
from collective.zcasync.instanceuuid import process_memory
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from contextlib import contextmanager
from contextlib import ExitStack
from contextlib import suppress
from transaction.interfaces import NoTransaction
from typing import Any
from typing import NamedTuple
from ZODB.POSException import ConflictError

import logging
import multiprocessing
import threading
import time
import traceback
import transaction

#: Seconds that one order may take.
PATIENCE = 3600


class Here:
    """This process as one that takes part. ``listens``: tell and hear of puts with PostgreSQL's NOTIFY."""

    def __init__(self, place: Place, cache: int | None = None, listens: bool = False) -> None:
        self.place = place
        self.db = place.open() if cache is None else place.open(cache)
        if listens:
            notify.switch_on(self.db)
        self.running: Any = None
        #: Jobs that its dispatcher is done with, and the monotonic time of the last one.
        self.done, self.last = 0, 0.0
        #: Commits of its dispatcher's claim thread, and how many of them conflicted.
        self.claims, self.conflicts = 0, 0
        self._result: Any = None

    def begin(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Let it work; ``result`` waits for the end. In this process it ends at once."""
        self._result = function(self, *args, **kwargs)

    def result(self) -> Any:
        return self._result

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the function returns for ``Here`` of that process."""
        self.begin(function, *args, **kwargs)
        return self.result()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection whose transactions begin and end as the caller says."""
        manager = transaction.TransactionManager(explicit=True)
        connection = self.db.open(manager)
        try:
            yield connection
        finally:
            with suppress(NoTransaction):
                manager.abort()
            connection.close()

    def close(self) -> None:
        stop(self)
        notify.switch_off(self.db)
        self.db.close()


class Beside:
    """A thread of this process that takes part, where others cannot: called like ``There``."""

    def __init__(self, here: Here) -> None:
        self.here = here
        self._thread: Any = None
        self._result: Any = None

    def begin(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        def work() -> None:
            self._result = function(self.here, *args, **kwargs)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join()
        return self._result


class There:
    """Another process, which takes part until ``close``: called like ``Here``."""

    def __init__(self, place: Place, cache: int | None = None, listens: bool = False) -> None:
        context = multiprocessing.get_context("forkserver")  # quick: a process that has imported all, and nothing else
        context.set_forkserver_preload(["benchmarks.conflicts"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_obey, args=(place, cache, listens, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._pipe.send((function, args, kwargs))

    def result(self) -> Any:
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"the process {self._process.pid} does not answer")
        failed, value = self._pipe.recv()
        if failed:
            raise RuntimeError(f"in the process {self._process.pid}:\n{value}")
        return value

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.begin(function, *args, **kwargs)
        return self.result()

    def close(self) -> None:
        with suppress(OSError):  # it may have died; then result() has said so
            self._pipe.send(None)
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
        self._pipe.close()


def _obey(place: Place, cache: int | None, listens: bool, pipe: Any) -> None:
    """The life of another process."""
    quiet()
    here = Here(place, cache, listens)
    try:
        while (order := pipe.recv()) is not None:
            function, args, kwargs = order
            try:
                pipe.send((False, function(here, *args, **kwargs)))
            except Exception:
                pipe.send((True, traceback.format_exc()))
    except EOFError:
        pass  # whoever started it has gone
    finally:
        here.close()


@contextmanager
def clients(place: Place, others: int = 0, fresh: bool = True, **options: Any) -> Iterator[tuple[Here, list[There]]]:
    """This process and so many others, on an empty queue if it is to be ``fresh``."""
    with ExitStack() as stack:
        here = Here(place, **options)
        stack.callback(here.close)
        if fresh:
            fresh_queue(here)
        there = []
        for _ in range(others):
            there.append(There(place, **options))
            stack.callback(there[-1].close)
        yield here, there


def quiet() -> None:
    """Only what is wrong is logged: a line a job would be a part of what is measured."""
    logging.basicConfig(level=logging.ERROR)


# What processes are asked to do


def fresh_queue(here: Here, **template: Any) -> None:
    """Forget all jobs: a new, empty queue, with the agent of workers as ``template`` says."""
    with here.connection() as connection:
        connection.transaction_manager.begin()
        queues = install(connection, ())
        if "" in queues:
            del queues[""]
        install(connection)
        queues[""].set_template("worker", "main", **template)
        connection.transaction_manager.commit()


def start(here: Here, threads: int = 4, **options: Any) -> None:
    """Start a dispatcher; return when it has registered and looked at the queue."""
    here.done, here.last, here.claims, here.conflicts = 0, 0.0, 0, 0
    here.running = reactor.start(here.db, threads=threads, **options)
    dispatcher = here.running.dispatcher
    report, counted = dispatcher.report, threading.Lock()

    def counting(*args: Any) -> Any:
        with counted:  # two threads would take it for the same number, and whoever waits for all would wait for ever
            here.done, here.last = here.done + 1, time.monotonic()
        return report(*args)

    dispatcher.report = counting
    dispatcher.polls.wait_for(0, 30)
    commit = dispatcher.manager.commit

    def committing() -> None:
        here.claims += 1
        try:
            commit()
        except ConflictError:
            here.conflicts += 1
            raise

    dispatcher.manager.commit = committing


def stop(here: Here) -> None:
    if here.running is not None:
        running, here.running = here.running, None
        running.stop(grace=5)  # what runs may end: a job that is left alone would meet a closed database


class Progress(NamedTuple):
    """``done``: jobs since ``start``; ``last``: monotonic time of the last one; ``busy``: the process' CPU seconds;
    ``claims``, ``conflicts``: commits of the claim thread, and those that conflicted."""

    done: int
    last: float
    busy: float
    claims: int
    conflicts: int


def progress(here: Here) -> Progress:
    return Progress(here.done, here.last, time.process_time(), here.claims, here.conflicts)


def memory(here: Here) -> float:
    """Megabytes that the process holds."""
    return process_memory() / 2**20


def outcome(here: Here) -> dict[str, int]:
    """How many jobs are where, as the database says."""
    with here.connection() as connection:
        connection.transaction_manager.begin()
        return get_queue(connection).counts()
