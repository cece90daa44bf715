"""What a running job says: its progress, and where it has come to at a checkpoint."""

from collective.zcasync import api
from collective.zcasync import joblists
from collective.zcasync import mail
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.running import Progress
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from persistent.list import PersistentList
from typing import Any
from ZODB.POSException import ConflictError
from zope.i18nmessageid import Message

import enginejobs
import pytest
import transaction

#: Seconds that a test waits at most for what others do.
LONG = 20

_ = Message


def put(queue: Any, call: Any, *args: Any) -> Any:
    job = queue.put(Job(call, *args))
    transaction.commit()
    return job


def pause(name: str = "a") -> None:
    """Tell the test that the job has come here, and wait until it lets it go."""
    enginejobs.calls.append(name)
    enginejobs.started[name].set()
    assert enginejobs.released[name].wait(LONG)


def kill(queue: Any, running: Any) -> None:
    """The dispatcher is gone without a word, another one has noticed it, and its threads come too late."""
    threads = list(running.dispatcher.queues[""]["main"].jobids)
    running.crash()
    transaction.begin()
    queue.dispatchers[running.dispatcher.UUID].deactivate(died=True)
    transaction.commit()
    enginejobs.released["a"].set()
    for thread in threads:
        thread.join(LONG)


def told(job: Any) -> Any:
    """What others see of the job's progress, as soon as they see anything."""
    return wait_until(job._p_jar, lambda: job.progress, LONG, "progress")


# Progress


def say(*said: Any) -> None:
    for one in said:
        api.progress(*one)
    pause("a")


def say_all(times: int, text: Any = None) -> int:
    for number in range(times):
        api.progress(number + 1, times, text)
    return times


def fail_after_progress() -> None:
    api.progress(3, 4, "nearly")
    raise ValueError("on purpose")


def test_progress_is_seen_while_the_job_runs_and_kept_when_it_has_ended(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, say, (1, 10, "begins"))
    assert told(job) == (1, 10, "begins")
    assert job.status != COMPLETED and job._progress is None
    assert joblists.jobs(queue.parent, joblists.RUNNING).rows[0].progress == (1, 10, "begins")
    enginejobs.released["a"].set()
    wait_for_result(job)

    assert job.progress == Progress(1, 10, "begins") == job.progress
    assert job.attempts == 1
    wait_until(queue, lambda: not queue.counts()["running"], LONG, "the sweep")
    assert job.progress == (1, 10, "begins") and all(not slot.mailbox for slot in queue.slots.values())


def test_progress_is_written_once_in_two_seconds_and_the_last_is_not_lost(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    put_letter = mail._put

    def note(connection: Any, letter: mail.Letter) -> None:
        written.append(letter.value)
        put_letter(connection, letter)

    monkeypatch.setattr(mail, "_put", note)
    dispatch()
    job = put(queue, say_all, 5000)
    wait_for_result(job, LONG)

    assert job.progress == (5000, 5000, None)
    assert len({value[0] for value in written}) <= 1 + (job.active_end - job.active_start).total_seconds() / 2


def test_progress_that_was_held_back_is_written_when_its_time_has_come(
    queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "PROGRESS_EVERY", 0.3)
    dispatch()
    job = put(queue, say, (1,), (2,), (3, 3, "last"))

    assert wait_until(job._p_jar, lambda: job.progress == (3, 3, "last"), LONG, "the last progress")
    assert enginejobs.started["a"].is_set() and job.status != COMPLETED
    enginejobs.released["a"].set()
    wait_for_result(job)


def test_a_job_that_fails_keeps_its_progress(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, fail_after_progress)

    assert wait_for_result(job).check(ValueError)
    assert job.progress == (3, 4, "nearly")


def test_progress_of_a_callback_is_seen_at_the_callback(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = Job(enginejobs.add, 1)
    callback = job.addCallback(Job(say_result))
    queue.put(job)
    transaction.commit()

    assert told(callback) == (1, 2, "in the callback")
    assert job.progress is None
    enginejobs.released["a"].set()
    wait_for_result(job)
    assert callback.progress == (1, 2, "in the callback")


def say_result(result: Any) -> None:
    api.progress(result, 2, "in the callback")
    pause("a")


def test_a_translatable_text_of_progress_is_stored_as_plain_data(queue: Any, dispatch: Any) -> None:
    inner = _("inner", "other.domain", "Inner")
    text = _("n_pages", "my.domain", "${n} pages of ${where}", {"n": 3, "where": inner})
    dispatch()
    job = put(queue, say_all, 2, text)
    wait_for_result(job)

    found = job.progress.text
    assert found == "n_pages" and (found.domain, found.default) == ("my.domain", "${n} pages of ${where}")
    assert found.mapping == {"n": 3, "where": "inner"} and found.mapping["where"].domain == "other.domain"
    assert b"zope.i18nmessageid" not in job._p_jar.db().storage.load(job._p_oid)[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("3",), "done of progress must be a number"),
        ((True,), "done of progress must be a number"),
        ((-1,), "done of progress must be a number"),
        ((float("nan"),), "done of progress must be a number"),
        ((1, "10"), "total of progress must be a number"),
        ((1, 10, 5), "text of progress must be a text"),
        ((1, 10, "x" * 501), "text of progress has 501 characters"),
    ],
)
def test_wrong_progress_is_refused_also_outside_a_job(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        api.progress(*args)


def test_progress_and_checkpoint_do_nothing_outside_a_job(connection: Any) -> None:
    connection.root()["changed"] = True
    assert say_all(3) == 3
    api.checkpoint({"page": 1})
    assert api.cursor("none") == "none"
    transaction.abort()
    assert "changed" not in connection.root()


# Checkpoints


def walk_to(last: int) -> int:
    """Count in the root, one checkpoint each; stop at 3 at the first run until it is killed."""
    for number in range(api.cursor(0) + 1, last + 1):
        enginejobs.root()["walk"].append(number)
        enginejobs.root()["walk"]._p_changed = True
        api.checkpoint(number)
        if number == 3 and "a" not in enginejobs.calls:
            enginejobs.root()["lost"] = True
            pause("a")
    return last


@pytest.fixture
def walk(connection: Any) -> Any:
    connection.root()["walk"] = PersistentList()
    transaction.commit()
    return connection.root()["walk"]


def test_a_checkpoint_commits_changes_and_cursor_together(queue: Any, dispatch: Any, walk: Any) -> None:
    dispatch()
    job = put(queue, walk_to, 5)
    assert enginejobs.started["a"].wait(LONG)
    transaction.begin()
    assert list(walk) == [1, 2, 3] and job._cursor is not None
    assert walk._p_serial == job._p_serial
    assert "lost" not in queue._p_jar.root()
    enginejobs.released["a"].set()

    assert wait_for_result(job) == 5
    assert list(walk) == [1, 2, 3, 4, 5]
    assert job._cursor is None and [kind for _when, kind, _text in job.attempt_log] == ["committed"]


def test_a_killed_job_goes_on_from_its_last_checkpoint(queue: Any, dispatch: Any, walk: Any) -> None:
    first = dispatch(threads=1)
    job = put(queue, walk_to, 5)
    assert enginejobs.started["a"].wait(LONG)
    kill(queue, first)
    assert (job.status, job._cursor is None) == (PENDING, False)
    dispatch()

    assert wait_for_result(job) == 5
    assert list(walk) == [1, 2, 3, 4, 5]
    assert "lost" not in queue._p_jar.root()
    # The first attempt had noted by itself, in its first commit, that it is not all or nothing.
    assert [kind for _when, kind, _text in job.attempt_log] == ["committed", "interruption", "committed"]


def conflict_at(number: int) -> list[int]:
    """A job that conflicts once at a checkpoint; what cursor each attempt began with."""
    begun = api.cursor(0)
    enginejobs.calls.append(begun)
    for step in range(begun + 1, 5):
        enginejobs.root()[f"step{step}"] = step
        if step == number and enginejobs.calls == [0]:
            transaction.get().addBeforeCommitHook(conflict)
        api.checkpoint(step)
    return enginejobs.calls


def conflict() -> None:
    raise ConflictError


def test_a_conflict_at_a_checkpoint_is_a_failed_attempt_that_goes_on_from_the_last_one(
    queue: Any, dispatch: Any
) -> None:
    dispatch()
    job = put(queue, conflict_at, 3)

    assert wait_for_result(job) == [0, 2]
    assert job.attempts == 2
    assert [queue._p_jar.root()[f"step{step}"] for step in range(1, 5)] == [1, 2, 3, 4]


def conflict_once_at_each_step(steps: int) -> int:
    for step in range(api.cursor(0) + 1, steps + 1):
        if step not in enginejobs.calls:
            enginejobs.calls.append(step)
            transaction.get().addBeforeCommitHook(conflict)
        api.checkpoint(step)
    return steps


def conflict_for_ever_at_the_second_step() -> None:
    enginejobs.calls.append("attempt")
    if api.cursor() is None:
        api.checkpoint(1)
    transaction.get().addBeforeCommitHook(conflict)
    api.checkpoint(2)


@pytest.mark.parametrize("policy", [None, "conflicts"])
def test_a_long_job_may_meet_a_conflict_in_each_of_its_pieces_but_not_for_ever_in_one(
    policy: str | None, queue: Any, dispatch: Any
) -> None:
    queue.parent.policies["conflicts"] = ConfiguredPolicy("conflicts", attempts=5)
    long, stuck = queue.put(Job(conflict_once_at_each_step, 12)), Job(conflict_for_ever_at_the_second_step)
    long.policy = stuck.policy = policy
    transaction.commit()
    dispatch()
    assert wait_for_result(long, LONG) == 12 and long.attempts == 13

    enginejobs.calls.clear()
    queue.put(stuck)
    transaction.commit()
    assert wait_for_result(stuck, LONG).check(ConflictError)
    assert len(enginejobs.calls) == 5


def checkpoint_and_fail() -> None:
    enginejobs.root()["kept"] = True
    api.checkpoint((1, "two"))
    enginejobs.root()["undone"] = True
    raise ValueError("on purpose")


def test_a_job_that_fails_keeps_what_it_did_before_its_checkpoint_and_says_so(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, checkpoint_and_fail)

    assert wait_for_result(job).check(ValueError)
    root = queue._p_jar.root()
    assert root["kept"] is True and "undone" not in root
    assert [kind for _when, kind, _text in job.attempt_log] == ["committed"]
    assert job._cursor is None


def remember_cursor(*data: Any) -> Any:
    before = api.cursor("nothing")
    for one in data:
        api.checkpoint(one)
    return before, api.cursor("nothing")


@pytest.mark.parametrize(
    "cursor",
    [
        0,
        "a key",
        {"uid": "abc", "done": [1, 2, (3.5, None)], "when": datetime(2026, 1, 1, tzinfo=timezone.utc)},
        timedelta(days=1),
        b"bytes",
    ],
)
def test_a_cursor_is_any_plain_data(cursor: Any, queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, remember_cursor, "first", cursor)

    assert wait_for_result(job) == ("nothing", cursor)


def test_a_checkpoint_without_a_cursor_forgets_the_last_one(queue: Any, dispatch: Any) -> None:
    dispatch()
    assert wait_for_result(put(queue, remember_cursor, 5, None)) == ("nothing", "nothing")


def wrong_cursor() -> str:
    enginejobs.root()["changed"] = True
    cycle: list[Any] = []
    cycle.append(cycle)
    messages = []
    for cursor in (
        enginejobs.Counter(),
        "x" * 1100,
        [object()],
        len,
        cycle,
        {"key": enginejobs.TwoArguments("a", "b")},
    ):
        try:
            api.checkpoint(cursor)
        except InvalidValueError as error:
            messages.append(str(error)[:30])
    transaction.abort()
    return "\n".join(messages)


def test_a_wrong_cursor_is_refused_before_anything_is_committed(queue: Any, dispatch: Any) -> None:
    dispatch()
    messages = wait_for_result(job := put(queue, wrong_cursor)).splitlines()

    assert len(messages) == 6 and messages[1].startswith("the cursor takes 11")
    assert "changed" not in queue._p_jar.root() and job.attempt_log == ()


def test_a_job_that_is_put_again_begins_without_a_cursor(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, checkpoint_and_fail)
    wait_for_result(job)
    again = job.again()
    again.callable = remember_cursor
    queue.put(again)
    transaction.commit()

    assert wait_for_result(again) == ("nothing", "nothing")


def test_a_callback_can_checkpoint_and_goes_on_from_there_after_a_kill(queue: Any, dispatch: Any, walk: Any) -> None:
    first = dispatch(threads=1)
    job = Job(enginejobs.add, 5)
    callback = job.addCallback(Job(walk_to))
    queue.put(job)
    transaction.commit()
    assert enginejobs.started["a"].wait(LONG)
    kill(queue, first)
    dispatch()

    wait_for_result(job, LONG)
    assert callback.result == 5 and list(walk) == [1, 2, 3, 4, 5]


def test_a_job_that_is_called_directly_can_checkpoint(connection: Any) -> None:
    job = connection.root()["job"] = Job(conflict_at, 9)
    transaction.commit()
    assert job() == [0]
    assert connection.root()["step4"] == 4 and job._cursor is None


def test_run_jobs_runs_progress_and_checkpoints_without_a_commit(queue: Any, connection: Any) -> None:
    for call in (say_all, checkpoint_and_fail, remember_cursor):
        queue.put(Job(call, *((3,) if call is not checkpoint_and_fail else ())))
    done = run_jobs(queue, raises=False)

    assert done[0].progress == (3, 3, None)
    assert connection.root()["kept"] is True and "undone" not in connection.root()
    assert done[2].result == ("nothing", 3) and done[2]._cursor is None
    transaction.abort()
    assert "kept" not in connection.root()
