"""Several workers under one supervisor, which opens no database: it starts them, and replaces those that end."""

from collections.abc import Callable
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.figures import COUNTER
from collective.zcasync.figures import Figure
from collective.zcasync.figures import GAUGE
from collective.zcasync.zopeapp import health
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.crew import Crew
from collective.zcasync.zopeapp.crew import EVERY
from collective.zcasync.zopeapp.crew import Process
from collective.zcasync.zopeapp.metrics import Metrics
from collective.zcasync.zopeapp.signs import Signs
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import json
import logging
import os
import signal
import subprocess
import sys
import time

logger = logging.getLogger("collective.zcasync.zopeapp.supervisor")

#: What the supervisor waits for.
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}

#: What a worker's interpreter runs. It gets sys.path from here: that of a buildout's script is nowhere else.
CODE = (
    "import json, sys; order = json.loads(sys.stdin.readline()); sys.path[:] = order['path'];"
    " from collective.zcasync.zopeapp import supervised; sys.exit(supervised.work(order['number'], sys.argv[1:]))"
)


class WorkerProcess:
    """A worker in a process of its own. It is told what to do by a pipe, and so also notices when nobody is at its
    other end. A signal that systemd sends to all processes comes beside that, and counts once."""

    def __init__(self, arguments: list[str], number: int, file: Path) -> None:
        self._file = file
        environ = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE, *arguments],
            stdin=subprocess.PIPE,
            bufsize=0,
            env=environ,
            # A terminal's Ctrl-C is for the supervisor alone.
            process_group=0,
        )
        assert self._process.stdin is not None
        self._pipe, self.pid = self._process.stdin, self._process.pid
        self.tell(json.dumps({"path": sys.path, "number": number}))

    def poll(self) -> int | None:
        """See Process."""
        code = self._process.poll()
        if code is not None:
            self._pipe.close()
        return code

    def tell(self, word: str) -> None:
        """See Process."""
        try:
            self._pipe.write(f"{word}\n".encode())
        except BrokenPipeError:
            logger.debug("worker %s has ended already", self.pid)

    def kill(self) -> None:
        """See Process."""
        self._process.kill()

    def sign(self) -> tuple[float, str] | None:
        """See Process."""
        try:
            return self._file.stat().st_mtime, self._file.read_text().strip()
        except FileNotFoundError:
            return None


def supervise(arguments: list[str], settings: Settings, once: bool) -> int:
    """Run as many workers as the settings say until a signal comes; returns the exit code, which is 0 if all of them
    have ended with 0. ``arguments``: those of ``zcasync``, of which each worker gets its own variant.

    ConfigurationError if the workers cannot be told apart.
    """
    if os.environ.get("ZC_ASYNC_UUID"):
        raise ConfigurationError(
            f"processes: {settings.processes} is not allowed with the environment variable ZC_ASYNC_UUID: all"
            " would have the same UUID; leave the variable out"
        )
    # Waited for, not handled: nothing interrupts the supervisor in the middle of something.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with TemporaryDirectory(prefix="zcasync-") as folder, ExitStack() as stack:

        def begin(number: int) -> Process:
            file = Path(folder) / str(number)
            file.unlink(missing_ok=True)
            return WorkerProcess([*arguments, *own_options(settings, number, file)], number, file)

        crew = Crew(settings.processes, begin, once, settings.shutdown_grace)
        if settings.health_port:
            stack.enter_context(health.serving(settings.health_host, settings.health_port, pages(crew)))
        signs = Signs(settings.health_file, crew.state)
        stack.callback(signs.stop)
        return _watch(crew, signs)


def own_options(settings: Settings, number: int, file: Path) -> list[str]:
    """What the worker with that number gets beside what the supervisor was called with."""
    port = settings.health_port + number if settings.health_port else 0
    return ["--processes", "1", "--health-file", str(file), "--health-port", str(port)]


def pages(crew: Crew) -> dict[str, Callable[[], health.Page]]:
    """What the supervisor's own health port shows. Figures of jobs are told by the workers, at their ports."""
    metrics = Metrics(lambda: figures_of(crew))
    return {
        "/live": lambda: health.verdict(crew.state()[0]),
        "/ready": lambda: health.verdict(crew.state()[1]),
        "/metrics": lambda: health.numbers(metrics),
    }


def figures_of(crew: Crew) -> list[Figure]:
    """What a supervisor knows of its workers, which are named by their numbers."""
    worker = ("worker",)
    alive = Figure("zcasync_supervisor_worker_alive", GAUGE, "1: the worker has a process.", worker)
    ready = Figure("zcasync_supervisor_worker_ready", GAUGE, "1: the worker takes jobs.", worker)
    ends = Figure(
        "zcasync_supervisor_worker_ends",
        COUNTER,
        "Processes of the worker that were replaced: they had run their share, or failed.",
        ("worker", "why"),
    )
    for member in crew.members:
        number = str(member.number)
        alive.add(int(member.process is not None), number)
        ready.add(int(not member.reason), number)
        ends.add(member.recycled, number, "recycled")
        ends.add(member.failed, number, "failed")
    return [alive, ready, ends]


def _watch(crew: Crew, signs: Signs) -> int:
    state: Any = None
    while (code := crew.look(time.monotonic())) is None:
        if state != (state := crew.state()):
            signs.soon()
        heard = signal.sigtimedwait(SIGNALS, EVERY)
        if heard is not None and heard.si_signo != signal.SIGCHLD:
            logger.info("Got %s: the workers stop, then this process", signal.Signals(heard.si_signo).name)
            crew.stop(time.monotonic())
    return code
