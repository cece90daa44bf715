"""A short storm over each storage, with the faults of a fixed seed; ``make chaos`` goes on for as long as wanted."""

from chaos.faults import KILLS as KILLING
from chaos.faults import OTHERS
from chaos.faults import plan
from chaos.storm import Storm
from pathlib import Path

import pytest

KILLS = 8

SEEDS = {"filestorage": "5", "zeo": "2641", "relstorage": "755"}

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200)]


def test_the_short_storms_have_faults_of_all_kinds_together() -> None:
    plans = {storage: {fault.what for fault in plan(seed, KILLS, True)} for storage, seed in SEEDS.items()}
    assert "full disk" in plans["zeo"] & plans["relstorage"]
    assert plans["zeo"] | plans["relstorage"] == {*KILLING, *OTHERS}


@pytest.mark.parametrize(("storage", "seed"), SEEDS.items())
def test_a_storm_loses_nothing_does_nothing_twice_and_leaves_nothing_behind(
    storage: str, seed: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    found = Storm(storage, seed, KILLS, tmp_path).run()

    assert found["violations"] == []
    assert (found["kills"], found["lost"], found["twice"], found["in limbo"]) == (KILLS, 0, 0, 0)
    assert found["others"] > 0 and found["jobs"] > 0
