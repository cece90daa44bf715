"""Finding a job by its id or by one of its callbacks, and telling whether a record is a job that can be loaded."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import transactions
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.interfaces import IJob
from typing import Any
from ZODB.POSException import POSKeyError
from ZODB.utils import get_pickle_metadata

import itertools
import logging
import re
import sys
import ZODB.broken

logger = logging.getLogger("collective.zcasync.events")

#: Records that a storage is asked for at once.
TOGETHER = 100

_ID = re.compile(r"([0-9a-f]{1,16})(?:@(\S+))?")


def parse(id: Any) -> tuple[bytes, str | None]:
    """(oid, database name or None) of a job's id; JobNotFound if it is not one."""
    found = _ID.fullmatch(id) if isinstance(id, str) else None
    if found is None:
        raise JobNotFound(f"{id!r} is not the id of a job: a job's id is a text of hex digits, as job.id gives it")
    return int(found[1], 16).to_bytes(8, "big"), found[2]


def stored_class(connection: Any, oid: bytes) -> tuple[str, str] | None:
    """(module, name) of the class of a record, without loading it; None if there is no such record."""
    added = connection._added.get(oid)
    if added is not None:
        return type(added).__module__, type(added).__name__
    try:
        data = connection._storage.load(oid)[0]
    except POSKeyError:
        return None
    return get_pickle_metadata(data)


def find(connection: Any, id: str) -> Any:
    """The job with that id, seen from a connection; JobNotFound for anything else, whatever it may be.

    The class of the record is looked at before the record is loaded: ids come from outside.
    """
    oid, database = parse(id)
    if database is not None:
        try:
            connection = connection.get_connection(database)
        except KeyError:
            raise JobNotFound(f"there is no database {database!r} here, which the id {id!r} names") from None
    if stored_class(connection, oid) is None:
        raise JobNotFound(f"no job has the id {id!r}; finished jobs are kept for the queue's retention time only")
    if not is_job_class(stored_class(connection, oid)):
        raise JobNotFound(f"{id!r} is not the id of a job")
    return connection.get(oid)


def loads(job: Any) -> bool:
    """Whether the record can be loaded. That the database is away says nothing about it, and is raised."""
    try:
        if isinstance(job, ZODB.broken.Broken) or not IJob.providedBy(job):
            return False
        job._p_activate()
    except Exception as error:
        if transactions.is_disconnect(error) or transactions.is_conflict(error):
            raise
        logger.warning("The record of a job cannot be loaded", exc_info=True)
        return False
    return True


def ghost_of(connection: Any, oid: bytes, cls: Any = None) -> Any:
    """The job with that oid, not yet loaded. ``cls``: its class, if that is known: else the record is read to tell."""
    return connection.get(oid) if cls is None else connection._reader.load_persistent(oid, cls)


def fetch(records: Iterable[Any]) -> None:
    """Have the storage bring those that are not loaded yet at once: each alone costs a way there and back. That one is
    missing is found when it is loaded."""
    ghosts = [record for record in records if record._p_changed is None and record._p_jar is not None]
    if len(ghosts) > 1:
        ghosts[0]._p_jar.prefetch(ghosts)


def fetched(found: Iterable[Any], record: Callable[[Any], Any] = lambda one: one) -> Iterator[Any]:
    """The same, lazily; the storage brings so many of their records at once. ``record``: that of one, if it is none
    itself; where it gives None it will not be looked at."""
    found = iter(found)
    while some := list(itertools.islice(found, TOGETHER)):
        fetch(one for one in map(record, some) if one is not None)
        yield from some


def main_of(job: Any) -> Any:
    """The job that a queue or agent holds: for a callback the one to which it belongs, by any chain; else itself."""
    while job.is_callback and IJob.providedBy(job.parent):
        job = job.parent
    return job


def stands_alone(job: Any) -> bool:
    """Whether a callback stands in a queue itself, for a late callback of its own, since the job to which it belonged
    had ended: who takes it from there sees to it, and nobody else."""
    return job.is_callback and job.parent is not None and not IJob.providedBy(job.parent)


def is_job_class(name: tuple[str, str] | None) -> bool:
    """Whether records of that class are jobs. A subclass is looked up in loaded modules only: nothing is imported."""
    if name is None:
        return False
    if name == ("collective.zcasync.job", "Job"):
        return True
    found: Any = sys.modules.get(name[0])
    for part in name[1].split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and IJob.implementedBy(found)
