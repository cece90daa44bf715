"""The jobs of one person, found by looking within bounds, by a fresh connection."""

from collections.abc import Callable
from collective.zcasync import monitorrows
from collective.zcasync import ownjobs
from collective.zcasync.api import task
from collective.zcasync.joblists import FAILED
from collective.zcasync.joblists import RUNNING
from collective.zcasync.joblists import SCHEDULED
from collective.zcasync.joblists import WAITING
from collective.zcasync.ownjobs import own_jobs
from collective.zcasync.ownjobs import OwnJobs
from collective.zcasync.queue import install
from collective.zcasync.tasks import make_job
from datetime import timedelta
from typing import Any

import enginejobs
import pytest
import transaction


@task(name="ownjobs.shown", visible=True)
def shown(number: int = 0) -> int:
    return 10 // number


@task(name="ownjobs.hidden")
def hidden() -> None:
    """Not for people."""


class Site:
    """A database in which people put jobs."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.connection = database.open()
        self.queue = install(self.connection)[""]
        transaction.commit()

    def put(self, user: str = "jane", task: Any = shown, *args: Any, group: str = "1", **options: Any) -> Any:
        job = make_job(task, args, {})
        job.user, job.group = user, group
        self.queue.put(job, **options)
        transaction.commit()
        return job

    def look(self, user: str = "jane", group: str = "1", skip: int = 0) -> OwnJobs:
        connection = self.database.open(transaction.TransactionManager())
        try:
            return own_jobs(connection, ownjobs.Owner(group, user, {"ownjobs.shown"}), skip)
        finally:
            connection.close()


@pytest.fixture
def site(open_database: Callable[[], Any]) -> Any:
    site = Site(open_database())
    yield site
    transaction.abort()
    site.connection.close()


def ids(jobs: tuple[ownjobs.OwnJob, ...]) -> list[str]:
    return [job.row.id for job in jobs]


def test_only_the_persons_own_jobs_of_this_site_and_of_visible_tasks_are_found(site: Site) -> None:
    mine = site.put()
    site.put("john")
    site.put("jane", hidden)
    site.put("jane", group="2")
    assert ids(site.look().active) == [mine.id]
    assert site.look().complete


def test_what_runs_what_is_to_start_later_and_what_has_ended_are_found_too(site: Site) -> None:
    ended, running = site.put("jane", shown, 0), site.put()
    agent = enginejobs.make_agent(site.queue)
    agent.size = 2
    enginejobs.perform(agent)
    agent.claimJob()
    transaction.commit()
    later = site.put(begin_after=running.put_at + timedelta(days=1))
    waiting = site.put()
    found = site.look()
    assert [(one.row.id, one.row.state) for one in found.active] == [
        (waiting.id, WAITING),
        (later.id, SCHEDULED),
        (running.id, RUNNING),
    ]
    assert [(one.row.id, one.row.state) for one in found.ended] == [(ended.id, FAILED)]


def test_a_waiting_job_tells_how_many_are_before_it_up_to_a_hundred(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("john")
    mine = site.put()
    (found,) = site.look().active
    assert (found.row.id, found.ahead) == (mine.id, 1)
    monkeypatch.setattr(ownjobs, "AHEAD", 0)
    assert site.look().active[0].ahead is None


def test_a_look_is_bounded_finds_the_newest_and_says_that_more_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownjobs, "LOOK", 3)
    site.put()
    for _number in range(3):
        site.put("john")
    assert site.look() == OwnJobs(complete=False)
    mine = site.put()
    assert ids(site.look().active) == [mine.id]


def test_a_long_history_is_looked_at_from_its_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = enginejobs.make_agent(site.queue)
    old, others, new = (
        site.put("jane", shown, 1),
        [site.put("john", shown, 1) for _ in range(3)],
        site.put("jane", shown, 1),
    )
    for _job in (old, *others, new):
        agent.claimJob()()  # which files it away
        transaction.commit()
    monkeypatch.setattr(ownjobs, "LOOK", 3)
    found = site.look()
    assert (ids(found.ended), found.complete, found.next) == ([new.id], False, 3)
    older = site.look(skip=3)
    assert (ids(older.ended), older.complete, older.next) == ([old.id], True, None)


def test_a_look_that_has_found_many_goes_on_behind_the_last_of_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownjobs, "MOST_ENDED", 2)
    agent, jobs = enginejobs.make_agent(site.queue), [site.put("jane", shown, 1) for _number in range(3)]
    for _job in jobs:
        agent.claimJob()()
        transaction.commit()
    waiting = site.put()
    found = site.look()
    assert ids(found.active) == [waiting.id] and found.complete
    older = site.look(skip=found.next or 0)
    assert ids(found.ended) + ids(older.ended) == [job.id for job in reversed(jobs)]
    assert older.active == () and older.next is None
    monkeypatch.setattr(monitorrows, "LAST_SKIP", 1)
    assert site.look().next is None and site.look(skip=2) == OwnJobs()
