"""Threads and processes that put, claim, cancel, call back, die and bury at the same time; a recount at the end."""

from collections.abc import Callable
from racing import inside
from racing import Race
from racing import recount
from racing import run
from typing import Any

import transaction


def test_threads_that_put_claim_cancel_and_call_back_lose_nothing_and_do_nothing_twice(
    clients: Callable[[], Any], queue: Any, dispatch: Any
) -> None:
    inside[:] = [0, 0]
    queue.quotas.create("two", 2)
    transaction.commit()
    dispatch(threads=2)
    dispatch(threads=2)
    race = Race()
    run(race, clients(), racers=3, rounds=80)
    recount(race, queue, 60)
    assert inside[1] <= 2


def test_late_callbacks_meet_the_end_of_their_jobs_and_none_is_lost(
    clients: Callable[[], Any], queue: Any, dispatch: Any
) -> None:
    queue.quotas.create("two", 2)
    transaction.commit()
    dispatch(threads=3)
    race = Race()
    race.cancel = race.call_back  # type: ignore[method-assign]
    run(race, clients(), racers=3, rounds=60)
    recount(race, queue, 60)
