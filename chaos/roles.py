"""What the processes of a storm are: workers, clients, both in one, and whoever waits for the end."""

from chaos import wrongclock
from chaos.clients import Client
from chaos.clients import is_expected
from chaos.ledger import Ledger
from chaos.storages import open_database
from collections.abc import Callable
from collective.zcasync import actions
from collective.zcasync import clock
from collective.zcasync import transactions
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.queue import get_queue
from collective.zcasync.reactor import start
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import gc
import logging
import os
import signal
import threading
import transaction

#: Seconds between pings, and of silence that means death: a twentieth of the product's.
PING, DEATH = 1.5, 3.0

#: Job threads of a worker, and of a process that does all alone.
THREADS, ALONE = 2, 6

#: What waits longer than this has met a wrong clock.
FAR = timedelta(seconds=20)

logger = logging.getLogger("chaos")


def play(role: str, told: dict[str, Any], say: Callable[[str], None]) -> None:
    """Be one of these processes until a signal ends it. ``say`` "ready" once it works."""
    DispatcherAgents.ping_interval = timedelta(seconds=PING)
    DispatcherAgents.ping_death_interval = timedelta(seconds=DEATH)
    folder = Path(told["folder"])
    wrongclock.follow(folder, told["machine"])
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    db = surely_open(told["kind"], told["address"])
    files = Ledger(folder)
    running = None
    if role in ("worker", "alone"):
        size = THREADS if role == "worker" else ALONE
        running = start(db, threads=size, poll_interval=0.5, shutdown_grace=5, deployment="chaos")
        running.dispatcher.polls.wait_for(0, 60)
    clients = []
    if role in ("client", "alone") and not told.get("drain"):
        clients = [Client(db, f"{told['name']}.{number}", files, over) for number in range(told["threads"])]
    threads = [threading.Thread(target=surely, args=(client.run,)) for client in clients]
    for thread in threads:
        thread.start()
    say("ready")
    if told.get("drain"):
        drain(db, over)
        say("drained")
    while not over.wait(0.5):
        pass
    for thread in threads:
        thread.join()
    if running is not None:
        running.stop()
    db.close()
    say("stopped")


def surely_open(kind: str, address: Any) -> Any:
    """The database, as soon as it is there: its server may be killed, cut off or full while it is asked first."""
    while True:
        try:
            return open_database(kind, address)
        except Exception as error:
            if not is_expected(error):
                raise
            gc.collect()  # a FileStorage that could not be opened keeps the lock of its file until it is gone
            threading.Event().wait(0.1)


def surely(call: Callable[[], Any]) -> None:
    """An error of the storm's own ends the process, so that nobody overlooks it."""
    try:
        call()
    except BaseException:
        logger.critical("a client fails", exc_info=True)
        os._exit(70)


def drain(db: Any, over: threading.Event) -> None:
    """Wait until nothing is left to do. What was set aside, as processes died under it, is released."""
    left: Any = None
    while not over.wait(0.1):
        manager = transaction.TransactionManager()
        with closing(db.open(manager)) as connection:
            try:
                left = still_open(get_queue(connection))
                if not any(left.values()):
                    return
                help_along(get_queue(connection))
                manager.commit()
            except Exception as error:
                if not transactions.is_conflict(error) and not transactions.is_disconnect(error):
                    raise
            finally:
                manager.abort()
    logger.critical("left over: %s", left)


def help_along(queue: Any) -> None:
    """What a person does: release what was set aside, and let run what a wrong clock has put off for minutes."""
    for _reason, job in list(queue.quarantined()):
        actions.release(job)
    for _when, job in list(queue.later_jobs((clock.utcnow() + FAR, None))):
        if job._status_id == 0:
            actions.run_now(job)


def still_open(queue: Any) -> dict[str, int]:
    """How many jobs are where, but for those in the history, and letters that nobody has read."""
    finished = ("succeeded", "failed", "cancelled")
    left = {kind: number for kind, number in queue.counts().items() if kind not in finished}
    return {**left, "letters": sum(len(slot.mailbox) for slot in queue.slots.values())}
