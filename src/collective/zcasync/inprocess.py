"""The dispatchers of this process, by their UUIDs."""

from typing import Any

import os
import uuid as uuidlib

_dispatchers: dict[uuidlib.UUID, Any] = {}


def get(uuid: uuidlib.UUID | None = None, default: Any = None) -> Any:
    """The dispatcher of that UUID in this process; without a UUID, the one that runs here (the first, if several)."""
    alive = {key: one for key, one in _dispatchers.items() if one.pid == os.getpid()}  # a fork inherits none
    if uuid is None:
        active = [one for one in alive.values() if one.activated]
        return (active or list(alive.values()) or [default])[0]
    return alive.get(uuid, default)


def active() -> list[Any]:
    """The dispatchers that are at work in this process."""
    return [one for one in list(_dispatchers.values()) if one.pid == os.getpid() and one.activated]


def serving(db: Any) -> Any:
    """The active dispatcher of this process that works on a database, or None."""
    return next((one for one in active() if one.db is db), None)


def pop(uuid: uuidlib.UUID | None = None, default: Any = None) -> Any:
    """Forget a dispatcher, and return it."""
    found = get(uuid)
    return default if found is None else _dispatchers.pop(found.UUID, default)


def clear() -> None:
    """Forget all dispatchers of this process."""
    _dispatchers.clear()
