"""A worker that has a supervisor: which one it is, and how it hears what to do."""

from collective.zcasync.signals import leave_at_once
from collective.zcasync.zopeapp import starting

import logging
import os
import signal
import sys
import threading

logger = logging.getLogger("collective.zcasync.zopeapp.supervisor")

#: The number of this worker among those of its supervisor; the first one, and one without a supervisor, has 1.
number = 1


def work(own_number: int, arguments: list[str]) -> int:
    """Run ``zcasync`` with these arguments, as the worker with that number."""
    global number

    number = own_number
    signal.signal(signal.SIGTERM, leave_at_once)
    # The supervisor waits for its signals, and a new process inherits that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    threading.Thread(target=obey, name="zcasync-obey", daemon=True).start()
    from collective.zcasync.zopeapp.cli import main  # it imports this module

    return main(arguments)


def obey() -> None:
    """Do what the supervisor says in lines, see Crew; when it is gone, stop."""
    for line in sys.stdin:
        stop(at_once=line.strip() == "now")
    logger.info("The supervisor is gone")
    stop()


def stop(at_once: bool = False) -> None:
    """Stop as with a signal, which may have come already."""
    if at_once or not starting.stopping():
        os.kill(os.getpid(), signal.SIGTERM)
