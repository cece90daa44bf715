"""Processes that put and processes that claim, at once: they do not get into each other's way, and lose nothing."""

from benchmarks import conflicts
from benchmarks.measuring import QUICK
from benchmarks.storages import Servers
from collections.abc import Iterator
from dataclasses import replace

import pytest

pytestmark = pytest.mark.processes

#: What ``make bench`` does for a minute, with fewer processes.
SHORT = replace(QUICK, conflicts=5, putters=3, dispatchers=2, backlog=300)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.mark.parametrize("full", [False, True], ids=["nearly empty", "backlog"])
@pytest.mark.parametrize("storage", ["zeo", "relstorage"])
def test_putting_and_claiming_processes_hardly_ever_conflict_and_lose_no_job(
    storage: str, full: bool, servers: Servers
) -> None:
    with servers.place(storage) as place:
        found = conflicts.meet(place, SHORT, full)

    assert (found["lost"], found["run_twice"]) == (0, 0)
    assert found["puts"] > 20
    assert found["putters"] * found["puts"] < 1.5, "of the requests one at most had to be repeated"
    # Five times what is wanted on a machine that does nothing else; ten times where claims chase each put, since a
    # process that is held up looks in vain for what another has taken meanwhile.
    assert found["claims"] < (0.25 if full else 0.5)
