"""The command behind ``make chaos``: storms until there were so many kills, in pieces that resume."""

from chaos.storm import Storm
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

#: Kills of one storm: then follow quiet, a recount, and a new storm with a new database.
PIECE = 50

REPOSITORY = Path(__file__).parent.parent


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--storage", choices=("filestorage", "zeo", "relstorage"), default="zeo")
    parser.add_argument("--kills", type=int, default=100, help="in all, those of earlier calls with the seed included")
    parser.add_argument("--piece", type=int, default=PIECE, help="kills of one storm (%(default)s)")
    parser.add_argument("--seed", help="repeats the faults of an earlier call; default: a new one")
    parser.add_argument("--again", action="store_true", help="forget what was done with this seed")
    parser.add_argument("--minutes", type=float, help="begin no storm after so many; the same command goes on")
    parser.add_argument("--state", type=Path, default=REPOSITORY / ".chaos.json", help="what was done, and found")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    told = arguments(argv)
    seed = told.seed or str(random.SystemRandom().randrange(10**6))
    print(f"chaos over {told.storage}, SEED={seed}", flush=True)
    began, state = time.monotonic(), json.loads(told.state.read_text()) if told.state.exists() else {}
    done: dict[str, Any] = {} if told.again else state.get(f"{told.storage} {seed}", {})
    state[f"{told.storage} {seed}"] = done
    number = kills = 0
    while kills < told.kills:
        if str(number) not in done:
            if told.minutes is not None and time.monotonic() - began > 60 * told.minutes:
                break
            done[str(number)] = storm(told.storage, f"{seed}/{number}", min(told.piece, told.kills - kills))
            told.state.write_text(json.dumps(state, indent=1))
        piece = done[str(number)]
        print(summary(f"{piece['seed']}: {piece['seconds']:.0f} s,", [piece]), flush=True)
        kills += piece["kills"]
        number += 1
        if piece["violations"]:
            print("\n".join(piece["violations"]))
            break
    pieces = [done[str(piece)] for piece in range(number)]
    if kills < told.kills:
        print(f"{kills} of {told.kills} kills; SEED={seed} goes on")
    print(summary("chaos:", pieces))
    return 0 if kills >= told.kills and not any(piece["violations"] for piece in pieces) else 1


def storm(kind: str, seed: str, kills: int) -> dict[str, Any]:
    """One piece. Its folder is kept if something is wrong."""
    folder = Path(tempfile.mkdtemp(prefix="zcasync-chaos-"))
    folder.chmod(0o755)
    try:
        result = Storm(kind, seed, kills, folder).run()
    except Exception:
        result = dict.fromkeys(("kills", "others", "jobs", "lost", "twice", "seconds", "storm"), 0)
        result |= {"seed": seed, "outcomes": {}, "in limbo": 1, "violations": [traceback.format_exc()]}
    if result["violations"]:
        result["violations"].append(f"See {folder}")
    else:
        shutil.rmtree(folder)
    return result


def summary(what: str, pieces: list[dict[str, Any]]) -> str:
    total = {
        name: sum(piece[name] for piece in pieces) for name in ("kills", "others", "jobs", "lost", "twice", "in limbo")
    }
    return (
        f"{what} {total['kills']} kills, {total['others']} other faults, {total['jobs']} jobs,"
        f" {total['lost']} lost, {total['twice']} twice, {total['in limbo']} in limbo"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its processes end with it
    sys.exit(main())
