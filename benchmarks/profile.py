"""Where the threads of a dispatcher are while it drains a queue: in the storage, waiting for it, or in this package."""

from benchmarks import clients
from benchmarks import rates
from benchmarks.clients import Here
from benchmarks.measuring import rounded
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import sys
import threading

#: Packages whose code is the storage: whoever commits one record goes through the same.
STORAGE = ("ZODB", "ZEO", "relstorage", "psycopg2", "transaction", "persistent", "BTrees", "zodbpickle")

OURS = "collective.zcasync"

#: Functions of ours in which a thread waits for work; those of storages in which it waits for the commits of others.
IDLE, TURN = {"_take", "_round", "_pause"}, {"tpc_begin"}

#: Seconds between two looks, and until a busy thread has to let others look: else they see only those that wait.
EVERY, SWITCH = 0.001, 0.0001

#: Own functions that are told.
MOST = 12


class Sampler:
    """Looks where the claim thread and the job threads are, again and again."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self.own: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                if names.get(ident, "").startswith(("zcasync-claims", "zcasync-main")):
                    self._note(frame)

    def _note(self, frame: FrameType) -> None:
        place, function = _where(frame)
        self.places[place] += 1
        if place == "ours":
            self.own[function] += 1

    def shares(self) -> dict[str, Any]:
        """Of the time in which they did something: in the storage, in ours, and in which functions of ours. Beside it
        ``turn``: how much more they waited for the commits of other threads."""
        busy = self.places["storage"] + self.places["ours"] or 1
        told = {place: rounded(self.places[place] / busy) for place in ("storage", "ours", "turn")}
        return {**told, "top": {name: rounded(count / busy) for name, count in self.own.most_common(MOST)}}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def _where(frame: FrameType | None) -> tuple[str, str]:
    """("storage", "turn", "ours" or "idle", function) of the innermost frame that belongs to one of them."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] in STORAGE:
            return "turn" if frame.f_code.co_name in TURN else "storage", ""
        if module.startswith(OURS):
            name = frame.f_code.co_name
            return "idle" if name in IDLE else "ours", f"{module.removeprefix(OURS + '.')}.{name}"
        frame = frame.f_back
    return "idle", ""


@contextmanager
def sampled() -> Iterator[Sampler]:
    """Look until the end of the block."""
    sampler, interval = Sampler(), sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()
        sys.setswitchinterval(interval)


def drain(here: Here, count: int, name: str) -> dict[str, Any]:
    """Shares while so many no-op jobs are run in one of the ways of draining."""
    call, template = rates.DRAINS[name]
    clients.fresh_queue(here, **{"size": rates.THREADS, **template})
    rates.pause(here, True)
    rates.fill(here, count, call)
    with sampled() as sampler:
        rates.run_out(here, [here], count, rates.THREADS)
    return sampler.shares()
