"""The ready-to-use examples: each is parsed by what reads it, and what it says of zcasync is what zcasync takes."""

from argparse import Namespace
from collections.abc import Iterator
from collective.zcasync.zopeapp import crew
from collective.zcasync.zopeapp import exitcodes
from collective.zcasync.zopeapp import health
from collective.zcasync.zopeapp import supervisor
from collective.zcasync.zopeapp.cli import get_parser
from docblocks import REPOSITORY
from pathlib import Path
from serverprocess import SCRIPTS
from serverprocess import ServerProcess
from typing import Any
from zopeinstance import Instance
from zopeinstance import ZEO_CLIENT

import ast
import configparser
import pytest
import re
import shlex
import subprocess
import yaml
import ZEO

EXAMPLES = REPOSITORY / "examples"

SUPERVISOR = EXAMPLES / "supervisor" / "zcasync.conf"
SYSTEMD = EXAMPLES / "systemd" / "zcasync.service"
COMPOSE = EXAMPLES / "docker" / "compose.yaml"
KUBERNETES = EXAMPLES / "kubernetes" / "plone.yaml"
BUILDOUT = EXAMPLES / "buildout" / "workers.cfg"

#: What pages a worker's health port has.
PAGES = set(supervisor.pages(crew.Crew(0, lambda number: pytest.fail("nothing is started here"))))


def ini(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(comment_prefixes=("#", ";"), inline_comment_prefixes=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def parsed(words: list[str]) -> Namespace:
    """What the console script makes of a command line that begins with its path."""
    assert Path(words[0]).name == "zcasync"
    return get_parser().parse_args(words[1:])


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def kubernetes() -> dict[str, Any]:
    """Name -> the manifest."""
    return {manifest["metadata"]["name"]: manifest for manifest in yaml.safe_load_all(KUBERNETES.read_text())}


def pod(manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pod, and its only container."""
    spec = manifest["spec"]
    spec = spec["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else spec
    (container,) = spec["template"]["spec"]["containers"]
    return spec["template"]["spec"], container


def test_supervisor_gives_workers_the_time_that_they_want_and_leaves_wrong_use_alone() -> None:
    program = dict(ini(SUPERVISOR)["program:zcasync"])
    options = parsed(shlex.split(program["command"]))
    assert int(program["stopwaitsecs"]) > options.shutdown_grace + crew.BEYOND_GRACE
    assert (program["autorestart"], program["exitcodes"]) == ("unexpected", f"0,{exitcodes.WRONG_USE}")
    assert program["stopsignal"] == "TERM"
    assert options.configuration.startswith(program["directory"])


def test_systemd_gives_workers_the_time_that_they_want_and_leaves_wrong_use_alone() -> None:
    service = dict(ini(SYSTEMD)["Service"])
    options = parsed(shlex.split(service["ExecStart"]))
    assert int(service["TimeoutStopSec"]) > options.shutdown_grace + crew.BEYOND_GRACE
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("always", str(exitcodes.WRONG_USE))
    # The workers would hear the signal twice, which means "at once".
    assert service["KillMode"] == "mixed"
    assert service["Type"] == "notify"


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    text = SYSTEMD.read_text().replace("/srv/plone/.venv/bin", str(SCRIPTS)).replace("User=plone", "User=root")
    text = text.replace("WorkingDirectory=/srv/plone/instance", f"WorkingDirectory={tmp_path}")
    unit = tmp_path / SYSTEMD.name
    unit.write_text(text)
    result = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert [line for line in (result.stdout + result.stderr).splitlines() if unit.name in line] == []
    unit.write_text(text.replace("KillMode=mixed", "KillMode=gently"))
    result = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "gently" in result.stderr, "it looks at this file"


def test_compose_asks_the_port_that_the_worker_opens_and_waits_for_its_jobs() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    one = services["worker"]
    options = parsed(one["command"])
    assert seconds(one["stop_grace_period"]) > options.shutdown_grace
    _shell, python, _c, program = one["healthcheck"]["test"]
    assert python == "python"
    ast.parse(program)
    ((port, page),) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", program)
    assert int(port) == options.health_port
    assert page in PAGES
    assert set(one["depends_on"]) <= set(services)
    # A server that starts beside a worker on a new database may have to be started again.
    assert {service["restart"] for service in services.values()} == {"always"}


def test_kubernetes_asks_the_port_that_the_worker_opens_and_waits_for_its_jobs() -> None:
    spec, container = pod(kubernetes()["worker"])
    options = parsed(container["command"])
    assert spec["terminationGracePeriodSeconds"] > options.shutdown_grace
    assert options.health_host == "0.0.0.0"
    assert [port["containerPort"] for port in container["ports"]] == [options.health_port]
    probes = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {options.health_port}
    assert [probe["path"] for probe in probes.values()] == ["/live", "/live", "/ready"]
    assert {"/live", "/ready"} <= PAGES
    timeout = container["livenessProbe"]["failureThreshold"] * container["livenessProbe"]["periodSeconds"]
    assert timeout > health.SILENCE


def test_kubernetes_runs_what_is_due_at_night_and_lets_the_server_be_forgotten_before_it_stops() -> None:
    manifests = kubernetes()
    spec, container = pod(manifests["nightly-jobs"])
    options = parsed(container["command"])
    assert options.once
    assert spec["terminationGracePeriodSeconds"] > options.shutdown_grace
    _spec, server = pod(manifests["web"])
    assert server["lifecycle"]["preStop"]["exec"]["command"][0] == "sleep"
    assert server["readinessProbe"]["httpGet"]["port"] == server["ports"][0]["containerPort"]
    for kind in ("web", "worker"):
        labels = manifests[kind]["spec"]["selector"]["matchLabels"]
        assert manifests[kind]["spec"]["template"]["metadata"]["labels"] == labels


def test_the_parts_of_buildout_start_a_worker_with_options_that_it_takes() -> None:
    parts = ini(BUILDOUT)
    assert set(parts["buildout"]["parts +"].split()) <= set(parts.sections())
    script = "\n".join(line for line in parts["workers"]["initialization"].splitlines() if line)
    arguments = ast.literal_eval(script.partition("= ")[2])
    options = parsed(["zcasync", *arguments])
    assert (options.processes, options.threads) == (2, 3)
    program = parts["supervisor-conf"]["inline"]
    (stop,) = re.findall(r"stopwaitsecs=(\d+)", program)
    assert int(stop) > options.shutdown_grace + crew.BEYOND_GRACE
    assert f"/{parts['workers']['scripts'].partition('=')[2]}\n" in program


def test_all_examples_are_among_these() -> None:
    files = {path for path in EXAMPLES.rglob("*") if path.is_file()}
    assert files >= {SUPERVISOR, SYSTEMD, COMPOSE, KUBERNETES, BUILDOUT}
    page = (REPOSITORY / "docs" / "how-to-guides" / "many-workers.md").read_text()
    for path in (SUPERVISOR, SYSTEMD, COMPOSE, KUBERNETES, BUILDOUT):
        assert str(path.relative_to(REPOSITORY)) in page


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Instance]:
    """An instance on ZEO."""
    (host, port), stop = ZEO.server(str(tmp_path / "zeo.fs"), port=("127.0.0.1", 0))
    instance = Instance(tmp_path / "instance", storage=ZEO_CLIENT.format(host=host, port=port))
    yield instance
    instance.close()
    stop()


def test_supervisor_runs_the_example(shared: Instance) -> None:
    log = shared.folder / "var" / "zcasync.log"
    program = SUPERVISOR.read_text().replace("/srv/plone/.venv/bin", str(SCRIPTS))
    program = program.replace("/srv/plone/instance", str(shared.folder)).replace("user=plone\n", "")
    main = f"[supervisord]\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={shared.folder}/supervisord.pid\n"
    conf = shared.folder / "supervisord.conf"
    conf.write_text(main + program.replace("startsecs=5", "startsecs=1"))
    process: ServerProcess = shared.start("supervisord", "-n", "-c", conf)
    process.wait_for("success: zcasync entered RUNNING state")
    follower = shared.start("python", "-c", FOLLOW, log)
    # Both: in a new database one may have to be started again, as Zope's own first steps conflict there.
    follower.wait_for_times(r"Worker \S{36} runs jobs", 2)
    assert process.stop() == 0
    assert re.search("stopped: zcasync .exit status 0.", process.output), log.read_text()
    assert "Dispatcher stopped" in log.read_text()


#: Prints a file's lines as they come.
FOLLOW = """\
import sys, threading
with open(sys.argv[1]) as file:
    while True:
        line = file.readline()
        print(line, end="") if line else threading.Event().wait(0.05)
"""
