"""What threads report of a job after a claim has taken that job anew: it says nothing of the run that goes on now."""

from collections.abc import Iterator
from datetime import timedelta
from enginemodel import a_world
from enginemodel import World
from typing import Any

import pytest


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as world:
        yield world


def put(world: World, **options: Any) -> int:
    client = world.clients[0]
    client.begin()
    job = world.new_job("enginemodel:Scripted", **options)
    client.queue.put(job)
    client.then = [world.learn(job)]
    assert client.commit()
    return int(job.args[0])


def run_twice(world: World, one: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The thread that is in the midst of the second run of a job, whose first one is reported only then."""
    late: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(one.claimer, "report", lambda *report, **more: late.append((report, more)))
        world.take(one).advance(outcome="raise", answer=timedelta(0))  # it waits again
        ((report, more),) = late
    thread = world.take(one)
    while thread.where != "call":
        thread.advance(1)
    one.claimer.report(*report, **more)
    world.claim(one, True, True).advance()
    return thread


def test_a_dispatcher_keeps_its_lane_while_a_job_runs_whose_attempt_before_that_is_reported_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.start(1, 0)
    put(world, lane="content")
    thread = run_twice(world, one, monkeypatch)
    lane = world.look().lanes.get(("", "content"))
    assert lane is not None and lane.holder == str(one.UUID)
    thread.advance()
    world.claim(one, True, True).advance()
    assert world.look().lanes.get(("", "content")) is None


def test_a_job_that_runs_is_not_given_back_as_its_attempt_before_that_was_reported_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.start(1, 0)
    number = put(world)
    thread = run_twice(world, one, monkeypatch)
    one.claimer.upkeep.doubtful.add("")  # a claim had no answer
    world.claim(one, True, True).advance()
    assert world.committed_token(world.oids[number]) == thread.item.token
    thread.advance()
    world.claim(one, True, True).advance()
    world.look()
    assert world.observer.job(number).outcome == "succeeded" and world.calls[number] == 2
    assert one.claimer.tokens == {}
