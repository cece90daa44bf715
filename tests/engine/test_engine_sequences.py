"""``serial`` and ``parallel``: jobs that run others, and then a last one."""

from collections.abc import Callable
from collective.zcasync import local
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import CancelledError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.interfaces import ACTIVE
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import NEW
from collective.zcasync.job import Job
from collective.zcasync.job import parallel
from collective.zcasync.job import serial
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from persistent.mapping import PersistentMapping
from typing import Any

import enginejobs
import pytest
import threading
import transaction
import ZODB.Connection


def post(*args: Any) -> tuple[Any, ...]:
    """A postprocess: what it is given, with the results of jobs in their place."""
    enginejobs.calls.append("post")
    return tuple(arg.result if isinstance(arg, Job) else arg for arg in args)


def append(main: Any, value: Any) -> Any:
    """An inner job that gives its main job one more."""
    main.args.append(Job(enginejobs.note, value))
    return enginejobs.note("appender")


def append_after(result: Any, main: Any) -> None:
    main.args.append(Job(enginejobs.note, "from a callback"))


def append_and_wait(main: Any) -> str:
    """Gives its main job one more, while another inner job still runs: seen from a transaction in which that waits."""
    enginejobs.wait("b")
    transaction.begin()
    main.args.append(Job(enginejobs.wait, "c"))
    return "appended"


def step(mapping: Any, name: str, *jobs: Any) -> str:
    """Counts in the database how often it has run."""
    mapping[name] = mapping.get(name, 0) + 1
    return name


def _until_waiting(main: Any) -> None:
    wait_until(main, lambda: main in dict(main.queue.awaiting()), 20, f"{main!r} waiting")


def test_serial_runs_its_jobs_one_after_the_other_and_then_the_postprocess(queue: Any, dispatch: Any) -> None:
    dispatch(poll_interval=600)
    main = serial(*(Job(enginejobs.note, number) for number in range(5)), postprocess=post)
    assert main.status == NEW and [job.args[0] for job in main.args] == [0, 1, 2, 3, 4]
    assert main.kwargs["postprocess"].callable is post
    queue.put(main)
    transaction.commit()

    assert wait_for_result(main, 30) == (0, 1, 2, 3, 4)
    assert enginejobs.calls == [0, 1, 2, 3, 4, "post"]
    starts, ends = [job.active_start for job in main.args], [job.active_end for job in main.args]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert main.active_end >= main.kwargs["postprocess"].active_end
    assert (main.attempts, main.task) == (1, "collective.zcasync.sequences.run_serial")


def test_serial_goes_on_after_a_failure_and_the_postprocess_sees_it(queue: Any, dispatch: Any) -> None:
    dispatch()
    main = queue.put(serial(enginejobs.change_and_raise, Job(enginejobs.note, 2), postprocess=post))
    transaction.commit()

    first, second = wait_for_result(main, 30)
    assert first.check(ValueError) and second == 2
    assert main.outcome == "succeeded"


def test_parallel_runs_its_jobs_side_by_side_and_then_the_postprocess(queue: Any, dispatch: Any) -> None:
    dispatch(threads=3)
    main = queue.put(parallel(*(Job(enginejobs.wait, name) for name in "abc"), postprocess=Job(post, "x")))
    transaction.commit()
    for name in "cba":
        assert enginejobs.started[name].wait(20)  # all at once, while the main job holds no thread
    _until_waiting(main)
    assert main.status == ACTIVE
    for name in "bca":
        enginejobs.released[name].set()

    assert wait_for_result(main, 30) == ("x", "a", "b", "c")
    assert enginejobs.calls[-1] == "post" and enginejobs.calls.count("post") == 1


def test_without_a_postprocess_the_result_is_the_tuple_of_the_jobs(queue: Any, dispatch: Any) -> None:
    dispatch()
    mains = [queue.put(kind(Job(enginejobs.add, 1), Job(enginejobs.add, 2))) for kind in (serial, parallel)]
    transaction.commit()

    for main in mains:
        jobs = wait_for_result(main, 30)
        assert jobs == tuple(main.args) and [job.result for job in jobs] == [1, 2]
        assert all(job.status == COMPLETED for job in jobs)


def test_without_jobs_the_postprocess_runs(queue: Any, dispatch: Any) -> None:
    dispatch()
    mains = [queue.put(kind(postprocess=Job(post, kind.__name__))) for kind in (serial, parallel)]
    bare = queue.put(serial())
    transaction.commit()

    assert [wait_for_result(main, 30) for main in mains] == [("serial",), ("parallel",)]
    assert wait_for_result(bare, 30) == ()


@pytest.mark.parametrize("kind", [serial, parallel])
def test_jobs_that_are_appended_before_and_during_the_run_run_too(queue: Any, dispatch: Any, kind: Any) -> None:
    main = kind(postprocess=post)
    main.args.append(Job(append, main, "from a job"))
    with_callback = Job(enginejobs.note, "plain")
    with_callback.addCallback(Job(append_after))
    with_callback.callbacks[0].kwargs["main"] = main
    main.args.append(with_callback)
    queue.put(main)
    transaction.commit()
    dispatch()

    result = wait_for_result(main, 30)
    assert sorted(result) == ["appender", "from a callback", "from a job", "plain"]
    assert len(main.args) == 4 and set(enginejobs.calls) == {*result, "post"}
    assert enginejobs.calls[-1] == "post"


def test_what_is_appended_to_parallel_begins_while_others_still_run(queue: Any, dispatch: Any) -> None:
    dispatch(poll_interval=600)
    main = parallel(Job(enginejobs.wait, "a"), postprocess=post)
    main.args.append(Job(append_and_wait, main))
    queue.put(main)
    transaction.commit()
    assert enginejobs.started["b"].wait(20)
    _until_waiting(main)
    enginejobs.released["b"].set()
    assert enginejobs.started["c"].wait(20), "the appended job waits for the first one"
    assert not enginejobs.released["a"].is_set()
    enginejobs.released["c"].set()
    enginejobs.released["a"].set()

    assert wait_for_result(main, 30) == ("a", "appended", "c")


def test_serial_and_parallel_stand_in_each_other(queue: Any, dispatch: Any) -> None:
    dispatch(threads=1)
    inner = serial(Job(enginejobs.note, 1), Job(enginejobs.note, 2), postprocess=post)
    outer = parallel(inner, Job(enginejobs.add, 5), postprocess=post)
    main = queue.put(serial(outer, parallel(Job(enginejobs.note, 3)), Job(enginejobs.note, 4), postprocess=post))
    transaction.commit()

    result = wait_for_result(main, 40)
    assert result[0] == ((1, 2), 5) and result[2] == 4 and result[1][0].result == 3
    assert [call for call in enginejobs.calls if call != "post"] == [1, 2, 3, 4]


def test_three_parallel_parents_on_an_agent_of_three_threads_finish(queue: Any, dispatch: Any) -> None:
    mains = [queue.put(parallel(*(Job(enginejobs.add, n, m) for m in range(3)), postprocess=post)) for n in range(3)]
    transaction.commit()
    running = dispatch(threads=3)
    transaction.begin()
    assert queue.dispatchers[running.dispatcher.UUID]["main"].size == 3

    assert [wait_for_result(main, 40) for main in mains] == [(n, n + 1, n + 2) for n in range(3)]


def test_jobs_that_wait_already_are_waited_for_and_put_once(queue: Any, dispatch: Any) -> None:
    shared = queue.put(Job(enginejobs.note, "shared"))
    mains = [queue.put(kind(shared, postprocess=post)) for kind in (serial, parallel)]
    transaction.commit()
    dispatch()

    assert [wait_for_result(main, 30) for main in mains] == [("shared",), ("shared",)]
    assert enginejobs.calls.count("shared") == 1


def test_an_element_that_is_taken_out_of_its_queue_is_not_put_again(queue: Any, dispatch: Any) -> None:
    queue.quotas.create("closed", 1)
    blocker, element = Job(enginejobs.wait, "b"), Job(enginejobs.note, "removed")
    blocker.quota_names = element.quota_names = ("closed",)
    queue.put(blocker)
    main = queue.put(serial(element, Job(enginejobs.note, "next"), postprocess=post))
    transaction.commit()
    dispatch()
    assert enginejobs.started["b"].wait(20)
    _until_waiting(main)
    queue.remove(element)
    transaction.commit()

    assert wait_for_result(main, 30) == (None, "next")
    assert "removed" not in enginejobs.calls
    enginejobs.released["b"].set()


def test_a_cancelled_serial_starts_nothing_more_and_what_runs_goes_on(queue: Any, dispatch: Any) -> None:
    dispatch()
    main = queue.put(serial(enginejobs.wait, Job(enginejobs.note, "never"), postprocess=post))
    transaction.commit()
    assert enginejobs.started["a"].wait(20)
    _until_waiting(main)
    assert queue.cancel(main) == "cancelled"
    transaction.commit()
    enginejobs.released["a"].set()

    assert wait_for_result(main, 20).check(CancelledError)
    assert wait_for_result(main.args[0], 20) == "a"
    wait_until(queue, lambda: len(queue) == 0 and queue.counts()["awaiting"] == 0, 20)
    assert enginejobs.calls == ["a"] and main.args[1].status == NEW


def test_an_element_that_returns_its_main_job_fails_with_it_and_nothing_hangs(queue: Any, dispatch: Any) -> None:
    dispatch()
    main = parallel(Job(enginejobs.add, 1), postprocess=post)
    main.args.append(Job(_identity, main))
    queue.put(main)
    transaction.commit()

    outcome = wait_for_result(main, 30)
    element = wait_for_result(main.args[1], 30)
    assert "cannot end before" in element.getErrorMessage()
    failure = outcome[1] if isinstance(outcome, tuple) else outcome  # the cycle may be seen by either of the two
    assert "cannot end before" in failure.getErrorMessage()


def _identity(value: Any) -> Any:
    return value


def test_what_cannot_be_a_part_is_refused_with_its_name() -> None:
    with pytest.raises(TypeError, match="'postproces'.*give the jobs their arguments|'postprocess', not 'postproces'"):
        serial(postproces=post)
    for bad in (42, None, "enginejobs.add"):
        with pytest.raises(InvalidJobError, match="cannot be a job"):
            parallel(bad)
    with pytest.raises(InvalidJobError, match="stands for one of several callbacks"):
        serial(Job(enginejobs.add).addCallbacks(enginejobs.note))


def test_outside_of_a_queue_it_says_where_to_put_it(connection: Any) -> None:
    connection.root()["main"] = main = serial(enginejobs.add)
    transaction.commit()
    failure = main()
    assert failure.check(BadStatusError) and "queue.put(job)" in failure.getErrorMessage()


def test_a_bad_element_ends_it_and_leaves_nothing_behind(queue: Any, dispatch: Any) -> None:
    dispatch()
    unknown = Job(enginejobs.note, 2)
    unknown._quota_names = ("no such quota",)
    main = queue.put(parallel(Job(enginejobs.note, 1), unknown, postprocess=post))
    transaction.commit()

    assert wait_for_result(main, 30).check(ValueError)
    assert main.outcome == "failed" and enginejobs.calls == []
    assert main.args[0].status == NEW and len(queue) == 0


def test_run_jobs_runs_serial_and_parallel_inline(queue: Any) -> None:
    main = queue.put(serial(parallel(Job(enginejobs.note, 1), Job(enginejobs.note, 2)), Job(enginejobs.note, 3)))
    transaction.commit()
    done = run_jobs(queue)

    assert main in done and [job.status for job in main.result] == [COMPLETED, COMPLETED]
    assert enginejobs.calls == [1, 2, 3]
    counts = queue.counts()
    assert counts["awaiting"] == 0 and counts["succeeded"] == len(done)


class Killed:
    """Lets a dispatcher commit so many times, and nothing more after that: as if its process had been killed then."""

    def __init__(self, commits: int) -> None:
        self.left = commits
        self.dispatcher: Any = None
        self.lock = threading.Lock()
        self.dead = threading.Event()
        self.begin: Callable[..., Any] = ZODB.Connection.Connection.commit

    def mine(self) -> bool:
        one = self.dispatcher
        me = threading.current_thread()
        return one is not None and (local.dispatcher is one or me is one._loop_thread or me is one.heartbeat._thread)

    def outlived_by(self, job: Any) -> bool:
        """Whether the dispatcher still lives when the job has ended; returns as soon as one of them has."""
        wait_until(job, lambda: self.dead.is_set() or job.status == COMPLETED, 30)
        return not self.dead.is_set()

    def commit(self) -> Callable[..., Any]:
        def commit(connection: Any, txn: Any) -> Any:
            if self.mine():
                with self.lock:
                    self.left -= 1
                    if self.left < 0:
                        self.dead.set()
                        raise SystemExit("killed")
            return self.begin(connection, txn)

        return commit


@pytest.mark.parametrize("kind", [serial, parallel])
def test_a_dispatcher_that_dies_after_any_of_its_commits_makes_nothing_run_twice_or_get_lost(
    queue: Any, connection: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr("collective.zcasync.threadpool.AgentThreadPool._interrupted", lambda *_args: "reassigned")
    for commits in range(1, 40):
        connection.root()[commits] = mapping = PersistentMapping()
        for name in "abc":
            mapping[name] = PersistentMapping()
        jobs = [Job(step, mapping[name], name) for name in "ab"]
        main = queue.put(kind(*jobs, postprocess=Job(step, mapping["c"], "c")))
        transaction.commit()
        killed = Killed(commits)
        with monkeypatch.context() as patch:
            patch.setattr(ZODB.Connection.Connection, "commit", killed.commit())
            patch.setattr(threading, "excepthook", lambda _args: None)  # its threads end as they should
            first = dispatch(threads=2, poll_interval=0.05)
            killed.dispatcher = first.dispatcher
            survived = killed.outlived_by(main)
            killed.left = -1
            first.crash()
        _bury(queue, first.dispatcher.UUID)
        second = dispatch(threads=2)
        assert wait_for_result(main, 30) == "c", f"after {commits} commits"
        second.stop(grace=0)
        transaction.begin()
        assert [mapping[name].get(name) for name in "abc"] == [1, 1, 1], f"after {commits} commits"
        assert queue.counts()["awaiting"] == 0 and len(queue) == 0
        if survived:
            assert commits > 6, "there are more steps than that"
            break
    else:
        raise AssertionError("it never came to the end")


def _bury(queue: Any, uuid: Any) -> None:
    """What a sibling does as soon as it finds the process gone; again, if it meets a last commit of that."""

    def bury() -> None:
        da = queue.dispatchers.get(uuid)
        if da is not None:
            if da.activated is not None:
                da.deactivate(died=True)
            queue.dispatchers.unregister(uuid)

    transaction.manager.run(bury)
