"""Drives the engine's model by hand: many worlds in pieces, each with a seed of its own; no piece is done twice.

make model ARGS="--examples 50000"
"""

from pathlib import Path

import argparse
import json
import sys
import time

REPOSITORY = Path(__file__).parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=50_000, help="worlds in all, those of earlier runs included")
    parser.add_argument("--piece", type=int, default=500, help="worlds of one piece")
    parser.add_argument("--steps", type=int, default=40, help="steps in one world")
    parser.add_argument("--first", type=int, default=1, help="the first piece's seed")
    parser.add_argument("--state", type=Path, default=REPOSITORY / ".model.json", help="what was done, and found")
    parser.add_argument("--fault", help="put this fault of tests/engine/test_engine_modelmutations.py into the engine")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from enginemachine import drive
    from enginemachine import Machine

    if asked.fault:
        sys.path.insert(0, str(REPOSITORY / "tests" / "engine"))
        import pytest
        import test_engine_modelmutations as mutations

        mutations.MUTATIONS[asked.fault][0](pytest.MonkeyPatch())
    done = json.loads(asked.state.read_text()) if asked.state.exists() else {}
    for seed in range(asked.first, asked.first + asked.examples // asked.piece):
        if str(seed) in done:
            continue
        began, fault = time.monotonic(), ""
        try:
            drive(asked.piece, seed=seed, shrink=False, steps=asked.steps)
        except Exception as error:
            found = Machine.found[1] if Machine.found else error
            fault = f"{type(found).__name__}: {found}"
        done[str(seed)] = {"worlds": Machine.driven, "seconds": round(time.monotonic() - began, 1), "fault": fault}
        asked.state.write_text(json.dumps(done, indent=1))
        total = sum(piece["worlds"] for piece in done.values())
        print(
            f"seed {seed}: {Machine.driven} worlds in {done[str(seed)]['seconds']} s, {total} in all. {fault}",
            flush=True,
        )
    total, seconds = (sum(piece[name] for piece in done.values()) for name in ("worlds", "seconds"))
    violated = sorted(seed for seed, piece in done.items() if piece["fault"])
    print(f"{total} worlds in {seconds / 60:.0f} minutes; seeds with a fault: {', '.join(violated) or 'none'}")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
