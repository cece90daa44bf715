"""What a person decides about a database whose dispatchers are held: to release what waits, or to discard it."""

from collective.zcasync import actions
from collective.zcasync import claims
from collective.zcasync import deployment
from collective.zcasync import filing
from collective.zcasync import ownership
from collective.zcasync.entries import place_rows
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import QueueNotFound
from collective.zcasync.instanceuuid import process_place
from collective.zcasync.lookup import loads
from collective.zcasync.plaindata import connection_of
from collective.zcasync.queue import get_queues
from itertools import islice
from typing import Any

import logging
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Jobs that one transaction discards.
BATCH = 500


def release(queues: Any, name: str = "", address: str = "", by: str = "") -> int:
    """Let the queues belong to the deployment of that name or storage address, and of the dispatchers that
    are held in its name; how many jobs may go on.

    In the present transaction. InUse while dispatchers that are not held work here: it is no copy then.
    """
    _refuse_in_use(queues)
    number = ownership.waiting(queues)
    held = [
        da for da in ownership.registered(queues) if da.held is not None and da.process.get("deployment", "") == name
    ]
    addresses = [da.process.get("address", "") for da in held]
    for da in held:
        da.held = None  # as its dispatcher will in a moment: whoever looks until then is not to be misled
    if deployment.of(queues) is None:
        queues.deployment = deployment.Deployment(name, address)
    queues.deployment.adopt(name, *addresses, address)
    logger.warning("The database was released on request%s: jobs that go on: %s", _of(by), number)
    return number


def discard(context: Any, name: str = "", address: str = "", by: str = "") -> int:
    """Remove all jobs that wait or were running, for good and without callbacks, and release the database; how many.

    ``context``: leads to a connection; it is done in one of its own, and committed in batches. Jobs whose code cannot
    be loaded are removed too; what was set aside, and the history, stay. InUse as for ``release``.
    """
    database = connection_of(context).db()
    connection = database.open(transaction.TransactionManager())
    number = 0

    def batch() -> int:
        queues = get_queues(connection)
        if queues is None:
            raise QueueNotFound("this database has no queues, so nothing waits in it")
        _refuse_in_use(queues)
        _give_back(queues)
        removed = sum(_remove(queue, BATCH) for queue in queues.values())
        if not removed:  # in the same transaction: whoever puts a job meanwhile means it
            release(queues, name, address, by)
        return removed

    try:
        while removed := actions.commit(connection, batch):
            number += removed
            connection.cacheGC()
    finally:
        connection.close()
    logger.warning("What waited in the database was discarded on request%s: %s jobs", _of(by), number)
    return number


def _refuse_in_use(queues: Any) -> None:
    for da in ownership.registered(queues):
        if da.held is None and not da.dead:
            where = process_place(da.process) or "somewhere"
            raise InUse(
                f"dispatcher {da.name} ({where}) works on this database, or did a minute ago. If this is a copy that"
                " was just made, try again in a minute; else nothing is to be released or discarded here"
            )


def _give_back(queues: Any) -> None:
    """Let those jobs wait again that dispatchers ran which are dead, or never were here."""
    for da in list(ownership.registered(queues)):
        if da.held is None:
            da.deactivate(died=True)


def _remove(queue: Any, most: int) -> int:
    """Remove so many jobs from the places of a queue; how many."""
    taker = claims.Taker(queue, None)
    rows = list(islice((row for place in queue.all_places() for row in place_rows(place)), most))
    for row in rows:
        taker.leave(row)
        _forget(queue, row.job)
    for key in list(islice(queue.waiting_for, most)):
        outers = queue.waiting_for.pop(key)
        queue.adjust("awaiting", -len(outers))
        for outer in outers:
            _forget(queue, outer)
        rows += outers
    for key in list(islice(queue.deadlines, most)):
        del queue.deadlines[key]
    return len(rows)


def _forget(queue: Any, job: Any) -> None:
    if loads(job):
        filing.leave_quotas(queue, job)
        job.parent = None


def _of(by: str) -> str:
    return f" of {by}" if by else ""
