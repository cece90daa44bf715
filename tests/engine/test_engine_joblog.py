"""What a job's code logs is kept with the job; where a running job is can be asked; what belongs to a job is known."""

from collective.zcasync import actions
from collective.zcasync import api
from collective.zcasync import jobdetail
from collective.zcasync import joblists
from collective.zcasync import joblog
from collective.zcasync import jobtree
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.job import Job
from collective.zcasync.job import parallel
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_for_start
from collective.zcasync.testing import wait_until
from datetime import timedelta
from typing import Any
from ZODB.POSException import ConflictError

import enginejobs
import logging
import pytest
import transaction

#: How a database is shared makes no difference to what is tested here.
pytestmark = pytest.mark.parametrize("clients", ["filestorage"], indirect=True)

logger = logging.getLogger("application")


@pytest.fixture(autouse=True)
def all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "application")


def put(queue: Any, call: Any, *args: Any, **attributes: Any) -> Any:
    job = Job(call, *args)
    for name, value in attributes.items():
        setattr(job, name, value)
    queue.put(job)
    transaction.commit()
    return job


def ended(job: Any) -> Any:
    """Wait for the end of a job, whatever it is."""
    wait_until(job, lambda: job.outcome is not None, what="the end of the job")
    return job


def told(job: Any) -> list[list[str]]:
    """The texts of the lines, by attempt."""
    detail = jobdetail.job_detail(job, joblists.row(job))
    return [[line.text for line in lines] for lines in detail.logs]


def say(*texts: str) -> str:
    for text in texts:
        logger.info("it says %s", text)
    return "said"


def say_and_raise(text: str) -> None:
    say(text)
    try:
        {}[text]
    except KeyError:
        logger.exception("not found")
    raise ValueError(text)


def say_and_conflict(times: int) -> str:
    say(f"attempt {len(enginejobs.calls)}")
    enginejobs.note(None)
    if len(enginejobs.calls) <= times:
        raise ConflictError
    return "done"


def say_much(lines: int, length: int) -> None:
    for number in range(lines):
        logger.info("%d %s", number, "x" * length)


def say_around_a_checkpoint() -> None:
    say("before")
    api.checkpoint()
    say("after")


class Untellable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_what_a_job_logs_is_kept_with_it(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, say, "one", "two")
    wait_for_result(job)
    assert told(job) == [["it says one", "it says two"]]
    (lines,) = jobdetail.job_detail(job, joblists.row(job)).logs
    assert (lines[0].level, lines[0].logger) == ("INFO", "application")
    assert job.active_start - timedelta(seconds=1) < lines[0].when < job.active_end + timedelta(seconds=1)


def test_the_lines_of_a_job_that_fails_are_kept_too_with_tracebacks(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = ended(put(queue, say_and_raise, "x"))
    ((first, second),) = told(job)
    assert first == "it says x"
    assert second.startswith("not found\nTraceback") and "KeyError: 'x'" in second


def test_each_attempt_has_lines_of_its_own(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, say_and_conflict, 2)
    wait_for_result(job)
    assert told(job) == [["it says attempt 0"], ["it says attempt 1"], ["it says attempt 2"]]


def test_the_last_lines_are_kept_as_far_as_there_is_room(queue: Any, dispatch: Any) -> None:
    dispatch()
    many, long, endless = (put(queue, say_much, *size) for size in ((500, 1), (50, 1000), (3, 1_000_000)))
    for job in (many, long, endless):
        wait_for_result(job)
    assert [line.partition(" ")[0] for line in told(many)[0]] == [str(number) for number in range(300, 500)]
    assert sum(map(len, told(long)[0])) < joblog.CHARACTERS
    assert told(long)[0][-1].startswith("49 ")
    assert [len(line) for line in told(endless)[0]] == [joblog.LINE_CHARACTERS] * 3


def test_a_checkpoint_stores_lines_and_the_end_does_not_store_them_twice(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, say_around_a_checkpoint)
    wait_for_result(job)
    assert told(job) == [["it says before", "it says after"]]


def test_what_cannot_be_told_harms_nobody(queue: Any) -> None:
    lines = joblog.Lines()
    for message, args in (("%s", (Untellable(),)), ("half a character: \ud800", ()), ("%d %d", (1,))):
        lines.note(logging.LogRecord("application", logging.INFO, "", 0, message, args, None))
    first, second, third = (line[3] for line in lines.log().lines)
    assert "cannot be made: RuntimeError" in first
    assert second == "half a character: \\ud800"
    assert "cannot be made: TypeError" in third


def test_a_job_that_logs_nothing_has_no_record_for_it_and_no_handler_stays(queue: Any, dispatch: Any) -> None:
    before = list(logging.getLogger().handlers)
    running = dispatch()
    job = put(queue, enginejobs.add, 1, 2)
    wait_for_result(job)
    assert job.logs == () and "logs" not in job.__getstate__()
    running.stop()
    assert logging.getLogger().handlers == before


def test_no_more_attempts_are_kept_than_anybody_reads(queue: Any) -> None:
    job = Job(say)
    for number in range(30):
        lines = joblog.Lines()
        lines.note(logging.LogRecord("a", logging.INFO, "", 0, str(number), (), None))
        lines.began = float(number + 1)
        joblog.keep(job, [lines])
    assert [kept[1].lines[0][3] for kept in job.logs] == [str(number) for number in range(20, 30)]


def test_warnings_are_still_written_to_the_terminal_where_no_logging_is_set_up(
    queue: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())
    joblog.listen()
    assert logging.getLogger().handlers == [joblog._handler]
    logger.warning("nobody listens")
    joblog.unlisten()
    assert "nobody listens" in capsys.readouterr().err


# Where a running job is


def test_a_running_job_tells_where_it_is_within_two_seconds_when_asked(queue: Any, dispatch: Any) -> None:
    dispatch()
    took = []
    job = put(queue, enginejobs.wait, "a")
    wait_for_start(job)
    for _time in range(2):
        actions.ask_stack(job, "jane")
        transaction.commit()
        asked = job.stack_asked

        def is_told(asked: Any = asked) -> bool:
            return job.stack is not None and job.stack[0] >= asked

        wait_until(job, is_told, what="the answer")
        took.append(job.stack[0] - asked)
        own = [frame for frame in job.stack[1] if not frame[4]]
        assert ("wait", "enginejobs.py") in [(frame[0], frame[1].rpartition("/")[2]) for frame in own]
    assert min(took) < timedelta(seconds=2)
    enginejobs.released["a"].set()
    wait_for_result(job)
    assert job.stack is None and job.stack_asked is None


def test_a_job_that_does_not_run_cannot_be_asked(queue: Any) -> None:
    job = put(queue, enginejobs.add, 1, 2)
    with pytest.raises(BadStatusError, match="does not run"):
        actions.ask_stack(job)


# What belongs to a job


def test_callbacks_and_their_callbacks_are_told_as_a_tree(queue: Any) -> None:
    job = Job(enginejobs.add, 1, 2)
    second = job.addCallback(enginejobs.note).addCallback(enginejobs.note)
    job.addCallbacks(success=enginejobs.say)
    queue.put(job)
    transaction.commit()
    assert [(one.kind, one.depth, one.title.rpartition(".")[2]) for one in jobtree.tree(job)] == [
        ("callback", 1, "note"),
        ("callback", 2, "note"),
        ("callback", 1, "say"),
    ]
    assert [(one.kind, one.id) for one in jobtree.tree(second)] == [("main", job.id)]


def hand_on() -> Any:
    return Job(enginejobs.wait, "b")


def test_a_job_and_the_one_for_which_it_waits_are_told_of_each_other(queue: Any, dispatch: Any) -> None:
    dispatch()
    outer = queue.put(Job(hand_on))
    transaction.commit()
    assert enginejobs.started["b"].wait(20)
    wait_until(queue, lambda: list(queue.awaiting()), what="a job that waits")
    (found,) = jobtree.tree(outer)
    assert (found.kind, found.depth) == ("awaited", 1)
    inner = joblists.find(queue._p_jar, found.id)
    assert [(one.kind, one.id) for one in jobtree.tree(inner)] == [("waiter", outer.id)]
    enginejobs.released["b"].set()
    wait_for_result(outer)


def test_the_parts_of_a_parallel_job_are_told_with_how_they_ended(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = queue.put(parallel(Job(enginejobs.add, 1, 2), Job(enginejobs.change_and_raise)))
    transaction.commit()
    wait_for_result(job)
    transaction.begin()
    found = jobtree.tree(job)
    assert [(one.kind, one.outcome) for one in found[:2]] == [("part", "succeeded"), ("part", "failed")]
    assert [one.kind for one in jobtree.tree(joblists.find(queue._p_jar, found[0].id))] == ["sequence"]
