"""What the pages load is the same however many jobs wait and have ended: in records, for one site of two."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import activity
from collective.zcasync import alarms
from collective.zcasync import jobentries
from collective.zcasync import joblists
from collective.zcasync import ownjobs
from collective.zcasync import places
from collective.zcasync import policyactions
from collective.zcasync.claims import Taker
from collective.zcasync.clock import utcnow
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.queue import Site
from datetime import timedelta
from typing import Any

import enginejobs
import pytest
import transaction

#: Jobs that wait, and as many that have ended, at which costs are compared; a tenth as many wait for their time.
SMALL, LARGE = 2000, 20_000

#: A page may load so many times more from the large database: its trees are a level deeper.
FACTOR = 2

#: A look that loads a few records only may load so many more.
FEW = 40

#: Jobs that lists and counts look at here, so that also the small database has more.
LOOK = 100

#: Records that one page may load, at most, with these.
MOST = 2 * ownjobs.LOOK + 500

GROUPS = ("01", "02")


class Everything:
    """All tasks."""

    def __contains__(self, name: object) -> bool:
        return True


def more(queue: Any, agent: Any, number: int) -> None:
    """So many more of each kind, of two sites in turn."""
    places._thread.__dict__.clear()
    for value in range(number):
        job = Job(enginejobs.add, value)
        job.group, job.user = GROUPS[value % 2], "ada"
        queue.put(job)
        if value % 10 == 0:
            later = Job(enginejobs.add, value)
            later.group, later.begin_after = GROUPS[value // 10 % 2], utcnow() + timedelta(days=1)
            queue.put(later)
        if value % 1000 == 999:
            settle(queue, agent)
    settle(queue, agent)
    failure = Failure.from_exception(ValueError("no"))
    ended = []
    for group in GROUPS:  # one job stands for many: only the number of entries matters
        for outcome, result in (("succeeded", 1), ("failed", failure)):
            job = Job(enginejobs.add, 1)
            job.group = group
            queue._p_jar.add(job)
            job._finish(result, utcnow())
            ended.append((job, outcome))
    for value in range(number):
        job, outcome = ended[value % 4]
        agent.slot.file(job, outcome, utcnow() + timedelta(microseconds=value))
    transaction.commit()
    queue._p_jar.cacheMinimize()


def settle(queue: Any, agent: Any) -> None:
    """Let claims put all that waits where it belongs, and take nothing."""
    transaction.commit()
    while sum(map(len, queue.overflows)) or any(len(inbox) > 1 for inbox in queue.inboxes):
        taker = Taker(queue, agent.slot)
        taker.take(0)
        taker.spill()
        changed = taker.changed
        transaction.commit()
        if not changed:
            return


def looks(queue: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What the pages ask, by name."""
    source, group = queue.parent, GROUPS[0]
    yield "counts", lambda: joblists.counts(source, group=group)
    for state in joblists.LISTS:
        yield f"list {state}", lambda state=state: joblists.jobs(source, state, group=group, limit=50)
        yield f"count {state}", lambda state=state: joblists.count(source, state, group=group)
    yield "alarms", lambda: alarms.examine(source, None, group)
    yield "day", lambda: activity.last_day(source)
    yield "queues", lambda: joblists.queues(source)
    yield "failures", lambda: joblists.failures(source, group)
    yield "own", lambda: ownjobs.own_jobs(source, ownjobs.Owner(group, "ada", Everything()))
    yield "use", lambda: policyactions.policy_use(source, "default", 1000)


def loads(queue: Any, look: Callable[[], Any]) -> int:
    """How many records a look loads into an empty cache."""
    queue._p_jar.cacheMinimize()
    queue._p_jar.getTransferCounts(True)
    look()
    return int(queue._p_jar.getTransferCounts(True)[0])


def test_no_page_loads_more_than_twice_as_much_with_ten_times_as_many_jobs(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblists, "PAGE_LOOK", LOOK)
    monkeypatch.setattr(jobentries, "COUNT_LOOK", LOOK)
    agent, found = enginejobs.make_agent(queue), []
    for group in GROUPS:
        queue.parent.sites[group] = Site(f"/{group}")
    for number in (SMALL, LARGE - SMALL):
        more(queue, agent, number)
        found.append({name: loads(queue, look) for name, look in looks(queue)})
    small, large = found

    worse = {name: (small[name], large[name]) for name in small if large[name] > FACTOR * small[name] + FEW}
    assert worse == {}
    assert max(large.values()) <= MOST, large


@pytest.mark.parametrize("number", [150, 1200])
def test_waiting_jobs_of_one_site_are_counted_without_those_of_another(queue: Any, number: int) -> None:
    agent = enginejobs.make_agent(queue)
    for group in GROUPS:
        queue.parent.sites[group] = Site(f"/{group}")
    more(queue, agent, 2 * number)
    counted = joblists.counts(queue.parent, group="01")["waiting"]
    assert counted == joblists.Count(min(number, 1000), more=number > 1000)


@pytest.mark.parametrize("state", [joblists.WAITING, joblists.FINISHED])
def test_a_page_far_from_the_beginning_looks_at_no_more_jobs_than_the_first(
    queue: Any, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    looked: list[Any] = []
    fits = jobentries.Entry.fits

    def noted(entry: Any, *args: Any) -> bool:
        looked.append(entry)
        return fits(entry, *args)

    monkeypatch.setattr(jobentries.Entry, "fits", noted)
    more(queue, enginejobs.make_agent(queue), 2 * SMALL)
    page = joblists.jobs(queue.parent, state, group="01", start=900, limit=50)
    assert len(page.rows) == 50 and page.more
    assert len(looked) <= jobentries.COUNT_EXACT + 50 + 1


def test_of_a_job_only_what_is_looked_for_is_read() -> None:
    class Seen:
        """Has everything, and tells what was read."""

        def __init__(self) -> None:
            self.read: set[str] = set()

        def __getattr__(self, name: str) -> str:
            self.read.add(name)
            return "ada"

    for search, read in (
        (joblists.Search(user="ada"), {"user"}),
        (joblists.Search(cause="ada"), {"fingerprint"}),
        (joblists.Search(), set()),
    ):
        job = Seen()
        assert search.fits(job)
        assert job.read == read
