"""Threads and processes that put, claim, cancel, call back, die and bury at the same time; a recount at the end."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.testing import wait_until
from pathlib import Path
from racing import inside
from racing import Race
from racing import recount
from racing import run
from typing import Any
from zeoprocess import ZEOProcess

import pytest
import signal
import threading
import transaction


def test_threads_that_put_claim_cancel_and_call_back_lose_nothing_and_do_nothing_twice(
    clients: Callable[[], Any], queue: Any, dispatch: Any
) -> None:
    inside[:] = [0, 0]
    queue.quotas.create("two", 2)
    transaction.commit()
    dispatch(threads=2)
    dispatch(threads=2)
    race = Race()
    run(race, clients(), racers=3, rounds=80)
    recount(race, queue, 60)
    assert inside[1] <= 2


def test_late_callbacks_meet_the_end_of_their_jobs_and_none_is_lost(
    clients: Callable[[], Any], queue: Any, dispatch: Any
) -> None:
    queue.quotas.create("two", 2)
    transaction.commit()
    dispatch(threads=3)
    race = Race()
    race.cancel = race.call_back  # type: ignore[method-assign]
    run(race, clients(), racers=3, rounds=60)
    recount(race, queue, 60)


@pytest.fixture
def zeo(tmp_path: Path) -> Iterator[ZEOProcess]:
    with ZEOProcess(tmp_path) as server:
        yield server


@pytest.mark.processes
def test_processes_that_are_killed_and_buried_alive_meanwhile_do_nothing_twice(zeo: ZEOProcess) -> None:
    transaction.abort()
    db = zeo.database()
    with db.transaction() as connection:
        install(connection)
        get_queue(connection).quotas.create("two", 2)
    workers = [zeo.worker(ping=1.5, death=3.0, threads=2, elsewhere=True) for _number in range(3)]
    for worker in workers:
        worker.wait_for("^ready")
    race, over = Race(), threading.Event()

    def trouble() -> None:
        over.wait(0.5)
        workers[0].send(signal.SIGKILL)
        workers[1].send(signal.SIGSTOP)  # so long that it is taken for dead, with jobs in its hands
        over.wait(9)
        workers[1].send(signal.SIGCONT)

    thread = threading.Thread(target=trouble)
    thread.start()
    run(race, db, racers=2, rounds=60)
    thread.join(30)
    connection = db.open()
    try:
        queue = get_queue(connection)
        wait_until(queue, lambda: len(queue.dispatchers.active()) == 2, 60, "two dispatchers that live")
        recount(race, queue, 90)
    finally:
        transaction.abort()
        connection.close()
