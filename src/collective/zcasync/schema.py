"""The schema of the stored queues: whether this code may write them, and how a person raises it after an upgrade."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import instanceuuid
from collective.zcasync import interfaces
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import SchemaTooNew
from collective.zcasync.readchecks import read_current
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")

#: What dispatchers understand whose registrations say nothing of it: they are older than that.
FIRST = 1

#: schema -> what makes the queues of that schema those of the next one, in one transaction. It leaves waiting jobs as
#: they are, as puts that had begun before come after it: code reads the jobs of the schema before its own.
STEPS: dict[int, Callable[[Any], None]] = {}


def understood(queues: Any) -> bool:
    """Whether this code may write these queues."""
    return bool(queues.schema <= interfaces.SCHEMA)


def check(queues: Any) -> None:
    """SchemaTooNew, naming the version that is needed, if this code may not write these queues."""
    if not understood(queues):
        raise SchemaTooNew(too_new(queues))


def check_database(connection: Any) -> None:
    """As ``check``, for the queues of a connection's database, if it has any."""
    queues = connection.root().get(interfaces.KEY)
    if queues is not None:
        check(queues)


def too_new(queues: Any) -> str:
    """What to say where this code is too old for the queues, with the version that is needed."""
    jar = queues._p_jar
    where = "" if jar is None else f" in the database {jar.db().database_name!r}"
    return (
        f"the queues{where} have schema {queues.schema}, and collective.zcasync {instanceuuid.version()} knows no newer"
        f" one than {interfaces.SCHEMA}: install {_needed(queues)}, and restart this process"
    )


def raise_newest(queues: Any) -> tuple[int, int]:
    """Raise the schema to the newest that this code knows; (the one before, the one now), which may be the same.

    Within the present transaction, which conflicts with dispatchers that register meanwhile. Raises SchemaTooNew, and
    InUse while a dispatcher is registered that does not understand the new one. One whose process is certainly gone
    is buried.
    """
    check(queues)
    before = queues.schema
    if before == interfaces.SCHEMA:
        return before, before
    older = [da for da in _registered(queues) if da.process.get("schema", FIRST) < interfaces.SCHEMA]
    for da in [da for da in older if instanceuuid.process_is_gone(da.process) is True]:
        da.deactivate(died=not da.stops)
    living = sorted({_who(da) for da in older if da.activated is not None})
    if living:
        raise InUse(
            f"schema {interfaces.SCHEMA} is not understood by {', '.join(living)}: update and restart these processes"
            " first. One that has died is forgotten by a dispatcher of this version, about a minute after it starts"
        )
    for schema in range(before, interfaces.SCHEMA):
        STEPS[schema](queues)
    queues.schema, queues.schema_by = interfaces.SCHEMA, instanceuuid.version()
    logger.warning("The schema of the queues was raised from %d to %d", before, interfaces.SCHEMA)
    return before, interfaces.SCHEMA


def _registered(queues: Any) -> Iterator[Any]:
    """The active registrations in all queues. Whoever registers at the same time makes the commit conflict."""
    read_current(queues._queues)
    for queue in queues.values():
        read_current(queue.dispatchers._data)
        for da in queue.dispatchers.values():
            queues._p_jar.readCurrent(da)
            if da.activated is not None:
                yield da


def _who(da: Any) -> str:
    place = instanceuuid.process_place(da.process)
    return f"dispatcher {da.UUID}" + (f" ({place}, version {da.process.get('version')})" if place else "")


def _needed(queues: Any) -> str:
    return f"{queues.schema_by} or newer" if queues.schema_by else "a newer version"
