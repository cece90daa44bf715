"""Lists, counts and the page of one job, read by a fresh connection from a real FileStorage."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import jobdetail
from collective.zcasync import jobentries
from collective.zcasync import joblists
from collective.zcasync.agent import Agent
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.persistence import Payload
from collective.zcasync.queue import install
from collective.zcasync.queue import Site
from datetime import timedelta
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import persistent
import pytest
import sys
import transaction
import types
import uuid


def send_letter(address: str, password: str = "", options: Any = None) -> str:
    return f"sent to {address}"


def refuse(address: str) -> None:
    raise ValueError(f"no such address: {address}")


class Tree(persistent.Persistent):
    """Content that jobs are about, as far as the engine sees it."""

    def getPhysicalPath(self) -> tuple[str, ...]:
        return ("", "site", "tree")

    def water(self) -> str:
        return "watered"


class Place:
    """A database with queues, an agent that claims on demand, and fresh eyes."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "Data.fs")
        self.open()

    def open(self) -> None:
        self.db = DB(FileStorage(self.path))
        self.connection = self.db.open()
        self.queues = install(self.connection, ("", "mail"))
        self.queue = self.queues[""]
        transaction.commit()

    def put(self, *args: Any, queue: str = "", group: str = "", **kwargs: Any) -> Any:
        job = Job(*args)
        job.group = group
        for name, value in kwargs.items():
            setattr(job, name, value)
        self.queues[queue].put(job)
        transaction.commit()
        return job

    def agent(self) -> Any:
        """An active agent; the first call registers its dispatcher."""
        for da in self.queue.dispatchers.active():
            return da["main"]
        key = uuid.uuid4()
        self.queue.dispatchers.register(key)
        da = self.queue.dispatchers[key]
        da.process = {"role": "worker", "host": "apple", "pid": 4711, "version": "1.0"}
        da.activate()
        da.ping(clock.utcnow())
        da["main"] = Agent()
        transaction.commit()
        return da["main"]

    def claim(self) -> Any:
        agent = self.agent()
        job = agent.claimJob()
        transaction.commit()
        return job

    def run(self) -> Any:
        job = self.claim()
        job()  # which files it away
        transaction.commit()
        return job

    def look(self) -> Any:
        """A fresh connection, as another process has it."""
        transaction.commit()
        self.other = self.db.open(transaction.TransactionManager())
        return self.other


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    transaction.abort()
    if hasattr(place, "other"):
        place.other.transaction_manager.abort()
        place.other.close()
    place.connection.close()
    place.db.close()


def titles(page: joblists.Page) -> list[str]:
    return [row.title for row in page.rows]


def numbers(counts: dict[str, joblists.Count]) -> dict[str, int]:
    return {state: count.number for state, count in counts.items() if count.number}


class TestLists:
    def test_a_job_that_waits_is_listed_with_all_that_a_person_asks(self, place: Place) -> None:
        job = place.put(send_letter, "a@b.c", user="jane")
        (row,) = joblists.jobs(place.look(), joblists.WAITING).rows
        assert (row.id, row.state, row.user, row.queue) == (job.id, "waiting", "jane", "")
        assert row.task.endswith("send_letter")
        assert row.time == row.put_at == job.put_at

    def test_a_job_for_later_is_scheduled_with_its_time(self, place: Place) -> None:
        due = clock.utcnow() + timedelta(hours=1)
        place.put(send_letter, "a@b.c", begin_after=due)
        assert place.claim() is None
        connection = place.look()
        (row,) = joblists.jobs(connection, joblists.SCHEDULED).rows
        assert abs(row.time - due) < timedelta(seconds=1)
        assert joblists.state_of(joblists.find(connection, row.id)) == "scheduled"
        assert joblists.jobs(connection, joblists.WAITING).rows == ()

    def test_a_claimed_job_is_running_and_names_its_agent(self, place: Place) -> None:
        place.put(send_letter, "a@b.c")
        job = place.claim()
        connection = place.look()
        (row,) = joblists.jobs(connection, joblists.RUNNING).rows
        assert (row.id, row.detail) == (job.id, "main")
        assert joblists.state_of(joblists.find(connection, job.id)) == "running"

    def test_finished_jobs_come_newest_first_and_apart_from_failed_ones(self, place: Place) -> None:
        for number in range(3):
            place.put(send_letter, f"{number}@b.c", _title=f"letter {number}", _task="letter")
            place.run()
        place.put(refuse, "x@b.c")
        place.run()
        connection = place.look()
        assert titles(joblists.jobs(connection, joblists.FINISHED)) == ["letter 2", "letter 1", "letter 0"]
        (row,) = joblists.jobs(connection, joblists.FAILED).rows
        assert row.error == "ValueError: no such address: x@b.c"
        assert row.time == row.ended is not None

    def test_a_job_that_ended_a_moment_ago_is_not_running_any_more(self, place: Place) -> None:
        place.put(refuse, "x@b.c")
        job = place.claim()
        job._begin(clock.utcnow())
        job._finish(Failure.from_exception(ValueError("x@b.c")), clock.utcnow())  # and no claim has swept it yet
        connection = place.look()
        assert joblists.jobs(connection, joblists.RUNNING).rows == ()
        assert len(joblists.jobs(connection, joblists.FAILED).rows) == 1
        assert numbers(joblists.counts(connection)) == {"failed": 1}

    def test_a_job_cancelled_while_nobody_works_is_listed_as_cancelled(self, place: Place) -> None:
        job = place.put(send_letter, "a@b.c")
        place.queue.cancel(job)
        connection = place.look()
        assert joblists.jobs(connection, joblists.WAITING).rows == ()
        assert len(joblists.jobs(connection, joblists.CANCELLED).rows) == 1
        assert numbers(joblists.counts(connection)) == {"cancelled": 1}

    def test_a_job_that_waits_for_a_quota_says_so(self, place: Place) -> None:
        place.queue.quotas.create("io", 1)
        place.put(send_letter, "1@b.c", quota_names=("io",))
        place.put(send_letter, "2@b.c", quota_names=("io",))
        assert place.claim() is not None
        assert place.claim() is None
        connection = place.look()
        (row,) = joblists.jobs(connection, joblists.WAITING).rows
        assert row.detail == "quota:io"
        assert joblists.counts(connection)["waiting"].number == 1

    def test_pages_begin_where_they_are_asked_to_and_tell_whether_more_follows(self, place: Place) -> None:
        for number in range(7):
            place.put(send_letter, str(number), _title=str(number), _task="letter")
        connection = place.look()
        first = joblists.jobs(connection, joblists.WAITING, limit=3)
        last = joblists.jobs(connection, joblists.WAITING, start=6, limit=3)
        beyond = joblists.jobs(connection, joblists.WAITING, start=50, limit=3)
        assert (titles(first), first.more) == (["0", "1", "2"], True)
        assert (titles(last), last.more) == (["6"], False)
        assert (titles(beyond), beyond.more) == ([], False)

    def test_a_list_can_be_of_one_queue(self, place: Place) -> None:
        place.put(send_letter, "a", _title="a", _task="t")
        place.put(send_letter, "b", _title="b", _task="t", queue="mail")
        assert titles(joblists.jobs(place.look(), joblists.WAITING, queue="mail")) == ["b"]
        assert numbers(joblists.counts(place.connection, queue="mail")) == {"waiting": 1}

    def test_a_state_that_does_not_exist_is_refused_with_those_that_do(self, place: Place) -> None:
        with pytest.raises(InvalidValueError, match="'asleep' is not a state of jobs; use one of waiting, scheduled"):
            joblists.jobs(place.look(), "asleep")

    def test_a_database_without_queues_has_empty_lists(self, tmp_path: Path) -> None:
        db = DB(FileStorage(str(tmp_path / "Empty.fs")))
        connection = db.open()
        assert joblists.queues(connection) == ()
        assert joblists.jobs(connection, joblists.WAITING).rows == ()
        assert numbers(joblists.counts(connection)) == {}
        connection.close()
        db.close()

    def test_lists_load_no_payload(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        place.put(send_letter, "a@b.c", "secret", {"text": "x" * 5000})
        connection = place.look()
        monkeypatch.setattr(Payload, "__setstate__", lambda self, state: pytest.fail("a payload was loaded"))
        (row,) = joblists.jobs(connection, joblists.WAITING).rows
        assert row.task.endswith("send_letter")
        job = joblists.find(connection, row.id)
        assert jobdetail.brief_detail(job, row).arguments == ()


class TestSites:
    def test_a_site_sees_its_own_jobs_only(self, place: Place) -> None:
        place.put(send_letter, "a", group="01", _title="mine", _task="t")
        place.put(send_letter, "b", group="02", _title="theirs", _task="t")
        connection = place.look()
        assert titles(joblists.jobs(connection, joblists.WAITING, group="01")) == ["mine"]
        assert numbers(joblists.counts(connection, group="01")) == {"waiting": 1}
        assert numbers(joblists.counts(connection)) == {"waiting": 2}

    def test_a_site_alone_in_the_database_reads_the_stored_counts(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.queues.sites["01"] = Site("/site")
        place.put(send_letter, "a", group="01")
        monkeypatch.setattr(jobentries, "_counted", lambda *args: pytest.fail("jobs were counted one by one"))
        assert numbers(joblists.counts(place.look(), group="01")) == {"waiting": 1}

    def test_a_job_alone_tells_what_keeps_it_from_beginning_as_its_list_does(self, place: Place) -> None:
        place.queue.quotas.create("io", 1)
        place.put(send_letter, "1@b.c", quota_names=("io",))
        parked = place.put(send_letter, "2@b.c", quota_names=("io",))
        place.claim()
        assert place.claim() is None
        assert joblists.row(parked).detail == "quota:io"
        waits = place.put(send_letter, "c", group="01")
        assert joblists.row(waits).detail == ""
        place.queue.paused = True
        assert joblists.row(waits).detail == "queue:"
        place.queue.hold_group("01")
        assert joblists.row(waits).detail == "group:01"

    def test_counts_of_one_site_among_others_stop_at_a_limit_and_say_so(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobentries, "COUNT_LIMIT", 2)
        for _number in range(4):
            place.put(send_letter, "a", group="01")
        place.put(send_letter, "a", group="02")
        assert joblists.counts(place.look(), group="01")["waiting"] == joblists.Count(2, more=True)

    def test_a_list_that_would_have_to_look_at_too_much_says_that_it_is_not_complete(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(joblists, "PAGE_LOOK", 3)
        for _number in range(5):
            place.put(send_letter, "a", group="02")
        page = joblists.jobs(place.look(), joblists.WAITING, group="01")
        assert (page.rows, page.complete) == ((), False)


class TestOneJob:
    def test_arguments_are_shown_by_name_and_secrets_are_masked(self, place: Place) -> None:
        job = place.put(send_letter, "a@b.c", "tops3cret", {"api_key": "k3y", "lines": 2})
        detail = joblists.job(place.look(), job.id)
        assert detail.arguments == (
            ("address", "'a@b.c'"),
            ("password", "********"),
            ("options", "{'api_key': ********, 'lines': 2}"),
        )

    def test_long_arguments_are_cut(self, place: Place) -> None:
        job = place.put(send_letter, "x" * 100_000)
        ((_name, text),) = joblists.job(place.look(), job.id).arguments
        assert len(text) < 2100
        assert text.endswith("…")

    def test_a_failed_job_shows_type_message_and_frames_of_its_failure(self, place: Place) -> None:
        job = place.put(refuse, "x@b.c")
        place.run()
        detail = joblists.job(place.look(), job.id)
        assert detail.error_type.endswith("ValueError")
        assert detail.error_message == "no such address: x@b.c"
        assert "raise ValueError" in detail.traceback
        own = [frame for frame in detail.frames if not frame.framework]
        assert [frame.function for frame in own] == ["refuse"]
        assert detail.can_retry and not detail.can_cancel

    def test_the_result_is_shown_as_text(self, place: Place) -> None:
        job = place.put(send_letter, "a@b.c")
        place.run()
        assert joblists.job(place.look(), job.id).result == "'sent to a@b.c'"

    def test_the_timeline_tells_put_start_and_end_in_their_order(self, place: Place) -> None:
        job = place.put(send_letter, "a@b.c", user="jane")
        place.run()
        timeline = joblists.job(place.look(), job.id).timeline
        assert [event.what for event in timeline] == ["put", "claimed", "started", "finished"]
        assert timeline[0].text == "jane"
        assert [event.when for event in timeline] == sorted(event.when for event in timeline)

    def test_the_timeline_tells_who_claimed_the_job_and_when_each_attempt_began(self, place: Place) -> None:
        job = place.put(send_letter, "a@b.c")
        place.claim()
        waits = joblists.job(place.look(), job.id).timeline
        assert [(event.what, event.text) for event in waits] == [("put", ""), ("claimed", "worker apple 4711")]
        job._begin(clock.utcnow())
        place.agent().remove(job)
        place.queue.give_back(job)
        transaction.commit()
        place.run()
        events = joblists.job(place.look(), job.id).timeline
        assert [event.what for event in events] == ["put", "started", "claimed", "started", "finished"]

    def test_the_timeline_tells_how_callbacks_ended(self, place: Place) -> None:
        job = place.put(send_letter, "a@b.c")
        job.addCallback(Job(send_letter))
        job.addCallback(Job(refuse))
        transaction.commit()
        place.run()
        events = joblists.job(place.look(), job.id).timeline
        told = [(event.what, event.text) for event in events if event.what.startswith("callback")]
        module = send_letter.__module__
        assert told == [("callback", f"{module}.send_letter"), ("callback_failed", f"{module}.refuse")]

    def test_attempts_that_did_not_end_the_job_are_in_the_timeline(self, place: Place) -> None:
        job = place.put(send_letter, "a@b.c")
        job.remember("conflict", "ConflictError: tree", clock.utcnow())
        events = joblists.job(place.look(), job.id).timeline
        assert ("conflict", "ConflictError: tree") in [(event.what, event.text) for event in events]

    @pytest.mark.parametrize("id", ["", "zz", "-1", "0", "ffffffffffffffff", "1" * 40, "1@elsewhere", "1²"])
    def test_an_id_that_is_none_is_not_found(self, place: Place, id: str) -> None:
        with pytest.raises(JobNotFound):
            joblists.find(place.look(), id)

    def test_the_id_of_something_else_is_not_found(self, place: Place) -> None:
        place.connection.root()["tree"] = tree = Tree()
        transaction.commit()
        with pytest.raises(JobNotFound):
            joblists.find(place.look(), tree._p_oid.hex())

    def test_arguments_whose_class_is_gone_are_told_and_the_page_stands(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = types.ModuleType("gone_arguments")
        exec("class Ghost:\n    pass", module.__dict__)
        monkeypatch.setitem(sys.modules, "gone_arguments", module)
        job = place.put(send_letter, module.Ghost())
        monkeypatch.delitem(sys.modules, "gone_arguments")
        detail = joblists.job(place.look(), job.id)
        assert detail.row.task.endswith("send_letter")
        assert "Ghost" in str(detail.arguments) + str(detail.problems)


class TestBrokenJobs:
    @pytest.fixture
    def broken(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
        """The id of a job whose class was removed after the put."""
        module = types.ModuleType("gone_jobs")
        module.Job = Job
        exec("class Special(Job):\n    pass", module.__dict__)
        monkeypatch.setitem(sys.modules, "gone_jobs", module)
        special = module.Special(send_letter, "a@b.c")
        special.group = "01"
        place.queue.put(special)
        transaction.commit()
        id = special.id
        monkeypatch.delitem(sys.modules, "gone_jobs")
        del special
        place.connection.close()
        place.db.close()
        place.open()
        assert place.claim() is None
        return str(id)

    def test_a_job_whose_class_is_gone_is_listed_with_id_and_class_name(self, place: Place, broken: str) -> None:
        (row,) = joblists.jobs(place.look(), joblists.QUARANTINED).rows
        assert (row.id, row.task, row.broken, row.group) == (broken, "gone_jobs.Special", True, "01")

    def test_it_belongs_to_its_site_still(self, place: Place, broken: str) -> None:
        connection = place.look()
        assert len(joblists.jobs(connection, joblists.QUARANTINED, group="01").rows) == 1
        assert joblists.jobs(connection, joblists.QUARANTINED, group="02").rows == ()

    def test_its_page_offers_to_discard_it_and_nothing_else(self, place: Place, broken: str) -> None:
        detail = joblists.job(place.look(), broken)
        assert (detail.can_discard, detail.can_retry, detail.can_cancel) == (True, False, False)


class TestQueues:
    def test_queues_tell_counts_quotas_agents_and_dispatchers(self, place: Place) -> None:
        place.queue.quotas.create("io", 2)
        place.queue.set_template("worker", "main", size=4, weight=2)
        place.put(send_letter, "a@b.c")
        place.claim()
        default, mail = joblists.queues(place.look())
        assert (default.name, mail.name) == ("", "mail")
        assert default.counts["running"] == 1
        assert default.quotas == (joblists.QuotaRow("io", 2, False),)
        assert default.agents == (joblists.AgentRow("worker", "main", 4, 2, 64),)
        (dispatcher,) = default.dispatchers
        assert (dispatcher.role, dispatcher.host, dispatcher.pid, dispatcher.running) == ("worker", "apple", "4711", 1)
        assert default.served and not mail.served
