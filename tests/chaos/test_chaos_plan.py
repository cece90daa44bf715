"""The plan of a storm, what its quotas tell, and the command: without any process."""

from chaos import __main__ as command
from chaos import ledger
from chaos import quotas
from chaos.faults import KILLS
from chaos.faults import plan
from chaos.ledger import Ledger
from pathlib import Path
from typing import Any

import json
import pytest


def test_a_seed_repeats_the_faults_and_another_one_does_not() -> None:
    assert plan("7/0", 50, True) == plan("7/0", 50, True)
    assert plan("7/0", 50, True) != plan("7/1", 50, True)


@pytest.mark.parametrize("shared", [True, False])
def test_a_plan_has_as_many_kills_as_were_asked_for_and_ends_with_the_last(shared: bool) -> None:
    faults = plan("1", 30, shared)
    assert sum(fault.kills for fault in faults) == 30 and faults[-1].kills


def test_a_long_plan_has_faults_of_all_kinds() -> None:
    assert {fault.what for fault in plan("1", 300, True)} >= set(KILLS)


# Quotas: a job keeps its place as it changes hands


@pytest.fixture
def files(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def _stay(files: Ledger, word: str, name: str, pid: int, at: float) -> None:
    ledger.write(files.stays, word, "one", name, pid, "token", at)


def test_two_jobs_at_once_are_too_many_for_a_quota_of_one(files: Ledger) -> None:
    _stay(files, "in", "a", 1, 1.0)
    _stay(files, "in", "b", 2, 2.0)
    assert quotas.exceeded(files) == ["quota one of size 1 held a, b at 2.000"]


def test_one_after_the_other_is_right(files: Ledger) -> None:
    for name, at in (("a", 1.0), ("b", 2.0)):
        _stay(files, "in", name, 1, at)
        _stay(files, "out", name, 1, at + 1)
    assert quotas.exceeded(files) == []


def test_the_place_of_a_killed_process_may_be_taken_from_then_on_and_no_earlier(files: Ledger) -> None:
    _stay(files, "in", "a", 1, 1.0)
    ledger.write(files.ends, "killed", 1, 3.0)
    _stay(files, "in", "b", 2, 4.0)
    assert quotas.exceeded(files) == []
    _stay(files, "in", "c", 1, 2.0)
    assert quotas.exceeded(files) == ["quota one of size 1 held a, c at 2.000"]


def test_the_same_job_in_two_processes_has_one_place(files: Ledger) -> None:
    _stay(files, "in", "a", 1, 1.0)
    _stay(files, "in", "a", 2, 2.0)
    _stay(files, "out", "a", 2, 3.0)
    _stay(files, "in", "b", 2, 4.0)
    assert quotas.exceeded(files) == []


# The command


def _piece(kind: str, seed: str, kills: int, **found: Any) -> dict[str, Any]:
    piece = dict.fromkeys(("others", "lost", "twice", "in limbo", "seconds"), 0)
    return {**piece, "seed": seed, "kills": kills, "jobs": 100, "violations": [], **found}


@pytest.fixture
def storms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What would have been done."""
    done: list[tuple[str, str, int]] = []

    def storm(*what: Any) -> dict[str, Any]:
        done.append(what)
        return _piece(*what)

    monkeypatch.setattr(command, "storm", storm)
    return done


def _call(tmp_path: Path, *options: str) -> int:
    return command.main(["--state", str(tmp_path / "state.json"), "--seed", "7", *options])


def test_the_last_line_counts_all_pieces(storms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(tmp_path, "--kills", "120") == 0
    assert storms == [("zeo", "7/0", 50), ("zeo", "7/1", 50), ("zeo", "7/2", 20)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "chaos over zeo, SEED=7"
    assert lines[-1] == "chaos: 120 kills, 0 other faults, 300 jobs, 0 lost, 0 twice, 0 in limbo"


def test_a_run_that_was_cut_goes_on_where_it_was(storms: Any, tmp_path: Path) -> None:
    assert _call(tmp_path, "--kills", "100") == 0
    assert _call(tmp_path, "--kills", "150") == 0
    assert [seed for _kind, seed, _kills in storms] == ["7/0", "7/1", "7/2"]
    assert _call(tmp_path, "--kills", "50", "--again") == 0
    assert storms[-1] == ("zeo", "7/0", 50)
    assert _call(tmp_path, "--kills", "50", "--storage", "relstorage") == 0
    assert storms[-1] == ("relstorage", "7/0", 50)
    assert set(json.loads((tmp_path / "state.json").read_text())) == {"zeo 7", "relstorage 7"}


def test_what_is_not_whole_is_no_success(storms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(tmp_path, "--kills", "100", "--minutes", "-1") == 1
    assert storms == [] and "0 of 100 kills; SEED=7 goes on" in capsys.readouterr().out


def test_a_violation_ends_the_run_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "storm", lambda *what: _piece(*what, lost=1, violations=["a job is gone"]))
    assert _call(tmp_path, "--kills", "100") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "a job is gone" in lines
    assert lines[-1] == "chaos: 50 kills, 0 other faults, 100 jobs, 1 lost, 0 twice, 0 in limbo"
