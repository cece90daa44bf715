"""A clock that is wrong is told of wherever somebody looks, and keeps no job from running."""

from collections.abc import Callable
from collective.zcasync import alarms
from collective.zcasync import clock
from collective.zcasync import doctor
from collective.zcasync import processes
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testwait import wait_until
from types import SimpleNamespace
from typing import Any

import enginejobs
import pytest
import time
import transaction
import ZODB.BaseStorage


@pytest.fixture
def clients(open_database: Callable[[], Any]) -> Callable[[], Any]:
    """Only on FileStorage: this process gives its transactions their times, so that a test can turn that clock."""
    return open_database


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Turn the storage's clock by so many seconds; not back by more than it has gone."""

    def turn_by(seconds: float) -> None:
        turned = SimpleNamespace(time=lambda: time.time() + seconds, gmtime=time.gmtime)
        monkeypatch.setattr(ZODB.BaseStorage, "time", turned)

    return turn_by


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "clock of this machine" in record.getMessage()]


@pytest.mark.parametrize(("turned", "word"), [(300.0, "300.0 s behind that of the storage"), (-7.0, "7.0 s ahead of")])
def test_a_clock_that_differs_from_the_storages_is_told_of_at_the_start_and_jobs_run_all_the_same(
    turned: float,
    word: str,
    turn: Callable[[float], None],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    turn(turned)
    connection, dispatch = request.getfixturevalue("connection"), request.getfixturevalue("dispatch")
    running = dispatch(poll_interval=0.2)
    (line,) = told(caplog)
    assert word in line and "NTP" in line
    assert running.dispatcher.heartbeat.skew == pytest.approx(-turned, abs=1.0)
    running.dispatcher.heartbeat._ping()

    queue = get_queue(connection)
    wait_until(queue, lambda: queue.dispatchers.active()[0].last_ping.skew is not None, 10, "a ping")
    assert "clock" in {alarm.kind for alarm in alarms.examine(connection)}
    assert "clock" in {finding.kind for finding in doctor.examine(connection)}
    (row,) = processes.processes(connection)
    assert row.row.skew == pytest.approx(-turned, abs=1.0)
    assert len(told(caplog)) == 1, "once an hour is enough"

    job = queue.put(Job(enginejobs.add, 1, 2), begin_after=clock.utcnow())
    transaction.commit()
    assert wait_for_result(job) == 3


def test_a_clock_that_jumps_while_a_dispatcher_works_is_told_of_once_and_is_nothing_urgent(
    queue: Any, dispatch: Any, turn: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    beat = dispatch().dispatcher.heartbeat
    assert told(caplog) == []
    turn(3600.0)
    beat._ping()
    turn(7200.0)
    beat._ping()
    assert len(told(caplog)) == 1
    transaction.begin()
    kinds = {alarm.kind: alarm.urgent for alarm in alarms.examine(queue._p_jar)}
    assert kinds == {"clock": False}
