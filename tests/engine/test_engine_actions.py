"""Cancel, retry, discard, pause: each through a real commit."""

from collections.abc import Iterator
from collective.zcasync import actions
from collective.zcasync import claims
from collective.zcasync import clock
from collective.zcasync import jobdetail
from collective.zcasync import joblists
from collective.zcasync import sweeping
from collective.zcasync.agent import Agent
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from datetime import timedelta
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError

import pytest
import sys
import transaction
import types
import uuid


class Mailer:
    """What the jobs talk to; it can be mended between two attempts."""

    works = False


def deliver(address: str) -> str:
    if not Mailer.works:
        raise ConnectionRefusedError("the mail server is down")
    return f"delivered to {address}"


@pytest.fixture(autouse=True)
def broken_mailer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mailer, "works", False)


class Works:
    """A database with one queue, and an agent."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "Data.fs")
        self.open()
        key = uuid.uuid4()
        self.queue.dispatchers.register(key)
        self.queue.dispatchers[key].activate()
        self.queue.dispatchers[key]["main"] = Agent()
        transaction.commit()

    def open(self) -> None:
        self.db = DB(FileStorage(self.path))
        self.connection = self.db.open()
        self.queue = install(self.connection)[""]
        transaction.commit()

    def close(self) -> None:
        transaction.abort()
        self.connection.close()
        self.db.close()

    @property
    def agent(self) -> Any:
        return self.queue.dispatchers.values()[0]["main"]

    def put(self, *args: Any) -> Any:
        job = self.queue.put(Job(*args))
        transaction.commit()
        return job

    def run(self) -> Any:
        """Run the next job to its end; None if there is none."""
        job = self.agent.claimJob()
        transaction.commit()
        if job is not None:
            job()
            transaction.commit()
        return job

    def set_aside(self, job: Any, reason: str = "its process died 3 times under it") -> None:
        """What a claim does with a job that it cannot give to anybody."""
        taker = claims.Taker(self.queue, self.agent.slot)
        taker.set_aside(self.queue._find(job), reason)
        transaction.commit()

    def numbers(self) -> dict[str, int]:
        counts = joblists.counts(self.connection)
        return {state: count.number for state, count in counts.items() if count.number}


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    works = Works(tmp_path)
    yield works
    works.close()


class TestCancel:
    def test_a_waiting_job_ends_with_a_cancelled_error_and_never_runs(self, works: Works) -> None:
        job = works.put(deliver, "a@b.c")
        assert actions.cancel(job) == "cancelled"
        transaction.commit()
        assert job.outcome == "cancelled"
        assert job.result.check(CancelledError)
        assert works.run() is None
        assert works.numbers() == {"cancelled": 1}

    def test_a_running_job_is_asked_to_stop(self, works: Works) -> None:
        works.put(deliver, "a@b.c")
        job = works.agent.claimJob()
        transaction.commit()
        assert actions.cancel(job) == "stopping"
        transaction.commit()
        assert job.stop_requested

    def test_a_finished_job_stays_as_it_is(self, works: Works) -> None:
        works.put(deliver, "a@b.c")
        job = works.run()
        assert actions.cancel(job) == "finished"
        assert job.outcome == "failed"

    def test_a_job_that_was_set_aside_is_to_be_released_or_discarded(self, works: Works) -> None:
        job = works.put(deliver, "a@b.c")
        works.set_aside(job)
        with pytest.raises(BadStatusError, match="set aside: release it or discard it"):
            actions.cancel(job)


class TestQueueOf:
    def test_the_queue_of_an_ended_job_is_found_without_reading_the_history(
        self, works: Works, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        works.put(deliver, "a@b.c")
        job = works.run()
        job.parent = None  # its dispatcher was forgotten since
        monkeypatch.setattr(type(works.queue), "finished", None)
        assert joblists.queue_of(job) is works.queue


class TestRetry:
    def test_a_failed_job_is_put_again_with_the_same_arguments_and_can_succeed(self, works: Works) -> None:
        works.put(deliver, "a@b.c")
        failed = works.run()
        Mailer.works = True
        again = actions.retry(failed)
        transaction.commit()
        assert (failed.retried_as, again.retry_of) == (again.id, failed.id)
        assert works.run() is again
        assert again.result == "delivered to a@b.c"
        assert works.numbers() == {"failed": 1, "finished": 1}

    def test_it_runs_as_the_one_who_put_it_first(self, works: Works) -> None:
        first = Job(deliver, "a@b.c")
        works.queue.put(first)
        first.user, first.group, first.context_data = "/acl_users:jane", "01", (("language", "de"),)
        transaction.commit()
        again = actions.retry(works.run())
        transaction.commit()
        assert (again.user, again.group, again.context_data) == ("/acl_users:jane", "01", (("language", "de"),))

    def test_a_cancelled_job_can_be_retried(self, works: Works) -> None:
        job = works.put(deliver, "a@b.c")
        actions.cancel(job)
        transaction.commit()
        actions.retry(job)
        transaction.commit()
        assert works.numbers() == {"waiting": 1, "cancelled": 1}

    def test_a_job_is_retried_once_only(self, works: Works) -> None:
        works.put(deliver, "a@b.c")
        failed = works.run()
        again = actions.retry(failed)
        with pytest.raises(BadStatusError, match=f"retried already, as job {again.id}"):
            actions.retry(failed)

    def test_a_job_that_waits_cannot_be_retried(self, works: Works) -> None:
        with pytest.raises(BadStatusError, match="neither failed nor been cancelled"):
            actions.retry(works.put(deliver, "a@b.c"))

    def test_it_works_when_the_dispatcher_that_ran_the_job_is_gone(self, works: Works) -> None:
        works.put(deliver, "a@b.c")
        failed = works.run()
        da = works.queue.dispatchers.values()[0]
        da.deactivate()
        works.queue.dispatchers.unregister(da.UUID)
        transaction.commit()
        assert actions.retry(failed).queue is works.queue

    def test_a_job_that_was_set_aside_waits_again(self, works: Works) -> None:
        job = works.put(deliver, "a@b.c")
        works.set_aside(job)
        job.deaths = 3
        assert works.numbers() == {"quarantined": 1}
        assert joblists.state_of(job) == "quarantined"
        assert actions.retry(job) is job
        transaction.commit()
        assert works.numbers() == {"waiting": 1}
        assert job.deaths == 0
        Mailer.works = True
        assert works.run().outcome == "succeeded"


class TestDiscard:
    def test_a_job_that_was_set_aside_is_gone_for_good(self, works: Works) -> None:
        job = works.put(deliver, "a@b.c")
        works.set_aside(job)
        actions.discard(job)
        transaction.commit()
        assert works.numbers() == {}

    def test_other_jobs_cannot_be_discarded(self, works: Works) -> None:
        with pytest.raises(BadStatusError, match="so it cannot be discarded"):
            actions.discard(works.put(deliver, "a@b.c"))

    def test_a_job_whose_class_is_gone_can_be_discarded_but_not_retried(
        self, works: Works, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = types.ModuleType("gone_for_good")
        module.Job = Job  # type: ignore[attr-defined]
        exec("class Special(Job):\n    pass", module.__dict__)
        monkeypatch.setitem(sys.modules, "gone_for_good", module)
        id = works.queue.put(module.Special(deliver, "a@b.c")).id  # type: ignore[attr-defined]
        transaction.commit()
        monkeypatch.delitem(sys.modules, "gone_for_good")
        works.close()
        works.open()
        assert works.run() is None
        broken = joblists.find(works.connection, id)
        with pytest.raises(BadStatusError, match="install it, or discard the job"):
            actions.retry(broken)
        actions.discard(broken)
        transaction.commit()
        assert works.numbers() == {}


class TestPause:
    def test_no_job_of_a_paused_queue_begins_until_it_is_resumed(self, works: Works) -> None:
        Mailer.works = True
        works.put(deliver, "a@b.c")
        actions.pause_queue(works.queue)
        transaction.commit()
        assert works.run() is None
        assert joblists.queues(works.connection)[0].paused
        actions.resume_queue(works.queue)
        transaction.commit()
        assert works.run().outcome == "succeeded"


class TestMoves:
    def test_a_job_for_later_runs_now_and_before_all_others(self, works: Works) -> None:
        later = works.queue.put(Job(str, "later"), begin_after=clock.utcnow() + timedelta(hours=3))
        works.put(str, "first")
        assert works.agent.claimJob() is not None  # which moves the other to those for later
        works.put(str, "second")
        actions.run_now(later, "jane")
        transaction.commit()
        assert works.numbers() == {"running": 1, "waiting": 2}
        assert works.run() is later
        told = [(event.what, event.text) for event in jobdetail.timeline(later) if event.text]
        assert told == [("by_run", "jane"), ("claimed", works.agent.parent.name)]

    def test_a_job_is_rescheduled_and_its_deadline_with_it(self, works: Works) -> None:
        job = works.queue.put(Job(str, "job"), begin_by=timedelta(minutes=5))
        transaction.commit()
        when = clock.utcnow() + timedelta(hours=2)
        actions.reschedule(job, when, "jane")
        transaction.commit()
        assert works.run() is None
        assert works.numbers() == {"scheduled": 1}
        assert job.deadline() == when + timedelta(minutes=5)
        actions.run_now(job)
        transaction.commit()
        assert works.run().result == "job"

    def test_a_job_with_more_priority_passes_others_and_keeps_what_it_has_waited(self, works: Works) -> None:
        first, second = works.put(str, "first"), works.put(str, "second")
        actions.change_priority(second, 1, "jane")
        transaction.commit()
        assert works.run() is second
        third = works.put(str, "third")
        actions.change_priority(first, -1)
        actions.change_priority(third, -1)
        transaction.commit()
        assert [works.run(), works.run()] == [first, third]

    @pytest.mark.parametrize("priority", [16, -17, True, "1"])
    def test_a_priority_out_of_range_is_refused(self, works: Works, priority: Any) -> None:
        job = works.put(str, "job")
        with pytest.raises(InvalidValueError, match="priority"):
            actions.change_priority(job, priority)

    def test_a_job_that_waits_for_a_quota_keeps_its_counts_when_it_is_moved(self, works: Works) -> None:
        works.queue.quotas.create("io", 1)
        for name in ("a", "b"):
            works.queue.put(Job(str, name)).quota_names = ("io",)
        transaction.commit()
        running, parked = works.agent.claimJob(), works.queue[0]
        assert works.agent.claimJob() is None
        actions.reschedule(parked, clock.utcnow() + timedelta(hours=1))
        transaction.commit()
        assert works.agent.claimJob() is None
        assert works.numbers() == {"running": 1, "scheduled": 1}
        running()
        actions.run_now(parked)
        transaction.commit()
        assert works.run() is parked

    @pytest.mark.parametrize("verb", [actions.run_now, lambda job: actions.reschedule(job, clock.utcnow())])
    def test_a_job_that_does_not_wait_cannot_be_moved(self, works: Works, verb: Any) -> None:
        works.put(str, "job")
        job = works.agent.claimJob()
        with pytest.raises(BadStatusError, match="does not wait"):
            verb(job)
        job()
        with pytest.raises(BadStatusError, match="does not wait"):
            verb(job)

    def test_a_move_conflicts_with_the_claim_that_takes_the_job(self, works: Works) -> None:
        job = works.put(str, "job")
        other = works.db.open(transaction.TransactionManager())
        actions.run_now(other.get(job._p_oid))
        assert works.agent.claimJob() is job
        transaction.commit()
        with pytest.raises(ConflictError):
            other.transaction_manager.commit()
        other.transaction_manager.abort()
        other.close()


class TestDelete:
    def test_a_job_that_has_ended_is_forgotten(self, works: Works) -> None:
        works.put(deliver, "a@b.c")
        job = works.run()
        actions.delete(job, "jane")
        transaction.commit()
        assert works.numbers() == {}
        assert joblists.queue_of(job) is None
        with pytest.raises(BadStatusError):
            actions.delete(job)

    def test_a_job_that_was_set_aside_is_discarded(self, works: Works) -> None:
        job = works.put(deliver, "a@b.c")
        works.set_aside(job)
        actions.delete(job)
        transaction.commit()
        assert works.numbers() == {}

    def test_a_job_that_waits_or_ended_a_moment_ago_stays(self, works: Works) -> None:
        job = works.put(deliver, "a@b.c")
        with pytest.raises(BadStatusError, match="cancel it"):
            actions.delete(job)
        actions.cancel(job)
        with pytest.raises(BadStatusError, match="a moment ago"):
            actions.delete(job)


class TestWhoAsked:
    def test_the_timeline_names_who_cancelled_and_who_put_again(self, works: Works) -> None:
        job = works.put(deliver, "a@b.c")
        actions.cancel(job, "jane")
        works.run()
        new = actions.retry(job, "joe")
        asked = [(event.what, event.text) for event in jobdetail.timeline(job) if event.what.startswith("by_")]
        assert asked == [("by_cancel", "jane"), ("by_retry", "joe")]
        assert ("by_retry", "joe") in [(event.what, event.text) for event in jobdetail.timeline(new)]

    def test_the_timeline_names_who_asked_a_running_job_to_stop_meanwhile_and_afterwards(self, works: Works) -> None:
        works.put(str, "job")
        job = works.agent.claimJob()
        transaction.commit()
        actions.cancel(job, "jane")
        transaction.commit()
        assert ("stop", "jane") in [(event.what, event.text) for event in jobdetail.timeline(job)]
        job._begin(clock.utcnow())
        job._finish("done", clock.utcnow())
        transaction.commit()
        sweeping.sweep(works.queue, works.agent.slot, [(job._p_oid, "finished")])
        transaction.commit()
        assert [(event.what, event.text) for event in jobdetail.timeline(job)].count(("stop", "jane")) == 1
        assert works.numbers() == {"finished": 1}

    def test_the_log_names_who_asked(self, works: Works, caplog: pytest.LogCaptureFixture) -> None:
        job = works.put(str, "job")
        with caplog.at_level("INFO", "collective.zcasync.events"):
            actions.cancel(job, "jane")
        assert "cancelled on request of jane" in caplog.text
