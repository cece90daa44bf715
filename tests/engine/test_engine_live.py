"""What a job knows of itself while it runs, and what it tells others and hears from them before it commits."""

from collections.abc import Callable
from collective.zcasync import local
from collective.zcasync import threadlocal
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import NoJob
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import PENDING
from collective.zcasync.job import Job
from collective.zcasync.testing import wait_for_annotation
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from datetime import datetime
from datetime import timezone
from decimal import Decimal
from typing import Any
from zope.i18nmessageid import Message

import enginejobs
import pytest
import threading
import time
import transaction
import uuid

#: Seconds that a test waits at most for what others do.
LONG = 20

ANNOTATIONS, CALLBACKS, TELLERS = 700, 300, 2


def put(queue: Any, call: Any, *args: Any) -> Any:
    job = queue.put(Job(call, *args))
    transaction.commit()
    return job


# local


def know_thyself(*result: Any) -> tuple[Any, ...]:
    enginejobs.calls.append(local.getDispatcher())
    enginejobs.calls.append(local.getReactor())
    return local.getJob().id, local.getQueue().name, local.getAgentName(), threading.current_thread().name


def test_a_job_and_its_callback_know_themselves_their_queue_agent_dispatcher_and_reactor(
    queue: Any, dispatch: Any
) -> None:
    running = dispatch()
    job = Job(know_thyself)
    callback = job.addCallback(know_thyself)
    queue.put(job)
    transaction.commit()
    wait_for_result(job)

    for one in (job, callback):
        assert one.result[:3] == (one.id, "", "main")
    assert job.result[3] == callback.result[3]
    assert enginejobs.calls == [running.dispatcher, running.reactor] * 2


def test_outside_jobs_nothing_is_known() -> None:
    assert (local.getJob(), local.getDispatcher(), local.getAgentName()) == (None, None, None)
    for ask in (local.getQueue, local.getReactor):
        with pytest.raises(NoJob) as raised:
            ask()
        assert isinstance(raised.value, AttributeError)


def call_another() -> tuple[Any, ...]:
    outer = local.getJob()
    inner = outer._p_jar.root()["inner"]
    return inner(), local.getJob() is outer


def test_the_running_job_is_the_innermost_one(queue: Any, dispatch: Any) -> None:
    inner = queue._p_jar.root()["inner"] = Job(its_id)
    transaction.commit()
    dispatch()

    assert wait_for_result(put(queue, call_another)) == (inner.id, True)


def its_id() -> str:
    return local.getJob().id


# Live annotations


def set_one(name: Any, value: Any) -> str:
    try:
        local.setLiveAnnotation(name, value)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    enginejobs.wait("a")
    return "told"


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "text",
        (1, ("two", b"three"), frozenset([4.5])),
        datetime(2026, 1, 1, tzinfo=timezone.utc),
        Decimal("1.50"),
        uuid.UUID(int=7),
        Message("msgid", "domain", "Default"),
    ],
)
def test_immutable_values_are_told_before_the_job_commits(
    value: Any, queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enginejobs, "value", value, raising=False)
    dispatch()
    job = put(queue, set_value)
    found = wait_until(queue, lambda: (job.live_annotation("name", "nothing"),) != ("nothing",), LONG)
    assert found and job.live_annotation("name") == value and "name" not in job.annotations
    enginejobs.released["a"].set()

    assert wait_for_result(job) == "told"
    wait_until(queue, lambda: "name" in job.annotations, LONG)
    assert job.annotations["name"] == value and job.attempts == 1


def set_value() -> str:
    return set_one("name", enginejobs.value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, (1, [2]), bytearray(b"x"), object(), enginejobs.Counter()])
def test_mutable_and_persistent_values_are_refused(
    value: Any, queue: Any, dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enginejobs, "value", value, raising=False)
    dispatch()
    answer = wait_for_result(job := put(queue, set_value))

    assert answer.startswith("InvalidValueError: the live annotation 'name' must be immutable plain data")
    assert "name" not in job.annotations


def test_the_name_of_a_live_annotation_is_a_text(queue: Any, dispatch: Any) -> None:
    dispatch()
    answer = wait_for_result(put(queue, set_one, 3, "value"))
    assert answer == "InvalidValueError: the name of a live annotation is a text, not 3"


def test_live_annotations_need_a_job_thread_to_be_set_and_a_job_to_be_read(queue: Any) -> None:
    job = put(queue, enginejobs.add)
    for call in (
        lambda: local.setLiveAnnotation("name", 1),
        lambda: local.setLiveAnnotation("name", 1, job),
        lambda: local.getLiveAnnotation("name"),
        lambda: local.getLiveAnnotation("name", job=Job(enginejobs.add)),
        lambda: local.getLiveAnnotation("name", timeout=-1, job=job),
        lambda: local.getLiveAnnotation("name", poll="1", job=job),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidValueError) as raised:
            call()
        assert isinstance(raised.value, ValueError)
    assert queue.counts()["waiting"] == 1


def test_a_live_annotation_that_is_missing_gives_the_default(queue: Any) -> None:
    job = put(queue, enginejobs.add)
    assert local.getLiveAnnotation("name", job=job) is None
    assert local.getLiveAnnotation("name", "default", timeout=0.1, poll=0.02, job=job) == "default"
    job.annotations["name"] = "uncommitted"
    assert local.getLiveAnnotation("name", "default", job=job) == "default"
    transaction.commit()
    assert local.getLiveAnnotation("name", "default", job=job) == "uncommitted"


def ask_and_wait() -> tuple[Any, ...]:
    local.setLiveAnnotation("question", "how many?")
    answer = local.getLiveAnnotation("answer", timeout=LONG, poll=0.02)
    return answer, local.getJob().annotations.get("answer", "not in this transaction")


def answer_it(other: Any) -> str:
    question = local.getLiveAnnotation("question", timeout=LONG, poll=0.02, job=other)
    local.setLiveAnnotation("answer", 42, job=other)
    return question


def test_two_running_jobs_can_talk_to_each_other(queue: Any, dispatch: Any) -> None:
    asking = queue.put(Job(ask_and_wait))
    answering = queue.put(Job(answer_it, asking))
    transaction.commit()
    dispatch()

    assert wait_for_result(asking, LONG) == (42, "not in this transaction")
    assert wait_for_result(answering, LONG) == "how many?"
    wait_until(queue, lambda: "answer" in asking.annotations, LONG)
    assert dict(asking.annotations) == {"answer": 42, "question": "how many?"} and asking.attempts == 1


def annotate_both_ways() -> str:
    local.getJob().annotations["own"] = 1
    local.setLiveAnnotation("live", 2)
    enginejobs.wait("a")
    return "done"


def test_own_and_live_annotations_of_one_job_do_not_disturb_each_other(queue: Any, dispatch: Any) -> None:
    dispatch()
    job = put(queue, annotate_both_ways)
    assert wait_for_annotation(job, "live", LONG) == 2
    assert "own" not in job.annotations
    enginejobs.released["a"].set()
    wait_for_result(job)
    wait_until(queue, lambda: "live" in job.annotations, LONG)

    assert dict(job.annotations) == {"live": 2, "own": 1} and job.attempts == 1


def test_a_look_blocks_for_two_seconds_more_at_most_when_the_database_does_not_answer(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked, go_on = threading.Event(), threading.Event()

    def block(look: Any, missing: Any) -> Any:
        blocked.set()
        go_on.wait(LONG)
        return missing

    monkeypatch.setattr(threadlocal._Look, "_look", block)
    monkeypatch.setattr(threadlocal, "PATIENCE", 0.1)
    began = time.monotonic()
    assert local.getLiveAnnotation("name", "default", job=put(queue, enginejobs.add)) == "default"
    assert blocked.is_set() and time.monotonic() - began < LONG
    go_on.set()


def annotate_many(number: int) -> int:
    for name in range(number):
        local.setLiveAnnotation(f"n{name}", name)
    enginejobs.wait("a")
    return number


def add_callbacks(database: Any, oid: bytes, numbers: list[int], failures: list[Any]) -> None:
    """Add callbacks in batches, as requests do: a conflict makes the request begin again."""
    manager = transaction.TransactionManager()
    connection = database.open(manager)
    try:
        for start in range(0, len(numbers), 10):
            for _attempt in manager.attempts(200):
                with _attempt:
                    for number in numbers[start : start + 10]:
                        connection.get(oid).addCallback(Job(note_number, number))
    except BaseException as error:
        failures.append(error)
    finally:
        manager.abort()
        connection.close()


def note_number(number: int, result: Any) -> int:
    enginejobs.calls.append(number)
    return number


def test_of_a_thousand_live_annotations_and_late_callbacks_none_is_lost_and_the_job_runs_once(
    queue: Any, dispatch: Any, clients: Callable[[], Any]
) -> None:
    dispatch()
    job = put(queue, annotate_many, ANNOTATIONS)
    assert enginejobs.started["a"].wait(LONG)
    failures: list[Any] = []
    tellers = [
        threading.Thread(
            target=add_callbacks, args=(clients(), job._p_oid, list(range(first, CALLBACKS, TELLERS)), failures)
        )
        for first in range(TELLERS)
    ]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join(60)
    enginejobs.released["a"].set()
    wait_until(queue, lambda: job.status == COMPLETED and len(job.callbacks) == CALLBACKS, 60, "the callbacks")

    assert failures == []
    assert job.result == ANNOTATIONS and job.attempts == 1
    wait_until(queue, lambda: len(job.annotations) == ANNOTATIONS, LONG, "the annotations")
    assert dict(job.annotations.items()) == {f"n{n}": n for n in range(ANNOTATIONS)}
    assert sorted(callback.result for callback in job.callbacks) == list(range(CALLBACKS))
    assert sorted(number for number in enginejobs.calls if number != "a") == list(range(CALLBACKS))
    assert enginejobs.calls.count("a") == 1


def test_a_reactor_that_stops_deactivates_its_dispatcher(queue: Any, dispatch: Any) -> None:
    running = dispatch(threads=1)
    job, waiting = put(queue, enginejobs.wait), put(queue, enginejobs.add, 1)
    assert enginejobs.started["a"].wait(LONG)
    running.reactor.callFromThread(running.reactor.stop)
    running.thread.join(LONG)

    transaction.begin()
    assert not running.thread.is_alive() and not running.dispatcher.activated
    assert len(queue.dispatchers) == 0 and job.status == waiting.status == PENDING
    assert queue.counts()["running"] == 0 and queue.counts()["waiting"] == 2
    enginejobs.released["a"].set()
