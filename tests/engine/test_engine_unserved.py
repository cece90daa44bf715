"""Who puts into a queue that nobody serves is told so, now and then; who puts where somebody works is not."""

from collective.zcasync import clock
from collective.zcasync import doctor
from collective.zcasync import events
from collective.zcasync import inprocess
from collective.zcasync import instanceuuid
from collective.zcasync.job import Job
from datetime import timedelta
from enginejobs import make_agent
from typing import Any

import enginejobs
import pytest
import transaction


@pytest.fixture(autouse=True)
def nobody_was_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_warned", {})


def put(queue: Any) -> None:
    queue.put(Job(enginejobs.add, 1))
    transaction.commit()


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("which no dispatcher serves")


def test_a_put_that_nobody_will_run_is_told_of_once_a_minute(queue: Any, caplog: pytest.LogCaptureFixture) -> None:
    queue.put(Job(enginejobs.add, 1))
    transaction.abort()
    assert warnings(caplog) == 0
    for _number in range(3):
        put(queue)
    assert warnings(caplog) == 1
    events._warned[""] -= events.WARN_EVERY
    put(queue)
    assert warnings(caplog) == 2


@pytest.mark.parametrize("where", ["in this process", "in another process"])
def test_a_put_of_a_transaction_that_is_older_than_the_dispatcher_is_no_trouble(
    where: str, queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction.begin()
    assert not queue.dispatchers.active()
    dispatch()
    if where == "in another process":
        monkeypatch.setattr(inprocess, "serving", lambda db: None)
    queue.put(Job(enginejobs.add, 1))
    assert not queue.dispatchers.active(), "the snapshot is old"
    transaction.commit()

    assert warnings(caplog) == 0


def test_a_dispatcher_of_this_process_that_serves_another_queue_is_none_for_this_one(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch(queues=["other"])
    put(queue)
    assert warnings(caplog) == 1


@pytest.mark.parametrize("sign", ["its process is gone", "it has said nothing for long"])
def test_a_dispatcher_that_was_killed_serves_nobody_before_it_is_buried(
    sign: str, queue: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    da = make_agent(queue).parent
    put(queue)
    assert da.activated is not None and warnings(caplog) == 0
    if sign == "its process is gone":
        da.process = {**instanceuuid.process_identity(), "started": 1}
    else:
        da.activated = da.last_ping.value = clock.utcnow() - timedelta(minutes=5)
    transaction.commit()
    put(queue)

    assert warnings(caplog) == 1 and da.dead
    told = {finding.kind: finding.what for finding in doctor.examine(queue)}
    assert "no-dispatcher" in told and told["silent"].endswith("its process is gone") is sign.startswith("its process")
