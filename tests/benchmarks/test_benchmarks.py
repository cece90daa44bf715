"""The benchmarks in miniature: every part runs, and writes all its numbers. How good they are is for `make bench`."""

from benchmarks import __main__ as command
from benchmarks import goals
from benchmarks import measuring
from benchmarks import parts
from benchmarks import report
from benchmarks.measuring import Scale
from benchmarks.rates import Rate
from collective.zcasync import joblists
from io import StringIO
from pathlib import Path
from rich.console import Console
from typing import Any

import benchtable
import json
import pytest
import subprocess

TINY = Scale(
    rounds=2,
    seconds=0.02,
    drained=40,
    latencies=5,
    lasting={0.02: 2},
    sizes=(100, 300),
    rejected=(300,),
    paged=(200,),
    finished=200,
    samples=3,
    conflicts=0.5,
    putters=2,
    dispatchers=2,
    backlog=200,
)

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command has written after a tiny run on FileStorage."""
    path = tmp_path_factory.mktemp("bench") / "folder" / "results.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "QUICK", TINY)
        code = command.main(["--quick", "--storage", "filestorage", "--json", str(path)])
    read = json.loads(path.read_text())
    assert read["errors"] == {} and code == 0
    return read


def test_a_run_tells_where_when_and_of_what_it_was(results: dict[str, Any]) -> None:
    assert results["quick"] is True and results["date"].endswith("+00:00")
    assert set(results["machine"]) == {"processor", "cores", "memory_gb", "system", "load"}
    assert {"Python", "PostgreSQL", "ZODB", "ZEO", "RelStorage", "collective.zcasync"} <= set(results["versions"])


def test_rates_are_told_beside_the_limit_with_their_spread(results: dict[str, Any]) -> None:
    own = results["filestorage"]
    names = {"limit_4", "put", "put_100", "drain_default", "drain_no_prefetch", "drain_group"}
    assert set(own["ratio"]) == set(own["spread"]) == names
    assert set(own["rate"]) == set(own["cpu_ms"]) == {"limit", *names}
    for name in names:
        low, high = own["spread"][name]
        assert 0 < low <= own["ratio"][name] <= high
    assert own["ratio"]["put_100"] > own["ratio"]["put"]


def test_a_job_writes_what_the_commit_protocol_says(results: dict[str, Any]) -> None:
    own = results["filestorage"]
    # One by one: put, claim, finish, and a share of a sweep.
    assert 3 <= own["commits_per_job"] < 4 and 6 <= own["records_per_job"] < 9
    assert 1 < own["commits_per_job_load"] < 4 and 1000 < own["bytes_per_job_load"] < 8000
    assert own["bytes_of"]["Job"] > 500


def test_latencies_growth_lists_and_conflicts_have_all_their_keys(results: dict[str, Any]) -> None:
    own = results["filestorage"]
    assert list(own["latency_ms"]) == ["local"]
    assert 0 < own["latency_ms"]["local"]["median"] <= own["latency_ms"]["local"]["p95"]
    behind = {f"{what}_behind_{head}" for what in ("put", "claim") for head in ("full_quota", "filter")}
    assert set(own["growth"]["300"]) == {"put", "claim", "first_page", "counts", "search", "drain", *behind}
    assert all(value > 0 for value in own["growth"]["300"].values())
    assert set(own["lists_ms"]) == {"100", "300", "300+200"} and set(own["memory_mb"]) == {"100", "300"}
    for shares in own["profile"].values():
        assert shares["storage"] > 0 and shares["storage"] + shares["ours"] == pytest.approx(1, abs=0.02)
        assert shares["top"]
    assert set(own["lasting"]["20"]) == {"1", "4", "16"} and own["lasting"]["20"]["1"] <= 1
    shares = own["conflict_share"]
    assert 0 <= shares["putters"] <= 1 and 0 <= shares["claims"] <= 1
    for case in ("backlog", "empty"):
        assert shares[case]["puts"] > 0 and shares[case]["lost"] == shares[case]["run_twice"] == 0
    assert shares["empty"]["jobs_done"] == shares["empty"]["puts"]


def test_each_page_of_the_panel_is_measured(results: dict[str, Any]) -> None:
    own = results["filestorage"]["pages_ms"]["200"]
    lists = {f"jobs {state}" for state in joblists.LISTS}
    assert set(own) == {"overview", *lists, "job", "queues", "my jobs", "policy"}
    assert all(value > 0 for value in own.values())


def test_pages_may_take_longer_with_a_million_jobs() -> None:
    results = {"pages_ms": {size: {"overview": 250} for size in ("100000", "1000000")}}
    told = [str(miss) for miss in goals.misses({"filestorage": results})]
    assert told == ["filestorage pages_ms 100000 overview: 250, goal ≤ 200"]


def test_every_goal_of_what_was_measured_finds_its_number(results: dict[str, Any]) -> None:
    own = results["filestorage"]
    wanted = list(goals.goals("filestorage", own))
    assert len(wanted) > 15
    assert [goal for goal in wanted if goals.value_of(own, goal.path) is None] == []


def test_the_table_shows_values_spreads_and_goals(results: dict[str, Any]) -> None:
    output = StringIO()
    report.show(results, Console(file=output, width=150))
    line = next(line for line in output.getvalue().splitlines() if "drain_default" in line)
    low, high = results["filestorage"]["spread"]["drain_default"]
    assert f"{low:g} to {high:g}" in line and "≥ 0.45" in line


def test_a_missed_goal_is_listed_with_what_was_measured() -> None:
    good = {"ratio": {"drain_default": 0.5, "drain_no_prefetch": 0.3, "drain_group": 1.3}, "bytes_per_job": 3000}
    good["bytes_per_job_load"] = 2000
    assert goals.misses({"filestorage": good, "errors": {}}) == []
    bad = {**good, "ratio": {"drain_default": 0.4, "drain_no_prefetch": 0.3}}
    told = [str(miss) for miss in goals.misses({"filestorage": bad, "machine": {}})]
    assert told == [
        "filestorage ratio drain_default: 0.4, goal ≥ 0.45",
        "filestorage ratio drain_group: not measured, goal ≥ 1.2",
    ]


def test_check_ends_with_one_if_a_goal_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(servers: Any, kind: str, scale: Scale, tell: Any) -> None:
        tell({"bytes_per_job": size, "bytes_per_job_load": 2000})

    monkeypatch.setitem(parts.PARTS, "footprint", part)
    options = ["--check", "--storage", "filestorage", "--only", "footprint", "--json", str(tmp_path / "results.json")]
    size = 3000
    assert command.main(options) == 0
    size = 4000
    assert command.main(options) == 1
    assert "missed: filestorage bytes_per_job: 4000, goal ≤ 3200" in capsys.readouterr().out


def test_a_part_that_fails_does_not_take_the_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(servers: Any, kind: str, scale: Scale, tell: Any) -> None:
        tell({"bytes_per_job": 3000})
        raise ValueError("on purpose")

    def works(servers: Any, kind: str, scale: Scale, tell: Any) -> None:
        tell({"latency_ms": {"local": {"median": 1, "p99": 2}}})

    monkeypatch.setitem(parts.PARTS, "footprint", fails)
    monkeypatch.setitem(parts.PARTS, "latency", works)
    path = tmp_path / "results.json"
    options = ["--storage", "filestorage", "--only", "footprint", "--only", "latency", "--json", str(path)]
    assert command.main(options) == 1
    read = json.loads(path.read_text())
    assert "on purpose" in read["errors"]["filestorage footprint"]
    assert read["filestorage"] == {"bytes_per_job": 3000, "latency_ms": {"local": {"median": 1, "p99": 2}}}

    monkeypatch.setitem(parts.PARTS, "footprint", lambda servers, kind, scale, tell: tell({"bytes_per_job": 2000}))
    again = ["--add", "--storage", "filestorage", "--only", "footprint", "--json", str(path)]
    assert command.main(again) == 0
    read = json.loads(path.read_text())
    assert read["errors"] == {}
    assert read["filestorage"] == {"bytes_per_job": 2000, "latency_ms": {"local": {"median": 1, "p99": 2}}}


def test_the_site_is_measured_by_itself_and_kept_beside_the_storages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(servers: Any, kind: str, scale: Scale, tell: Any) -> None:
        tell({"bytes_per_job": 3000, "bytes_per_job_load": 2000})

    monkeypatch.setitem(parts.PARTS, "footprint", part)
    monkeypatch.setattr(command, "measure_site", lambda quick, alone: {"context_ms": 0.1 if quick else 0.2})
    path = tmp_path / "results.json"
    storage = ["--storage", "filestorage", "--only", "footprint", "--json", str(path)]
    assert command.main(["--site", "--json", str(path)]) == 0
    assert command.main(storage) == 0
    read = json.loads(path.read_text())
    assert read["site"] == {"context_ms": 0.2} and read["filestorage"]["bytes_per_job"] == 3000
    assert command.main(["--site", "--quick", "--json", str(path)]) == 0
    read = json.loads(path.read_text())
    assert read["site"] == {"context_ms": 0.1} and read["filestorage"]["bytes_per_job"] == 3000


def test_limit_and_ours_are_measured_in_turn() -> None:
    limits = iter([100, 300, 100])
    calls: list[str] = []

    def limit() -> Rate:
        calls.append("limit")
        return Rate(next(limits), 1)

    def ours() -> Rate:
        calls.append("ours")
        return Rate(100, 2)

    found = measuring.in_turn(limit, {"ours": ours}, 2)
    assert calls == ["limit", "ours", "limit", "ours", "limit"]
    assert found["ratio"] == {"ours": 0.5} and found["spread"] == {"ours": [0.5, 0.5]}
    assert found["cpu_ms"] == {"ours": 2, "limit": 1}


def test_the_page_shows_the_numbers_of_a_file_that_is_kept(repository: Path) -> None:
    text = benchtable.PAGE.read_text()
    assert benchtable.filled(text) == text, "run scripts/benchtable.py"
    named = benchtable.BLOCK.search(text)
    assert named is not None
    command = ["git", "ls-files", "--error-unmatch", named["file"]]
    assert subprocess.run(command, cwd=repository, capture_output=True, check=False).returncode == 0


def test_the_page_has_a_cell_for_each_storage_and_a_dash_for_what_was_not_measured() -> None:
    results = {"zeo": {"rate": {"limit": 1234.5, "limit_4": 1100}}, "relstorage": {"latency_ms": {}}}
    assert benchtable.rows(results) == [("commits a second, 1 thread / 4", ["1,234 / 1,100", "–"])]


def test_the_page_has_a_table_for_the_site_where_that_was_measured() -> None:
    results = {**report.begun(False), "zeo": {}}
    assert "Plone site" not in benchtable.block("some.json", results)
    shown = benchtable.block("some.json", {**results, "site": {"page_factor": 1.42, "editor_p95_ms": 812.4}})
    assert "| its time, 95 %, ms | 812 |\n| a page beside a busy embedded dispatcher, to one without | 1.42 |" in shown
