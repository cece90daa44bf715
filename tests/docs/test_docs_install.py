"""The installation guides, followed line by line in a folder of their own."""

from collections.abc import Callable
from collections.abc import Iterator
from docblocks import blocks
from pathlib import Path
from serverprocess import SCRIPTS
from serverprocess import ServerProcess
from urllib.request import urlopen

import configparser
import instance as instances
import pytest
import re
import shlex
import subprocess

GUIDES = Path(__file__).parent.parent.parent / "docs" / "how-to-guides"

#: Where the guides say that the site lies.
SRV = "/srv/plone"

#: What has made the environment that runs the tests; not done twice.
DONE = ("python3 -m venv", ".venv/bin/pip install")


class Machine:
    """The machine of somebody who follows the guides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[ServerProcess] = []
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(SCRIPTS)

    def here(self, text: str) -> str:
        """What a guide says, for this machine."""
        return text.replace(SRV, str(self.folder))

    def write_zope_conf(self, text: str) -> None:
        (self.folder / "instance" / "etc" / "zope.conf").write_text(self.here(text))

    def follow(self, block: str) -> None:
        """Do the commands that end by themselves."""
        for line in self.here(block).splitlines():
            if not line.startswith(DONE):
                subprocess.run(shlex.split(line), cwd=self.folder, check=True, capture_output=True)

    def start(self, command: str) -> ServerProcess:
        """Do a command that goes on."""
        self.processes.append(ServerProcess(shlex.split(self.here(command)), cwd=self.folder))
        return self.processes[-1]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    install, _ = blocks(GUIDES / "install-with-pip.md", "sh")
    machine.follow(install.text)
    yield machine
    for process in machine.processes:
        process.kill()


@pytest.fixture
def zope_conf() -> str:
    (block,) = blocks(GUIDES / "install-with-pip.md", "zopeconf")
    return block.text


def test_the_instance_of_the_pip_guide_serves_and_runs_jobs(machine: Machine, zope_conf: str) -> None:
    _, serve = blocks(GUIDES / "install-with-pip.md", "sh")
    machine.write_zope_conf(zope_conf)
    ini = machine.folder / "instance" / "etc" / "zope.ini"
    port = instances.free_port()
    ini.write_text(re.sub(r"^port = \d+$", f"port = {port}", ini.read_text(), flags=re.MULTILINE))

    server = machine.start(serve.text)
    server.wait_for("Dispatcher [0-9a-f-]+ started .* 1 job thread, ")
    server.wait_for("Serving on")
    with urlopen(f"http://127.0.0.1:{port}/") as answer:
        assert answer.status == 200
    assert server.stop() == 0


def test_the_worker_of_the_guide_on_a_second_machine_runs_jobs_over_zeo(machine: Machine, zope_conf: str) -> None:
    guide = GUIDES / "second-machine.md"
    (client,) = blocks(guide, "zopeconf")
    (_, zeo), (worker,) = (block.text.splitlines() for block in blocks(guide, "sh"))
    port = str(instances.free_port(8100))
    conf, count = re.subn(r"<zodb_db main>.*</zodb_db>\n", lambda _: client.text, zope_conf, flags=re.DOTALL)
    assert count == 1
    machine.write_zope_conf(conf.replace("8100", port))

    server = machine.start(zeo.replace("8100", port))
    server.wait_for("listening on")
    process = machine.start(worker)
    process.wait_for("Worker [0-9a-f-]+ runs jobs .*job threads: 3")
    assert process.stop() == 0


@pytest.fixture
def read_buildout() -> Callable[[str], configparser.RawConfigParser]:
    def read(text: str) -> configparser.RawConfigParser:
        parser = configparser.RawConfigParser(delimiters=("=",), strict=False)
        parser.optionxform = str
        parser.read_string(text)
        return parser

    return read


def test_the_buildout_guide_says_what_the_tested_buildout_does(
    read_buildout: Callable[[str], configparser.RawConfigParser], repository: Path
) -> None:
    ours = read_buildout((repository / "buildout.cfg").read_text())
    for block in blocks(GUIDES / "install-with-buildout.md", "ini"):
        for section, options in read_buildout(block.text).items():
            for name, value in options.items():
                if (section, name) not in (("instance", "user"), ("instance", "eggs")):
                    assert ours[section][name].split() == value.split(), f"[{section}] {name}"
