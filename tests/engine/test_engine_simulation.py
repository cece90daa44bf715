"""The simulation of whole dispatchers, clients and a storage finds nothing but faults that were put there."""

from pathlib import Path

import json
import os
import pytest
import re
import subprocess
import sys

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "simulate.py"

#: Worlds of one run. By hand many more: `make simulate SEEDS=100000`.
SEEDS = int(os.environ.get("ZCASYNC_SEEDS", "2000"))

#: Worlds in which each fault must show; most show in a tenth of them.
ENOUGH = 300


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.timeout(1500)
def test_whatever_goes_wrong_no_invariant_is_violated() -> None:
    done = simulate("--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert f"\n{SEEDS} worlds" in f"\n{done.stdout}" and "seeds with a violation: none" in done.stdout


def test_a_seed_says_all_that_happens() -> None:
    first, second = simulate("--seed", "7"), simulate("--seed", "7")
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) > 40


def test_a_violation_is_told_with_its_seed_its_trace_and_how_to_see_it_again() -> None:
    done = simulate("--seeds", "30", "--fault", "a_claimed_job_stays_where_it_waited")
    assert done.returncode == 1
    seed = re.search(r"^seed (\d+): Violated: one place: ", done.stdout, re.MULTILINE)
    assert seed is not None
    assert f"make simulate SEED={seed[1]}\n" in done.stdout and "commits" in done.stdout
    assert f"seeds with a violation: {seed[1]}" in done.stdout


def test_a_run_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    simulate("--seeds", "3", "--state", str(state))
    done = simulate("--seeds", "5", "--state", str(state))
    assert done.stdout.startswith("5 worlds, ")
    assert json.loads(state.read_text())["next"] == 6


@pytest.mark.timeout(1500)
def test_each_fault_that_is_put_into_the_engine_is_found() -> None:
    import simmutations

    done = simulate("--faults", "--seeds", str(ENOUGH))
    rows = {row["fault"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == set(simmutations.MUTATIONS), done.stderr
    missed = {name: row for name, row in rows.items() if row["violates"] not in simmutations.MUTATIONS[name][1]}
    assert missed == {}
