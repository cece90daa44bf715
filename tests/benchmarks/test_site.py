"""The benchmark of the Plone site in miniature: every part runs. How good its numbers are is for `make bench`."""

from benchmarks import goals
from benchmarks import report
from benchmarks import sitepages
from benchmarks.site import measure
from benchmarks.site import Scale
from typing import Any

import pytest

pytestmark = pytest.mark.processes

TINY = Scale(rounds=1, jobs=2, drained=2, contexts=2, edits=1.2, alone=0.6, pages=2, paged=(40,), shown=1)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return measure(TINY)


def test_each_goal_of_the_site_has_a_number(results: dict[str, Any]) -> None:
    found = dict(report.numbers(results))
    assert {goal.path for goal in goals.goals("site", {})} <= set(found)


def test_all_jobs_and_requests_are_counted(results: dict[str, Any]) -> None:
    for ways in results["content"].values():
        assert all(figures["most"] >= 1 and figures["rate"] > 0 for figures in ways.values())
    for name in ("without_jobs", "with_right_of_way", "without_right_of_way"):
        assert results["editors"][name]["requests"] >= 1
    for ways in results["pages"].values():
        assert ways["alone"]["jobs"] == 0 and set(ways) == {"alone", "impolite", "polite"}


def test_each_page_of_the_panel_is_measured_and_held_against_its_goal(results: dict[str, Any]) -> None:
    own, cpu = (results[key]["40"] for key in ("panel_ms", "panel_cpu_ms"))
    assert set(own) == set(cpu) == {*sitepages.PAGES, *sitepages.ROOT_PAGES, "job"}
    assert all(value > 0 for value in (*own.values(), *cpu.values()))
    bounds = {goal.path: goal.bound for goal in goals.goals("site", {"panel_ms": {"1000000": own, "40": own}})}
    assert bounds["panel_ms", "40", "overview"] == 200 and bounds["panel_ms", "1000000", "overview"] == 300
    assert bounds["panel_ms", "1000000", "search waiting"] == 500
