"""Who owns the queues of a database: a deployment, known by its name, or by the addresses of its storage."""

from collections.abc import Iterator
from persistent import Persistent
from typing import Any
from urllib.parse import urlsplit

import os
import re
import uuid

#: Addresses that are remembered; the oldest are forgotten.
REMEMBERED = 16

#: What of a data source name says which database it is. User and password do not.
_PLACE = ("host", "hostaddr", "port", "dbname", "service")
_KEYS = [*((name, name) for name in _PLACE), ("dbname", "db")]


class Deployment(Persistent):
    """``root[KEY].deployment``. Written when the owner changes, when it gets to be known by another address, and when
    a dispatcher finds that the database is a copy or a backup; conflicts are not resolved: the second looks again."""

    #: (kind, detail) of what keeps all dispatchers from working until a person decides; see ownership. None: nothing.
    hold: tuple[str, str] | None = None

    def __init__(self, name: str, address: str) -> None:
        self.adopt(name, address)

    def adopt(self, name: str, *addresses: str) -> None:
        """Belong to this deployment, and to no other. What instances remember of the database counts no more."""
        self.identity = uuid.uuid4().hex
        self.name = name
        self.addresses: tuple[str, ...] = tuple(dict.fromkeys(filter(None, addresses)))[-REMEMBERED:]
        self.hold = None

    def is_of(self, name: str, address: str) -> bool:
        """Whether a deployment of this name, or if it has none, with a storage of this address, owns the queues.

        Who was known by an address may get a name. A storage without an address lies in memory, and is no copy.
        """
        if self.name or (name and address not in self.addresses):
            return name == self.name
        return not address or not self.addresses or address in self.addresses

    def get_to_know(self, name: str, address: str) -> bool:
        """Remember the name and the address of who belongs here; whether that was new."""
        known, before = self.addresses, self.name
        if address and address not in known:
            self.addresses = (*known, address)[-REMEMBERED:]
        if name and not before:
            self.name = name
        return self.addresses != known or self.name != before

    def __str__(self) -> str:
        return self.name or ", ".join(self.addresses) or "nobody"


def of(queues: Any) -> Deployment | None:
    """The owner of the queues; None if no dispatcher that knows of owners has come to them yet."""
    found = queues.deployment
    return found if isinstance(found, Deployment) else None  # older code stored a text, and never read it


def address_of(storage: Any) -> str:
    """Where a storage is, without any password: a path, a server, a database; empty if it is in memory.

    The same database may have several: a server goes by several names.
    """
    for one in _layers(storage):
        adapter = getattr(one, "_adapter", None)
        if adapter is not None:
            return _of_relstorage(adapter)
        servers = getattr(one, "_addr", None)
        if servers is not None:
            return f"zeo:{text_of_servers(servers)}/{getattr(one, '_storage', '1')}"
        path = getattr(one, "_file_name", None)
        if path:
            return os.path.realpath(path)
    return ""


def _layers(storage: Any) -> Iterator[Any]:
    """A storage, and what it wraps; of a DemoStorage what it writes to."""
    seen: list[int] = []
    while storage is not None and id(storage) not in seen:
        yield storage
        seen.append(id(storage))
        parts = getattr(storage, "__dict__", {})
        inner = (parts.get(name) for name in ("changes", "base", "_BlobStorage__storage", "_storage", "storage"))
        storage = next((one for one in inner if hasattr(one, "lastTransaction")), None)


def text_of_servers(servers: Any) -> str:
    """The addresses of ZEO servers, of which there may be one or several, as ZEO's client has them."""
    single = isinstance(servers, str) or len(servers) == 2 and isinstance(servers[1], int)
    texts = [one if isinstance(one, str) else f"{one[0]}:{one[1]}" for one in ([servers] if single else servers)]
    return ",".join(sorted(texts))


def _of_relstorage(adapter: Any) -> str:
    dsn = getattr(adapter, "_dsn", None)
    if dsn is None:
        parts = getattr(adapter, "_params", None) or {}
        dsn = " ".join(f"{name}={parts[key]}" for name, key in _KEYS if key in parts)
    elif "://" in dsn:
        url = urlsplit(dsn)
        return f"sql:{url.hostname or ''}:{url.port or ''}{url.path}"
    places = dict(re.findall(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S+)", str(dsn)))
    told = " ".join(f"{name}={places[name]}" for name in _PLACE if name in places)
    return f"sql:{told}" if told else ""
