"""What an instance remembers of its databases, in a small file: so that a restored backup does not go unnoticed."""

from typing import Any

import json
import logging
import os
import threading

logger = logging.getLogger("collective.zcasync.events")

#: Databases that one file remembers; those that were seen last.
KEPT = 20


_lock = threading.Lock()


class SeenFile:
    """identity of the queues -> the latest transaction in which their dispatchers have said something.

    ``path``: of a file that is made if it is missing; None: nothing is remembered. Processes of one instance share it.
    A file that cannot be read or written costs one log line, and keeps nobody from working.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._told = False

    def read(self, identity: str) -> bytes:
        """That transaction's id; empty if none is remembered."""
        try:
            return bytes.fromhex(self._all().get(identity, ""))
        except (OSError, ValueError, TypeError) as error:
            self._tell(error)
            return b""

    def write(self, identity: str, tid: bytes) -> None:
        """Remember that transaction, unless a later one is remembered."""
        if self.path is None or self.read(identity) >= tid:
            return
        with _lock:
            try:
                known = self._all()
                known.pop(identity, None)
                self._store({**dict(list(known.items())[1 - KEPT :]), identity: tid.hex()})
            except (OSError, ValueError, TypeError) as error:
                self._tell(error)

    def _all(self) -> dict[str, str]:
        if self.path is None:
            return {}
        try:
            with open(self.path, encoding="ascii") as file:
                found = json.load(file)
        except FileNotFoundError:
            return {}
        if not isinstance(found, dict):
            raise ValueError(f"it holds no JSON object, but {type(found).__name__}")
        return found

    def _store(self, known: dict[str, str]) -> None:
        path: Any = self.path
        part = f"{path}.{os.getpid()}"
        with open(part, "w", encoding="ascii") as file:
            json.dump(known, file, indent=1)
        os.replace(part, path)  # others read the one or the other, never half of it

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            logger.warning("seen-file: %s cannot be used (%s); a restored backup may go unnoticed", self.path, error)
