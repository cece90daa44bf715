"""``python -m benchmarks.peers``: makes the others' environment, runs everybody in turn, prints the table.

Their versions are pinned in requirements.txt beside this file, and installed into .venv-peers. Redis and PostgreSQL are
started for the run, and stopped.
"""

from benchmarks.peers import runs
from benchmarks.peers.rivals import Rival
from benchmarks.peers.rivals import RIVALS
from benchmarks.peers.stores import store
from contextlib import nullcontext
from datetime import datetime
from datetime import timezone
from pathlib import Path
from rich.console import Console
from rich.table import Table
from statistics import median
from typing import Any

import argparse
import json
import os
import platform
import subprocess
import sys

REPOSITORY = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements.txt"


def arguments(told: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--jobs", type=_positive, default=3000, help="jobs that are put and drained in a round")
    parser.add_argument("--rounds", type=_positive, default=3, help="rounds; the median is shown, and the spread")
    parser.add_argument(
        "--kills", type=int, default=3, choices=range(5), help="kill -9 in the kill test; 0: leave it out"
    )
    parser.add_argument("--only", action="append", help="run those whose name begins like this; can be repeated")
    parser.add_argument("--environment", type=Path, default=REPOSITORY / ".venv-peers", help="the others' environment")
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    parser.add_argument("--json", type=Path, default=REPOSITORY / f"benchmarks/results/peers-{today}.json")
    return parser.parse_args(told)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


def environment(folder: Path) -> str:
    """The Python of the others' environment, made anew when the requirements have changed."""
    stamp, wanted = folder / ".installed", REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing the other job systems into {folder}.")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(folder / "bin/pip"), "install", "--quiet", "--no-deps", "--requirement", str(REQUIREMENTS)]
        subprocess.run(install, check=True)
        stamp.write_text(wanted)
    return str(folder / "bin/python")


def measure(rivals: list[Rival], asked: argparse.Namespace, python: str, postgres: Any) -> dict[str, Any]:
    """name -> what was measured; everybody in turn in each round, so that a slow minute of the machine hits all."""
    found: dict[str, Any] = {rival.name: {"put": [], "drain": [], "kill": None, "error": ""} for rival in rivals}

    def attempt(rival: Rival, what: str) -> None:
        row, its_python = found[rival.name], sys.executable if rival.ours else python
        print(f"{rival.name}: {what}", flush=True)
        try:
            with store(rival.store, postgres) as address:
                if what == "kill -9":
                    row["kill"] = runs.kills(rival, its_python, address, asked.kills)
                else:
                    for name, rate in runs.speed(rival, its_python, address, asked.jobs).items():
                        row[name].append(round(rate, 1))
        except (RuntimeError, subprocess.TimeoutExpired) as error:  # the others' rows are worth having all the same
            row["error"] = str(error)
            print(row["error"], file=sys.stderr)

    for number in range(asked.rounds):
        for rival in rivals:
            attempt(rival, f"round {number + 1} of {asked.rounds}")
    for rival in rivals if asked.kills else ():
        if rival.option != "#group" and rival.store != "redis-fsync":  # the same worker on the same store
            attempt(rival, "kill -9")
    return found


def table(rivals: list[Rival], found: dict[str, Any], jobs: int) -> Table:
    shown = Table(title=f"{jobs} jobs that do nothing, 4 threads; median (lowest-highest) jobs a second")
    for heading in ("", "put, one by one", "drain", "never done / twice after kill -9"):
        shown.add_column(heading)
    for heading in ("put with the content?", "after kill -9", "note"):
        shown.add_column(heading, overflow="fold")
    for rival in rivals:
        row, kill = found[rival.name], found[rival.name]["kill"]
        dead = f"{kill['never']} / {kill['twice']} of {kill['jobs']}" if kill else ""
        told = (rival.transactional, rival.after_kill, row["error"][:200] or rival.note)
        shown.add_row(rival.name, _rate(row["put"]), _rate(row["drain"]), dead, *told)
    return shown


def _rate(rates: list[float]) -> str:
    return f"{median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})" if rates else "-"


def main(told: list[str] | None = None) -> int:
    asked = arguments(told)
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from postgresserver import postgres_server

    wanted = tuple(asked.only or ("",))
    rivals = [rival for rival in RIVALS if rival.name.startswith(wanted)]
    if not rivals:
        names = ", ".join(rival.name for rival in RIVALS)
        print(f"Nobody's name begins with {' or '.join(wanted)}; there are: {names}", file=sys.stderr)
        return 2
    python = sys.executable if all(rival.ours for rival in rivals) else environment(asked.environment)
    needs_server = any(rival.store == "postgresql" for rival in rivals)
    with postgres_server() if needs_server else nullcontext() as postgres:
        found = measure(rivals, asked, python, postgres)
    Console(width=None if sys.stdout.isatty() else 200).print(table(rivals, found, asked.jobs))
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    versions = [line for line in REQUIREMENTS.read_text().splitlines() if "==" in line]
    stored = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "machine": machine}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps({**stored, "jobs": asked.jobs, "versions": versions, "rows": found}, indent=1))
    print(f"Written to {asked.json}")
    return 1 if any(row["error"] for row in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
