"""Who counts as dead, by pings that stand still; without a database and without a clock on the wall."""

from collective.zcasync.clock import utcnow
from collective.zcasync.dispatchers import DispatcherAgents
from collective.zcasync.observer import BEYOND_GRACE
from collective.zcasync.observer import Observer
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest


class Queue:
    def __init__(self, name: str) -> None:
        self.name = name
        self.parent = self


@pytest.fixture
def sibling() -> DispatcherAgents:
    return DispatcherAgents(UUID(int=1))


def _beats(observer: Observer, *times: float) -> None:
    for now in times:
        observer.beat(now, 30.0)


def test_a_sibling_is_dead_that_stays_silent_after_a_further_own_ping(sibling: Any) -> None:
    observer = Observer(0.0)
    assert observer.dead([sibling], 0.0) == []
    sibling.ping(utcnow())
    _beats(observer, 30.0)
    assert observer.dead([sibling], 31.0) == []
    _beats(observer, 60.0, 90.0)
    assert observer.dead([sibling], 91.0) == [] and not observer.wants_ping()
    assert observer.due(91.1)
    assert observer.dead([sibling], 91.1) == [] and observer.wants_ping() and not observer.due(99.0)
    _beats(observer, 91.5)
    assert not observer.wants_ping() and not observer.due(94.0)
    assert observer.dead([sibling], 94.0) == []
    assert observer.due(94.6)
    assert observer.dead([sibling], 94.6) == [sibling]


def test_each_step_towards_a_death_is_due_in_time(sibling: Any) -> None:
    observer = Observer(0.0)
    assert observer.rest(0.0, 1.0) == 1.0
    observer.dead([sibling], 0.0)
    _beats(observer, 30.0)
    assert observer.rest(30.0, 1.0) == 1.0
    assert observer.rest(59.75, 1.0) == 0.25
    observer.dead([sibling], 60.5)
    assert observer.rest(60.5, 1.0) == 0.0, "a ping is wanted"
    _beats(observer, 60.75)
    assert observer.rest(61.0, 1.0) == 1.0
    assert observer.rest(63.5, 1.0) == 0.25
    assert observer.dead([sibling], 63.8) == [sibling]


def test_a_sibling_that_pings_at_the_last_moment_lives(sibling: Any) -> None:
    observer = Observer(0.0)
    observer.dead([sibling], 0.0)
    _beats(observer, 30.0, 60.0)
    observer.dead([sibling], 61.0)
    _beats(observer, 62.0)
    sibling.ping(utcnow())
    assert observer.dead([sibling], 70.0) == []
    assert not observer.due(70.0) and not observer.wants_ping()


def test_after_a_gap_in_the_own_pings_silence_is_counted_anew(sibling: Any) -> None:
    observer = Observer(0.0)
    observer.dead([sibling], 0.0)
    _beats(observer, 30.0, 120.0)
    assert observer.dead([sibling], 121.0) == []
    _beats(observer, 150.0)
    assert observer.dead([sibling], 180.0) == [] and not observer.wants_ping(), "59 s of silence"


def test_while_the_own_pings_do_not_get_through_nobody_is_dead(sibling: Any) -> None:
    observer = Observer(0.0)
    observer.dead([sibling], 0.0)
    assert observer.dead([sibling], 90.0) == observer.dead([sibling], 91.0) == []
    _beats(observer, 92.0)
    assert observer.dead([sibling], 93.0) == [] and not observer.wants_ping()


@pytest.mark.parametrize("outage", [44.0, 90.0])
@pytest.mark.parametrize("begin", [0.5, 15.0, 29.5])
def test_an_outage_of_the_storage_kills_nobody_whenever_it_begins(outage: float, begin: float, sibling: Any) -> None:
    """Both ping every 30 s, the sibling just before the observer; all that falls into the outage comes at its end."""
    observer, end = Observer(0.0), begin + outage
    own, others = [30.0 * number for number in range(12)], [30.0 * number - 0.4 for number in range(1, 12)]
    own, others = ([end + 0.2 if begin < when < end else when for when in times] for times in (own, others))
    moments = sorted({*own, *others, *(float(number) for number in range(300))})
    for now in moments:
        if now in others:
            sibling.ping(utcnow())
        if now in own:
            _beats(observer, now)
        if not begin < now < end:
            assert observer.dead([sibling], now) == []


def test_a_disconnect_lets_silence_be_counted_anew(sibling: Any) -> None:
    observer = Observer(0.0)
    observer.dead([sibling], 0.0)
    _beats(observer, 30.0, 60.0)
    observer.forget()
    assert observer.dead([sibling], 61.0) == [] and not observer.wants_ping()


def test_the_interval_that_the_sibling_has_stored_is_its_own(sibling: Any) -> None:
    observer = Observer(0.0)
    sibling.ping_death_interval = timedelta(seconds=10)
    observer.dead([sibling], 0.0)
    observer.dead([sibling], 10.5)
    assert observer.wants_ping()
    sibling.ping_death_interval = timedelta(seconds=20)
    observer.dead([sibling], 11.0)
    assert not observer.wants_ping() and observer.due(20.1)


def test_silence_is_counted_for_each_queue_of_its_own() -> None:
    observer = Observer(0.0)
    das = []
    for name in ("", "other"):
        da = DispatcherAgents(UUID(int=1))
        da.parent = Queue(name)
        das.append(da)
    for now in (0.0, 30.0, 61.0, 62.0, 70.0):
        observer.beat(now, 30.0)
        das[0].ping(utcnow())
        found = [observer.dead([da], now) for da in das]
    assert found == [[], [das[1]]]
    observer.keep("other", [])
    assert not observer.due(1000.0) or observer.dead([das[0]], 1000.0) == []


def test_one_that_leaves_may_be_taken_over_when_its_grace_is_over(sibling: Any) -> None:
    observer = Observer(0.0)
    assert observer.overstayed([sibling], 0.0) == []
    sibling.leaving, sibling.leaving_grace = utcnow(), 8.0
    assert observer.overstayed([sibling], 5.0) == []
    end = 5.0 + 8.0 + BEYOND_GRACE
    assert observer.overstayed([sibling], end) == [] and not observer.due(end)
    assert observer.due(end + 0.1) and observer.overstayed([sibling], end + 0.1) == [sibling]
    sibling.leaving = None
    assert observer.overstayed([sibling], end + 1) == [] and not observer.due(end + 1)
