"""What the panel computes for each page of one site, with many jobs waiting and as many finished, of two sites.

How long a site's server takes for the pages themselves is in ``sitepages``.
"""

from benchmarks import growth
from benchmarks import jobs
from benchmarks import rates
from benchmarks.clients import Here
from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import activity
from collective.zcasync import alarms
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync import ownjobs
from collective.zcasync import policyactions
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Site
from datetime import timedelta
from typing import Any

import statistics
import time

#: The two sites; pages are those of the first.
GROUPS = ("01", "02")

#: Users who have put the jobs, in turn.
USERS = 50

#: Of so many jobs one more waits for its time, and one has failed.
TENTH = 10

#: Jobs of each kind that a page looks at for who uses a retry policy, as the panel does.
POLICY_LOOK = 1000


def fill(here: Here, number: int, make: Callable[[int], Any] | None = None) -> None:
    """So many jobs that wait and as many that have ended, and a tenth more that waits for its time.

    ``make``: makes the job of a number, as ``_job`` does, for sites that are there already.
    """
    make = make or _job
    failure = Failure.from_exception(ValueError("it does not work"))
    with here.connection() as connection:
        manager = connection.transaction_manager
        manager.begin()
        queues = get_queues(connection)
        for group in GROUPS if make is _job else ():
            queues.sites[group] = Site(f"/{group}")
        manager.commit()
        for some in rates.batches(connection, number):
            queue = get_queue(connection)
            slot = queue.any_slot()
            for each in some:
                queue.put(make(each))
                ended = make(each)
                ended.parent = queue
                if each % TENTH:
                    growth.file(connection, slot, ended)
                else:
                    later = make(each // TENTH)
                    later.begin_after = clock.utcnow() + timedelta(days=1)
                    queue.put(later)
                    growth.file(connection, slot, ended, "failed", failure)
        hand = growth.Hand(connection)
        hand.settle()
        hand.leave()


def _job(number: int) -> Any:
    job = Job(jobs.noop, "some", number)
    job.group, job.user = GROUPS[number % len(GROUPS)], f"user{number % USERS}"
    return job


class AllTasks:
    """As if people were to see the jobs of each task."""

    def __contains__(self, name: object) -> bool:
        return True


def pages(connection: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The pages by name, each with all that it asks."""
    queues, group = get_queues(connection), GROUPS[0]
    own = ownjobs.Owner(group, "user0", AllTasks())

    def listed(state: str) -> None:
        joblists.counts(queues, group=group)
        for other in (joblists.RETRYING, joblists.ATTENTION):
            joblists.count(queues, other, group=group)
        joblists.jobs(queues, state, group=group)
        if state == joblists.FAILED:
            joblists.failures(queues, group=group)

    def overview() -> None:
        alarms.examine(queues, None, group)
        joblists.counts(queues, group=group)
        joblists.queues(queues)
        activity.last_hour(queues)
        for minutes in (30, 60):
            activity.last_day(queues, minutes=minutes)

    def all_queues() -> None:
        joblists.queues(queues)
        for queue in joblists.all_queues(queues):
            alarms.oldest_waiting(queue)

    some = joblists.jobs(queues, joblists.FAILED, group=group, limit=1).rows[0].id
    yield "overview", overview
    for state in joblists.LISTS:
        yield f"jobs {state}", lambda state=state: listed(state)
    yield "job", lambda: joblists.job(connection, some)
    yield "queues", all_queues
    yield "my jobs", lambda: ownjobs.own_jobs(queues, own)
    yield "policy", lambda: policyactions.policy_use(queues, policyactions.DEFAULT_POLICY, POLICY_LOOK)


def measure(here: Here, samples: int) -> dict[str, float]:
    """Milliseconds of each page, all of it loaded anew: the median."""
    found = {}
    with here.connection() as connection:
        manager = connection.transaction_manager
        manager.begin()
        for name, page in list(pages(connection)):
            took = []
            for _ in range(samples):
                manager.abort()
                connection.cacheMinimize()
                manager.begin()
                began = time.perf_counter()
                page()
                took.append(1000 * (time.perf_counter() - began))
            found[name] = statistics.median(took)
    return found
