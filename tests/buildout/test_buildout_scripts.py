"""What `make buildout` makes from buildout.cfg: scripts that run and know the zope.conf of the instance."""

from pathlib import Path

import pytest
import subprocess

pytestmark = pytest.mark.buildout


def output_of(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_instance_has_the_dispatcher_on(buildout: Path) -> None:
    conf = (buildout / "parts" / "instance" / "etc" / "zope.conf").read_text()
    assert "<product-config collective.zcasync>\n  dispatcher on\n</product-config>" in conf


@pytest.mark.parametrize("script", ["instance", "worker", "zcasync", "pytest", "runwsgi", "zconsole", "zopepy"])
def test_its_scripts_are_there(buildout: Path, script: str) -> None:
    assert (buildout / "bin" / script).exists()


def test_the_console_script_tells_its_commands(buildout: Path) -> None:
    assert "worker" in output_of(buildout / "bin" / "zcasync", "--help")


def test_the_worker_knows_the_zope_conf_of_the_instance(buildout: Path) -> None:
    # What follows the name of the script is added to "worker -C ...": this one only explains itself.
    assert "usage: zcasync worker" in output_of(buildout / "bin" / "worker", "--help")
    assert str(buildout / "parts" / "instance" / "etc" / "zope.conf") in (buildout / "bin" / "worker").read_text()


def test_its_pins_are_those_of_pip(buildout: Path) -> None:
    program = "import importlib.metadata as m; print(m.version('Plone'), m.version('Twisted'))"
    versions = dict(
        line.split(" = ") for line in (buildout / "versions-6.2.cfg").read_text().splitlines() if " = " in line
    )
    assert output_of(buildout / "bin" / "zopepy", "-c", program).split() == [versions["Plone"], versions["Twisted"]]
