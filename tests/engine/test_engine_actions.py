"""Cancel, retry, discard, pause: each through a real commit."""

from collections.abc import Iterator
from collective.zcasync import actions
from collective.zcasync import claims
from collective.zcasync import joblists
from collective.zcasync.agent import Agent
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

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
