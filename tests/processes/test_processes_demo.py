"""`make demo`, in small: the script that it calls."""

from collections.abc import Sequence
from pathlib import Path
from plonesite import PloneSite

import pytest
import re
import subprocess
import sys

LAST_LINE = re.compile(r"demo: (\d+) imported, (\d+) failed, 0 lost, \d+\.\d jobs/s")


@pytest.mark.parametrize("options", [(), ("--kill",)], ids=["undisturbed", "killed twice"])
def test_the_demo_loses_nothing(site: PloneSite, repository: Path, options: Sequence[str]) -> None:
    command = [sys.executable, repository / "scripts" / "demo.py", "--folder", site.instance.folder]
    ended = subprocess.run(
        [*command, "--limit", "12", "--exit", *options], capture_output=True, text=True, timeout=240, check=False
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    match = LAST_LINE.fullmatch(lines[-1])
    assert match is not None, ended.stdout
    assert int(match[1]) + int(match[2]) == 12
    assert sum(line.startswith("failed: ") for line in lines) == int(match[2])
    assert ended.stdout.count("SIGKILL") == (2 if options else 0)
