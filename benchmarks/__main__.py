"""The command behind ``make bench``: measure, print a table, write the results, compare with the goals."""

from benchmarks import clients
from benchmarks import goals
from benchmarks import report
from benchmarks.measuring import LONG
from benchmarks.measuring import QUICK
from benchmarks.measuring import Scale
from benchmarks.parts import PARTS
from benchmarks.storages import KINDS
from benchmarks.storages import Servers
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from rich.console import Console
from typing import Any

import argparse
import importlib
import sys
import time
import traceback


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="FileStorage and ZEO in about four minutes")
    parser.add_argument("--storage", action="append", choices=KINDS, help="only on this one (may be repeated)")
    parser.add_argument("--only", action="append", choices=tuple(PARTS), help="only this part (may be repeated)")
    parser.add_argument(
        "--site", action="store_true", help="only what is measured in a Plone site; added to the file, if it is there"
    )
    parser.add_argument("--add", action="store_true", help="add what is measured to the file, if it is there")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed, and list those")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benchmarks/results/<date>.json")
    return parser.parse_args(argv)


def run(
    kinds: Sequence[str], parts: Sequence[str], scale: Scale, results: dict[str, Any], path: Path, console: Console
) -> None:
    """Measure the parts on each storage. What fails is noted, and the rest goes on; the file is written after each."""
    with Servers() as servers:
        for name in parts:
            for kind in kinds:
                own = results.setdefault(kind, {})
                began = time.monotonic()
                console.print(f"{kind} {name} ...", end=" ")
                attempt(
                    f"{kind} {name}", partial(PARTS[name], servers, kind, scale, partial(report.merge, own)), results
                )
                console.print(f"{time.monotonic() - began:.0f} s")
                report.write(results, path)


def attempt(what: str, part: Any, results: dict[str, Any]) -> Any:
    """What the part returns; None, and a note among the errors, if it fails."""
    results["errors"].pop(what, None)
    try:
        return part()
    except Exception:
        results["errors"][what] = traceback.format_exc()
    return None


def measure_site(quick: bool, alone: bool) -> dict[str, Any]:
    """What is measured in a Plone site, in processes of its own."""
    measured: dict[str, Any] = importlib.import_module("benchmarks.site").run(quick, alone)
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    told, console = arguments(argv), Console(width=None if sys.stdout.isatty() else 110)
    clients.quiet()
    results = report.begun(told.quick)
    path = told.json or report.FOLDER / f"{results['date'][:10]}.json"
    results |= {name: value for name, value in report.read(path).items() if told.add or told.site or name == "site"}
    if not told.site:
        kinds = told.storage or (KINDS[:2] if told.quick else KINDS)
        run(kinds, told.only or tuple(PARTS), QUICK if told.quick else LONG, results, path, console)
    if told.site or not (told.quick or told.storage or told.only):
        site = attempt("site", partial(measure_site, told.quick, told.site), results)
        if site is not None:
            results["site"] = site
        report.write(results, path)
    report.show(results, console)
    console.print(f"Written to {path}.", highlight=False)
    missed = goals.misses(results) if told.check else []
    for miss in missed:
        console.print(f"missed: {miss}", highlight=False)
    return 1 if missed or results["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
