"""A process of the measured site without HTTP: does what it is told, line by line, and answers in JSON.

Usage: python -m benchmarks.sitenode ZOPE_CONF. A line is an object with the name of a function of Node under "do", and
its arguments. An answer is a line that begins with ANSWER.
"""

from benchmarks import clients
from benchmarks import sitejobs
from collective.zcasync import api
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.queue import get_queue
from collective.zcasync.reactor import prepare
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.zopeapp.worker import keep_loaded
from collective.zcasync.zopeapp.worker import zope_started
from typing import Any
from zope.component import getUtility

import json
import statistics
import sys
import threading
import time
import transaction

ANSWER = "ANSWER "

#: Jobs that wait while the feeder works, at least.
FED = 40


class Node:
    """The functions that can be called."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.running: RunningDispatcher | None = None
        self._fed = threading.Event()

    def prepare(self) -> None:
        prepare(self.database)
        sitejobs.prepare(self.database)

    def put(self, task: str, count: int) -> None:
        """Put so many jobs in one transaction."""
        with sitejobs.site(self.database):
            for number in range(count):
                api.put(task, *([] if task == "bench.nothing" else [number]))

    def dispatch(self, threads: int) -> None:
        self.running = RunningDispatcher(self.database, threads=threads, poll_interval=1.0)
        self.running.dispatcher.polls.wait_for(0, 30)

    def rest(self) -> None:
        """Run no more jobs."""
        if self.running is not None:
            self.running.stop()
        self.running = None

    def feed(self, task: str) -> None:
        """Keep jobs waiting, until ``fed``."""
        self._fed.clear()

        def feed() -> None:
            while not self._fed.is_set():
                with self.database.transaction() as connection:
                    waiting = len(get_queue(connection))
                if waiting < FED:
                    self.put(task, FED)
                self._fed.wait(0.2)

        threading.Thread(target=feed, daemon=True).start()

    def fed(self) -> None:
        self._fed.set()

    def ignore_right_of_way(self, ignore: bool) -> None:
        """Whether the dispatcher's jobs begin whatever requests say."""
        assert self.running is not None
        dispatcher = self.running.dispatcher
        dispatcher.neighbours.lanes_may_begin = (lambda group: True) if ignore else dispatcher.way.may_begin

    def done(self, forget: bool = False) -> dict[str, Any]:
        """What has been done here so far; ``forget``: begin to count anew."""
        told = {
            "ended": sitejobs.ended,
            "failed": sitejobs.failed,
            "last": sitejobs.last_end,
            "tries": dict(sitejobs.tries),
            "given": 0 if self.running is None else self.running.dispatcher.way.given,
        }
        if forget:
            sitejobs.ended = sitejobs.failed = 0
            sitejobs.tries.clear()
        return told

    def context(self, samples: int) -> float:
        """Milliseconds that entering and leaving the context of a job takes, the median."""
        self.put("bench.nothing", 1)
        with self.database.transaction() as connection:
            (oid,) = [job._p_oid for job in get_queue(connection)]
        context, taken = getUtility(IJobContext), []
        for _sample in range(samples + 20):
            transaction.begin()
            connection = self.database.open()
            job = connection.get(oid)
            job._p_activate()
            began = time.perf_counter()
            with context.enter(job, connection):
                ended = time.perf_counter() - began
                began = time.perf_counter()
            taken.append(ended + time.perf_counter() - began)
            transaction.abort()
            connection.close()
        return 1000 * statistics.median(taken[20:])


def main(zope_conf: str) -> None:
    clients.quiet()
    with zope_started(zope_conf) as zope:
        node = Node(zope.DB)
        keep_loaded()
        answer("ready")
        for line in sys.stdin:
            told = json.loads(line)
            answer(getattr(node, told.pop("do"))(**told))
        node.fed()
        node.rest()


def answer(value: Any) -> None:
    sys.stdout.write(f"{ANSWER}{json.dumps(value)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
