"""Simulates worlds of dispatchers, clients and a storage, with all that goes wrong there, one for each seed.

make simulate SEEDS=2000            the worlds of seeds 1 to 2000
make simulate SEED=17               that of seed 17, with all that happens in it
make simulate ARGS="--state FILE"   in pieces that resume: what was done before is not done again
"""

from collections import Counter
from pathlib import Path
from typing import Any

import argparse
import json
import os
import sys

REPOSITORY = Path(__file__).parent.parent

#: Worlds after which the state is written, and it is told how far it is.
PIECE = 500

#: Lines of the trace that are shown of a world that went wrong.
LAST = 60


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=500, help="how many worlds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="only the world of that seed, with its whole trace")
    parser.add_argument("--state", type=Path, help="what was done, and found; it is gone on with")
    parser.add_argument("--fault", action="append", default=[], help="put this fault of simmutations into the engine")
    parser.add_argument("--faults", action="store_true", help="look for each of these faults; prints JSON, a line each")
    return parser.parse_args()


def same_hashes() -> None:
    """Sets of texts and bytes are gone through in the same order in each process: so a seed says all."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})


def show(result: Any, lines: int | None) -> None:
    told = "holds" if result.fault is None else f"{type(result.fault).__name__}: {result.fault}"
    trace = result.trace if lines is None else result.trace[-lines:]
    print(*trace, f"seed {result.seed}: {told}", sep="\n")
    if lines is not None:
        print(f"All that happened in it: make simulate SEED={result.seed}")


def look_for_faults(most: int) -> int:
    """Print for each fault how many worlds it took to be found, and what it violates."""
    import simmutations

    for name in simmutations.MUTATIONS:
        print(json.dumps({"fault": name, **simmutations.look_for(name, most)}), flush=True)
    return 0


def main() -> int:
    asked = arguments()
    same_hashes()
    sys.path[:0] = [str(REPOSITORY / folder) for folder in ("src", "tests", "tests/engine")]
    if asked.faults:
        return look_for_faults(asked.seeds)
    from simulation import quick
    from simulation import simulate

    if asked.fault:
        import pytest
        import simmutations

        for name in asked.fault:
            simmutations.MUTATIONS[name][0](pytest.MonkeyPatch())
    if asked.seed is not None:
        with quick():
            result = simulate(asked.seed)
        show(result, None)
        return result.fault is not None
    done = {"next": asked.first, "seconds": 0.0, "jobs": 0, "commits": 0, "troubles": {}, "violated": []}
    if asked.state and asked.state.exists():
        done = json.loads(asked.state.read_text())
    with quick():
        end = asked.first + asked.seeds
        while done["next"] < end:
            piece(done, min(done["next"] + PIECE, end), simulate)
            if asked.state:
                asked.state.write_text(json.dumps(done))
            print(told(done, asked.first), flush=True)
    return 1 if done["violated"] else 0


def piece(done: dict[str, Any], end: int, simulate: Any) -> None:
    from simworld import REAL_MONOTONIC

    began = REAL_MONOTONIC()
    for seed in range(done["next"], end):
        result = simulate(seed)
        done["jobs"] += result.jobs
        done["commits"] += result.commits
        done["troubles"] = dict(Counter(done["troubles"]) + Counter(result.troubles))
        if result.fault is not None:
            done["violated"].append(seed)
            show(result, LAST)
    done["seconds"] += REAL_MONOTONIC() - began
    done["next"] = end


def told(done: dict[str, Any], first: int) -> str:
    worlds = done["next"] - first
    troubles = ", ".join(f"{count} {name}" for name, count in sorted(done["troubles"].items()))
    violated = ", ".join(map(str, done["violated"])) or "none"
    rate = worlds / max(done["seconds"], 0.001)
    return (
        f"{worlds} worlds, {done['jobs']} jobs and callbacks, {done['commits']} commits in {done['seconds']:.0f} s"
        f" ({rate * 60:.0f} a minute); {troubles}; seeds with a violation: {violated}"
    )


if __name__ == "__main__":
    sys.exit(main())
