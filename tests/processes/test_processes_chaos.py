"""A short storm over each storage, with the faults of a fixed seed; ``make chaos`` goes on for as long as wanted."""

from chaos.storm import Storm
from pathlib import Path

import pytest

KILLS = 8

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(("storage", "seed"), [("filestorage", "5"), ("zeo", "3"), ("relstorage", "6")])
def test_a_storm_loses_nothing_does_nothing_twice_and_leaves_nothing_behind(
    storage: str, seed: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    found = Storm(storage, seed, KILLS, tmp_path).run()

    assert found["violations"] == []
    assert (found["kills"], found["lost"], found["twice"], found["in limbo"]) == (KILLS, 0, 0, 0)
    assert found["others"] > 0 and found["jobs"] > 0
