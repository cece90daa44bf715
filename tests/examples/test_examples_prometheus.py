"""The examples for Prometheus and Grafana: what they ask for is told, and each alarm begins when it should."""

from collections.abc import Iterator
from collective.zcasync import alarms
from collective.zcasync import figures
from collective.zcasync.figurereading import Reading
from collective.zcasync.zopeapp.crew import Crew
from collective.zcasync.zopeapp.supervisor import figures_of
from pathlib import Path
from typing import Any
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage

import json
import pytest
import re
import subprocess
import yaml

#: What stands for Grafana's variables when promtool reads an expression.
VARIABLES = {"$__rate_interval": "5m", "$database": "main", "$queue": "default"}

ENDINGS = {figures.GAUGE: ("",), figures.COUNTER: ("_total",), figures.HISTOGRAM: ("_bucket", "_sum", "_count")}

#: Of the process, as Prometheus' own library tells it.
OF_THE_LIBRARY = {"process_resident_memory_bytes"}


def promtool(folder: Path, *arguments: str) -> str:
    """What it says, if it finds nothing wrong."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=folder, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def prometheus(repository: Path) -> Path:
    return repository / "examples" / "prometheus"


@pytest.fixture
def rules(prometheus: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((prometheus / "zcasync.rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture
def dashboard(repository: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((repository / "examples" / "grafana" / "zcasync.json").read_text())
    return read


@pytest.fixture
def told() -> Iterator[set[str]]:
    """The names of all series that a process tells: a worker, or a supervisor."""
    database = DB(MappingStorage())
    found = [*figures.of_process(), *Reading(database).figures(), *figures_of(Crew(1, lambda number: None))]
    database.close()
    yield {figure.name + ending for figure in found for ending in ENDINGS[figure.kind]}


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def names(expression: str) -> set[str]:
    """The names of series in it: what is no label, no function and no text."""
    return set(re.findall(r"\b(?:zcasync[_:][a-z_]+|process_[a-z_]+)\b", expression))


def test_promtool_finds_nothing_wrong_with_rules_and_configuration(prometheus: Path) -> None:
    assert "15 rules found" in promtool(prometheus, "check", "rules", "zcasync.rules.yml")
    assert "SUCCESS" in promtool(prometheus, "check", "config", "prometheus.yml")


def test_each_alarm_begins_when_it_should_and_not_before(prometheus: Path) -> None:
    assert "SUCCESS" in promtool(prometheus, "test", "rules", "zcasync.rules.test.yml")


def test_each_alarm_is_tried_out_both_ways(prometheus: Path, rules: list[dict[str, Any]]) -> None:
    tests = yaml.safe_load((prometheus / "zcasync.rules.test.yml").read_text())["tests"]
    tried = [(one["alertname"], bool(one.get("exp_alerts"))) for test in tests for one in test["alert_rule_test"]]
    alarms = {rule["alert"] for rule in rules if "alert" in rule}
    assert set(tried) == {(alarm, begins) for alarm in alarms for begins in (True, False)}


def test_each_alarm_says_what_it_is_and_what_to_do(rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert all(rule["annotations"][key].endswith(".") for key in ("summary", "description"))


def test_the_alarms_begin_where_those_of_the_panel_do(rules: list[dict[str, Any]]) -> None:
    limits, expressions = alarms.Limits(), {rule["alert"]: rule["expr"] for rule in rules if "alert" in rule}

    def numbers(alarm: str) -> list[float]:
        return [float(number) for number in re.findall(r"(?:>=?|==) ([0-9.]+)", expressions[alarm])]

    assert numbers("JobsWaitLong")[0] == limits.waiting.total_seconds()
    assert numbers("JobsFail") == [limits.failing, alarms.LEAST_ENDED]
    assert numbers("ClockWrong") == [alarms.SKEW]


def test_the_rules_ask_only_for_what_is_told(rules: list[dict[str, Any]], told: set[str]) -> None:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    asked = set().union(*(names(rule["expr"]) for rule in rules))
    assert asked - told - recorded == set()
    assert recorded <= asked, "each is used"


def test_the_dashboard_asks_only_for_what_is_told(dashboard: dict[str, Any], told: set[str]) -> None:
    asked = set().union(*map(names, expressions(dashboard)))
    variables = [one for one in dashboard["templating"]["list"] if one["type"] == "query"]
    asked |= set().union(*(names(one["definition"]) for one in variables))
    assert asked - told - OF_THE_LIBRARY == set()
    assert len(asked) > 12


def test_prometheus_understands_each_expression_of_the_dashboard(dashboard: dict[str, Any], tmp_path: Path) -> None:
    rules = []
    for number, expression in enumerate(expressions(dashboard)):
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        rules.append({"record": f"expression:{number}", "expr": expression})
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool(tmp_path, "check", "rules", "rules.yml")


def test_the_panels_of_the_dashboard_have_names_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        place = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not place & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= place
    titles = [panel["title"] for panel in dashboard["panels"]]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert all(titles) and len(set(titles)) == len(set(ids)) == len(titles)


def test_the_guide_tells_every_figure_and_no_other(repository: Path, told: set[str]) -> None:
    text = (repository / "docs" / "how-to-guides" / "watch-with-prometheus.md").read_text()
    named = set(re.findall(r"`(zcasync_[a-z_]+)`", text))
    assert named == {re.sub("_(bucket|sum|count)$", "", name) for name in told}
