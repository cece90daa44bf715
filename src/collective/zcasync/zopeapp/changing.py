"""The commands of ``zcasync`` that change jobs and queues: each is one transaction, or nothing. But for those that
change all jobs that match, which commit in batches."""

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from collective.zcasync import actions
from collective.zcasync import bulk
from collective.zcasync import clock
from collective.zcasync import copies
from collective.zcasync import foreground
from collective.zcasync import joblists
from collective.zcasync import ownership
from collective.zcasync import processes
from collective.zcasync import queuemoves
from collective.zcasync import schema
from collective.zcasync import transactions
from collective.zcasync.deployment import address_of
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.findings import jobs_text
from collective.zcasync.lookup import parse
from collective.zcasync.plaindata import interval
from collective.zcasync.queue import get_queues
from collective.zcasync.zopeapp.answers import Answer
from collective.zcasync.zopeapp.config import get_settings
from collective.zcasync.zopeapp.database import get_database
from collective.zcasync.zopeapp.looking import meant
from collective.zcasync.zopeapp.looking import named_queue
from collective.zcasync.zopeapp.opening import Opened
from collective.zcasync.zopeapp.worker import zope_started
from datetime import datetime
from typing import Any

import pdb
import sys
import transaction

#: Who asks, in the timelines of jobs.
ME = "zcasync"


def cancel(place: Opened, ids: Iterable[str]) -> Answer:
    """End jobs that have not started, and ask those that run to stop."""
    words = {
        "cancelled": "cancelled",
        "stopping": "asked to stop; it ends at its next checkpoint",
        "finished": "has ended already",
    }
    found = _each(place, ids, lambda job: actions.cancel(job, ME))
    return Answer(found, [f"Job {id}: {words[answer]}" for id, answer in found.items()])


def retry(place: Opened, ids: Iterable[str]) -> Answer:
    """Put failed or cancelled jobs once more."""
    found = _each(place, ids, lambda job: actions.retry(job, ME).id)
    return Answer(found, [f"Job {id}: put again as job {new}" for id, new in found.items()])


def cancel_all(
    place: Opened,
    states: Sequence[str] = (),
    queue: str | None = None,
    site: str | None = None,
    task: str | None = None,
) -> Answer:
    """Cancel all jobs that match."""
    which: bulk.Which = {"task": task, "by": ME, **meant(place, queue, site)}
    done = bulk.cancel_all(place.connection, tuple(states) or bulk.CANCELLABLE[:2], **which)
    return _many(done, {"cancelled": "cancelled", "stopping": "asked to stop"})


def retry_all(
    place: Opened,
    states: Sequence[str] = (),
    queue: str | None = None,
    site: str | None = None,
    task: str | None = None,
) -> Answer:
    """Put all jobs that match once more."""
    which: bulk.Which = {"task": task, "by": ME, **meant(place, queue, site)}
    done = bulk.retry_all(place.connection, tuple(states) or bulk.RETRIABLE[:1], **which)
    return _many(done, {"retried": "put again", "refused": "could not be put again"})


def release(place: Opened, ids: Sequence[str], group: str | None = None, deployment: bool = False) -> Answer:
    """Let jobs run again that were set aside, or those of a group that is held, or all of a database that is."""
    if not ids and group is None and not deployment:
        raise InvalidValueError("name the jobs to release, a held site with --group, or the database with --deployment")

    def change() -> dict[str, Any]:
        if deployment:
            copies.release(_queues_of(place), *_deployment(place), ME)
        if group is not None:
            actions.release_group(place.connection, group)
        return {id: actions.release(joblists.find(place.connection, id), ME).id for id in ids}

    found = actions.commit(place.connection, change)
    lines = [f"Job {id}: waits again" for id in found]
    if group is not None:
        lines.append(f"The jobs of {group} may run again")
    if deployment:
        lines.append("The database is released: its jobs run here from now on")
    return Answer({"jobs": list(found), "group": group, "deployment": deployment}, lines)


def discard(place: Opened, ids: Sequence[str], deployment: bool = False, yes: bool = False) -> Answer:
    """Remove jobs that were set aside, for good, or all that wait in a database that is held."""
    if bool(ids) == deployment:
        raise InvalidValueError("name the jobs to discard, or all that wait in a held database with --deployment")
    if deployment:
        return _discard_all(place, yes)
    found = _each(place, ids, lambda job: actions.discard(job, ME))
    return Answer(list(found), [f"Job {id}: discarded" for id in found])


def _discard_all(place: Opened, yes: bool) -> Answer:
    number = ownership.waiting(_queues_of(place))
    if not yes:
        question = f"Remove all {number} jobs that wait in {' '.join(_deployment(place))}, for good? Type yes: "
        if not sys.stdin.isatty() or input(question).strip() != "yes":
            raise InvalidValueError(f"nothing was discarded; --yes removes all {number} jobs that wait, for good")
    number = copies.discard(place.connection, *_deployment(place), ME)
    return Answer({"discarded": number}, [f"Jobs discarded: {number}. The database is released"])


def _queues_of(place: Opened) -> Any:
    queues = get_queues(place.connection)
    if queues is None:
        raise ConfigurationError("this database has no queues yet: nothing waits in it")
    return queues


def _deployment(place: Opened) -> tuple[str, str]:
    """Name and address of the deployment that this zope.conf describes."""
    return place.settings.deployment, address_of(place.connection.db().storage)


def delete(place: Opened, ids: Iterable[str]) -> Answer:
    """Forget jobs that have ended, or were set aside, for good."""
    found = _each(place, ids, lambda job: actions.delete(job, ME))
    return Answer(list(found), [f"Job {id}: deleted" for id in found])


def run_now(place: Opened, ids: Iterable[str]) -> Answer:
    """Let waiting jobs begin before all others."""
    found = _each(place, ids, lambda job: actions.run_now(job, ME))
    return Answer(list(found), [f"Job {id}: is next" for id in found])


def reschedule(place: Opened, when: str, ids: Iterable[str]) -> Answer:
    """Let waiting jobs begin at another time."""
    at = _moment(when)
    found = _each(place, ids, lambda job: actions.reschedule(job, at, ME))
    return Answer(
        {"jobs": list(found), "when": at}, [f"Job {id}: begins not before {at:%Y-%m-%d %H:%M:%S} UTC" for id in found]
    )


def change_priority(place: Opened, priority: int, ids: Iterable[str]) -> Answer:
    """Give waiting jobs another priority."""
    found = _each(place, ids, lambda job: actions.change_priority(job, priority, ME))
    return Answer({"jobs": list(found), "priority": priority}, [f"Job {id}: has priority {priority}" for id in found])


def pause_dispatchers(place: Opened, uuids: Iterable[str]) -> Answer:
    """Let dispatchers take no more jobs."""
    return _dispatchers(place, uuids, processes.pause, "takes no more jobs; what runs goes on")


def resume_dispatchers(place: Opened, uuids: Iterable[str]) -> Answer:
    """Let dispatchers take jobs again."""
    return _dispatchers(place, uuids, processes.resume, "takes jobs again")


def pause(place: Opened, names: Iterable[str]) -> Answer:
    """Let no job of these queues begin."""
    return _queues(place, names, actions.pause_queue, "paused; what runs goes on")


def resume(place: Opened, names: Iterable[str]) -> Answer:
    """Let jobs of these queues begin again."""
    return _queues(place, names, actions.resume_queue, "resumed")


def move_queue(old: Opened, new: Opened, name: str) -> Answer:
    """Move what waits in a queue to another database."""
    moved = queuemoves.move_queue(old.connection, new.connection, named_queue(old, name).name)
    lines = [f"Queue {name}: {jobs_text(moved.number)} in the database {new.connection.db().database_name} now"]
    lines += [f"Job {id}: stays: {why}" for id, why in moved.left.items()]
    return Answer({"moved": moved.number, "left": moved.left}, lines, attention=bool(moved.left))


def migrate(place: Opened) -> Answer:
    """Let the stored queues be as this version likes them best; older versions may not write them any more."""

    def change() -> tuple[int, int]:
        queues = get_queues(place.connection)
        if queues is None:
            raise ConfigurationError("this database has no queues yet: there is nothing to migrate")
        return schema.raise_newest(queues)

    before, now = actions.commit(place.connection, change)
    line = f"The queues have schema {now}, the newest that this version knows: nothing was to be done."
    if before != now:
        line = f"The queues had schema {before}, and have schema {now} now: older versions may not write them any more."
    return Answer({"before": before, "now": now}, [line])


def run(zope_conf: str, id: str, use_pdb: bool = False) -> Answer:
    """Start Zope and run one waiting job here. With ``use_pdb`` an error opens the debugger where it was raised."""
    with zope_started(zope_conf):
        database = get_database(get_settings(), parse(id)[1])
        report = foreground.run(database, id, post_mortem if use_pdb else None)
        with database.transaction() as connection:
            row = joblists.row(joblists.find(connection, id))
        transaction.abort()
    ended = {joblists.FINISHED: "finished", joblists.FAILED: f"failed: {row.error}"}
    text = ended.get(row.state, f"has not ended ({report}); it is {row.state} now")
    return Answer(
        {"job": id, "report": report, "state": row.state, "error": row.error},
        [f"Job {id} {text}"],
        attention=row.state != joblists.FINISHED,
    )


def post_mortem(error: Exception) -> None:
    """Open the debugger at the error's place; not for conflicts, which the job's policy tries again."""
    if not transactions.is_conflict(error) and not transactions.is_disconnect(error):
        pdb.post_mortem(error.__traceback__)


def _each(place: Opened, ids: Iterable[str], verb: Callable[[Any], Any]) -> dict[str, Any]:
    """What a verb answers for each of the jobs: all in one transaction."""
    wanted = list(ids)
    connection = place.connection
    found: dict[str, Any] = actions.commit(
        connection, lambda: {id: verb(joblists.find(connection, id)) for id in wanted}
    )
    return found


def _many(done: Counter[str], words: dict[str, str]) -> Answer:
    """What was done with all jobs that match; those that could not be put again need a person."""
    lines = [f"Jobs {text}: {done[word]}" for word, text in words.items() if done[word]]
    return Answer({word: done[word] for word in words}, lines or ["No such jobs."], attention="refused" in done)


def _queues(place: Opened, names: Iterable[str], verb: Callable[[Any], None], word: str) -> Answer:
    wanted = list(names)

    def change() -> None:
        for name in wanted:
            verb(named_queue(place, name))

    actions.commit(place.connection, change)
    return Answer(wanted, [f"Queue {name}: {word}" for name in wanted])


def _dispatchers(place: Opened, uuids: Iterable[str], verb: Callable[[Any, str], None], word: str) -> Answer:
    wanted = list(uuids)

    def change() -> None:
        for uuid in wanted:
            verb(place.connection, uuid)

    actions.commit(place.connection, change)
    return Answer(wanted, [f"Dispatcher {uuid}: {word}" for uuid in wanted])


def _moment(text: str) -> datetime:
    """The time that a text means: an interval from now, or an ISO text with an offset; InvalidValueError for others."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return clock.utcnow() + interval(text)
    return clock.aware(found, "when")
