"""What a dispatcher tells of itself: its state, its polls, the jobs of its threads, and numbers about them."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import dispatcher as module
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.job import Job
from collective.zcasync.jobinfo import CUT
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.jobinfo import TEXT_LIMIT
from collective.zcasync.pollinfo import PollInfo
from collective.zcasync.pollinfo import Polls
from collective.zcasync.pollinfo import Rolling
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from typing import Any

import enginejobs
import pytest
import threading
import transaction
import ZODB

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)

KEYS = set("agent,call,completed,failed,poll id,queue,quota names,reassigned,result,started,thread".split(","))


@pytest.fixture
def frozen() -> Callable[[float], datetime]:
    """Sets the clock to noon, and from then on to so many seconds after it."""

    def at(seconds: float) -> datetime:
        clock.set_now(NOON + timedelta(seconds=seconds))
        return clock.utcnow()

    at(0)
    return at


class NoReactor:
    """Of a dispatcher that is never activated."""


@pytest.fixture
def idle() -> Iterator[Dispatcher]:
    """A dispatcher that does not run: its polls and jobs are made by hand."""
    db = ZODB.DB(None)
    made = Dispatcher(db, NoReactor(), poll_interval=5)
    yield made
    module.pop(made.UUID)
    db.close()


def entry(new: list[int] = [], active: list[int] = [], error: Any = None) -> dict[str, Any]:  # noqa: B006
    return {
        "size": 3,
        "len": len(active),
        "error": error,
        "new jobs": [(oid, "unnamed") for oid in new],
        "active jobs": [(oid, "unnamed") for oid in active],
    }


class Record:
    """What JobInfo reads of a job that was claimed."""

    def __init__(self, agent: str) -> None:
        self.agent_name, self.quota_names = agent, ()


def info(queue: str = "", agent: str = "main", **values: Any) -> JobInfo:
    made = JobInfo(Record(agent), queue)
    made.update({key.replace("_", " "): value for key, value in values.items()})
    made.over = made["completed"] is not None
    return made


def put(queue: Any, *call: Any) -> Any:
    job = queue.put(Job(*call))
    transaction.commit()
    return job


def done(running: Any, job: Any) -> dict[str, Any]:
    """The info of a job as soon as its thread has done with it."""
    dispatcher, oid = running.dispatcher, int.from_bytes(job._p_oid, "big")

    def left() -> Any:
        found = dispatcher.jobs.get((oid, job._p_jar.db().database_name))
        return found is not None and found.over

    wait_until(job, left, 20, f"the end of {oid}")
    return dispatcher.getJobInfo(oid)


class TestStatus:
    def test_a_dispatcher_that_is_not_active_is_stopped_and_knows_no_times(self, idle: Dispatcher) -> None:
        assert idle.getStatusInfo() == {
            "status": "STOPPED",
            "poll interval": timedelta(seconds=5),
            "time since last poll": None,
            "uptime": None,
            "uuid": idle.UUID,
        }

    def test_before_its_first_poll_it_starts_and_counts_from_its_activation(
        self, idle: Dispatcher, frozen: Any
    ) -> None:
        idle.activated = frozen(0)
        frozen(4)
        status = idle.getStatusInfo()
        assert (status["status"], status["time since last poll"]) == ("STARTING", timedelta(seconds=4))
        assert status["uptime"] is None

    def test_with_polls_it_runs_and_counts_from_the_last_one(self, idle: Dispatcher, frozen: Any) -> None:
        idle.activated = frozen(0)
        frozen(1)
        idle.polls.add(PollInfo())
        frozen(3.5)
        status = idle.getStatusInfo()
        assert (status["status"], status["time since last poll"]) == ("RUNNING", timedelta(seconds=2.5))
        assert status["uptime"] == timedelta(seconds=3.5)

    @pytest.mark.parametrize("polled", [True, False])
    def test_without_a_poll_for_two_intervals_it_is_stuck(self, idle: Dispatcher, frozen: Any, polled: bool) -> None:
        idle.activated = frozen(0)
        if polled:
            idle.polls.add(PollInfo())
        frozen(9.9)
        assert idle.getStatusInfo()["status"] != "STUCK"
        frozen(10.1)
        assert idle.getStatusInfo()["status"] == "STUCK"

    def test_a_real_dispatcher_runs_after_its_first_poll_and_is_stopped_at_its_end(self, dispatch: Any) -> None:
        running = dispatch()
        assert running.dispatcher.getStatusInfo()["status"] == "RUNNING"
        running.stop(grace=0)
        assert running.dispatcher.getStatusInfo()["status"] == "STOPPED"


class TestActiveJobs:
    def test_they_are_those_that_the_threads_run_newest_first(self, queue: Any, dispatch: Any, db: Any) -> None:
        dispatcher = dispatch().dispatcher
        jobs = []
        for name in ("a", "b"):
            jobs.append(put(queue, enginejobs.wait, name))
            assert enginejobs.started[name].wait(20)
        expected = [(int.from_bytes(job._p_oid, "big"), db.database_name) for job in reversed(jobs)]
        assert dispatcher.getActiveJobIds() == expected
        assert dispatcher.getActiveJobIds("") == dispatcher.getActiveJobIds("", "main") == expected
        assert dispatcher.getActiveJobIds("other") == dispatcher.getActiveJobIds(agent="other") == []
        enginejobs.released["b"].set()
        done_first = wait_for_result(jobs[1], 20)
        assert done_first == "b"
        wait_until(queue, lambda: dispatcher.getActiveJobIds() == expected[1:], 20)
        enginejobs.released["a"].set()
        wait_for_result(jobs[0], 20)


class TestJobInfo:
    def test_a_job_that_ran_is_told_with_all_that_is_known(self, queue: Any, dispatch: Any, db: Any) -> None:
        running = dispatch()
        queue.quotas.create("mail")
        job = Job(enginejobs.add, 1, 2)
        job.quota_names = ("mail",)
        queue.put(job)
        transaction.commit()
        assert wait_for_result(job, 20) == 3
        found = done(running, job)
        assert found.keys() == KEYS
        oid = int.from_bytes(job._p_oid, "big")
        assert found["call"] == repr(job) and "enginejobs.add(1, 2)" in found["call"]
        assert (found["queue"], found["agent"], found["quota names"]) == ("", "main", ("mail",))
        assert (found["failed"], found["result"], found["reassigned"]) == (False, "3", False)
        assert found["started"] <= found["completed"]
        assert found["started"].tzinfo is found["completed"].tzinfo is timezone.utc
        assert isinstance(found["thread"], int)
        poll = running.dispatcher.getPollInfo(at=found["poll id"])
        assert poll.key == found["poll id"]
        assert (oid, db.database_name) in poll[""]["main"]["new jobs"]
        assert running.dispatcher.getJobInfo(oid, db.database_name) == found

    def test_a_job_that_runs_is_told_with_its_thread_and_without_an_end(self, queue: Any, dispatch: Any) -> None:
        dispatcher = dispatch().dispatcher
        job = put(queue, enginejobs.wait, "a")
        assert enginejobs.started["a"].wait(20)
        found = dispatcher.getJobInfo(int.from_bytes(job._p_oid, "big"))
        threads = {thread.ident for pool in dispatcher.queues[""].values() for thread in pool.threads}
        assert found["thread"] in threads
        assert found["started"] is not None
        assert (found["completed"], found["result"], found["failed"], found["reassigned"]) == (None, None, False, False)
        enginejobs.released["a"].set()
        wait_for_result(job, 20)

    def test_a_failed_job_is_told_with_its_traceback(self, queue: Any, dispatch: Any) -> None:
        running = dispatch()
        job = put(queue, enginejobs.change_and_raise)
        wait_for_result(job, 20)
        found = done(running, job)
        assert found["failed"] is True
        assert found["result"].startswith("Traceback") and "ValueError: on purpose" in found["result"]

    def test_a_long_result_is_cut_and_the_cut_is_marked(self, queue: Any, dispatch: Any) -> None:
        running = dispatch()
        job = put(queue, enginejobs.note, "x" * 3 * TEXT_LIMIT)
        wait_for_result(job, 20)
        found = done(running, job)
        assert found["result"] == "'" + "x" * (TEXT_LIMIT - 1) + CUT
        assert len(found["call"]) == TEXT_LIMIT + len(CUT)

    def test_a_job_that_waits_for_a_retry_is_neither_completed_nor_running(self, queue: Any, dispatch: Any) -> None:
        running = dispatch()
        job = Job(enginejobs.failing_hook)
        job.retry_policy_factory = RetryCommonForever
        queue.put(job)
        transaction.commit()
        wait_until(queue, lambda: job.attempt_log and job.status == "pending-status", 20, "a job that waits again")
        found = done(running, job)
        assert (found["completed"], found["result"], found["reassigned"]) == (None, None, False)
        assert running.dispatcher.getActiveJobIds() == []

    def test_a_job_of_which_the_newest_poll_knows_nothing_is_told_as_reassigned(
        self, idle: Dispatcher, frozen: Any
    ) -> None:
        kept = idle.jobs[7, "unnamed"] = info(started=NOON)
        idle.jobs[8, "unnamed"] = info(started=NOON)
        idle.jobs[9, "unnamed"] = info(started=NOON, completed=NOON)
        frozen(5)
        poll = PollInfo({"": {"main": entry(active=[8])}})
        idle.polls.add(poll)
        idle.jobs[10, "unnamed"] = info(started=clock.utcnow())
        assert [idle.getJobInfo(oid)["reassigned"] for oid in (7, 8, 9, 10)] == [True, False, False, False]
        assert kept["reassigned"] is False

    def test_a_job_whose_thread_found_another_owner_is_told_as_reassigned(self, queue: Any, dispatch: Any) -> None:
        running = dispatch()
        job = put(queue, enginejobs.wait, "a")
        assert enginejobs.started["a"].wait(20)
        wait_until(queue, lambda: job.token, 20)
        job.token = "another claim"
        transaction.commit()
        enginejobs.released["a"].set()
        found = done(running, job)
        assert (found["reassigned"], found["completed"]) == (True, None)

    def test_an_unknown_oid_is_a_value_error(self, idle: Dispatcher) -> None:
        with pytest.raises(ValueError, match="no job with the oid 77") as raised:
            idle.getJobInfo(77)
        assert isinstance(raised.value, ZCAsyncError)

    def test_an_oid_in_several_databases_is_a_value_error_that_names_them(self, idle: Dispatcher) -> None:
        for name in ("main", "jobs"):
            idle.jobs[7, name] = info(result=name)
        with pytest.raises(ValueError, match="name one of jobs, main") as raised:
            idle.getJobInfo(7)
        assert isinstance(raised.value, ZCAsyncError)
        assert idle.getJobInfo(7, "jobs")["result"] == "jobs"

    def test_an_unknown_pair_is_a_key_error(self, idle: Dispatcher) -> None:
        idle.jobs[7, "main"] = info()
        with pytest.raises(KeyError) as raised:
            idle.getJobInfo(7, "jobs")
        assert isinstance(raised.value, ZCAsyncError)

    def test_what_is_handed_out_can_be_changed_without_harm(self, idle: Dispatcher) -> None:
        idle.jobs[7, "main"] = info()
        idle.getJobInfo(7)["result"] = "changed"
        assert idle.getJobInfo(7)["result"] is None


class TestPolls:
    @pytest.fixture
    def polls(self, idle: Dispatcher, frozen: Any) -> list[PollInfo]:
        """Polls at 0, 5, 10, 15 and 20 seconds; newest first, as the dispatcher has them."""
        for seconds in (0, 5, 10, 15, 20):
            frozen(seconds)
            idle.polls.add(PollInfo())
        return list(idle.polls)

    @pytest.mark.parametrize("form", ["key", "aware", "elsewhere", "naive"])
    @pytest.mark.parametrize(
        ("name", "seconds", "expected"),
        [
            *[("at", 10, 2), ("at", 14.9, 2), ("at", 99, 0), ("at", 0, 4)],
            *[("before", 10, 3), ("before", 10.1, 2), ("before", 99, 0)],
        ],
    )
    def test_a_poll_is_found_at_or_before_a_moment(
        self, idle: Dispatcher, polls: list[PollInfo], form: str, name: str, seconds: float, expected: int
    ) -> None:
        assert idle.getPollInfo(**{name: self.written(seconds, form)}) is polls[expected]

    @staticmethod
    def written(seconds: float, form: str) -> Any:
        """A moment in each of the ways in which it may be given."""
        when = NOON + timedelta(seconds=seconds)
        forms = {
            "key": PollInfo.key.fget,
            "aware": lambda poll: when,
            "elsewhere": lambda poll: when.astimezone(timezone(timedelta(hours=-7))),
            "naive": lambda poll: when.replace(tzinfo=None),
        }
        poll = PollInfo()
        poll.utc_timestamp = when
        return forms[form](poll)

    def test_without_a_moment_the_newest_poll_is_found(self, idle: Dispatcher, polls: list[PollInfo]) -> None:
        assert idle.getPollInfo() is polls[0]
        assert idle.getPollInfo().utc_timestamp == NOON + timedelta(seconds=20)

    @pytest.mark.parametrize("arguments", [{"at": NOON - timedelta(days=1)}, {"before": NOON}])
    def test_a_poll_that_is_not_remembered_is_a_value_error(
        self, idle: Dispatcher, polls: list[PollInfo], arguments: Any
    ) -> None:
        with pytest.raises(ValueError, match="no such poll is remembered") as raised:
            idle.getPollInfo(**arguments)
        assert isinstance(raised.value, ZCAsyncError)

    def test_both_at_and_before_are_a_value_error_at_once(self, idle: Dispatcher) -> None:
        with pytest.raises(ValueError, match="at or before, not both"):
            idle.getPollInfo(at=NOON, before=NOON)
        with pytest.raises(ValueError, match="at or before, not both"):
            idle.iterPolls(at=NOON, before=NOON)

    @pytest.mark.parametrize("wrong", ["noon", 1.5, True, -4])
    @pytest.mark.parametrize("name", ["at", "before", "since"])
    def test_what_is_no_moment_is_refused(self, idle: Dispatcher, name: str, wrong: Any) -> None:
        with pytest.raises(InvalidValueError):
            idle.iterPolls(**{name: wrong})

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({}, [0, 1, 2, 3, 4]),
            ({"count": 2}, [0, 1]),
            ({"count": 0}, []),
            ({"at": 15}, [1, 2, 3, 4]),
            ({"before": 15, "count": 2}, [2, 3]),
            ({"since": 10}, [0, 1, 2]),
            ({"since": 10.1}, [0, 1]),
            ({"before": 20, "since": 10}, [1, 2]),
            ({"since": 21}, []),
        ],
    )
    def test_polls_are_told_newest_first_within_their_bounds(
        self, idle: Dispatcher, polls: list[PollInfo], arguments: dict[str, Any], expected: list[int]
    ) -> None:
        for form in ("key", "aware", "naive"):
            given = {name: value if name == "count" else self.written(value, form) for name, value in arguments.items()}
            assert list(idle.iterPolls(**given)) == [polls[number] for number in expected]

    def test_a_count_below_zero_is_a_value_error(self, idle: Dispatcher) -> None:
        with pytest.raises(ValueError, match="count must be"):
            idle.iterPolls(count=-1)

    def test_whoever_iterates_goes_on_with_what_was_there_when_he_began(
        self, idle: Dispatcher, polls: list[PollInfo]
    ) -> None:
        iterator = idle.iterPolls()
        seen = [next(iterator)]
        for _ in range(500):  # all that is remembered is replaced meanwhile
            idle.polls.add(PollInfo())
        seen += list(iterator)
        assert seen == polls

    def test_polls_can_be_read_in_one_thread_while_another_adds_them(self, idle: Dispatcher) -> None:
        stop, errors = threading.Event(), []

        def read() -> None:
            while not stop.is_set():
                try:
                    keys = [poll.key for poll in idle.iterPolls()]
                    assert keys == sorted(keys)
                    idle.getStatistics()
                    list(idle.jobs)
                except Exception as error:
                    errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(2000):
            idle.polls.add(PollInfo({"": {"main": entry(new=[number])}}))
            claimed = PollInfo({"": {"main": entry(new=[number + 1])}, f"queue {number}": {"main": entry(new=[1])}})
            idle.polls.extend(claimed, 200)
            idle.jobs[number, "unnamed"] = info()
        stop.set()
        reader.join(20)
        assert not reader.is_alive()
        assert errors == []

    def test_a_real_poll_tells_sizes_and_what_ran_before_it(self, queue: Any, dispatch: Any, db: Any) -> None:
        dispatcher = dispatch().dispatcher
        job = put(queue, enginejobs.wait, "a")
        assert enginejobs.started["a"].wait(20)
        job_id = module.getId(job)
        assert job_id in dispatcher.getPollInfo()[""]["main"]["new jobs"]
        poll = poll_now(dispatcher)
        assert poll[""]["main"] == {
            "size": 3,
            "len": 1,
            "error": None,
            "new jobs": [],
            "active jobs": [job_id],
        }
        enginejobs.released["a"].set()
        wait_for_result(job, 20)


class TestStatistics:
    @pytest.fixture
    def known(self, idle: Dispatcher, frozen: Any) -> Dispatcher:
        """Three polls; jobs 1 to 6 in two queues, of which 6 is forgotten; the clock stands at 60 s."""

        def at(seconds: float) -> datetime:
            return NOON + timedelta(seconds=seconds)

        idle.polls.add(PollInfo({"": {"main": entry(new=[2], active=[1])}}))
        frozen(5)
        idle.polls.add(PollInfo({"": {"main": entry(new=[3], active=[1, 2])}, "mail": {"fast": entry(new=[4])}}))
        frozen(10)
        idle.polls.add(PollInfo({"": {"main": entry(new=[5, 6], active=[3])}, "mail": None}))
        idle.jobs[1, "unnamed"] = info(started=at(-7), completed=at(6))
        idle.jobs[2, "unnamed"] = info(started=at(1), completed=at(4))
        idle.jobs[3, "unnamed"] = info(started=at(5), completed=at(9), failed=True)
        idle.jobs[4, "unnamed"] = info("mail", "fast", started=at(6))
        idle.jobs[5, "unnamed"] = info(started=at(11))
        frozen(60)
        return idle

    def test_all_that_is_remembered_is_counted_with_its_extremes_and_times(self, known: Dispatcher) -> None:
        assert known.getStatistics() == {
            "started": 6,
            "successful": 2,
            "failed": 1,
            "unknown": 1,
            "shortest successful": (2, "unnamed"),
            "longest successful": (1, "unnamed"),
            "shortest failed": (3, "unnamed"),
            "longest failed": (3, "unnamed"),
            "shortest active": (5, "unnamed"),
            "longest active": (4, "unnamed"),
            "statistics start": NOON,
            "statistics end": NOON + timedelta(seconds=10),
        }

    @pytest.mark.parametrize(
        ("arguments", "counts"),
        [
            ({"queue": "mail"}, (1, 0, 0, 0)),
            ({"queue": ""}, (5, 2, 1, 1)),
            ({"agent": "fast"}, (1, 0, 0, 0)),
            ({"queue": "", "agent": "fast"}, (0, 0, 0, 0)),
            ({"at": NOON}, (2, 2, 0, 0)),
            ({"before": NOON + timedelta(seconds=10)}, (4, 2, 1, 0)),
            ({"since": NOON + timedelta(seconds=5)}, (6, 2, 1, 1)),
            ({"since": NOON + timedelta(seconds=10)}, (3, 0, 1, 1)),
            ({"since": NOON + timedelta(seconds=11)}, (0, 0, 0, 0)),
        ],
    )
    def test_jobs_are_counted_by_window_queue_and_agent(
        self, known: Dispatcher, arguments: dict[str, Any], counts: tuple[int, ...]
    ) -> None:
        found = known.getStatistics(**arguments)
        assert tuple(found[name] for name in ("started", "successful", "failed", "unknown")) == counts

    def test_the_start_is_the_older_and_the_end_the_newer_time(self, known: Dispatcher) -> None:
        found = known.getStatistics(since=NOON + timedelta(seconds=5))
        assert found["statistics start"] == NOON + timedelta(seconds=5)
        assert found["statistics end"] == NOON + timedelta(seconds=10)

    def test_without_polls_all_is_zero_and_nothing_is_extreme(self, idle: Dispatcher) -> None:
        found = idle.getStatistics()
        numbers = ("started", "successful", "failed", "unknown")
        assert [found.pop(name) for name in numbers] == [0] * 4
        assert set(found.values()) == {None}

    def test_a_job_that_no_thread_has_begun_is_not_started(self, idle: Dispatcher) -> None:
        idle.polls.add(PollInfo({"": {"main": entry(new=[1])}}))
        idle.jobs[1, "unnamed"] = info()
        assert idle.getStatistics()["started"] == 0

    def test_a_job_that_left_its_thread_without_an_end_is_started_and_not_active(self, idle: Dispatcher) -> None:
        idle.polls.add(PollInfo({"": {"main": entry(new=[1])}}))
        idle.jobs[1, "unnamed"] = info(started=NOON)
        idle.jobs[1, "unnamed"].over = True
        found = idle.getStatistics()
        assert (found["started"], found["longest active"]) == (1, None)

    def test_a_known_run_gives_its_numbers(self, queue: Any, dispatch: Any) -> None:
        running = dispatch()
        good = [put(queue, enginejobs.add, number) for number in range(3)]
        bad = put(queue, enginejobs.change_and_raise)
        busy = put(queue, enginejobs.wait, "a")
        for job in (*good, bad):
            wait_for_result(job, 20)
            done(running, job)
        assert enginejobs.started["a"].wait(20)
        found = running.dispatcher.getStatistics()
        numbers = ("started", "successful", "failed", "unknown")
        assert tuple(found[name] for name in numbers) == (5, 3, 1, 0)
        assert found["longest failed"] == found["shortest failed"] == module.getId(bad)
        assert found["longest active"] == module.getId(busy)
        assert found["longest successful"] in {module.getId(job) for job in good}
        enginejobs.released["a"].set()
        wait_for_result(busy, 20)

    def test_jobs_that_a_busy_poll_only_counts_are_started_and_unknown(self, idle: Dispatcher) -> None:
        idle.polls.add(PollInfo({"": {"main": entry(new=[1])}}))
        for oid in range(2, 8):
            idle.polls.extend(PollInfo({"": {"main": entry(new=[oid])}}), keep=3)
        assert idle.getPollInfo()[""]["main"]["new jobs"] == [(oid, "unnamed") for oid in (5, 6, 7)]
        found = idle.getStatistics()
        assert (found["started"], found["unknown"]) == (7, 7)


class TestLimits:
    def test_200_jobs_and_400_polls_are_remembered_unless_told_otherwise(self, idle: Dispatcher) -> None:
        assert (idle.jobs.size, idle.polls.size) == (200, 400)

    def test_the_oldest_make_room(self) -> None:
        db = ZODB.DB(None)
        dispatcher = Dispatcher(db, NoReactor(), jobs_size=3, polls_size=2)
        try:
            for number in range(5):
                dispatcher.jobs[number, "main"] = info()
                dispatcher.polls.add(PollInfo({str(number): None}))
            assert list(dispatcher.jobs) == [(2, "main"), (3, "main"), (4, "main")]
            assert [list(poll) for poll in dispatcher.polls] == [["4"], ["3"]]
            assert len(dispatcher.polls) == 2
        finally:
            module.pop(dispatcher.UUID)
            db.close()

    def test_a_job_that_is_claimed_again_is_the_newest(self) -> None:
        jobs = Rolling(2)
        jobs["a"], jobs["b"], jobs["a"], jobs["c"] = 1, 2, 3, 4
        assert dict(jobs) == {"a": 3, "c": 4}

    @pytest.mark.parametrize("kind", [Rolling, Polls])
    @pytest.mark.parametrize("size", [0, -1, "3", 2.5, None])
    def test_a_wrong_size_is_refused(self, kind: Any, size: Any) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            kind(size)

    def test_a_real_dispatcher_forgets_the_oldest_jobs(self, queue: Any, dispatch: Any) -> None:
        running = dispatch(jobs_size=2)
        jobs = [put(queue, enginejobs.add, number) for number in range(4)]
        for job in jobs:
            wait_for_result(job, 20)
        assert len(running.dispatcher.jobs) == 2
        assert running.dispatcher.getStatistics()["unknown"] >= 2


def test_a_queue_that_a_new_poll_meets_is_told_too(db: Any, connection: Any, dispatch: Any) -> None:
    running = dispatch()
    install(connection, ("", "mail"))
    transaction.commit()
    poll_now(running.dispatcher)
    assert "mail" in running.dispatcher.getPollInfo()
    job = put(get_queue(connection, "mail"), enginejobs.add, 1)
    wait_for_result(job, 20)
    assert done(running, job)["queue"] == "mail"


def test_what_a_claim_knows_of_its_job_is_told_by_the_thread_that_runs_it(queue: Any) -> None:
    agent = enginejobs.make_agent(queue)
    job = queue.put(Job(enginejobs.add, 1, 2))
    transaction.commit()
    info = JobInfo(job, "")
    assert (info["call"], info["started"], info["completed"]) == (None, None, None)
    enginejobs.perform(agent, info)

    assert info["call"] == repr(job) and info["thread"] == threading.get_ident()
    assert info["started"] <= info["completed"] and (info["failed"], info["result"]) == (False, "3")
