"""What stands in which list of jobs, lazily, and how many there are: read from the structures, nothing is written."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.entries import newest_keys
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.jobdetail import group_of
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jobdetail import oid_text
from collective.zcasync.jobsearch import NOTHING
from collective.zcasync.jobsearch import Search
from collective.zcasync.lookup import fetched
from collective.zcasync.monitorrows import ATTENTION
from collective.zcasync.monitorrows import Count
from collective.zcasync.monitorrows import FINISHED
from collective.zcasync.monitorrows import LISTS
from collective.zcasync.monitorrows import OUTCOME_OF_STATE
from collective.zcasync.monitorrows import QUARANTINED
from collective.zcasync.monitorrows import RETRYING
from collective.zcasync.monitorrows import RUNNING
from collective.zcasync.monitorrows import SCHEDULED
from collective.zcasync.monitorrows import STATE_OF_OUTCOME
from collective.zcasync.monitorrows import STATES
from collective.zcasync.monitorrows import WAITING
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Queues
from collective.zcasync.states import STORED
from datetime import datetime
from itertools import islice
from typing import Any
from typing import NamedTuple

#: Jobs of one site that are counted one by one; from there on "or more".
COUNT_LIMIT = 1_000

#: Entries whose jobs a count loads, at most; then "or more" too. Several such counts stand on one page.
COUNT_LOOK = 1_000

#: Waiting jobs of a site's own places that a count loads, or a list before its page: of more only the keys are read.
COUNT_EXACT = 100

#: Newest entries of each inbox that are looked at for cancelled jobs: no claim takes them out while nobody is at work.
UNSWEPT_LOOK = 8

_COMPLETED = STORED[COMPLETED]


class Entry(NamedTuple):
    """A job where it stands."""

    job: Any
    state: str
    detail: str = ""
    due: datetime | None = None
    #: What else has to hold of the job, for the list in which it was looked for.
    only: Callable[[Any], bool] | None = None
    #: Whether its place belongs to the site whose jobs are looked for, so that the job need not be asked.
    own: bool = False

    def is_known(self, number: int) -> bool:
        """Whether its place tells well enough that the job fits, if nobody searches; ``number``: how many did before.

        Among jobs that wait lie cancelled ones, until a claim comes: beyond COUNT_EXACT it is not said so exactly.
        """
        return self.own and (self.state in OUTCOME_OF_STATE or number >= COUNT_EXACT)

    def fits(self, group: str | None, search: Search = NOTHING) -> bool:
        """Whether the job belongs into a list of that site's jobs, for which somebody looks. This loads its record."""
        if self.state not in OUTCOME_OF_STATE and has_ended(self.job):
            return False  # only its place in the queue does not tell so yet
        if self.only is not None and not self.only(self.job):
            return False
        return (group is None or group_of(self.job) == group) and search.fits(self.job)


def selected(source: Any, name: str | None) -> Iterator[tuple[str, Any]]:
    """Name and queue of all queues, or of the one named."""
    found = source if isinstance(source, Queues) else get_queues(source)
    for key, queue in found.items() if found is not None else ():
        if name is None or key == name:
            yield key, queue


def entries(
    source: Any, wanted: str, group: str | None, queue: str | None, search: Search = NOTHING, oldest: bool = False
) -> Iterator[Entry]:
    """What stands in one of LISTS, and more: ask each whether it fits. Loads no job that the structures know apart."""
    for _name, one in selected(source, queue):
        yield from _of_list(one, wanted, group, search, oldest)


def _of_list(queue: Any, wanted: str, group: str | None, search: Search, oldest: bool) -> Iterator[Entry]:
    if wanted == WAITING:
        for row in queue.waiting_rows(group):
            yield Entry(row.job, WAITING, own=row.place.kind in ("backlog", "lane"))
        yield from (Entry(found, WAITING, why) for why, found in queue.parked_jobs())
    elif wanted == SCHEDULED:
        yield from (Entry(found, SCHEDULED, due=due) for due, found in queue.later_jobs(search.span))
    elif wanted == RETRYING:
        for entry in _of_list(queue, SCHEDULED, group, search, oldest):
            yield entry._replace(only=_is_retry)
    elif wanted == RUNNING:
        yield from (Entry(found, RUNNING, agent) for found, _uuid, agent in queue.running())
        yield from (Entry(found, RUNNING, f"waits for {oid_text(inner)}") for found, inner in queue.awaiting())
    elif wanted == QUARANTINED:
        yield from (Entry(found, QUARANTINED, reason) for reason, found in queue.quarantined())
    elif wanted == ATTENTION:
        yield from _of_list(queue, QUARANTINED, group, search, oldest)
        for state in (RUNNING, SCHEDULED):
            for entry in _of_list(queue, state, group, search, oldest):
                yield entry._replace(only=_needs_attention)
    else:
        outcome = OUTCOME_OF_STATE[wanted]
        yield from (Entry(found, wanted) for found in unswept(queue) if found.outcome == outcome)
        yield from (Entry(found, wanted, own=True) for found in queue.finished(outcome, group, search.span, oldest))


def _is_retry(job: Any) -> bool:
    return not is_broken(job) and job.attempts > 0


def _needs_attention(job: Any) -> bool:
    return not is_broken(job) and bool(job.needs_attention or job.overdue)


def has_ended(job: Any) -> bool:
    """Whether the job has ended, and perhaps only its place in the queue does not tell so yet."""
    return not is_broken(job) and job._status_id == _COMPLETED


def unswept(queue: Any) -> Iterator[Any]:
    """Jobs that have ended and are not in the history yet: the next claim puts them there."""
    yield from (found for found, _uuid, _agent in queue.running() if has_ended(found))
    for place in queue.all_places():
        if place.kind in ("inbox", "overflow"):
            newest = reversed(newest_keys(place.tree, UNSWEPT_LOOK))
            yield from (place.tree[key] for key in newest if has_ended(place.tree[key]))


# Counting


def list_counts(source: Any, group: str | None = None, queue: str | None = None) -> dict[str, Count]:
    """How many jobs are in each of LISTS; of one site, if ``group`` is given."""
    found = counts(source, group, queue)
    return found | {name: count(source, name, group, queue) for name in LISTS if name not in found}


def counts(source: Any, group: str | None = None, queue: str | None = None) -> dict[str, Count]:
    """How many jobs are in each state; of one site, if ``group`` is given."""
    if group is None or _only_group(source, group):
        return _stored_counts(source, queue)
    return {
        state: _filed(source, state, group, queue)
        if state in OUTCOME_OF_STATE
        else _counted(entries(source, state, group, queue), group)
        for state in STATES
    }


def count(source: Any, wanted: str, group: str | None = None, queue: str | None = None) -> Count:
    """How many jobs are in one of LISTS, which are counted one by one."""
    return _counted(entries(source, wanted, group, queue), group)


def _stored_counts(source: Any, name: str | None) -> dict[str, Count]:
    total = dict.fromkeys(STATES, 0)
    for _name, queue in selected(source, name):
        stored = queue.counts()
        total[WAITING] += stored["waiting"] + stored["parked"]
        total[SCHEDULED] += stored["later"]
        total[RUNNING] += stored["running"] + stored["awaiting"]
        total[QUARANTINED] += stored["quarantined"]
        for outcome, state in STATE_OF_OUTCOME.items():
            total[state] += stored[outcome]
        for ended in unswept(queue):
            total[STATE_OF_OUTCOME.get(ended.outcome, FINISHED)] += 1
            total[RUNNING if ended.token is not None else WAITING] -= 1
    return {state: Count(number) for state, number in total.items()}


def _counted(found: Iterator[Entry], group: str | None) -> Count:
    """Count one by one, up to the limit."""
    number = looked = 0
    for entry in fetched(found, lambda entry: None if entry.own else entry.job):
        if number == COUNT_LIMIT or looked == COUNT_LOOK:
            return Count(number, more=True)
        if entry.is_known(number):
            number += 1
        else:
            looked += 1
            number += entry.fits(group)
    return Count(number)


def _filed(source: Any, state: str, group: str, name: str | None) -> Count:
    """Count what is in the history, up to the limit, and load none of it."""
    number = 0
    for _name, queue in selected(source, name):
        outcome = OUTCOME_OF_STATE[state]
        number += sum(found.outcome == outcome and group_of(found) == group for found in unswept(queue))
        number += sum(1 for _job in islice(queue.finished(outcome, group), COUNT_LIMIT + 1))
    return Count(min(number, COUNT_LIMIT), more=number > COUNT_LIMIT)


def _only_group(source: Any, group: str) -> bool:
    """Whether no other site has ever put a job here, so that the queue's own counts are the site's."""
    found = source if isinstance(source, Queues) else get_queues(source)
    return found is not None and list(found.sites.keys()) == [group]
