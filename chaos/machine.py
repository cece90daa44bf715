"""A machine of a storm: processes with a boot id of their own, forked from one that has imported everything.

So a process that was killed is there again within milliseconds. Run as a command, this is that first process: it reads
orders from its standard input, a JSON object a line, and whatever its processes say goes to its standard output. What
libraries print there goes to the log of their process.
"""

from chaos import roles
from functools import partial
from pathlib import Path
from typing import Any

import json
import logging
import os
import queue
import random
import select
import signal
import subprocess
import sys
import threading
import time

#: Seconds that any step of a process may take on a busy computer.
PATIENCE = 120.0


class Unexpected(Exception):
    """A process did not do what it must, in time."""


class Process:
    """A process of a machine."""

    def __init__(self, machine: "Machine", number: int, log: Path) -> None:
        self.machine = machine
        self.number = number
        self.log = log
        self.pid = 0
        self._handle = -1
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._heard: set[str] = set()

    def hear(self, words: list[str]) -> None:
        """In the thread that listens to the machine."""
        if words[0] == "forked":
            self.pid = int(words[1])
            self._handle = os.pidfd_open(self.pid)
        self._said.put(words[0])

    def wait_for(self, word: str, seconds: float = PATIENCE) -> None:
        """Unexpected, with the end of its log, if it does not say so."""
        end = time.monotonic() + seconds
        while word not in self._heard:
            try:
                self._heard.add(self._said.get(timeout=min(0.1, max(0.0, end - time.monotonic()))))
            except queue.Empty:
                gone = self._handle >= 0 and self._is_gone(0) or self.machine.is_gone()
                gone = gone and self._said.empty()
                if gone or time.monotonic() >= end:
                    how = "ended" if gone else f"did not say {word!r} in {seconds:g} s"
                    raise Unexpected(f"process {self.pid} {how}:\n{self.text()[-4000:]}") from None

    def has_said(self, word: str) -> bool:
        """Whether it has said so by now."""
        while not self._said.empty():
            self._heard.add(self._said.get())
        return word in self._heard

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def send(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._handle, number)

    def end(self, number: signal.Signals, seconds: float = PATIENCE) -> None:
        """Send a signal, and return when the process is gone."""
        if self._is_gone(0):
            raise Unexpected(f"process {self.pid} has ended by itself:\n{self.text()[-4000:]}")
        self.send(number)
        if not self._is_gone(seconds):
            raise Unexpected(f"process {self.pid} does not end:\n{self.text()[-4000:]}")
        os.close(self._handle)

    def _is_gone(self, seconds: float) -> bool:
        return bool(select.select([self._handle], [], [], seconds)[0])


class Machine:
    """As seen from the storm. Its processes are gone with it, and with whoever started it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.boot = 0
        self._processes: list[Process] = []
        self._first = subprocess.Popen(
            [sys.executable, "-m", "chaos.machine"],
            env=same_modules(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / f"{name}.log").open("a"),
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, role: str, **told: Any) -> Process:
        """Another process, which may not be ready yet."""
        process = Process(self, len(self._processes), self.folder / f"{self.name}-{len(self._processes)}.log")
        self._processes.append(process)
        order = {"role": role, "number": process.number, "log": str(process.log), "boot": f"{self.name} {self.boot}"}
        assert self._first.stdin is not None
        self._first.stdin.write(json.dumps({**order, "told": told}) + "\n")
        self._first.stdin.flush()
        process.wait_for("forked")
        return process

    def reboot(self) -> None:
        """What starts from now on is on a machine that knows nothing of the processes before."""
        self.boot += 1

    def is_gone(self) -> bool:
        """Whether its first process has ended, and with it all."""
        return self._first.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        """To all its processes."""
        os.killpg(self._first.pid, number)

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        self._first.wait(PATIENCE)

    def _listen(self) -> None:
        assert self._first.stdout is not None
        for line in self._first.stdout:
            number, *words = line.split()
            self._processes[int(number)].hear(words)


def same_modules() -> dict[str, str]:
    """The environment of a Python that finds all modules that this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}


def main() -> None:
    """Fork what is ordered. At the end of the orders all processes end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are buried at once
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(order)
        _say(order["number"], f"forked {pid}")
    os.killpg(0, signal.SIGKILL)


def _say(number: int, what: str, where: int = 1) -> None:
    os.write(where, f"{number} {what}\n".encode())


def _live(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    random.seed()
    os.environ["ZCASYNC_BOOT_ID"] = order["boot"]
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    where = os.dup(1)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(levelname)s %(message)s")
    logging.getLogger("ZEO").setLevel(logging.ERROR)
    try:
        roles.play(order["role"], order["told"], partial(_say, order["number"], where=where))
    except BaseException:
        logging.getLogger("chaos").critical("it fails", exc_info=True)
        os._exit(70)
    os._exit(0)


if __name__ == "__main__":
    main()
