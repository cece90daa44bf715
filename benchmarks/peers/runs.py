"""One measurement of one job system: putting and draining jobs that do nothing, and what is left after kill -9."""

from benchmarks.peers.rivals import Rival
from collections import Counter
from pathlib import Path
from typing import Any

import json
import os
import signal
import subprocess
import tempfile
import time

DRIVERS = Path(__file__).parent / "drivers"

#: Seconds that one driver may take; and of no new effect after which nothing more is expected from a worker.
LIMIT, QUIET = 600, 10.0

#: Jobs of the kill test, and after how many effects a worker is killed each time.
KILL_JOBS, KILL_AFTER = 60, 12


def command(rival: Rival, python: str, what: str, address: str, told: str) -> list[str]:
    return [python, str(DRIVERS / rival.driver), what, address + rival.option, told]


def _environment() -> dict[str, str]:
    """That of the drivers, which find what they share beside them."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(DRIVERS), os.environ.get("PYTHONPATH", "")])}


def _run(rival: Rival, python: str, what: str, address: str, jobs: int) -> dict[str, Any]:
    """Run a driver to its end; what it says."""
    line = command(rival, python, what, address, str(jobs))
    ended = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, env=_environment(), cwd=DRIVERS)
    answers = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if not answers:
        raise RuntimeError(f"{rival.name}: {what} failed with {ended.returncode}: {ended.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(answers[-1])
    return told


def speed(rival: Rival, python: str, address: str, jobs: int) -> dict[str, float]:
    """Jobs a second: put one by one, each durable as its store is; then drained, from the first job to the last."""
    put = _run(rival, python, "put", address, jobs)["seconds"]
    drain = _run(rival, python, "drain", address, jobs)["seconds"]
    return {"put": jobs / put, "drain": jobs / drain}


def kills(rival: Rival, python: str, address: str, times: int) -> dict[str, int]:
    """Kill the worker in the midst of its jobs, start it again; how many jobs were never done, and how many twice."""
    _run(rival, python, "put-long", address, KILL_JOBS)
    with tempfile.TemporaryDirectory(prefix="zcasync-effects-") as folder:
        effects = Path(folder, "effects")
        for kill in range(1, times + 2):
            goal = kill * KILL_AFTER if kill <= times else KILL_JOBS
            line = command(rival, python, "work", address, str(effects))
            worker = subprocess.Popen(
                line,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd=DRIVERS,
                start_new_session=True,
            )
            try:
                _wait_for(effects, goal)
            finally:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        found = Counter(_lines(effects))
    return {
        "jobs": KILL_JOBS,
        "kills": times,
        "never": KILL_JOBS - len(found),
        "twice": sum(1 for times in found.values() if times > 1),
    }


def _lines(effects: Path) -> list[str]:
    return effects.read_text().splitlines() if effects.exists() else []


def _wait_for(effects: Path, goal: int) -> None:
    """Until so many jobs have had their effect, or nothing has happened for QUIET seconds."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET:
        done = len(set(_lines(effects)))
        if done >= goal:
            return
        if done != last:
            last, since = done, time.monotonic()
        time.sleep(0.01)
