"""monitordb: zc.async's tools ``asyncdb`` as plain functions, on a scripted story; their answers compared in full."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import doctor
from collective.zcasync import joblists
from collective.zcasync import monitordb
from collective.zcasync.agent import Agent
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.plaindata import dumps
from collective.zcasync.plaindata import plain
from collective.zcasync.queue import install
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import enginejobs
import json
import pytest
import sys
import transaction
import types
import uuid

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)

FIRST = uuid.UUID("11111111-ffdf-11dc-abd4-0017f2c49bdd")
SECOND = uuid.UUID("22222222-ffdf-11dc-abd4-0017f2c49bdd")


def send_letter(address: str, password: str = "") -> str:
    return f"sent to {address}"


def refuse(address: str) -> None:
    raise ValueError(f"no such address: {address}")


def takes_letters(job: Job) -> bool:
    return job.task.endswith("send_letter")


def takes_all_but_fails_on_letters(job: Job) -> bool:
    if takes_letters(job):
        raise RuntimeError("cannot tell")
    return True


def choose_nothing(agent: Any) -> None:
    return None


class Story:
    """A database with two queues and two dispatchers, whose clock stands where the story says: minutes after noon."""

    def __init__(self, folder: Path) -> None:
        self.db = DB(FileStorage(str(folder / "Data.fs")), database_name="main")
        self.connection = self.db.open()
        self.at(0)
        self.queues = install(self.connection, ("", "mail"))
        self.queue, self.mail = self.queues[""], self.queues["mail"]
        self.first = self.dispatcher(self.queue, FIRST)
        self.second = self.dispatcher(self.queue, SECOND)
        self.mailer = self.dispatcher(self.mail, FIRST)
        self.first["main"] = Agent(filter=takes_letters)
        self.second["main"] = Agent(size=5)
        self.mailer["post"] = Agent(filter=takes_all_but_fails_on_letters, size=1)
        transaction.commit()

    @staticmethod
    def dispatcher(queue: Any, key: uuid.UUID) -> Any:
        queue.dispatchers.register(key)
        queue.dispatchers[key].activate()
        return queue.dispatchers[key]

    @staticmethod
    def at(minutes: float) -> None:
        clock.set_now(NOON + timedelta(minutes=minutes))

    def put(self, *call: Any, queue: str = "", **options: Any) -> Any:
        job = self.queues[queue].put(Job(*call), **options)
        transaction.commit()
        return job

    def claim(self, agent: Any, job: Any, active: bool = True) -> Any:
        """That very job is claimed, and begins."""
        agent.queue.take_out(job)
        agent.hold(job, active)
        transaction.commit()
        return job

    def end(self, job: Any, result: Any = None) -> Any:
        job._finish(result, clock.utcnow())
        transaction.commit()
        return job

    def run(self, agent: Any, job: Any, ends: float) -> Any:
        """The job is claimed and begins; it ends at that minute, and is filed away."""
        self.claim(agent, job)
        self.at(ends)
        try:
            result = job.callable(*job.args)
        except ValueError as error:
            result = Failure.from_exception(error)
        self.end(job, result)
        agent.jobCompleted(job)
        transaction.commit()
        return job

    def close(self) -> None:
        transaction.abort()
        self.connection.close()
        self.db.close()
        clock.set_now(None)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Story]:
    story = Story(tmp_path)
    yield story
    story.close()


@pytest.fixture
def story(empty: Story) -> Story:
    """At 12:30: one job in each state, and a second waiting one in the other queue."""
    empty.good = empty.put(send_letter, "a@b.c")
    empty.at(0.5)
    empty.run(empty.first["main"], empty.good, ends=4)
    empty.bad = empty.put(refuse, "x")
    empty.at(10)
    empty.run(empty.second["main"], empty.bad, ends=11)
    empty.at(12)
    empty.active = empty.put(enginejobs.add, 1)
    empty.assigned = empty.put(enginejobs.add, 2)
    empty.called = empty.put(send_letter, "called", "secret")
    empty.called.addCallback(enginejobs.note)
    empty.at(13)
    empty.claim(empty.second["main"], empty.active)
    empty.claim(empty.second["main"], empty.assigned, active=False)
    empty.at(14)
    empty.claim(empty.first["main"], empty.called)
    empty.at(16)
    empty.end(empty.called, "sent")
    empty.at(20)
    empty.letter = empty.put(send_letter, "later")
    empty.at(19)
    empty.other = empty.put(enginejobs.note, "x", queue="mail")
    empty.at(25)
    empty.sum = empty.put(enginejobs.add, 3)
    empty.at(30)
    return empty


def told(answer: Any) -> Any:
    """The answer as it comes out of JSON; it is plain data already."""
    assert json.loads(dumps(answer)) == answer
    return answer


def ids(*jobs: Any) -> list[Any]:
    return [[int.from_bytes(job._p_oid, "big"), "main"] for job in jobs]


class TestStates:
    @pytest.mark.parametrize(
        ("states", "names"),
        [
            (("pending",), ["other", "letter", "sum"]),
            (("assigned",), ["assigned"]),
            (("active",), ["active"]),
            (("callbacks",), ["called"]),
            (("completed",), ["bad", "good"]),
            (("succeeded",), ["good"]),
            (("failed",), ["bad"]),
            (("failed", "active"), ["active", "bad"]),
            (("active", "assigned", "callbacks"), ["active", "called", "assigned"]),
            (
                ("completed", "callbacks", "active", "assigned", "pending"),
                ["other", "letter", "sum", "active", "called", "assigned", "bad", "good"],
            ),
        ],
    )
    def test_jobs_are_told_by_state_each_kind_in_its_order(
        self, story: Story, states: tuple[str, ...], names: list[str]
    ) -> None:
        expected = ids(*(getattr(story, name) for name in names))
        assert told(monitordb.jobs(story.connection, *states)) == expected
        assert monitordb.count(story.connection, *states) == len(expected)

    @pytest.mark.parametrize("tool", [monitordb.jobs, monitordb.count, monitordb.jobstats])
    def test_an_unknown_state_is_a_value_error_that_lists_the_legal_ones(self, story: Story, tool: Any) -> None:
        with pytest.raises(
            ValueError, match="pending, assigned, active, callbacks, completed, succeeded, failed"
        ) as it:
            tool(story.connection, "waiting")
        assert isinstance(it.value, ZCAsyncError)

    @pytest.mark.parametrize("states", [(), ("completed", "failed"), ("pending", "succeeded", "failed")])
    def test_one_state_at_least_and_one_ended_state_at_most(self, story: Story, states: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match="at least one state"):
            monitordb.jobs(story.connection, *states)

    def test_a_cancelled_job_has_failed_also_before_a_claim_has_filed_it_away(self, story: Story) -> None:
        story.queue.cancel(story.letter)
        transaction.commit()
        assert monitordb.jobs(story.connection, "failed") == ids(story.letter, story.bad)
        assert monitordb.jobs(story.connection, "pending") == ids(story.other, story.sum)

    def test_a_job_that_waits_to_go_on_with_its_callbacks_is_in_callbacks(self, story: Story) -> None:
        story.first["main"].remove(story.called)
        story.queue.give_back(story.called)
        transaction.commit()
        assert monitordb.jobs(story.connection, "callbacks") == ids(story.called)
        assert monitordb.jobs(story.connection, "pending", "active") == ids(
            story.other, story.letter, story.sum, story.active
        )

    def test_a_job_that_was_claimed_ahead_and_has_begun_is_active(self, story: Story) -> None:
        slot = story.second.slot
        slot.started = frozenset({story.assigned._p_oid})
        transaction.commit()
        assert monitordb.jobs(story.connection, "assigned") == []
        assert monitordb.jobs(story.connection, "active") == ids(story.active, story.assigned)

    def test_pending_jobs_of_one_queue_come_in_the_order_in_which_they_are_offered(self, story: Story) -> None:
        story.queue.remove(story.sum)
        story.queue.give_back(story.sum, front=True)
        transaction.commit()
        assert monitordb.jobs(story.connection, "pending", queue="") == ids(story.sum, story.letter)

    def test_a_job_whose_class_is_gone_hides_no_others(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("gone")
        module.Special = type("Special", (Job,), {"__module__": "gone"})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "gone", module)
        broken = module.Special(enginejobs.add, 1)
        story.queue.put(broken)
        transaction.commit()
        broken_id = ids(broken)
        del broken
        monkeypatch.delitem(sys.modules, "gone")
        other = story.db.open(transaction.TransactionManager())
        other.cacheMinimize()
        fresh = DB(story.db.storage, database_name="main", databases={})
        connection = fresh.open(transaction.TransactionManager())
        try:
            assert broken_id[0] not in monitordb.jobs(connection, "pending")
            assert monitordb.count(connection, "pending") == 3
            assert monitordb.jobs(connection, "callbacks", "completed") == ids(story.called, story.bad, story.good)
        finally:
            for each in (other, connection):
                each.transaction_manager.abort()
                each.close()

    def test_a_database_without_queues_has_no_jobs(self) -> None:
        db = DB(None)
        connection = db.open()
        assert monitordb.jobs(connection, "pending", "completed") == []
        assert monitordb.status(connection) == {}
        assert monitordb.UUIDs(connection) == []
        assert monitordb.nextpending(connection) is monitordb.lastcompleted(connection) is None
        connection.close()
        db.close()


class TestFilters:
    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("send_letter", ["letter", "called", "good"]),
            ("*letter", ["letter", "called", "good"]),
            ("add", ["sum", "active", "assigned"]),
            ("enginejobs.*", ["other", "sum", "active", "assigned"]),
            ("enginejobs.add", ["sum", "active", "assigned"]),
            ("test_engine_monitordb.refuse", ["bad"]),
            ("letter", []),
        ],
    )
    def test_by_callable_the_bare_name_or_with_a_dot_the_dotted_one(
        self, story: Story, pattern: str, names: list[str]
    ) -> None:
        states = ("pending", "assigned", "active", "callbacks", "completed")
        found = monitordb.jobs(story.connection, *states, callable=pattern)
        assert found == ids(*(getattr(story, name) for name in names))

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [("", ["letter", "sum"]), ("ma*", ["other"]), ("*", ["other", "letter", "sum"]), ("?", [])],
    )
    def test_by_queue_a_pattern(self, story: Story, pattern: str, names: list[str]) -> None:
        assert monitordb.jobs(story.connection, "pending", queue=pattern) == ids(*(getattr(story, n) for n in names))

    @pytest.mark.parametrize(
        ("filters", "names"),
        [
            ({"agent": "main"}, ["letter", "sum", "active", "called", "assigned", "bad", "good"]),
            ({"agent": "m*", "uuid": FIRST}, ["letter", "called", "good"]),
            ({"uuid": str(SECOND)}, ["letter", "sum", "active", "assigned", "bad"]),
            ({"uuid": "1111*"}, ["other", "letter", "called", "good"]),
            ({"agent": "p*"}, ["other"]),
            ({"agent": "nobody"}, []),
        ],
    )
    def test_by_agent_and_dispatcher_whose_filters_decide_on_pending_jobs(
        self, story: Story, filters: Any, names: list[str]
    ) -> None:
        states = ("pending", "assigned", "active", "callbacks", "completed")
        assert monitordb.jobs(story.connection, *states, **filters) == ids(*(getattr(story, name) for name in names))

    def test_a_filter_that_fails_on_a_job_does_not_take_it(self, story: Story) -> None:
        story.put(send_letter, "x", queue="mail")
        assert monitordb.jobs(story.connection, "pending", agent="post") == ids(story.other)

    def test_an_agent_whose_filter_is_gone_takes_nothing(self, story: Story) -> None:
        story.mailer["post"]._filter = "gone:filter"
        transaction.commit()
        assert monitordb.jobs(story.connection, "pending", agent="post") == []
        assert monitordb.status(story.connection)["mail"]["dispatchers"][str(FIRST)]["agents"]["post"]["filter"] == (
            "gone.filter"
        )

    def test_an_agent_with_a_chooser_is_a_value_error_for_pending_jobs_only(self, story: Story) -> None:
        story.second["choosy"] = Agent(chooser=choose_nothing)
        transaction.commit()
        with pytest.raises(ValueError, match="'choosy'.* has a chooser") as raised:
            monitordb.jobs(story.connection, "pending", agent="ch*")
        assert isinstance(raised.value, ZCAsyncError)
        assert monitordb.jobs(story.connection, "active", "completed", agent="ch*") == []
        assert monitordb.count(story.connection, "pending") == 3

    def test_this_is_the_dispatcher_of_this_process(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        here = types.SimpleNamespace(UUID=FIRST)
        monkeypatch.setattr(dispatchers, "get", lambda: here)
        assert monitordb.jobs(story.connection, "completed", uuid="THIS") == ids(story.good)
        here = None  # type: ignore[assignment]
        with pytest.raises(ValueError, match="no dispatcher is in this process"):
            monitordb.jobs(story.connection, "completed", uuid="THIS")

    @pytest.mark.parametrize(
        ("filters", "names"),
        [
            # At 12:30. Requested: good 0, bad 4, active, assigned and called 12, other 19, letter 20, sum 25.
            ({"requested_start": "since10M"}, ["letter", "sum"]),
            ({"requested_start": "before11M,since18M"}, ["active", "called", "assigned"]),
            ({"requested_start": "since18M, before11M"}, ["active", "called", "assigned"]),
            # Started: good 0:30, bad 10, active 13, called 14. Pending ones have not, nor has what was only assigned.
            ({"start": "since17M"}, ["active", "called"]),
            ({"start": "before17M"}, ["bad", "good"]),
            # Ended: good 4, bad 11, called 16.
            ({"end": "since19M"}, ["called", "bad"]),
            ({"end": "before19M"}, ["good"]),
            ({"end": "before0S"}, ["called", "bad", "good"]),
            # All done: good 4, bad 11.
            ({"callbacks_completed": "before0S"}, ["bad", "good"]),
            ({"callbacks_completed": "since20M"}, ["bad"]),
            ({"end": "since29M", "start": "before29M"}, ["good"]),
        ],
    )
    def test_by_four_times_which_drop_the_jobs_that_cannot_have_them_yet(
        self, story: Story, filters: dict[str, str], names: list[str]
    ) -> None:
        states = ("pending", "assigned", "active", "callbacks", "completed")
        assert monitordb.jobs(story.connection, *states, **filters) == ids(*(getattr(story, name) for name in names))

    def test_since_is_inclusive_and_before_is_not(self, story: Story) -> None:
        assert monitordb.jobs(story.connection, "completed", end="since19M") == ids(story.bad)
        assert monitordb.jobs(story.connection, "completed", end="before19M") == ids(story.good)

    def test_what_has_ended_before_since_is_not_even_loaded(self, story: Story) -> None:
        story.connection.cacheMinimize()
        assert monitordb.jobs(story.connection, "completed", end="since20M") == ids(story.bad)
        assert story.good._p_changed is None

    @pytest.mark.parametrize("wrong", ["20M", "until20M", "sinceM", "since1H,since2H", "", 5])
    def test_a_time_that_is_not_understood_is_a_value_error(self, story: Story, wrong: Any) -> None:
        with pytest.raises(ValueError) as raised:
            monitordb.jobs(story.connection, "completed", end=wrong)
        assert isinstance(raised.value, ZCAsyncError)

    def test_an_unknown_filter_is_a_type_error_that_lists_those_that_there_are(self, story: Story) -> None:
        for tool in (monitordb.jobs, monitordb.count, monitordb.jobstats):
            with pytest.raises(TypeError, match="'colour'; there are callable, queue, agent, uuid") as raised:
                tool(story.connection, "pending", colour="red")
            assert isinstance(raised.value, ZCAsyncError)
        for lister in (monitordb.nextpending, monitordb.lastcompleted):
            with pytest.raises(TypeError):
                lister(story.connection, colour="red")

    @pytest.mark.parametrize("name", ["callable", "queue", "agent"])
    def test_a_pattern_must_be_a_text(self, story: Story, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} must be a text"):
            monitordb.jobs(story.connection, "pending", **{name: 5})


class TestDisplay:
    def test_a_count_ends_the_list(self, story: Story) -> None:
        assert monitordb.jobs(story.connection, "pending", count=2) == ids(story.other, story.letter)
        assert monitordb.jobs(story.connection, "pending", count="1") == ids(story.other)
        assert monitordb.jobs(story.connection, "pending", count=0) == []

    def test_a_job_can_be_shown_by_its_repr(self, story: Story) -> None:
        assert told(monitordb.jobs(story.connection, "active", display="repr")) == [repr(story.active)]
        assert "enginejobs.add(1)" in repr(story.active)

    def test_a_job_can_be_shown_with_its_details(self, story: Story) -> None:
        assert monitordb.jobs(story.connection, "active", display="details") == [monitordb.jobsummary(story.active)]

    @pytest.mark.parametrize("filters", [{"display": "detail"}, {"count": "all"}, {"count": -1}])
    def test_another_display_or_count_is_a_value_error(self, story: Story, filters: Any) -> None:
        with pytest.raises(ValueError):
            monitordb.jobs(story.connection, "pending", **filters)


class TestTools:
    def test_uuids_are_those_of_the_active_dispatchers_of_all_queues(self, story: Story) -> None:
        third = uuid.UUID("33333333-ffdf-11dc-abd4-0017f2c49bdd")
        story.dispatcher(story.mail, third)
        story.second["main"].pull(0)
        story.second.deactivate()
        transaction.commit()
        assert told(monitordb.UUIDs(story.connection)) == [str(FIRST), str(third)]

    def test_status_tells_queues_dispatchers_and_agents(self, story: Story) -> None:
        story.first.ping(clock.utcnow(), memory=100 * 2**20, version="1.2", skew=-1.5, gave_way=2)
        story.second.slot.mailbox[(story.active._p_oid, "overdue", "")] = True
        story.at(30.025)
        agent = {"filter": "test_engine_monitordb.takes_letters", "len": 1, "size": 3}
        silent = {
            "clock skew": None,
            "gave way": 0,
            "dead": True,
            "last ping": None,
            "memory": None,
            "ping death interval": {"minutes": 1},
            "ping interval": {"seconds": 30.0},
            "since ping": None,
            "version": None,
        }
        post = {"filter": "test_engine_monitordb.takes_all_but_fails_on_letters", "len": 0, "size": 1}
        assert told(monitordb.status(story.connection)) == {
            "": {
                "dispatchers": {
                    str(FIRST): {
                        "agents": {"main": agent},
                        "clock skew": -1.5,
                        "gave way": 2,
                        "dead": False,
                        "last ping": "2026-05-01T12:30:00Z",
                        "memory": 104857600,
                        "ping death interval": {"minutes": 1},
                        "ping interval": {"seconds": 30.0},
                        "since ping": {"seconds": 1.5},
                        "version": "1.2",
                    },
                    str(SECOND): {**silent, "agents": {"main": {"filter": None, "len": 2, "size": 5}}},
                },
                "awaiting": 0,
                "len": 2,
                "overdue": ids(story.active),
            },
            "mail": {
                "awaiting": 0,
                "len": 1,
                "overdue": [],
                "dispatchers": {str(FIRST): {**silent, "agents": {"post": post}}},
            },
        }

    def test_status_can_be_asked_for_some_queues_agents_and_dispatchers(self, story: Story) -> None:
        story.second["choosy"] = Agent(chooser=choose_nothing)
        transaction.commit()
        found = monitordb.status(story.connection, queue="", agent="c*", uuid="2*")
        assert list(found) == [""]
        assert list(found[""]["dispatchers"]) == [str(SECOND)]
        assert found[""]["dispatchers"][str(SECOND)]["agents"] == {
            "choosy": {"chooser": "test_engine_monitordb.choose_nothing", "len": 0, "size": 3}
        }

    def test_jobstats_tells_counts_and_extremes(self, story: Story) -> None:
        states = ("pending", "assigned", "active", "callbacks", "completed")
        good, bad, active = ids(story.good, story.bad, story.active)
        assert told(monitordb.jobstats(story.connection, *states)) == {
            "pending": 3,
            "assigned": 1,
            "active": 1,
            "callbacks": 1,
            "succeeded": 1,
            "failed": 1,
            "longest wait": [{"minutes": 18}, *ids(story.assigned)],
            "shortest wait": [{"seconds": 30.0}, good],
            "longest active": [{"minutes": 17}, active],
            "shortest active": [{"minutes": 1}, bad],
        }
        some = monitordb.jobstats(story.connection, "pending", queue="mail", display="repr")
        assert some["longest wait"] == some["shortest wait"] == [{"minutes": 11}, repr(story.other)]
        assert (some["pending"], some["longest active"]) == (1, None)

    def test_a_job_for_later_does_not_wait_yet(self, empty: Story) -> None:
        empty.put(send_letter, "x", begin_after=NOON + timedelta(hours=1))
        found = monitordb.jobstats(empty.connection, "pending")
        assert (found["pending"], found["longest wait"], found["shortest wait"]) == (1, None, None)

    def test_job_tells_all_about_a_finished_one(self, story: Story) -> None:
        expected = {
            "active": {"minutes": 3, "seconds": 30.0},
            "active end": "2026-05-01T12:04:00Z",
            "active start": "2026-05-01T12:00:30Z",
            "agent": "main",
            "args": ["'a@b.c'"],
            "begin after": "2026-05-01T12:00:00Z",
            "callbacks": [],
            "dispatcher": str(FIRST),
            "failed": False,
            "initial callbacks end": "2026-05-01T12:04:00Z",
            "kwargs": {},
            "queue": "",
            "quota names": [],
            "repr": repr(story.good),
            "result": "'sent to a@b.c'",
            "status": "completed",
            "wait": {"seconds": 30.0},
        }
        oid = int.from_bytes(story.good._p_oid, "big")
        assert told(monitordb.job(story.connection, oid)) == expected
        assert monitordb.job(story.connection, oid, "main") == expected
        assert monitordb.job(story.connection, story.good.id) == monitordb.jobsummary(story.good) == expected

    def test_job_tells_of_a_failure_briefly(self, story: Story) -> None:
        found = told(monitordb.jobsummary(story.bad))
        assert found["failed"] is True
        assert found["result"] == story.bad.result.getBriefTraceback()

    def test_job_tells_of_one_that_waits_and_of_one_whose_callbacks_run(self, story: Story) -> None:
        waiting = monitordb.jobsummary(story.other)
        nothing = ("active", "active start", "active end", "agent", "dispatcher", "initial callbacks end", "result")
        assert {waiting[name] for name in nothing} == {None}
        assert (waiting["status"], waiting["queue"], waiting["wait"]) == ("pending", "mail", {"minutes": 11})
        called = told(monitordb.jobsummary(story.called))
        assert called["callbacks"] == ids(*story.called.all_callbacks())
        assert (called["status"], called["active"], called["wait"]) == ("callbacks", {"minutes": 2}, {"minutes": 2})

    def test_secrets_among_the_keywords_are_masked(self, story: Story) -> None:
        job = story.queue.put(Job(send_letter, "a", password="geheim"))
        transaction.commit()
        found = monitordb.jobsummary(job)
        assert found["kwargs"] == {"password": "********"}
        assert "geheim" not in dumps(found)

    @pytest.mark.parametrize("oid", [999999, "fffff", "nonsense", -3, None])
    def test_what_is_no_job_is_a_lookup_error(self, story: Story, oid: Any) -> None:
        with pytest.raises(JobNotFound):
            monitordb.job(story.connection, oid)
        with pytest.raises(LookupError):
            monitordb.traceback(story.connection, oid)

    def test_traceback_tells_it_in_three_lengths_or_null(self, story: Story) -> None:
        oid = int.from_bytes(story.bad._p_oid, "big")
        texts = {detail: monitordb.traceback(story.connection, oid, detail=detail) for detail in monitordb.DETAILS}
        assert texts["default"] == monitordb.traceback(story.connection, oid)
        assert all("no such address: x" in (text or "") for text in texts.values())
        assert len(texts["brief"] or "") < len(texts["default"] or "")
        assert monitordb.traceback(story.connection, int.from_bytes(story.good._p_oid, "big")) is None
        with pytest.raises(ValueError, match="brief, default, verbose"):
            monitordb.traceback(story.connection, oid, detail="long")

    def test_nextpending_tells_the_first_that_passes(self, story: Story) -> None:
        assert told(monitordb.nextpending(story.connection)) == monitordb.jobsummary(story.other)
        assert monitordb.nextpending(story.connection, queue="") == monitordb.jobsummary(story.letter)
        assert monitordb.nextpending(story.connection, callable="nothing") is None

    @pytest.mark.parametrize("name", ["start", "end", "callbacks_completed"])
    def test_nextpending_knows_no_times_that_come_later(self, story: Story, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} cannot choose"):
            monitordb.nextpending(story.connection, **{name: "since1H"})

    def test_lastcompleted_tells_the_newest_that_passes(self, story: Story) -> None:
        assert told(monitordb.lastcompleted(story.connection)) == monitordb.jobsummary(story.bad)
        assert monitordb.lastcompleted(story.connection, end="before20M") == monitordb.jobsummary(story.good)
        assert monitordb.lastcompleted(story.connection, callable="add") is None

    def test_help_lists_the_ten_tools_and_tells_all_of_one(self, story: Story) -> None:
        names = [line.split(":")[0] for line in told(monitordb.help(story.connection))]
        assert names == [
            *("UUIDs", "count", "help", "job", "jobs", "jobstats", "lastcompleted", "nextpending", "status"),
            "traceback",
        ]
        assert monitordb.help(story.connection, "jobs") == monitordb.help("jobs")
        assert "requested_start" in monitordb.help("jobs") and "details" in monitordb.help("jobs")
        assert monitordb.help("nothing") == "Tool not found: nothing"

    def test_anything_that_leads_to_a_connection_will_do(self, story: Story) -> None:
        expected = monitordb.count(story.connection, "pending")
        for context in (story.queues, story.queue, story.good, story.connection.root()):
            assert monitordb.count(context, "pending") == expected
        with pytest.raises(ValueError, match="leads to no database connection"):
            monitordb.count("", "pending")


def put_inner(name: str) -> Job:
    """A job that returns a job."""
    return Job(enginejobs.wait, name)


def test_a_job_that_waits_for_another_is_active_and_told_with_it_everywhere(queue: Any, dispatch: Any) -> None:
    dispatcher = dispatch().dispatcher
    outer = queue.put(Job(put_inner, "a"))
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    wait_until(queue, lambda: list(queue.awaiting()), 20)
    ((job, inner),) = queue.awaiting()
    assert job is outer
    assert monitordb.jobs(queue, "active") == [plain(outer), plain(inner)]
    assert monitordb.status(queue)[""]["awaiting"] == 1
    rows = {row.id: row.detail for row in joblists.jobs(queue._p_jar, joblists.RUNNING).rows}
    assert rows == {outer.id: f"waits for {inner.id}", inner.id: "main"}
    assert joblists.counts(queue._p_jar)[joblists.RUNNING].number == 2
    assert joblists.state_of(outer) == joblists.RUNNING
    (finding,) = [finding for finding in doctor.examine(queue) if finding.kind == "awaiting"]
    assert not finding.problem and f"{outer.id} for {inner.id}" in finding.what
    remembered = dispatcher.getJobInfo(*dispatchers.getId(outer))
    assert (remembered["completed"], remembered["reassigned"]) == (None, False)
    enginejobs.released["a"].set()
    assert wait_for_result(outer, 20) == "a"
