"""What one agent does not take, so that what it has rejected costs its next claims nothing. Not persistent."""

from collections.abc import Iterator
from collective.zcasync.persistence import SENTINEL
from typing import Any


class Rejections:
    """Keys of waiting jobs that an agent's filter (or a process that lacks their code) has rejected.

    In a backlog of its own dispatcher, where new jobs come in by its own claims only, an agent also remembers how far
    it has rejected all there was: it begins there, and does not look at what lies before.
    """

    def __init__(self) -> None:
        self.keys: set[int] = set()
        self._rejected = 0
        #: oid of a backlog -> the last key of those at its front that were all rejected.
        self._front: dict[bytes, int] = {}
        #: oid of a backlog -> keys that came in before its front since.
        self._news: dict[bytes, set[int]] = {}
        #: Backlogs in which something stays that was not rejected: their fronts stay where they are.
        self._halted: set[bytes] = set()
        #: Entries that were looked at in all, for tests.
        self.looks = 0

    def __contains__(self, key: int) -> bool:
        return key in self.keys

    def __len__(self) -> int:
        return self._rejected

    def add(self, row: Any) -> None:
        """The job of this row is not for this agent."""
        self._rejected += 1
        oid = getattr(row.place.tree, "_p_oid", None)
        if row.place.kind != "backlog" or not row.place.mine or oid is None or oid in self._halted:
            self.keys.add(row.key)
            return
        self._news.get(oid, set()).discard(row.key)
        self._front[oid] = max(row.key, self._front.get(oid, SENTINEL))

    def moved(self, tree: Any, key: int) -> None:
        """A job that is not for this agent was moved to this backlog."""
        self._rejected += 1
        oid = tree._p_oid
        self._news.get(oid, set()).discard(key)
        front = self._front.get(oid, SENTINEL)
        between = tree.keys(front, key, True, True) if front < key else ()
        if oid is None or oid in self._halted or any(True for _other in between):
            self.keys.add(key)  # something before it has not been looked at
        else:
            self._front[oid] = max(front, key)

    def halt(self, row: Any) -> None:
        """The job of this row stays, and will be looked at again."""
        if row.place.kind == "backlog":
            self._halted.add(row.place.tree._p_oid)

    def begin(self) -> None:
        """Another look begins at the fronts."""
        self._halted.clear()

    def came_in(self, tree: Any, key: int) -> None:
        """A claim has moved a job to this backlog."""
        if key <= self._front.get(tree._p_oid, SENTINEL):
            self._news.setdefault(tree._p_oid, set()).add(key)

    def entries(self, place: Any) -> Iterator[tuple[int, Any]]:
        """(key, job) of the entries of a backlog that are worth a look, in their order."""
        tree, oid = place.tree, place.tree._p_oid
        front = self._front.get(oid, SENTINEL) if place.mine else SENTINEL
        for key in sorted(self._news.get(oid, ())) if place.mine else ():
            if key in tree:
                yield key, tree[key]
        for key, job in tree.items(front + 1):
            self.looks += 1
            if key not in self.keys:
                yield key, job
