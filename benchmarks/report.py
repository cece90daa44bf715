"""A run's results: the JSON file, which is written after each part, and the table that is printed."""

from benchmarks import goals
from collections.abc import Iterator
from datetime import datetime
from datetime import timezone
from importlib import metadata
from pathlib import Path
from rich.console import Console
from rich.table import Table
from typing import Any

import json
import os
import platform
import shutil
import subprocess

#: What the numbers depend on.
DISTRIBUTIONS = ("ZODB", "BTrees", "persistent", "transaction", "ZEO", "RelStorage", "psycopg2-binary", "Twisted")

FOLDER = Path(__file__).parent / "results"


def begun(quick: bool) -> dict[str, Any]:
    """What is known before anything was measured."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine(),
        "versions": {"Python": platform.python_version(), "PostgreSQL": postgres(), **distributions()},
        "errors": {},
    }


def machine() -> dict[str, Any]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "processor": model.partition(":")[2].strip() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 2**30),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 1),
    }


def distributions() -> dict[str, str]:
    return {name: metadata.version(name) for name in (*DISTRIBUTIONS, "collective.zcasync")}


def postgres() -> str:
    """The version of the server's programs, or an empty text."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")), shutil.which("postgres")]
    program = next((path for path in reversed(found[:-1])), found[-1])
    if program is None:
        return ""
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[2]


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Add results to those of the same storage, whatever is in them already."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def read(path: Path) -> dict[str, Any]:
    """The results of an earlier run; nothing if there is no such file."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def numbers(results: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, number) of all that was measured."""
    for key, value in results.items():
        if isinstance(value, dict):
            yield from numbers(value, (*path, key))
        elif key != "spread" and path[:1] != ("spread",):
            yield (*path, key), value


def show(results: dict[str, Any], console: Console) -> None:
    """A table for each storage: what was measured, the spread of its rounds, the goal, and whether it is met."""
    for storage, own in results.items():
        if not isinstance(own, dict) or storage in ("machine", "versions", "errors"):
            continue
        bounds = {goal.path: goal for goal in goals.goals(storage, own)} if known(storage) else {}
        table = Table("measured", "value", "spread", "goal", "", title=storage, title_justify="left")
        table.columns[0].no_wrap = True
        for path, value in numbers(own):
            goal = bounds.get(path)
            spread = own.get("spread", {}).get(path[-1]) if path[0] == "ratio" else None
            table.add_row(
                " ".join(path),
                f"{value:,g}" if isinstance(value, int | float) else str(value),
                "" if spread is None else f"{spread[0]:g} to {spread[1]:g}",
                "" if goal is None else goal.text,
                "" if goal is None else "[green]met" if goal.met(value) else "[red]missed",
            )
        console.print(table)
    for part, error in results["errors"].items():
        console.print(f"[red]{part} failed:[/red] {error.strip().splitlines()[-1]}", highlight=False)


def known(storage: str) -> bool:
    """Whether there are goals for it."""
    return storage in goals.DRAINS or storage == "site"
