"""What may be new in a dispatcher's queues: a wake-up costs a transaction only where a claim could find work."""

from collections.abc import Iterable
from collections.abc import Mapping

import threading

#: queue name -> tids of the commits that were told of; None: of some that are not known.
_Told = dict[str, set[bytes | None]]


class News:
    """The queues, by name, of which something was told. Any thread may tell; the claim thread asks.

    Nothing is lost by this: whoever looks at a queue says ``seen`` before its transaction begins.
    """

    def __init__(self) -> None:
        self._places: Mapping[bytes, str] = {}
        self._settings: Mapping[bytes, str] = {}
        self._foreign: frozenset[bytes] = frozenset()
        self._lock = threading.Lock()
        #: Queues in which there may be jobs for free threads.
        self._jobs: _Told = {}
        #: Queues at which to look whether a thread is free or not.
        self._changed: _Told = {}
        #: Queues in which the last claim has left something.
        self._more: set[str] = set()
        #: Queues whose inboxes of others may hold something.
        self._abroad: set[str] = set()

    def watch(self, places: Mapping[bytes, str], settings: Mapping[bytes, str], foreign: Iterable[bytes]) -> None:
        """From now on: oid -> name of its queue, of where jobs come in or what lets them go on; of what people set;
        and which of the places are homes of others."""
        self._places, self._settings, self._foreign = places, settings, frozenset(foreign)

    def watch_also(self, places: Mapping[bytes, str]) -> None:
        """Watch these places as well, until ``watch`` says otherwise."""
        self._places = {**self._places, **places}

    def tell(self, oids: Iterable[bytes] | None, tid: bytes | None = None) -> None:
        """These records have changed; None: any may have. ``tid``: of the commit, if it is known."""
        with self._lock:
            if oids is None:
                self._abroad.update(self._settings.values())
                for name in self._settings.values():
                    self._changed.setdefault(name, set()).add(tid)
            for oid in oids or ():
                if oid in self._places:
                    self._jobs.setdefault(self._places[oid], set()).add(tid)
                elif oid in self._settings:
                    self._changed.setdefault(self._settings[oid], set()).add(tid)
                if oid in self._foreign:
                    self._abroad.add(self._places[oid])

    def known(self, name: str, tid: bytes | None) -> None:
        """That commit was the claim thread's own, to this queue: it needs no look because of that."""
        with self._lock:
            for told in (self._jobs, self._changed):
                if told.get(name) == {tid}:
                    del told[name]

    def more(self, name: str) -> None:
        """Something is left in a queue: look again when a thread is free."""
        self._more.add(name)

    def look_at(self, names: Iterable[str]) -> None:
        """Look at these queues in any case."""
        with self._lock:
            for name in names:
                self._changed.setdefault(name, set()).add(None)

    def left_abroad(self, name: str) -> None:
        """Something is left in the inboxes of others."""
        self._abroad.add(name)

    def queues(self) -> set[str]:
        """The queues of which something was told and not yet seen."""
        with self._lock:
            return {*self._jobs, *self._changed, *self._more}

    def abroad(self) -> set[str]:
        """The queues whose inboxes of others may hold something."""
        return self._abroad.copy()

    def left(self, name: str) -> bool:
        """Whether nothing was told of a queue since the last claim has left something there."""
        return name in self._more and name not in self._jobs and name not in self._changed

    def changed(self, name: str) -> bool:
        """Whether a queue has to be looked at, whether a thread is free or not."""
        return name in self._changed

    def seen(self, name: str, abroad: bool) -> bool:
        """A look at a queue begins. ``abroad``: also at the inboxes of others; whether anything was told of those."""
        with self._lock:
            self._jobs.pop(name, None)
            self._changed.pop(name, None)
            self._more.discard(name)
            told = abroad and name in self._abroad
            if told:
                self._abroad.discard(name)
            return told

    def forget(self, name: str) -> None:
        """A queue is gone."""
        self.seen(name, True)
