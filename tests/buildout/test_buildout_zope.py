"""The dispatcher under ``bin/instance``: in the foreground, as a daemon, and not in scripts."""

from collections.abc import Iterator
from pathlib import Path
from serverprocess import ServerProcess

import os
import pytest
import shutil
import signal

pytestmark = pytest.mark.buildout

STARTED = r"Dispatcher \S+ started \(role embedded, 1 job thread, queues: all\)"


@pytest.fixture
def instance(buildout: Path, tmp_path: Path) -> Path:
    """A copy of bin/instance and its configuration, with a database and a port of its own."""
    parts, copy = buildout / "parts" / "instance", tmp_path / "parts"
    shutil.copytree(parts, copy)
    for folder in ("instance", "log", "cache", "blobstorage", "filestorage"):
        (tmp_path / "var" / folder).mkdir(parents=True)
    script = tmp_path / "instance"
    shutil.copy(buildout / "bin" / "instance", script)
    for path in (copy / "etc" / "zope.conf", copy / "etc" / "wsgi.ini", script):
        text = path.read_text().replace(str(parts), str(copy)).replace(f"{buildout}/var", f"{tmp_path}/var")
        path.write_text(text.replace("127.0.0.1:8080", "127.0.0.1:0"))
    return script


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "var" / "instance" / "Z4.pid"


@pytest.fixture
def foreground(instance: Path) -> Iterator[ServerProcess]:
    with ServerProcess([instance, "fg"], cwd=instance.parent) as process:
        yield process


def run(instance: Path, *arguments: str | Path) -> ServerProcess:
    with ServerProcess([instance, *arguments], cwd=instance.parent) as process:
        process.wait()
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_foreground_starts_the_dispatcher_and_a_signal_ends_both(
    foreground: ServerProcess, pid_file: Path, number: signal.Signals
) -> None:
    foreground.wait_for(STARTED)
    # The server is a child of bin/instance, which does not pass signals on.
    server = int(foreground.wait_for(r"Starting server in PID (\d+)")[1])
    foreground.wait_for("Serving on")
    assert pid_file.read_text() == str(server)
    os.kill(server, number)
    assert foreground.wait() == 0
    assert "Dispatcher stopped" in foreground.output
    assert not pid_file.exists()


def test_a_script_of_bin_instance_run_does_not_start_it(instance: Path) -> None:
    script = instance.with_name("script.py")
    script.write_text("from collective.zcasync import zopeapp\nprint('running:', zopeapp.running(), 'in', app)\n")
    process = run(instance, "run", script)
    assert process.process.returncode == 0
    assert "running: None in <Application" in process.output
    assert "started (role" not in process.output


def test_the_daemon_starts_it_and_stops_it(instance: Path, pid_file: Path, tmp_path: Path) -> None:
    log = tmp_path / "var" / "log" / "instance.log"
    try:
        assert "daemon process started" in run(instance, "start").output
        with ServerProcess(["tail", "--lines=+1", "--retry", "--follow=name", log], cwd=tmp_path) as tail:
            tail.wait_for(STARTED)
            tail.wait_for("Serving on")
            assert "daemon process stopped" in run(instance, "stop").output
            tail.wait_for("Dispatcher stopped")
    finally:
        run(instance, "stop")
    assert not pid_file.exists()
