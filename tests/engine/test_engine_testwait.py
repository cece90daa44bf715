"""The helpers that wait for a dispatcher, and what they say when it does not come."""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import testing
from collective.zcasync import testwait
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.job import Job
from collective.zcasync.reactor import RunningDispatcher
from datetime import timedelta
from typing import Any
from ZODB.POSException import ReadConflictError

import enginejobs
import io
import logging
import pytest
import re
import sys
import threading
import transaction


def committed(job: Any) -> Any:
    transaction.commit()
    return job


def test_the_next_poll_is_waited_for(dispatch: Callable[..., RunningDispatcher]) -> None:
    dispatcher = dispatch(poll_interval=0.1).dispatcher
    count = dispatcher.polls.count
    poll = testing.get_poll(dispatcher)
    assert dispatcher.polls.count > count
    assert "" in poll
    testing.get_poll(dispatcher, count + 3)
    assert dispatcher.polls.count > count + 3


def test_without_a_poll_the_dispatcher_is_told_of(dispatch: Callable[..., RunningDispatcher]) -> None:
    dispatcher = dispatch().dispatcher
    with pytest.raises(AssertionError, match=rf"no poll! in 0.05 s: dispatcher {dispatcher.UUID} is RUNNING, .* none"):
        testing.get_poll(dispatcher, seconds=0.05)


def test_start_annotation_and_result_of_a_job_are_waited_for(
    dispatch: Callable[..., RunningDispatcher], queue: Any
) -> None:
    dispatch()
    job = committed(queue.put(Job(enginejobs.annotate_and_wait)))
    assert testing.wait_for_start(job) == job.active_start
    assert testing.wait_for_annotation(job, "step") == "half"
    enginejobs.released["a"].set()
    assert testing.wait_for_result(job) == "a"


def test_a_job_that_nobody_runs_is_told_of_with_its_place(queue: Any) -> None:
    begin = clock.utcnow() + timedelta(days=1)
    job = committed(queue.put(Job(enginejobs.note, 7), begin_after=begin))
    for wait, anchor in (
        (testing.wait_for_result, "job never completed"),
        (testing.wait_for_start, "job never started"),
        (lambda job, seconds: testing.wait_for_annotation(job, "step", seconds), "no annotation 'step'"),
    ):
        with pytest.raises(AssertionError) as caught:
            wait(job, seconds=0.05)
        told = str(caught.value)
        assert told.startswith(f"{anchor} in 0.05 s: {job!r} is pending-status in queue '' not before {begin:%Y-%m-%d}")
        assert "attempts 0, error none; no dispatcher is at work in this process" in told


def test_a_job_that_runs_is_told_of_with_its_attempts_and_the_dispatchers_last_error(
    dispatch: Callable[..., RunningDispatcher], queue: Any
) -> None:
    dispatcher = dispatch().dispatcher
    dispatcher.last_error = "ValueError: a claim failed"
    job = committed(queue.put(Job(conflict_and_wait)))
    assert enginejobs.started["a"].wait(10)
    with pytest.raises(AssertionError) as caught:
        testing.wait_for_result(job, seconds=0.05)
    told = str(caught.value)
    assert "is active-status in queue '' of agent 'main', attempts 0" in told
    assert f"dispatcher {dispatcher.UUID} is RUNNING" in told
    assert "runs 1 jobs, last error ValueError: a claim failed" in told
    enginejobs.released["a"].set()
    assert testing.wait_for_result(job) == "a"


def test_the_last_error_of_a_filter_is_told(dispatch: Callable[..., RunningDispatcher], queue: Any) -> None:
    dispatcher = dispatch().dispatcher
    transaction.begin()
    queue.dispatchers[dispatcher.UUID]["main"].filter = refuse_all
    queue.put(Job(enginejobs.note, 1))
    transaction.commit()
    testing.poll_now(dispatcher)
    assert "the filter is broken" in testwait.last_error(dispatcher)


def test_a_claim_that_failed_is_remembered(
    dispatch: Callable[..., RunningDispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = dispatch().dispatcher
    monkeypatch.setattr(dispatcher.claimer, "claim", refuse_all)
    dispatcher.poll_soon()
    testing.wait_until(dispatcher.db.open(), lambda: dispatcher.last_error)
    assert dispatcher.last_error == "ValueError: the filter is broken"


def test_a_read_conflict_during_a_wait_is_not_the_end(queue: Any) -> None:
    answers = [ReadConflictError(), None, "seen"]

    def look() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert testing.wait_until(queue, look) == "seen"


def test_what_does_not_come_about_is_named(queue: Any) -> None:
    with pytest.raises(AssertionError, match=r"the moon did not come about in 0\.02 s"):
        testing.wait_until(queue, lambda: False, 0.02, "the moon")


def test_the_end_of_a_dispatcher_is_waited_for(dispatch: Callable[..., RunningDispatcher]) -> None:
    running = dispatch()
    with pytest.raises(AssertionError, match=rf"still active after 0.02 s: dispatcher {running.dispatcher.UUID}"):
        testing.wait_for_deactivation(running.dispatcher, 0.02)
    stopping = threading.Thread(target=running.stop)
    stopping.start()
    testing.wait_for_deactivation(running.dispatcher, 10)
    assert running.dispatcher.activated is None
    stopping.join()


def test_the_death_of_a_dispatcher_is_waited_for(dispatch: Callable[..., RunningDispatcher], queue: Any) -> None:
    running = dispatch()
    transaction.begin()
    da = queue.dispatchers[running.dispatcher.UUID]
    with pytest.raises(AssertionError, match=rf"{da.UUID} is not dead after 0.02 s: .*death after 0:01:00"):
        testing.wait_for_death(da, 0.02)
    running.crash()
    da.ping_death_interval = timedelta(seconds=0.05)
    transaction.commit()
    testing.wait_for_death(da)
    assert da.dead


def test_a_torn_down_dispatcher_leaves_no_thread(dispatch: Callable[..., RunningDispatcher], queue: Any) -> None:
    before = set(threading.enumerate())
    running = dispatch()
    mine = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("zcasync-")]
    job = committed(queue.put(Job(enginejobs.add, 1, 2)))
    assert testing.wait_for_result(job) == 3
    testing.tear_down_dispatcher(running)
    assert [thread for thread in mine if thread.is_alive()] == []
    assert dispatchers.get(running.dispatcher.UUID) is None


@pytest.mark.parametrize("what", ["the dispatcher", "what reactor.start gave"])
def test_a_job_that_hangs_is_named_at_the_tear_down(
    dispatch: Callable[..., RunningDispatcher], queue: Any, what: str
) -> None:
    running = dispatch()
    job = committed(queue.put(Job(enginejobs.wait)))
    assert enginejobs.started["a"].wait(10)
    threads = list(running.dispatcher.queues[""]["main"].jobids)
    with pytest.raises(testing.TearDownDispatcherError) as caught:
        testing.tear_down_dispatcher(running.dispatcher if what == "the dispatcher" else running, seconds=0.1)
    assert isinstance(caught.value, RuntimeError)
    told = str(caught.value)
    assert f"dispatcher {running.dispatcher.UUID} failed to stop: {job!r} in thread zcasync-main-" in told
    assert re.search(r"``enginejobs\.wait\(\)``> in thread zcasync-main-\d+$", told)
    enginejobs.released["a"].set()
    for thread in threads:
        thread.join(10)  # before its database is closed


def test_a_dispatcher_on_a_reactor_of_the_tests_own_is_torn_down(db: Any, queue: Any) -> None:
    reactor = testing.Reactor()
    reactor.start()
    try:
        dispatcher = Dispatcher(db, reactor)
        dispatcher.activate()
        reactor.time_flies(5)
        testing.tear_down_dispatcher(dispatcher)
        assert dispatcher.activated is None
        assert dispatchers.get(dispatcher.UUID) is None
    finally:
        reactor.stop()


def test_a_reactor_that_hangs_is_named_at_the_tear_down(db: Any) -> None:
    reactor, release = testing.Reactor(), threading.Event()
    dispatcher = Dispatcher(db, reactor)
    dispatcher.thread = threading.Thread(target=release.wait, name="my reactor", daemon=True)
    dispatcher.thread.start()
    with pytest.raises(testing.TearDownDispatcherError, match="failed to stop: the reactor in thread my reactor"):
        testing.tear_down_dispatcher(dispatcher, seconds=0.05)
    release.set()


def test_critical_messages_are_printed_where_stdout_is_at_that_time(capsys: pytest.CaptureFixture[str]) -> None:
    handler = testing.print_logs()
    try:
        logging.getLogger("collective.zcasync.events").critical("help")
        logging.getLogger("collective.zcasync.trace").error("not so bad")
        assert capsys.readouterr().out == "CRITICAL [collective.zcasync.events] help\n"
        assert handler.stream is sys.stdout
    finally:
        logging.getLogger("collective.zcasync").removeHandler(handler)


def test_messages_of_a_level_are_printed_to_a_file_until_the_handler_is_removed() -> None:
    file = io.StringIO()
    handler = testing.print_logs(file, logging.WARNING)
    logging.getLogger("collective.zcasync.events").warning("careful")
    logging.getLogger("collective.zcasync").removeHandler(handler)
    logging.getLogger("collective.zcasync.events").warning("unheard")
    assert file.getvalue() == "WARNING [collective.zcasync.events] careful\n"


def conflict_and_wait() -> str:
    return enginejobs.wait()


def refuse_all(*args: Any) -> bool:
    raise ValueError("the filter is broken")
