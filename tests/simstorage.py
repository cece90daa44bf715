"""The storage of a simulated world, in memory, and the network between it and each machine, with all that goes wrong.

A machine sees a commit of another one some milliseconds later. Its own commits wait for the storage's lock, may be
slow, fail before they have taken effect, or take effect while only the answer is lost. Its connection breaks, and it
hears of what it has missed when there is another one.
"""

from BTrees.OOBTree import OOBucket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from persistent.TimeStamp import TimeStamp
from simkernel import Event
from simkernel import Kernel
from simkernel import Killed
from simkernel import Lock
from simkernel import Machine
from typing import Any
from ZEO.Exceptions import ClientDisconnected
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError
from ZODB.utils import z64


class Core(ConflictResolvingStorage, MappingStorage):
    """What is committed. It merges conflicting records as FileStorage does."""

    def __init__(self, kernel: Kernel, now: Callable[[], Any]) -> None:
        super().__init__()
        self.kernel, self.now = kernel, now
        self.views: list[View] = []
        self.turn = Lock()
        #: Called after each commit.
        self.committed: Callable[[], None] = lambda: None

    def getTid(self, oid: bytes) -> bytes:
        return self._data[oid].maxKey() if oid in self._data else z64

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        data: bytes = self._data[oid][serial]
        return data

    def next_tid(self) -> bytes:
        now = self.now()
        stamp = TimeStamp(*now.timetuple()[:5], now.second + now.microsecond / 1e6)
        if self._ltid != z64:
            stamp = stamp.laterThan(TimeStamp(self._ltid))
        return bytes(stamp.raw())

    def apply(self, stores: list[tuple[bytes, bytes, bytes]], reads: list[tuple[bytes, bytes]]) -> tuple[Any, Any]:
        """What a commit would store, oid -> record, and which of these are merged; ConflictError if it cannot be."""
        data, merged = {}, []
        for oid, serial, record in stores:
            stored = self.getTid(oid)
            if stored not in (serial, z64):
                record = self.tryToResolveConflict(oid, stored, serial, record)
                merged.append(oid)
            data[oid] = record
        for oid, serial in reads:
            if self.getTid(oid) != serial:
                raise ConflictError(oid=oid, serials=(self.getTid(oid), serial))
        return data, merged

    def store_all(self, data: dict[bytes, bytes]) -> bytes:
        tid = self.next_tid()
        for oid, record in data.items():
            self._data.setdefault(oid, OOBucket())[tid] = record
        self._ltid = tid
        return tid


@dataclass
class Weather:
    """What may go wrong between the storage and the machines. Chances are those of one operation."""

    #: Seconds: how long an operation takes, and others hear of a commit, at most.
    latency: float = 0.002
    #: Chance of a commit that takes up to ``slowest`` seconds.
    slow: float = 0.0
    slowest: float = 3.0
    conflict: float = 0.0
    #: Chance that the connection breaks before a commit has taken effect, after that, or as a transaction begins.
    lost_before: float = 0.0
    lost_after: float = 0.0
    lost_begin: float = 0.0
    #: Seconds until it is there again, at most.
    away: float = 4.0
    #: Chance that a dispatcher does not hear of a commit.
    unheard: float = 0.0


class View:
    """The storage as one machine sees it. ``machine``: None for who sees all at once, and meets no trouble."""

    def __init__(self, core: Core, weather: Weather, machine: Machine | None = None) -> None:
        self.core, self.weather, self.machine, self.kernel = core, weather, machine, core.kernel
        self.random = core.kernel.random
        self.ltid = core._ltid
        self.connected = True
        self._back = Event()
        self._coming: deque[tuple[bytes, Any]] = deque()
        self._changes: dict[int, Any] = {}
        self._wrapper: Any = None
        #: Operations after which the machine is killed, if it is to be killed in the midst of one.
        self.fuse: int | None = None
        core.views.append(self)

    # What the database asks for

    def registerDB(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self.core.registerDB(wrapper)

    def getName(self) -> str:
        return "simulated"

    sortKey = getName

    def isReadOnly(self) -> bool:
        return False

    def supportsUndo(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""

    def __len__(self) -> int:
        return len(self.core)

    def is_connected(self) -> bool:
        return self.connected

    def lastTransaction(self) -> bytes:
        return self.ltid if self.machine else self.core._ltid

    def sync(self, force: bool = True) -> None:
        """A transaction begins."""
        if self.machine is not None and force:
            self._operation("begins")
            self._may_break(self.weather.lost_begin)

    def load(self, oid: bytes, version: str = "") -> tuple[bytes, bytes]:
        self._ask()
        tid = self.core.getTid(oid)
        return self.core.loadSerial(oid, tid), tid

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        self._ask()
        return self.core.loadBefore(oid, tid)

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        self._ask()
        return self.core.loadSerial(oid, serial)

    def new_oid(self) -> bytes:
        self._ask()
        oid: bytes = self.core.new_oid()
        return oid

    # Commits

    def tpc_begin(self, transaction: Any, *_more: Any) -> None:
        self._ask()
        self._changes[id(transaction)] = [], [], None

    def store(self, oid: bytes, serial: bytes, data: bytes, _version: str, transaction: Any) -> None:
        self._changes[id(transaction)][0].append((oid, serial, data))

    def checkCurrentSerialInTransaction(self, oid: bytes, serial: bytes, transaction: Any) -> None:
        self._changes[id(transaction)][1].append((oid, serial))

    def tpc_vote(self, transaction: Any) -> Any:
        self._operation("votes")
        self._may_break(self.weather.lost_before)
        stores, reads, _data = self._changes[id(transaction)]
        if self.machine is not None:
            self.core.turn.acquire()
        try:
            if self.machine is not None and stores and self.random.random() < self.weather.conflict:
                self.kernel.tell("conflict")
                raise ConflictError("by chance")
            if self.random.random() < self.weather.slow:
                self._wait(self.random.random() * self.weather.slowest)
            self._ask()
            data, merged = self.core.apply(stores, reads)
        except BaseException:
            self._give_turn()
            raise
        self._changes[id(transaction)] = stores, reads, data
        return merged

    def tpc_finish(self, transaction: Any, func: Callable[[bytes], None] = lambda tid: None) -> bytes:
        data = self._changes[id(transaction)][2]
        if self.machine is None:
            tid = self.core.store_all(data)
            func(tid)
        else:
            tid = self._finish(transaction, data, func)
        del self._changes[id(transaction)]
        return tid

    def _finish(self, transaction: Any, data: Any, func: Callable[[bytes], None]) -> bytes:
        machine = self.machine
        assert machine is not None
        try:
            self._operation("finishes")
            if self.core.turn.owner is not self.kernel.current:
                raise ClientDisconnected("the storage did not wait for so long")
            self.kernel.world.before_commit()  # type: ignore[attr-defined]
            tid = self.core.store_all(data)
            if data:
                jobs = [self.kernel.world.numbers[oid] for oid in data if oid in self.kernel.world.numbers]
                self.kernel.tell(f"commits {len(data)} records, jobs {jobs}")
            for view in self.core.views:
                if view.machine is None:
                    view._hear(tid, data)
            self.kernel.world.after_commit()  # type: ignore[attr-defined]
            for view in self.core.views:
                if view is not self and view.machine is not None:
                    view._announce(tid, data)
            if self.fuse == 0:
                self._kill()
            if self.random.random() < self.weather.lost_after:
                self._coming.append((tid, list(data)))
                self.kernel.tell("the answer to that is lost")
                self._break()
                raise ClientDisconnected("the answer was lost")
            while self._coming:
                self._hear(*self._coming.popleft())
            self.ltid = tid
            func(tid)
        finally:
            self._give_turn()
        return tid

    def tpc_abort(self, transaction: Any) -> None:
        self._changes.pop(id(transaction), None)
        self._give_turn()

    def _give_turn(self) -> None:
        if self.machine is not None and self.core.turn.owner is self.kernel.current:
            self.core.turn.release()

    # Trouble

    def _ask(self) -> None:
        """Before whatever has to be asked of the storage."""
        if self.machine is not None and self.machine.dead:
            raise Killed
        if not self.connected:
            raise ClientDisconnected("the network is cut")

    def _operation(self, what: str) -> None:
        """Something that takes time, and is a good moment for a death."""
        self._ask()
        if self.machine is None:
            return
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.kernel.tell(f"dies as it {what}")
                self._kill()
        self._wait(self.random.random() * self.weather.latency)
        self._ask()

    def _wait(self, seconds: float) -> None:
        if self.kernel.current is not None and self.machine is not None:
            self.kernel.sleep(seconds)

    def _kill(self) -> None:
        assert self.machine is not None
        self.kernel.kill(self.machine)
        raise Killed

    def _may_break(self, chance: float) -> None:
        if self.machine is not None and self.random.random() < chance:
            self._break()
            self._ask()

    def _break(self) -> None:
        self.kernel.tell("loses its connection")
        self.cut(self.random.random() * self.weather.away)

    def cut(self, seconds: float) -> None:
        """No way to the storage for so long."""
        if self.connected:
            self.connected = False
            self.kernel.at(seconds, self._mend, self.machine)

    def _mend(self) -> None:
        self.connected = True
        self._deliver()

    # Hearing of others' commits

    def _announce(self, tid: bytes, data: Any) -> None:
        self._coming.append((tid, list(data)))
        self.kernel.at(self.random.random() * self.weather.latency, self._deliver, self.machine)

    def _deliver(self) -> None:
        if self._coming and self.connected:
            self._hear(*self._coming.popleft())
            if self._coming:
                self.kernel.at(0, self._deliver, self.machine)

    def _hear(self, tid: bytes, oids: Any) -> None:
        self.ltid = tid
        if self._wrapper is not None:  # else its database is just being opened, and holds nothing yet
            self._wrapper.invalidate(tid, oids)


def frozen_at_its_commit(core: Core, machine: Machine) -> None:
    """A machine that stands still does not keep the storage's lock: the server cuts it off."""
    owner = core.turn.owner
    if owner is not None and owner.machine is machine:
        core.turn.count = 1
        core.turn.release()


__all__ = ("ClientDisconnected", "Core", "View", "Weather", "frozen_at_its_commit")
