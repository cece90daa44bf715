"""foreground: one waiting job is run in the caller's thread, as a dispatcher would, and nothing of it stays behind."""

from collective.zcasync import foreground
from collective.zcasync import local
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_until
from typing import Any

import enginejobs
import pytest
import threading
import transaction


def put(queue: Any, *call: Any) -> Any:
    job = queue.put(Job(*call))
    transaction.commit()
    return job


def interrupt() -> None:
    raise KeyboardInterrupt


def see_the_registration() -> list[str]:
    """The roles of those that are registered while the job runs, and whether they are alive."""
    dispatchers = local.getJob().queue.dispatchers.active()
    return [da.process["role"] for da in dispatchers if not da.dead]


def test_a_waiting_job_runs_here_and_is_filed_away(queue: Any, db: Any) -> None:
    first, second = put(queue, enginejobs.count), put(queue, enginejobs.count)
    assert foreground.run(db, second.id) == "finished"
    transaction.begin()
    assert (second.outcome, second.result, first.status) == ("succeeded", 1, "pending-status")
    assert list(queue.finished()) == [second]
    assert queue.counts()["running"] == 0
    assert list(queue) == [first]


def test_callbacks_run_too(queue: Any, db: Any) -> None:
    job = put(queue, enginejobs.add, 1, 2)
    callback = job.addCallback(enginejobs.note)
    transaction.commit()
    foreground.run(db, job.id)
    transaction.begin()
    assert enginejobs.calls == [3]
    assert callback.outcome == "succeeded"


def test_meanwhile_it_is_registered_and_nothing_of_it_stays(queue: Any, db: Any) -> None:
    job = put(queue, see_the_registration)
    foreground.run(db, job.id)
    transaction.begin()
    assert job.result == ["foreground"]
    assert len(queue.dispatchers) == 0


def test_a_failure_is_shown_to_the_debugger_before_the_abort_and_stored(queue: Any, db: Any) -> None:
    seen = []

    def look(error: Exception) -> None:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        assert frame is not None
        seen.append((str(error), frame.tb_frame.f_code.co_name, local.getJob()._p_jar.root()["changed"]))

    job = put(queue, enginejobs.change_and_raise)
    assert foreground.run(db, job.id, look) == "finished"
    transaction.begin()
    assert seen == [("on purpose", "change_and_raise", True)]
    assert (job.outcome, job.error) == ("failed", "ValueError: on purpose")
    assert "changed" not in queue._p_jar.root()


def test_whoever_breaks_it_off_gives_the_job_back(queue: Any, db: Any) -> None:
    job = put(queue, interrupt)
    with pytest.raises(KeyboardInterrupt):
        foreground.run(db, job.id)
    transaction.begin()
    assert job.status == "pending-status"
    assert list(queue) == [job]
    assert len(queue.dispatchers) == 0
    assert queue.counts()["running"] == 0


def test_a_job_that_does_not_wait_is_refused_and_nothing_changes(queue: Any, db: Any) -> None:
    job = put(queue, enginejobs.add, 1)
    foreground.run(db, job.id)
    before = db.lastTransaction()
    with pytest.raises(BadStatusError, match="does not wait .finished."):
        foreground.run(db, job.id)
    with pytest.raises(JobNotFound):
        foreground.run(db, "fffff")
    assert db.lastTransaction() == before


def test_beside_a_dispatcher_only_one_of_them_runs_the_job(queue: Any, db: Any, dispatch: Any) -> None:
    dispatch()
    queue.hold_group("held")  # the dispatcher leaves it alone
    job = Job(enginejobs.count)
    job.group = "held"
    queue.put(job)
    transaction.commit()
    wait_until(queue, lambda: list(queue.parked_jobs()), 20, "a parked job")
    assert foreground.run(db, job.id) == "finished"
    transaction.begin()
    assert (job.result, queue._p_jar.root()["count"]) == (1, 1)
    wait_until(queue, lambda: len(queue.dispatchers) == 1, 20)


def test_a_debugger_that_is_open_for_long_does_not_let_it_be_taken_for_dead(queue: Any, db: Any) -> None:
    job = put(queue, enginejobs.wait, "a")
    runner = threading.Thread(target=foreground.run, args=(db, job.id))
    runner.start()
    assert enginejobs.started["a"].wait(20)
    transaction.begin()
    (da,) = queue.dispatchers.active()
    count = da.last_ping.count
    pinger = foreground.Pinger(db, da.UUID)
    pinger.ping()
    pinger.stop()
    wait_until(queue, lambda: da.last_ping.count == count + 1, 20)
    enginejobs.released["a"].set()
    runner.join(20)
    assert not runner.is_alive()
    transaction.begin()
    assert job.result == "a"
