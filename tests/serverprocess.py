"""A process under test: its lines as they come, waited for without sleeping, and its end."""

from collections.abc import Sequence
from instance import free_port
from pathlib import Path

import os
import re
import signal
import subprocess
import sys
import threading
import time

#: Seconds that any single step of a process may take on a busy machine.
PATIENCE = 60.0

#: The folder of the console scripts that belong to the Python that runs the tests.
SCRIPTS = Path(sys.executable).parent


def server_port() -> int:
    """A free port for a server that may end and come back: below those that connections get, and another one than the
    tests that run beside these ask for."""
    return free_port(20_000 + os.getpid() % 10_000)


class ServerProcess:
    """Started at once; use it as a context manager, so that it never outlives its test."""

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        cwd: Path,
        environ: dict[str, str] | None = None,
        stdin: str | None = None,
    ) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        own = {name: value for name, value in os.environ.items() if not name.startswith("ZCASYNC_")}
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**own, "PYTHONUNBUFFERED": "1", **(environ or {})},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own: a server that forks is ended with its children.
            start_new_session=True,
        )
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin)
            self.process.stdin.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def output(self) -> str:
        """All lines so far."""
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """The first match of the pattern in a line; fails with the output when it does not come."""
        deadline = time.monotonic() + seconds
        looked = 0
        with self._news:
            while True:
                for line in self.lines[looked:]:
                    found = re.search(pattern, line)
                    if found:
                        return found
                looked = len(self.lines)
                rest = deadline - time.monotonic()
                if self._ended or rest <= 0:
                    raise AssertionError(f"{pattern!r} did not come.\n{self.output}")
                self._news.wait(rest)

    def wait_for_times(self, pattern: str, number: int) -> None:
        """Wait until so many lines match the pattern."""
        with self._news:
            enough = self._news.wait_for(
                lambda: self._ended or sum(bool(re.search(pattern, line)) for line in self.lines) >= number, PATIENCE
            )
        assert enough and len(re.findall(pattern, self.output)) >= number, f"{pattern!r} x {number}:\n{self.output}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code, once all output is read."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, and return the exit code."""
        self.send(number)
        return self.wait()

    def wait_for_and_stop(self, pattern: str) -> int:
        """Wait for the pattern, then stop; returns the exit code."""
        self.wait_for(pattern)
        return self.stop()

    def kill(self) -> None:
        """End the process and its children, if any still live."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
