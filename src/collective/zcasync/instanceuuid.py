"""Who this process is: the UUID of its dispatcher, and what tells other processes whether it still lives."""

from collective.zcasync import interfaces
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.interfaces import IUUID
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from zope.interface import classImplements

import os
import socket
import uuid

classImplements(uuid.UUID, IUUID)

#: Names of the environment variables for a UUID file; the second is zc.async's.
VARIABLES = ("ZCASYNC_UUID", "ZC_ASYNC_UUID")

_EXPLANATION = """
The line above names the dispatcher of one process in the background jobs of collective.zcasync. Two running processes
must not share this file. Without it, the process gets a new name at its next start, which does no harm.
"""


def new_uuid(path: str | None = None) -> uuid.UUID:
    """The UUID in the file at ``path`` or named by the environment, which is made if missing; else a new UUID."""
    path = path or next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)
    if not path:
        return uuid.uuid1()
    file = Path(path)
    try:
        with file.open("x", encoding="ascii") as new:
            made = uuid.uuid1()
            new.write(f"{made}\n{_EXPLANATION}")
            return made
    except FileExistsError:
        return _read(file)
    except OSError as e:
        raise ConfigurationError(f"uuid-file: {path} cannot be written ({e.strerror}); name a writable place") from e


def getUUID() -> uuid.UUID:
    """See new_uuid; the name is zc.async's."""
    return new_uuid()


def process_identity() -> dict[str, Any]:
    """Plain data that tell this process from all others, and whether it can be asked about from here."""
    stat = _stat(os.getpid())
    return {
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "started": stat[1] if stat else None,
        "version": version(),
        "schema": interfaces.SCHEMA,
    }


def process_place(identity: dict[str, Any]) -> str:
    """Where that process is, for people; empty where that is not known."""
    return f"pid {identity['pid']} on {identity.get('host')}" if identity.get("pid") else ""


def process_is_gone(identity: dict[str, Any]) -> bool | None:
    """Whether that process is gone; None if it cannot be known from here: another machine or container."""
    boot_id, namespace = _boot_id(), _pid_namespace()
    if not boot_id or not namespace:
        return None
    if identity.get("boot_id") != boot_id or identity.get("pid_namespace") != namespace:
        return None
    pid, started = identity.get("pid"), identity.get("started")
    if not isinstance(pid, int) or not isinstance(started, int):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is another user's: it exists, and /proc may tell more
    stat = _stat(pid)
    if stat is None:
        return None
    state, began = stat
    # "Z", "X": dead, and only not yet collected. A process id is used again, a start time with it is not.
    return state in ("Z", "X") or began != started


def process_memory() -> int:
    """Bytes of memory that this process has in use; 0 where that cannot be known."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _read(file: Path) -> uuid.UUID:
    try:
        with file.open(encoding="utf-8") as lines:
            text = lines.readline().strip()
    except OSError as e:
        raise ConfigurationError(f"uuid-file: {file} cannot be read ({e.strerror}); name a readable file") from e
    try:
        return uuid.UUID(text)
    except ValueError as e:
        raise ConfigurationError(
            f"uuid-file: the first line of {file} is {text[:60]!r}, not a UUID; delete the file, and it is made anew"
        ) from e


def _boot_id() -> str:
    """What the kernel drew at its start; empty where there is no such thing."""
    return os.environ.get("ZCASYNC_BOOT_ID") or _kernel_boot_id()  # tests play two machines with the variable


@cache
def _kernel_boot_id() -> str:
    """Read once: each put asks whether a dispatcher's process lives, and no process outlives its kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Containers on one machine count their processes each for itself."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter, and start in clock ticks since the boot; None where it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the second field, the name, may hold blanks and brackets
    return fields[0], int(fields[19])


@cache
def version() -> str:
    """The package's version; looked up once, since that reads files, and a running process keeps its code."""
    try:
        return metadata.version("collective.zcasync")
    except metadata.PackageNotFoundError:
        return ""
