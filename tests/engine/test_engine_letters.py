"""Letters to jobs that change hands at that very moment: none is lost, and none comes to the wrong owner."""

from collections.abc import Iterator
from collective.zcasync import spilling
from datetime import timedelta
from enginemodel import a_world
from enginemodel import World
from typing import Any

import pytest
import random

WAITS = "enginemodel:Scripted"


@pytest.fixture(params=range(4))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world, with the jobs in other inboxes at each run."""
    random.seed(request.param)
    with a_world() as world:
        yield world


def put(world: World, policy: str | None = None, callbacks: int = 0) -> int:
    client = world.clients[0]
    client.begin()
    job = world.new_job(policy)
    added = [job.addCallback(world.new_job()) for _ in range(callbacks)]
    client.queue.put(job)
    client.then = [world.learn(one) for one in (job, *added)]
    assert client.commit()
    return int(job.args[0])


def add_callback(world: World, number: int) -> int:
    client = world.clients[1]
    client.begin()
    callback = client.job(number).addCallback(world.new_job())
    client.then = [world.learn(callback)]
    assert client.commit()
    return int(callback.args[0])


def status(world: World, number: int) -> Any:
    world.look()
    job = world.observer.job(number)
    return job._status_id, job.outcome


def claim(world: World, one: Any) -> None:
    """Two looks, as what lies in the inboxes of others is taken at the second."""
    for _ in range(2):
        world.claim(one, True, True).advance()


def begin(world: World, one: Any) -> Any:
    (row,) = [row for row in world.startable() if row[0] is one]
    return world.begin(*row)


def finish_all(world: World, one: Any) -> None:
    for _ in range(4):
        claim(world, one)
        while world.startable():
            world.begin(*world.startable()[0]).advance()


def test_a_callback_that_is_added_in_the_midst_of_a_takeover_runs(world: World) -> None:
    first, second = world.start(1, 0), world.start(1, 0)
    number = put(world)
    claim(world, first)
    burial = world.bury(second, first)
    burial.advance(2)
    assert burial.where == "commit"
    callback = add_callback(world, number)
    burial.advance()
    finish_all(world, second)
    assert status(world, number) == (3, "succeeded")
    assert status(world, callback) == (3, "succeeded")


def test_a_callback_that_is_added_as_a_dispatcher_gives_back_what_has_not_begun_runs(world: World) -> None:
    first, second = world.start(1, 0), world.start(1, 0)
    number = put(world)
    claim(world, first)
    for pool in first.queues[""].values():
        pool.waiting.clear()  # no thread was told of it
    first.claimer.upkeep.doubtful.add("")
    giving_back = world.claim(first, False, False)
    while giving_back.where != "commit":
        giving_back.advance(1)
    callback = add_callback(world, number)
    giving_back.advance()
    finish_all(world, second)
    assert (status(world, number), status(world, callback)) == ((3, "succeeded"), (3, "succeeded"))


def test_a_letter_that_comes_as_a_dispatcher_gives_back_its_job_with_others_is_not_left_behind(world: World) -> None:
    first, second = world.start(2, 0), world.start(1, 0)
    runs, waits = put(world), put(world)
    claim(world, first)
    thread = next(world.begin(*row) for row in world.startable() if row[2].oid == world.oids[runs])
    thread.advance(5)
    assert thread.where == "call"
    early = [add_callback(world, runs), add_callback(world, waits)]
    for pool in first.queues[""].values():
        pool.waiting.clear()  # no thread was told of the other one
    first.claimer.upkeep.doubtful.add("")
    giving_back = world.claim(first, False, False)
    while giving_back.where != "commit":
        giving_back.advance(1)
    callback = add_callback(world, waits)
    giving_back.advance()
    finish_all(world, second)
    thread.advance()
    finish_all(world, first)
    assert [status(world, one) for one in (runs, waits, *early, callback)] == [(3, "succeeded")] * 5


def test_a_callback_in_a_dead_dispatchers_mail_runs_though_its_job_has_ended_and_gone_on_with_a_later_one(
    world: World,
) -> None:
    first, second = world.start(1, 0), world.start(1, 0)
    number = put(world, callbacks=1)
    claim(world, first)
    thread = begin(world, first)
    while thread.where != "call":
        thread.advance(1)
    told = add_callback(world, number)
    thread.advance()
    assert status(world, number) == (3, "succeeded")  # and its dispatcher has not opened the mail
    later = add_callback(world, number)
    assert (status(world, told), status(world, later)) == ((0, None), (3, "succeeded"))
    world.crash(first)
    world.bury(second, first).advance()
    finish_all(world, second)
    assert (status(world, number), status(world, told)) == ((3, "succeeded"), (3, "succeeded"))


@pytest.mark.parametrize("way", ["paused", "spilled"])
def test_a_callback_in_the_mail_of_a_job_that_lies_in_an_inbox_to_be_filed_away_runs(
    world: World, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.start(1, 0), world.start(1, 0)
    number = put(world)
    claim(world, first)
    thread = begin(world, first)
    while thread.where != "call":
        thread.advance(1)
    told = add_callback(world, number)
    put(world)
    claim(world, second)
    busy = begin(world, second)
    thread.advance()
    add_callback(world, number)  # it has run at once, and the job is to be filed away once more
    if way == "paused":
        busy.advance()
        pause(world, True)
        claim(world, second)
        pause(world, False)
    else:
        monkeypatch.setattr(spilling, "SPILL", 0)
        claim(world, second)
        busy.advance()
    finish_all(world, second)
    finish_all(world, first)
    assert (status(world, number), status(world, told)) == ((3, "succeeded"), (3, "succeeded"))


def pause(world: World, paused: bool) -> None:
    client = world.clients[0]
    client.begin()
    client.queue.paused = paused
    assert client.commit()


def test_a_callback_waits_in_no_mailbox_when_the_job_goes_on_elsewhere(world: World) -> None:
    first, second = world.start(1, 0), world.start(1, 0)
    number = put(world, WAITS)
    claim(world, first)
    thread = begin(world, first)
    thread.advance(5)
    assert thread.where == "call"
    callback = add_callback(world, number)
    thread.advance(outcome="raise", answer=timedelta(0))  # back to the queue, and its dispatcher has not swept it
    claim(world, second)
    world.look()
    assert callback in [job.args[0] for job in world.observer.job(number)._callbacks]
    begin(world, second).advance()
    claim(world, first)
    finish_all(world, second)
    assert (status(world, number), status(world, callback)) == ((3, "succeeded"), (3, "succeeded"))


def test_a_job_that_was_asked_to_stop_does_not_begin_elsewhere(world: World) -> None:
    first, second = world.start(1, 0), world.start(1, 0)
    number = put(world, WAITS)
    claim(world, first)
    thread = begin(world, first)
    thread.advance(5)
    client = world.clients[1]
    client.begin()
    assert client.queue.cancel(client.job(number)) == "stopping"
    assert client.commit()
    thread.advance(outcome="raise", answer=timedelta(0))
    finish_all(world, second)
    assert world.calls[number] == 1
    finish_all(world, first)
    finish_all(world, second)
    assert (status(world, number), world.calls[number]) == ((3, "cancelled"), 1)


def test_a_callback_on_a_job_that_nobody_has_filed_away_leaves_no_letter_behind(world: World) -> None:
    first = world.start(1, 0)
    number = put(world)
    claim(world, first)
    thread = begin(world, first)
    thread.advance(5)
    early = add_callback(world, number)
    thread.advance()
    late = add_callback_and_put(world, number)
    finish_all(world, first)
    assert [status(world, one) for one in (number, early, late)] == [(3, "succeeded")] * 3
    assert [len(slot.running) + len(slot.mailbox) for slot in world.look().slots.values()] == [0]
    assert world.look().counts()["succeeded"] == 2  # the job, and the other one


def add_callback_and_put(world: World, number: int) -> int:
    """In a transaction that holds something else, so that the callback cannot run at once."""
    client = world.clients[1]
    client.begin()
    client.queue.put(world.new_job())
    callback = client.job(number).addCallback(world.new_job())
    client.then = [world.learn(callback)]
    assert client.commit()
    return int(callback.args[0])


def test_late_callbacks_run_in_the_order_in_which_they_were_added(world: World) -> None:
    first = world.start(1, 0)
    number = put(world)
    claim(world, first)
    added = [add_callback(world, number) for _ in range(12)]
    finish_all(world, first)
    world.look()
    assert [job.args[0] for job in world.observer.job(number)._callbacks] == added


def test_what_was_taken_back_from_threads_is_given_back_though_that_claim_conflicts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collective.zcasync.upkeep.STALE_AFTER", -1.0)
    first, second = world.start(1, 0), world.start(1, 0)
    number = put(world)
    claim(world, first)
    world.claim(first, False, True).advance()
    giving_back = world.claim(first, True, False)
    while not (giving_back.where == "commit" and not any(pool.waiting for pool in first.queues[""].values())):
        giving_back.advance(1)
    callback = add_callback(world, number)  # which the claim conflicts with
    giving_back.advance()
    finish_all(world, second)
    assert (status(world, number), status(world, callback)) == ((3, "succeeded"), (3, "succeeded"))
