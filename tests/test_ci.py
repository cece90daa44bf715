"""What CI runs, `.ci/run`: all of the tests, its steps side by side, and a failure of any of them is shown last."""

from pathlib import Path

import os
import pytest
import re
import signal
import subprocess

#: Stands for make: tells what it was called with, and fails or waits for ever where the test says so.
MAKE = """#!/usr/bin/env bash
echo "called: $* ZCASYNC_EXAMPLES=${ZCASYNC_EXAMPLES-}"
case "$*" in
    ${WAITING-}) echo waiting > "waiting-$1"; exec tail -f /dev/null ;;
    ${FAILING-}) timeout 60 bash -c 'until test -e "${AFTER:-/}"; do :; done'; exit 3 ;;
esac
"""

NOTHING = "#!/bin/sh\necho 0\n"


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """Nothing but .ci/run, where make and apt-get are harmless."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((repository / ".ci" / "run").read_text())
    (tmp_path / "bin").mkdir()
    for name, text in {"make": MAKE, "apt-get": NOTHING, "id": NOTHING}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def begin(checkout: Path, **environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        # Under nohup all would ignore a SIGHUP for ever.
        ["env", "--default-signal=HUP,INT,TERM", "bash", checkout / ".ci" / "run"],
        env={**os.environ, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(checkout), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(checkout: Path, **environ: str) -> tuple[int, str]:
    """Its exit code, and what it said."""
    process = begin(checkout, **environ)
    output = process.communicate(timeout=60)[0]
    return process.returncode, output


def calls(output: str) -> list[str]:
    """What of the output of make is shown, in its order."""
    return re.findall("^called: (.*)$", output, re.MULTILINE)


#: What one of them leaves out is what another one runs.
TESTS = (
    "test-engine ARGS=--ignore=tests/engine/test_engine_model.py --ignore=tests/engine/test_engine_simulation.py"
    " ZCASYNC_EXAMPLES=",
    "test ARGS=--ignore=tests/engine ZCASYNC_EXAMPLES=",
    "test ARGS=tests/engine/test_engine_model.py tests/engine/test_engine_simulation.py ZCASYNC_EXAMPLES=1000",
)


def test_everything_is_run_and_shown(checkout: Path) -> None:
    code, output = run(checkout)

    assert code == 0
    others = [f"{name} ZCASYNC_EXAMPLES=" for name in ("buildout", "install", "lint", "docs")]
    assert sorted(calls(output)) == sorted([*others, *TESTS])
    assert list(checkout.glob("tmp.*")) == []


@pytest.mark.parametrize("failing", TESTS)
def test_tests_that_fail_beside_others_are_shown_last_and_the_others_too(checkout: Path, failing: str) -> None:
    code, output = run(checkout, FAILING=failing.partition(" ZCASYNC")[0])

    assert code == 1
    shown = [call for call in calls(output) if call.startswith("test")]
    assert sorted(shown) == sorted(TESTS) and shown[-1] == failing
    assert output.count("FAILED") == 1


def test_of_several_failures_all_are_shown(checkout: Path) -> None:
    code, output = run(checkout, FAILING="test*")

    assert code == 1
    assert output.count("FAILED") == output.count("called: test") == 3


@pytest.mark.parametrize("failing", ["install", "lint", "docs"])
def test_what_fails_before_the_tests_ends_all(checkout: Path, failing: str) -> None:
    code, output = run(checkout, FAILING=failing, WAITING="buildout")

    assert code == 3
    assert calls(output)[-1].startswith(failing)


def test_a_buildout_that_fails_ends_the_tests_that_do_without_it(checkout: Path) -> None:
    code, output = run(checkout, FAILING="buildout", WAITING="test-engine*", AFTER="waiting-test-engine")

    assert code == 1
    assert calls(output)[-1].startswith("buildout")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_when_it_is_stopped_nothing_goes_on_and_what_was_said_is_shown(checkout: Path, number: int) -> None:
    process = begin(checkout, WAITING="test*")
    for name in ("test", "test-engine"):
        subprocess.run(["timeout", "60", "bash", "-c", f"until test -e waiting-{name}; do :; done"], cwd=checkout)
    process.send_signal(number)
    # All who could still write to the pipe have ended as well.
    output = process.communicate(timeout=60)[0]

    assert process.returncode == 130
    assert output.count("stopped") == output.count("called: test") == 2
    assert list(checkout.glob("tmp.*")) == []
