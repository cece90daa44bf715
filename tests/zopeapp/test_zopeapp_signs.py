"""zopeapp.signs: the health-file, and what systemd is told."""

from collections.abc import Iterator
from collective.zcasync.zopeapp import signs
from collective.zcasync.zopeapp.signs import Signs
from pathlib import Path

import os
import pytest
import socket
import sys
import threading

#: Seconds that any single step may take on a busy machine.
PATIENCE = 30


class Worker:
    """Says how it is, and counts who asked."""

    def __init__(self) -> None:
        self.answer = "", "starting"
        self.asked = threading.Semaphore(0)

    def __call__(self) -> tuple[str, str]:
        self.asked.release()
        return self.answer

    def wait(self, given: Signs) -> None:
        """Until a sign that begins from now on has been given."""
        while self.asked.acquire(blocking=False):
            pass
        for _ in range(2):  # when it asks again, the first sign is out
            given.soon()
            assert self.asked.acquire(timeout=PATIENCE)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Stands for systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(PATIENCE)
        monkeypatch.setenv(signs.SOCKET, str(tmp_path / "notify"))
        yield server


def next_of(server: socket.socket, wanted: str) -> list[str]:
    """What comes, up to and with the wanted message."""
    heard: list[str] = []
    while wanted not in heard:
        heard.append(server.recv(100).decode())
    return heard


def test_the_file_is_touched_while_the_process_lives_and_tells_whether_it_is_ready(
    worker: Worker, tmp_path: Path
) -> None:
    file = tmp_path / "health"
    given = Signs(str(file), worker)
    try:
        worker.wait(given)
        assert file.read_text() == "starting\n"
        worker.answer = "", ""
        worker.wait(given)
        assert file.read_text() == "ok\n"
        os.utime(file, (0, 0))
        worker.wait(given)
        assert file.stat().st_mtime > 0
        worker.answer = "heartbeat", ""
        worker.wait(given)
        os.utime(file, (0, 0))
        worker.wait(given)
        assert file.stat().st_mtime == 0
    finally:
        given.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_told_and_the_next_sign_is_tried(
    worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = Signs(str(tmp_path / "missing" / "health"), worker)
    try:
        worker.wait(given)
        assert "No sign of life can be given" in caplog.text
        (tmp_path / "missing").mkdir()
        worker.wait(given)
        assert (tmp_path / "missing" / "health").exists()
    finally:
        given.stop()


def test_systemd_hears_once_that_it_is_ready_and_that_it_stops_and_each_time_that_it_lives(
    worker: Worker, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signs.WATCHDOG, "10000000")
    given = Signs("", worker)
    assert next_of(systemd, "WATCHDOG=1") == ["WATCHDOG=1"]
    worker.answer = "", ""
    given.soon()
    assert next_of(systemd, "READY=1")[-1] == "READY=1"
    worker.wait(given)
    worker.answer = "", "leaving"
    given.soon()
    assert "READY=1" not in next_of(systemd, "STOPPING=1")
    given.stop()
    systemd.settimeout(0)
    rest = []
    with pytest.raises(BlockingIOError):
        while True:
            rest.append(systemd.recv(100))
    assert set(rest) <= {b"WATCHDOG=1"}


def test_a_watchdog_gets_two_signs_in_its_time(
    worker: Worker, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signs.WATCHDOG, "100000")  # 0.1 s; without this the second sign would come after five
    monkeypatch.setattr(signs, "EVERY", 10 * PATIENCE)
    worker.answer = "", ""
    given = Signs("", worker)
    assert systemd.recv(100) == b"READY=1"
    for _ in range(3):
        assert systemd.recv(100) == b"WATCHDOG=1"
    monkeypatch.setattr(signs, "EVERY", 5.0)
    given.stop()


def test_a_systemd_that_hears_nothing_keeps_nobody_waiting(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs, "PATIENCE", 0.001)
    tell = signs._notifier()
    for _ in range(1000):  # more than a socket holds
        tell("WATCHDOG=1")


def test_without_the_library_systemd_is_told_nothing_and_the_log_says_why(
    worker: Worker, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "sdnotify", None)
    given = Signs("", worker)
    worker.wait(given)
    given.stop()
    assert "collective.zcasync[systemd]" in caplog.text
