"""doctor: each thing that keeps jobs from running is found, named with the way out, and gone when it is mended."""

from collections.abc import Iterator
from collective.zcasync import callables
from collective.zcasync import clock
from collective.zcasync import doctor
from collective.zcasync import rightofway
from collective.zcasync.agent import Agent
from collective.zcasync.doctor import Finding
from collective.zcasync.job import Job
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.queue import install
from collective.zcasync.queue import Site
from datetime import timedelta
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import enginejobs
import pytest
import sys
import transaction
import types
import uuid


def takes_nothing(job: Any) -> bool:
    return False


def takes_all(job: Any) -> bool:
    return True


def choose(agent: Any) -> Any:
    return None


class Ward:
    """A database with a queue and a dispatcher, in which all is well."""

    def __init__(self, folder: Path) -> None:
        self.db = DB(FileStorage(str(folder / "Data.fs")))
        self.connection = self.db.open()
        self.queue = install(self.connection)[""]
        self.da = self.dispatcher("1.0")
        self.da["main"] = Agent(size=2)
        transaction.commit()

    def dispatcher(self, version: str) -> Any:
        key = uuid.uuid4()
        self.queue.dispatchers.register(key)
        da = self.queue.dispatchers[key]
        da.process = {"role": "worker", "host": "apple", "pid": 4711, "version": version}
        da.activate()
        da.ping(clock.utcnow())
        transaction.commit()
        return da

    def put(self, *call: Any, **options: Any) -> Any:
        job = Job(*(call or (enginejobs.add, 1)))
        for name, value in options.items():
            setattr(job, name, value)
        self.queue.put(job)
        transaction.commit()
        return job

    def claim(self, job: Any) -> Any:
        self.queue.take_out(job)
        self.da["main"].hold(job, True)
        transaction.commit()
        return job

    def found(self) -> dict[str, Finding]:
        """The findings by their kind, as a fresh connection sees them; nothing may be written by it."""
        transaction.commit()
        manager = transaction.TransactionManager()
        connection = self.db.open(manager)
        try:
            findings = doctor.examine(connection)
            assert connection._registered_objects == []
        finally:
            manager.abort()
            connection.close()
        problems = [finding.problem for finding in findings]
        assert problems == sorted(problems, reverse=True)
        assert all(finding.what and finding.way_out for finding in findings)
        return {finding.kind: finding for finding in findings}


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    ward = Ward(tmp_path)
    yield ward
    transaction.abort()
    ward.connection.close()
    ward.db.close()
    callables.forget_unknown()


def test_where_all_is_well_nothing_is_found(ward: Ward) -> None:
    ward.put()
    assert ward.found() == {}


def test_a_database_without_queues_is_told() -> None:
    db = DB(None)
    connection = db.open()
    (finding,) = doctor.examine(connection)
    assert (finding.kind, finding.problem) == ("no-queues", True)
    connection.close()
    db.close()


def test_without_a_dispatcher_waiting_jobs_are_a_problem_and_an_empty_queue_is_none(ward: Ward) -> None:
    ward.da.deactivate()
    assert not ward.found()["no-dispatcher"].problem
    ward.put()
    finding = ward.found()["no-dispatcher"]
    assert finding.problem
    assert "1 job waits" in finding.what and "zcasync worker" in finding.way_out


def test_a_dispatcher_that_has_gone_silent_is_told_with_its_process(ward: Ward) -> None:
    ward.da.activated = ward.da.last_ping.value = clock.utcnow() - timedelta(minutes=5)
    found = ward.found()
    assert "worker on apple, pid 4711" in found["silent"].what
    assert "no-dispatcher" in found


def test_a_dispatcher_that_was_never_pinged_is_no_error(ward: Ward) -> None:
    ward.da.last_ping.value = None
    ward.da.activated = clock.utcnow() - timedelta(minutes=5)
    assert "silent" in ward.found()


def test_a_dispatcher_that_leaves_is_told_and_no_problem(ward: Ward) -> None:
    ward.da.leaving = clock.utcnow()
    assert not ward.found()["leaving"].problem


@pytest.mark.parametrize(("skew", "word"), [(3.5, "3.5 s ahead"), (-600.0, "600.0 s behind")])
def test_a_clock_that_goes_wrong_is_told(ward: Ward, skew: float, word: str) -> None:
    ward.da.last_ping.skew = 1.9
    assert ward.found() == {}
    ward.da.last_ping.skew = skew
    assert word in ward.found()["clock"].what


def test_embedded_jobs_that_take_much_of_a_processor_are_told_with_the_way_out(ward: Ward) -> None:
    ward.da.ping(clock.utcnow(), work=0.4)
    found = ward.found()["embedded-work"]
    assert "take 40% of a processor" in found.what and "zcasync worker" in found.way_out and not found.problem
    ward.da.ping(clock.utcnow())
    assert ward.found() == {}


def test_jobs_that_often_let_editors_go_first_are_told(ward: Ward) -> None:
    start = ward.da.activated
    ward.da.ping(start + timedelta(hours=5), gave_way=299)
    assert ward.found() == {}
    ward.da.ping(start + timedelta(hours=5), gave_way=300)
    assert "300 times in 5 h" in ward.found()["gave-way"].what


def test_jobs_that_wait_for_an_editor_now_are_told_with_their_site(ward: Ward) -> None:
    queues = ward.queue.parent
    queues.sites["1a"] = Site("/plone")
    rightofway._enter(queues.right_of_way, rightofway._number(), 0x1A)
    found = ward.found()["right-of-way"]
    assert "content of /plone wait: 1 requests" in found.what and not found.problem
    clock.set_now(clock.utcnow() + timedelta(seconds=rightofway.LONGEST + 1))
    assert "right-of-way" not in ward.found()


def test_dispatchers_of_different_versions_are_told(ward: Ward) -> None:
    ward.dispatcher("1.1")["main"] = Agent()
    finding = ward.found()["versions"]
    assert "1.0, 1.1" in finding.what


def test_a_dispatcher_without_agents_is_told(ward: Ward) -> None:
    del ward.da["main"]
    assert "agent template" in ward.found()["no-threads"].way_out


@pytest.mark.parametrize("kind", ["filter", "chooser"])
def test_an_agent_whose_code_is_gone_is_told(ward: Ward, kind: str) -> None:
    setattr(ward.da["main"], f"_{kind}", "gone:chooses")
    finding = ward.found()["agent-code"]
    assert f"the {kind} gone.chooses of agent 'main'" in finding.what


def test_a_paused_queue_is_a_problem_as_soon_as_something_waits(ward: Ward) -> None:
    ward.queue.paused = True
    assert not ward.found()["paused"].problem
    ward.put()
    finding = ward.found()["paused"]
    assert (finding.problem, finding.way_out) == (True, "zcasync resume default")
    ward.queue.paused = False
    assert ward.found() == {}


@pytest.mark.parametrize("parked", [True, False])
def test_a_held_site_is_told_wherever_its_jobs_lie(ward: Ward, parked: bool) -> None:
    ward.queue.hold_group("/site")
    job = ward.put(group="/site")
    if parked:
        assert ward.da["main"].claimJob() is None
    finding = ward.found()["group-held"]
    assert (finding.way_out, finding.jobs) == ("zcasync release --group /site", (job.id,))
    assert "1 job waits" in finding.what


def test_a_full_quota_is_told_with_those_that_hold_it(ward: Ward) -> None:
    ward.queue.quotas.create("mail", 1)
    first, second = (ward.put(quota_names=("mail",)) for _ in range(2))
    ward.da["main"].claimJob()
    transaction.commit()
    assert ward.da["main"].claimJob() is None
    finding = ward.found()["quota-full"]
    assert (finding.problem, finding.jobs) == (False, (first.id,))
    assert f"held by {first.id} (enginejobs.add)" in finding.what and "1 job waits" in finding.what
    first._begin(clock.utcnow())
    first._finish(None, clock.utcnow())
    assert ward.found()["quota-full"].problem
    ward.da["main"].jobCompleted(first)
    assert "quota-full" not in ward.found()
    assert second.status == "pending-status"


def test_a_lane_in_which_jobs_wait_is_told_with_its_holder(ward: Ward) -> None:
    for _number in range(3):
        ward.put(lane="content", group="/site")
    ward.da["main"].claimJob()
    other = ward.dispatcher("1.0")
    other["main"] = Agent(size=2)
    transaction.commit()
    assert "lane" not in ward.found()
    assert other["main"].claimJob() is None

    finding = ward.found()["lane"]
    assert not finding.problem
    assert finding.what.startswith(f"2 jobs wait in the lane 'content' of /site, which dispatcher {ward.da.name}")
    ward.da.leaving = clock.utcnow()
    assert "which no dispatcher holds" in ward.found()["lane"].what


def test_jobs_that_no_agent_takes_are_told(ward: Ward) -> None:
    ward.da["main"].filter = takes_nothing
    job = ward.put()
    finding = ward.found()["refused"]
    assert finding.jobs == (job.id,)
    ward.da["other"] = Agent(filter=takes_all)
    assert ward.found() == {}


def test_of_an_agent_with_a_chooser_nothing_is_said(ward: Ward) -> None:
    ward.da["main"].chooser = choose
    ward.put()
    assert ward.found() == {}


def test_jobs_whose_code_is_not_found_are_told_by_its_name(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("leaves_soon")
    exec("def work(): pass", vars(module))
    monkeypatch.setitem(sys.modules, "leaves_soon", module)
    job = ward.put(module.work)
    assert ward.found() == {}
    monkeypatch.delitem(sys.modules, "leaves_soon")
    finding = ward.found()["unknown-code"]
    assert "leaves_soon.work" in finding.what and finding.jobs == (job.id,)


def test_busy_threads_explain_why_jobs_wait(ward: Ward) -> None:
    running = [ward.claim(ward.put()) for _ in range(2)]
    assert "busy" not in ward.found()
    ward.put()
    finding = ward.found()["busy"]
    assert not finding.problem
    assert f"all 2 job threads are busy; longest: {running[0].id}" in finding.what


def test_jobs_for_later_are_told_with_the_time_of_the_first(ward: Ward) -> None:
    later = clock.utcnow() + timedelta(hours=1)
    ward.put(begin_after=later)
    assert ward.da["main"].claimJob() is None  # a claim moves it among those for later
    finding = ward.found()["later"]
    assert (finding.problem, f"{later:%H:%M:%S} UTC" in finding.what) == (False, True)


@pytest.mark.parametrize("parked", [True, False])
def test_jobs_that_have_missed_their_time_are_told(ward: Ward, parked: bool) -> None:
    ward.queue.quotas.create("mail", 1)
    options = {"quota_names": ("mail",)} if parked else {}
    if parked:
        ward.put(**options)
        ward.da["main"].claimJob()
        transaction.commit()
    clock.set_now(clock.utcnow())
    try:
        job = ward.put(begin_by=timedelta(minutes=1), **options)
        if parked:
            assert ward.da["main"].claimJob() is None
        assert "deadline" not in ward.found()
        clock.set_now(clock.utcnow() + timedelta(minutes=2))
        ward.da.ping(clock.utcnow())
        assert ward.found()["deadline"].jobs == (job.id,)
    finally:
        clock.set_now(None)


def test_jobs_that_were_set_aside_are_told_by_their_reason(ward: Ward) -> None:
    jobs = [ward.put() for _ in range(3)]
    for job, reason in zip(jobs, ("its class is gone", "its process died", "its class is gone"), strict=True):
        ward.queue.take_out(job)
        insert(ward.queue.quarantine, make_key(), (reason, job))
    transaction.commit()
    found = [finding for finding in doctor.examine(ward.connection) if finding.kind == "quarantine"]
    assert {(finding.what, finding.jobs) for finding in found} == {
        ("2 jobs were set aside: its class is gone", (jobs[0].id, jobs[2].id)),
        ("1 job was set aside: its process died", (jobs[1].id,)),
    }
    assert all("zcasync release ID" in finding.way_out for finding in found)


def test_jobs_that_need_a_person_are_told_with_their_last_trouble(ward: Ward) -> None:
    job = ward.claim(ward.put())
    job.needs_attention = True
    job.remember("commit", "RuntimeError: the hook says no", clock.utcnow())
    finding = ward.found()["attention"]
    assert "the hook says no" in finding.what and finding.jobs == (job.id,)


def test_jobs_that_run_longer_than_their_timeout_are_told(ward: Ward) -> None:
    job = ward.claim(ward.put())
    assert "overdue" not in ward.found()
    ward.da.slot.mailbox[(job._p_oid, "overdue", "")] = True
    assert ward.found()["overdue"].jobs == (job.id,)


def test_a_finding_names_some_of_many_jobs(ward: Ward) -> None:
    ward.queue.hold_group("/site")
    for _ in range(doctor.NAMED + 5):
        ward.put(group="/site")
    finding = ward.found()["group-held"]
    assert len(finding.jobs) == doctor.NAMED
    assert "15 jobs wait" in finding.what
