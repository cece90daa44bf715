"""Oids that a ZEO server gave away before it was started again are not used: it gives them away anew, to others.

A client of ZEO keeps a hundred of them, also when its server comes back, which knows nothing of those that were not yet
used. Who then stores a new object under one that another client has used meanwhile meets an error, and worse: as that
transaction is undone, a connection forgets what it has loaded under this oid, and whoever still refers to that changes
something that is no part of the database any more. A job that is entered into such an inbox is lost.

What a transaction has taken before its server went is taken: another client that stores something under it meanwhile
makes a conflict of that, as it should be. But the server may give it to the same client again, for another object of
the same transaction. So a client uses nothing that is not higher than all it ever got; servers count upwards.
"""

from collections.abc import Iterable
from typing import Any

_SEEN_TO = "_zcasync_fresh_oids"


class Oids(list[bytes]):
    """The oids that a client has got and not used, the next one at the end. ``highest``: what it ever got."""

    def __init__(self, highest: bytes = b"") -> None:
        super().__init__()
        self.highest = highest

    def __setitem__(self, where: Any, oids: Iterable[bytes]) -> None:  # type: ignore[override]
        """The client puts what the server gives before what it has."""
        fresh = [oid for oid in oids if oid > self.highest]
        self.highest = max(self.highest, *fresh, b"")
        super().__setitem__(where, fresh)


def see_to(database: Any) -> None:
    """Let the client of ZEO under a database, if there is one, forget its oids whenever it finds its server again."""
    storage = database.storage
    while not hasattr(storage, "notify_connected") and hasattr(storage, "base"):
        storage = storage.base  # one that encrypts or compresses what the client stores
    if hasattr(storage, _SEEN_TO) or not hasattr(storage, "notify_connected") or not hasattr(storage, "_oids"):
        return
    connected = storage.notify_connected
    storage._oids = Oids(max(storage._oids, default=b""))  # nobody knows how old they are

    def forget(*args: Any) -> None:
        storage._oids = Oids(storage._oids.highest)  # before anybody can ask the new server for others
        connected(*args)

    storage.notify_connected = forget
    setattr(storage, _SEEN_TO, True)
