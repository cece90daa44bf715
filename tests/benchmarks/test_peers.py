"""The comparison with other job systems runs; what it finds is a matter of `make bench-peers`."""

from benchmarks.peers import __main__ as peers
from benchmarks.peers import rivals
from benchmarks.peers import runs
from benchmarks.peers.rivals import Rival
from pathlib import Path
from typing import Any

import json
import pytest


def run(tmp_path: Path, *told: str) -> tuple[int, dict[str, Any]]:
    file = tmp_path / "peers.json"
    code = peers.main([*told, "--json", str(file)])
    return code, json.loads(file.read_text()) if file.exists() else {}


@pytest.mark.processes
def test_the_package_itself_is_measured_and_loses_nothing_when_it_is_killed(tmp_path: Path) -> None:
    code, found = run(tmp_path, "--only", "zcasync, FileStorage", "--jobs", "20", "--rounds", "1", "--kills", "1")
    assert code == 0
    plain, grouped = found["rows"]["zcasync, FileStorage"], found["rows"]["zcasync, FileStorage, group commit"]
    assert len(plain["put"]) == len(plain["drain"]) == len(grouped["drain"]) == 1
    assert plain["put"][0] > 1
    assert plain["drain"][0] > 1
    assert plain["kill"] == {"jobs": runs.KILL_JOBS, "kills": 1, "never": 0, "twice": 0}


def test_a_driver_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Rival("Broken", "missing.py", "filestorage", "no", "no", ours=True)
    whole = next(rival for rival in rivals.RIVALS if rival.name == "zcasync, FileStorage")
    monkeypatch.setattr(peers, "RIVALS", (broken, whole))
    code, found = run(tmp_path, "--jobs", "5", "--rounds", "1", "--kills", "0")
    assert code == 1
    assert "put failed" in found["rows"]["Broken"]["error"]
    assert found["rows"]["zcasync, FileStorage"]["drain"]
    assert "Broken: put failed" in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--only", "Sidekiq") == (2, {})
    assert "begins with Sidekiq; there are: Huey, RQ" in capsys.readouterr().err


def test_a_count_of_jobs_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.arguments(["--jobs", "0"])
    assert "must be 1 or more, not 0" in capsys.readouterr().err


@pytest.mark.parametrize("rival", rivals.RIVALS, ids=lambda rival: rival.name)
def test_a_rival_has_a_driver_and_tells_what_its_users_may_rely_on(rival: Rival) -> None:
    assert (runs.DRIVERS / rival.driver).is_file()
    assert rival.transactional
    assert rival.after_kill
    assert rival.note


@pytest.mark.parametrize("package", ["huey", "rq", "celery", "dramatiq", "procrastinate", "redis"])
def test_the_version_of_a_rival_is_pinned(package: str) -> None:
    assert f"\n{package}==" in peers.REQUIREMENTS.read_text()
