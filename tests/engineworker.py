"""A process for tests: one dispatcher on a ZEO server, without Zope. Run with the server's address and options in JSON;
without a host, the second part of the address is the dsn of a database in PostgreSQL.

``ping``, ``death``: seconds. ``kill``: where the process kills itself, by name. ``hide``: a module that this process
does not find. ``schema``: the newest that its code knows. All other options are the dispatcher's. SIGTERM stops it
cleanly, SIGHUP lets it only say that it leaves.
"""

from collections.abc import Callable
from collective.zcasync import attempts
from collective.zcasync import dispatcher
from collective.zcasync import groups
from collective.zcasync import interfaces
from collective.zcasync import threadpool
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.reactor import start
from datetime import timedelta
from typing import Any
from ZEO.ClientStorage import ClientStorage

import importlib.abc
import json
import logging
import os
import signal
import sys
import threading
import uuid
import ZEO
import ZODB


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _kill(owner: Any, name: str, now: Callable[..., bool]) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more: nothing would kill this process"
    call = getattr(owner, name)

    def call_or_die(*args: Any, **kwargs: Any) -> Any:
        if now(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)

    setattr(owner, name, call_or_die)


def _always(*args: Any) -> bool:
    return True


def _shared(group: groups.Group, *args: Any) -> bool:
    return len(group.runs) > 1


def _of_a_group(storage: Any, txn: Any, *args: Any) -> bool:
    return bytes(txn.description).count(b"count_and_tell") > 1


#: Where a process can kill itself: what it is about to call then, if the arguments are such.
POINTS: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "as the claim is committed": (threadpool.AgentThreadPool, "give", _always),
    "before its first line": (attempts.Run, "_call_and_commit", _always),
    "before its outcome is stored": (attempts.Run, "_store", _always),
    "after its commit": (attempts.Run, "report", _always),
    "among the jobs of a group": (groups.Group, "_run", _shared),
    "before the commit of a group": (ClientStorage, "tpc_begin", _of_a_group),
    "in the commit of a group": (ClientStorage, "tpc_finish", _of_a_group),
    "after the commit of a group": (groups.Group, "_ended", _shared),
}


class Hidden(importlib.abc.MetaPathFinder):
    """A module that is not installed here."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname == self.name:
            raise ModuleNotFoundError(f"No module named {fullname!r}")
        return None


def main(host: str, port: str, told: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    logging.getLogger("ZEO").setLevel(logging.ERROR)
    options = json.loads(told)
    DispatcherAgents.ping_interval = timedelta(seconds=options.pop("ping", 30))
    DispatcherAgents.ping_death_interval = timedelta(seconds=options.pop("death", 60))
    if hidden := options.pop("hide", None):
        sys.meta_path.insert(0, Hidden(hidden))
    interfaces.SCHEMA = options.pop("schema", interfaces.SCHEMA)
    if point := options.pop("kill", None):
        _kill(*POINTS[point])
        threadpool.AHEAD = 10.0  # so that there are groups, however slow the machine is
    if "uuid" in options:
        options["uuid"] = uuid.UUID(options["uuid"])
    db = _open(host, port, options.pop("wait", 30))
    over, running = threading.Event(), start(db, **options)
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=_leave, args=(running,), daemon=True).start())
    running.dispatcher.polls.wait_for(0, 30)
    _say(f"ready {running.dispatcher.UUID}")
    while not over.wait(0.5):
        pass
    running.stop()
    db.close()
    _say("stopped")
    os._exit(0)


def _open(host: str, port: str, wait: int) -> Any:
    if not host:
        from postgresserver import open_at  # most workers do without, and begin sooner

        return open_at(port)
    return ZODB.DB(ZEO.client((host, int(port)), wait_timeout=wait), pool_size=20)


def _leave(running: Any) -> None:
    one: dispatcher.Dispatcher = running.dispatcher
    one.leaving_grace = one.shutdown_grace
    one._leaving = True
    one._order(one.membership.leave, 10)
    _say("it leaves")


if __name__ == "__main__":
    main(*sys.argv[1:])
