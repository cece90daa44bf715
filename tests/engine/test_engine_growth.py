"""What puts, claims and lists cost is the same at any length of the queue: counted in records, from empty caches."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import joblists
from collective.zcasync import places
from collective.zcasync import sweeping
from collective.zcasync.claims import MANY
from collective.zcasync.claims import Taker
from collective.zcasync.clock import utcnow
from collective.zcasync.job import Job
from collective.zcasync.news import News
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.rejections import Rejections
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from datetime import timedelta
from typing import Any

import enginejobs
import pytest
import threading
import transaction
import ZODB

#: Waiting jobs at which costs are compared.
SHORT, LONG = 100, 5000

#: Records by which a long queue may be dearer: its places are all in use, and its trees are a level deeper. For the
#: counts a few of the newest jobs of each place are looked at.
DEEPER = {"claim": 80, "page": 80, "counts": 260}


@pytest.fixture
def clients() -> Iterator[Callable[[], Any]]:
    database = ZODB.DB(None, pool_size=20)
    yield lambda: database
    database.close()


def fill(queue: Any, number: int, **options: Any) -> None:
    places._thread.__dict__.clear()
    for value in range(number):
        job = Job(enginejobs.add, value)
        for name, option in options.items():
            setattr(job, name, option)
        queue.put(job)
        if value % 1000 == 999:
            transaction.commit()
            queue._p_jar.cacheMinimize()
    transaction.commit()


def cost(queue: Any, call: Callable[[], Any]) -> tuple[int, int]:
    """(records loaded, records stored) by a call and its commit, from an empty cache."""
    connection = queue._p_jar
    connection.cacheMinimize()
    connection.getTransferCounts(True)
    call()
    transaction.commit()
    loads, stores = connection.getTransferCounts(True)
    return loads, stores


def claim(queue: Any, agent: Any, skipped: Rejections, accepts: Any = None, want: int = 4) -> Taker:
    taker = Taker(queue, agent.slot, skipped=skipped)
    taker.told, taker.tails = [skipped], _tails
    for job, kind in taker.take(want, accepts):
        agent.hold(job, kind == "run")
    return taker


_tails: dict[bytes, int] = {}


def nothing(job: Any) -> bool:
    return False


def test_puts_claims_and_lists_load_and_store_no_more_when_many_jobs_wait(queue: Any) -> None:
    agent, skipped, found = enginejobs.make_agent(queue), Rejections(), []
    for number in (SHORT, LONG):
        fill(queue, number)
        claim(queue, agent, skipped)
        transaction.commit()
        costs = {
            "put": cost(queue, lambda: queue.put(Job(enginejobs.add, 1))),
            "claim": cost(queue, lambda: claim(queue, agent, skipped)),
            "page": cost(queue, lambda: joblists.jobs(queue._p_jar, "waiting", limit=20)),
            "counts": cost(queue, lambda: joblists.counts(queue._p_jar)),
        }
        found.append(costs)
    short, long = found

    assert long["put"][0] <= short["put"][0] + 3 and long["put"][1] <= 3
    for name, more in DEEPER.items():
        assert long[name][0] <= short[name][0] + more, (name, found)
    assert long["claim"][1] <= short["claim"][1] + 12, found
    assert queue.counts()["waiting"] == SHORT + LONG + 2 - 16


def test_a_page_and_the_counts_load_no_more_when_many_jobs_have_finished(queue: Any) -> None:
    agent, found = enginejobs.make_agent(queue), []
    job = queue.put(Job(enginejobs.add, 1))
    transaction.commit()
    claim(queue, agent, Rejections(), want=1)
    job._finish(2, utcnow())
    sweeping.sweep(queue, agent.slot, [(job._p_oid, "finished")])
    transaction.commit()
    for number in (SHORT, LONG):
        for value in range(number):  # one job stands for many: only the number of entries matters
            agent.slot.file(job, "succeeded", utcnow() + timedelta(microseconds=value))
        transaction.commit()
        listed = cost(queue, lambda: joblists.jobs(queue._p_jar, "finished", limit=20))
        counted = cost(queue, lambda: joblists.counts(queue._p_jar))
        searched = cost(queue, lambda: joblists.find(queue._p_jar, job.id))
        found.append((listed[0], counted[0], searched[0]))

    assert all(long <= short + 12 for short, long in zip(*found, strict=True)), found
    assert queue.counts()["succeeded"] == SHORT + LONG + 1


def test_jobs_that_a_filter_rejects_at_the_head_are_not_looked_at_by_each_claim(queue: Any) -> None:
    agent, skipped, found = enginejobs.make_agent(queue), Rejections(), []
    for number in (SHORT, LONG):
        fill(queue, number)
        while claim(queue, agent, skipped, nothing).more:
            transaction.commit()
        transaction.commit()
        claim(queue, agent, skipped, nothing)
        transaction.commit()
        looks = skipped.looks
        loads, stores = cost(queue, lambda: claim(queue, agent, skipped, nothing))
        found.append((loads, stores, skipped.looks - looks))
    short, long = found

    assert long[0] <= short[0] + 3 and long[1] == short[1] == 0 and long[2] <= short[2]
    assert len(skipped) == SHORT + LONG and len(skipped.keys) < SHORT  # what is in memory does not grow with them


def test_jobs_of_a_filled_quota_are_not_looked_at_by_each_claim(queue: Any) -> None:
    agent, skipped, found = enginejobs.make_agent(queue), Rejections(), []
    queue.quotas.create("one", 1)
    for number in (SHORT, LONG):
        fill(queue, number, quota_names=("one",))
        while claim(queue, agent, skipped).changed:
            transaction.commit()
        transaction.abort()
        found.append(cost(queue, lambda: claim(queue, agent, skipped)))
    short, long = found

    assert long[0] <= short[0] + 3 and long[1] == short[1] == 0
    assert queue.counts()["parked"] == SHORT + LONG - 1 and len(queue.quotas["one"]) == 1


def test_a_job_put_behind_many_of_another_site_is_taken_by_the_next_claims(queue: Any) -> None:
    agent, skipped = enginejobs.make_agent(queue), Rejections()
    fill(queue, LONG)
    other = Job(enginejobs.add, 1)
    queue.put(other)
    other.group = "other"
    transaction.commit()
    for _claim in range(3):
        claim(queue, agent, skipped)
        transaction.commit()

    assert other.agent is agent


def test_of_what_was_told_only_the_queues_concerned_are_looked_at() -> None:
    news = News()
    news.watch({b"inbox a": "a", b"inbox b": "b"}, {b"a": "a", b"b": "b"}, [b"inbox b"])
    news.tell({b"inbox a", b"unknown"})
    assert news.queues() == {"a"} and not news.changed("a") and news.abroad() == set()
    news.tell({b"inbox b", b"a"}, b"other")
    news.tell({b"inbox b"}, b"own")
    news.known("b", b"own")
    assert news.queues() == {"a", "b"} and news.changed("a") and news.abroad() == {"b"}
    assert news.seen("a", abroad=True) is False and news.seen("b", abroad=True) is True
    news.tell({b"inbox b", b"b"}, b"own")
    assert news.queues() == {"b"} and news.changed("b")
    news.known("b", b"own")
    assert news.queues() == set() and news.seen("b", abroad=True)
    news.more("a")
    assert news.queues() == {"a"} and news.left("a")
    news.tell({b"inbox a"}, b"other")
    assert not news.left("a")
    news.seen("a", abroad=False)
    assert news.queues() == set()
    assert news.queues() == news.abroad() == set()
    news.tell(None)
    assert news.queues() == news.abroad() == {"a", "b"}
    news.forget("a")
    assert news.queues() == {"b"}


def test_a_wake_up_costs_transactions_only_in_the_queue_that_it_is_for(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"q{number}" for number in range(12))
    install(queue._p_jar, names)
    transaction.commit()
    one = dispatch(threads=1, poll_interval=600).dispatcher
    poll_now(one)
    original, looked = one.claimer.claim, []

    def count(name: str, *args: Any) -> Any:
        looked.append(name)
        return original(name, *args)

    monkeypatch.setattr(one.claimer, "claim", count)
    jobs = [get_queue(queue._p_jar, "q7").put(Job(enginejobs.add, number)) for number in range(20)]
    transaction.commit()
    for job in jobs:
        wait_for_result(job)

    assert set(looked) == {"q7"} and 0 < len(looked) <= 3 * len(jobs)


_slow = threading.Event()
_choices: list[str] = []


def slowly(agent: Any) -> Any:
    _choices.append(agent.name)
    _slow.wait(0.3)


def test_a_slow_chooser_keeps_other_queues_waiting_for_its_own_claims_only(queue: Any, dispatch: Any) -> None:
    install(queue._p_jar, ("slow",))
    transaction.commit()
    running = dispatch(threads=1, poll_interval=600)
    transaction.begin()
    slow = get_queue(queue._p_jar, "slow")
    slow.dispatchers[running.dispatcher.UUID]["main"].chooser = slowly
    slow.put(Job(enginejobs.add, 1))
    transaction.commit()
    poll_now(running.dispatcher)
    _choices.clear()
    jobs = [queue.put(Job(enginejobs.add, number)) for number in range(30)]
    transaction.commit()
    for job in jobs:
        wait_for_result(job)

    assert len(_choices) <= 2


def test_of_many_jobs_of_others_it_takes_from_anywhere_and_of_few_the_first(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = enginejobs.make_agent(queue)
    fill(queue, 2 * MANY)
    keys = sorted(key for key, _job in queue.waiting())
    monkeypatch.setattr("random.randrange", lambda number: number - 2)

    def taken(only: list[int]) -> list[int]:
        with queue._p_jar.transaction_manager:
            some = Taker(queue, agent.slot, only=set(only)).take(4)
            agent.hold_all((one.job, True) for one in some)
            return [one.job.key for one in some]

    assert taken(keys[: MANY - 1]) == keys[:4]
    assert taken(keys[4:]) == [*keys[-2:], *keys[4:6]]
