"""What a client does: it puts jobs of all kinds, cancels some, adds callbacks late, and writes down what it did."""

from chaos import jobs
from chaos import ledger
from chaos.ledger import COUNTERS
from chaos.ledger import KEY
from chaos.ledger import Ledger
from chaos.ledger import QUOTAS
from chaos.ledger import write
from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import transactions
from collective.zcasync.job import Job
from collective.zcasync.job import parallel
from collective.zcasync.job import serial
from collective.zcasync.queue import get_queue
from collective.zcasync.retry import NeverRetry
from datetime import timedelta
from random import Random
from threading import Event
from typing import Any

import transaction

#: Seconds between the transactions of one client, on the average.
PACE = 0.15

#: Jobs that are waiting when clients put no more, until some have run.
ENOUGH = 60


class Client:
    """One thread that puts jobs, until ``over``. ``name``: its own, never used twice in a storm."""

    def __init__(self, db: Any, name: str, files: Ledger, over: Event) -> None:
        self.db = db
        self.name = name
        self.path = files.puts / name
        self.over = over
        self.random = Random(name)
        self.number = 0
        self.late = 0

    def run(self) -> None:
        """Go on, whatever happens to the database."""
        while not self.over.wait(self.random.random() * 2 * PACE):
            try:
                self.work()
            except Exception as error:
                if not is_expected(error):
                    raise
                self.over.wait(PACE)

    def work(self) -> None:
        """One transaction."""
        manager = transaction.TransactionManager()
        connection = self.db.open(manager)
        try:
            manager.begin()
            if self.name not in connection.root()[KEY]["puts"]:
                ledger.new_client(connection.root()[KEY], self.name)
                manager.commit()
                manager.begin()
            if len(get_queue(connection)) > ENOUGH:
                return
            choice = self.random.random()
            if choice < 0.08 and self.number:
                self._change(connection, manager)
            else:
                self._put(connection, manager)
        finally:
            manager.abort()
            connection.close()

    def _put(self, connection: Any, manager: Any) -> None:
        """One transaction with one job or some. The number of each is used once, whatever becomes of the commit."""
        numbers = range(self.number, self.number + self.random.choice((1, 1, 1, 2, 5)))
        self.number = numbers.stop
        queue, records = get_queue(connection), connection.root()[KEY]
        for number in numbers:
            job, options = self._make(f"{self.name}-{number}")
            records["puts"][self.name][number] = queue.put(job, **options)
        write(self.path, "try", *numbers)
        if self.random.random() < 0.05:
            manager.abort()
            write(self.path, "aborted", *numbers)
            return
        try:
            manager.commit()
        except Exception as error:
            # A conflict is an answer; who lost the connection, for one, does not know whether it was stored.
            known = transactions.is_conflict(error) and not transactions.is_disconnect(error)
            write(self.path, "aborted" if known else "unknown", *numbers)
            raise
        write(self.path, "done", *numbers)

    def _change(self, connection: Any, manager: Any) -> None:
        """Cancel a job, or give it another callback, wherever it is by now."""
        queue, records = get_queue(connection), connection.root()[KEY]
        job = records["puts"][self.name].get(self.random.randrange(max(0, self.number - 20), self.number))
        if job is None:
            return
        if self.random.random() < 0.5:
            queue.cancel(job)
        else:
            self.late += 1
            name = f"{self.name}/late{self.late}"
            records["late"][name] = callback = Job(jobs.called, name, self._counter())
            job.addCallback(callback)
        manager.commit()

    def _counter(self) -> str:
        return str(self.random.randrange(COUNTERS))

    def _make(self, name: str) -> tuple[Job, dict[str, Any]]:
        kinds = list(KINDS)
        (kind,) = self.random.choices(kinds, [KINDS[kind] for kind in kinds])
        job = kind(self.random, name, self._counter())
        options: dict[str, Any] = {}
        if kind is outside:
            options["retry_policy_factory"] = NeverRetry
        elif self.random.random() < 0.3:
            options["retry_policy_factory"] = "RetryCommonForever"
        if self.random.random() < 0.1:
            options["begin_after"] = clock.utcnow() + timedelta(seconds=self.random.random() * 3)
        if self.random.random() < 0.1:
            job.set_priority(self.random.choice((-5, 5)))
        return job, options


def plain(random: Random, name: str, counter: str) -> Job:
    return Job(random.choice((jobs.count, jobs.fail, jobs.put_another, jobs.return_another)), name, counter)


def together(random: Random, name: str, counter: str) -> Job:
    return Job(jobs.count_together, name, counter)


def slow(random: Random, name: str, counter: str) -> Job:
    return Job(jobs.count_slowly, name, counter, random.random())


def with_callbacks(random: Random, name: str, counter: str) -> Job:
    job = Job(random.choice((jobs.count, jobs.fail)), name, counter)
    first = job.addCallback(Job(jobs.called, f"{name}/called", counter))
    job.addCallbacks(Job(jobs.called, f"{name}/good", counter), Job(jobs.called, f"{name}/bad", counter))
    first.addCallback(Job(jobs.called, f"{name}/called/called", counter))
    return job


def several(random: Random, name: str, counter: str) -> Job:
    parts = [Job(jobs.count, f"{name}/part{number}", counter) for number in range(3)]
    make: Callable[..., Job] = random.choice((serial, parallel))
    return make(*parts, postprocess=Job(jobs.last, name, counter))


def with_quota(random: Random, name: str, counter: str) -> Job:
    quota = random.choice(list(QUOTAS))
    job = Job(jobs.stay, name, counter, quota, random.random() * 0.3)
    job.quota_names = (quota,)
    return job


def outside(random: Random, name: str, counter: str) -> Job:
    return Job(jobs.tell_outside, name, counter)


def long_commit(random: Random, name: str, counter: str) -> Job:
    return Job(jobs.commit_slowly, name, counter, random.random() * 0.5, random.randrange(1, 2_000_000))


def in_steps(random: Random, name: str, counter: str) -> Job:
    return Job(jobs.work_in_steps, name, counter)


def is_expected(error: Exception) -> bool:
    """Whether a client may meet it in a storm. Full disks show as errors of all kinds."""
    full = isinstance(error, OSError) or type(error).__name__ in ("ServerException", "ReadOnlySqlTransaction")
    return full or transactions.is_disconnect(error) or transactions.is_conflict(error)


#: Kinds of jobs, and how often they come.
KINDS: dict[Callable[[Random, str, str], Job], int] = {
    plain: 30,
    together: 15,
    slow: 10,
    with_callbacks: 10,
    several: 6,
    with_quota: 10,
    outside: 10,
    long_commit: 2,
    in_steps: 7,
}
