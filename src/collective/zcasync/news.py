"""What may be new in a dispatcher's queues: a wake-up costs a transaction only where a claim could find work."""

from collections.abc import Iterable
from collections.abc import Mapping


class News:
    """The queues, by name, of which something was told. Any thread may tell; the claim thread asks.

    Nothing is lost by this: whoever looks at a queue says ``seen`` before its transaction begins.
    """

    def __init__(self) -> None:
        self._places: Mapping[bytes, str] = {}
        self._settings: Mapping[bytes, str] = {}
        self._foreign: frozenset[bytes] = frozenset()
        #: Queues in which there may be jobs for free threads.
        self._jobs: set[str] = set()
        #: Queues at which to look whether a thread is free or not.
        self._changed: set[str] = set()
        #: Queues whose inboxes of others may hold something.
        self._abroad: set[str] = set()

    def watch(self, places: Mapping[bytes, str], settings: Mapping[bytes, str], foreign: Iterable[bytes]) -> None:
        """From now on: oid -> name of its queue, of where jobs come in or what lets them go on; of what people set;
        and which of the places are homes of others."""
        self._places, self._settings, self._foreign = places, settings, frozenset(foreign)

    def watch_also(self, places: Mapping[bytes, str]) -> None:
        """Watch these places as well, until ``watch`` says otherwise."""
        self._places = {**self._places, **places}

    def tell(self, oids: Iterable[bytes] | None, but: str | None = None) -> None:
        """These records have changed; None: any may have. ``but``: a queue that needs no look because of that."""
        if oids is None:
            self._changed.update(self._settings.values())
            self._abroad.update(self._settings.values())
        for oid in oids or ():
            name = self._places.get(oid)
            if name is None:
                name = self._settings.get(oid)
                if name is not None and name != but:
                    self._changed.add(name)
                continue
            if name != but:
                self._jobs.add(name)
            if oid in self._foreign:
                self._abroad.add(name)

    def more(self, name: str) -> None:
        """Something is left in a queue: look again when a thread is free."""
        self._jobs.add(name)

    def look_at(self, names: Iterable[str]) -> None:
        """Look at these queues in any case."""
        self._changed.update(names)

    def left_abroad(self, name: str) -> None:
        """Something is left in the inboxes of others."""
        self._abroad.add(name)

    def queues(self) -> set[str]:
        """The queues of which something was told and not yet seen."""
        return self._jobs | self._changed

    def abroad(self) -> set[str]:
        """The queues whose inboxes of others may hold something."""
        return self._abroad.copy()

    def changed(self, name: str) -> bool:
        """Whether a queue has to be looked at, whether a thread is free or not."""
        return name in self._changed

    def seen(self, name: str, abroad: bool) -> bool:
        """A look at a queue begins. ``abroad``: also at the inboxes of others; whether anything was told of those."""
        self._jobs.discard(name)
        self._changed.discard(name)
        told = abroad and name in self._abroad
        if told:
            self._abroad.discard(name)
        return told

    def forget(self, name: str) -> None:
        """A queue is gone."""
        self.seen(name, True)
