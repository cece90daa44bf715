"""One storm: processes that work, faults as planned, then quiet until nothing is left to do, and a recount."""

from chaos import checker
from chaos import ledger
from chaos import storages
from chaos.faults import Fault
from chaos.faults import plan
from chaos.ledger import Ledger
from chaos.ledger import moment
from chaos.ledger import QUOTAS
from chaos.machine import Machine
from chaos.machine import Process
from collective.zcasync.queue import install
from contextlib import closing
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import signal
import threading
import time

WORKERS, CLIENTS, CLIENT_THREADS = 3, 2, 2

#: Seconds that all gets to be done after the storm.
QUIET = 600.0


class Storm:
    """``folder``: an empty one, for the storage and all that is written down."""

    def __init__(self, kind: str, seed: str, kills: int, folder: Path) -> None:
        self.kind = kind
        self.seed = seed
        self.kills = kills
        self.folder = folder
        self.files = Ledger(folder)
        self.files.puts.mkdir()
        self.shared = kind != "filestorage"
        self.workers: list[Process] = []
        self.clients: list[Process] = []
        self._names = 0

    def run(self) -> dict[str, Any]:
        """What came of it, as plain data. Unexpected if a process does not do what it must."""
        began = time.monotonic()
        faults = plan(self.seed, self.kills, self.shared)
        with ExitStack() as stack:
            self.storage = stack.enter_context(storages.running(self.kind, self.folder))
            self._make_database()
            self._begin(stack)
            for fault in faults:
                self._do(fault)
            stormed = time.monotonic() - began
            self._end()
            with closing(storages.open_database(self.kind, self.storage.address)) as db, db.transaction() as connection:
                report = checker.check(connection, self.files)
        return {
            "seed": self.seed,
            "kills": sum(fault.kills for fault in faults),
            "others": sum(not fault.kills for fault in faults),
            "jobs": report.jobs,
            "outcomes": dict(report.outcomes),
            "lost": report.number(checker.LOST),
            "twice": report.number(checker.TWICE),
            "in limbo": report.number(checker.LIMBO),
            "violations": [text for _kind, text in report.violations],
            "storm": round(stormed, 1),
            "seconds": round(time.monotonic() - began, 1),
        }

    def _make_database(self) -> None:
        with closing(storages.open_database(self.kind, self.storage.address)) as db, db.transaction() as connection:
            queue = install(connection)[""]
            for name, size in QUOTAS.items():
                queue.quotas.create(name, size)
            ledger.make_records(connection.root(), self.folder)

    # Its processes

    def _begin(self, stack: ExitStack) -> None:
        names = [f"machine{number}" for number in range(WORKERS)] if self.shared else ["machine"]
        self.machines = [Machine(name, self.folder) for name in names]
        self.offices = [Machine("office", self.folder)] if self.shared else []
        for machine in (*self.machines, *self.offices):
            stack.callback(machine.close)
        self.workers = [self._worker(machine) for machine in self.machines]
        self.clients = [self._client(machine) for machine in self.offices for _number in range(CLIENTS)]

    def _start(self, machine: Machine, role: str, **told: Any) -> Process:
        told |= {"kind": self.kind, "address": self.storage.address, "folder": str(self.folder)}
        return machine.start(role, **told)

    def _worker(self, machine: Machine) -> Process:
        if self.shared:
            return self._start(machine, "worker")
        return self._client(machine, "alone")

    def _client(self, machine: Machine, role: str = "client") -> Process:
        self._names += 1
        return self._start(machine, role, name=f"client{self._names}", threads=CLIENT_THREADS)

    # What goes wrong

    def _do(self, fault: Fault) -> None:
        """One fault. Who was hit last must work again before it is hit once more."""
        if fault.what == "kill server":
            self._wait(fault)
            self.storage.kill()
            self.storage.start()
        elif fault.what == "kill client":
            number = fault.which % len(self.clients)
            self._kill(self.clients[number], fault)
            self.clients[number] = self._client(self.clients[number].machine)
        else:
            number = fault.which % len(self.workers)
            machine = self.workers[number].machine
            self._kill(self.workers[number], fault)
            if fault.what == "reboot":
                machine.reboot()
            self.workers[number] = self._worker(machine)

    def _kill(self, process: Process, fault: Fault) -> None:
        process.wait_for("ready")
        self._wait(fault)
        ledger.write(self.files.ends, "killed", process.pid, moment())
        process.end(signal.SIGKILL)

    @staticmethod
    def _wait(fault: Fault) -> None:
        threading.Event().wait(fault.pause)

    # The end

    def _end(self) -> None:
        """No more jobs; those that there are end; then all stop cleanly."""
        for client in self.clients:
            client.wait_for("ready")
            client.end(signal.SIGTERM)
        if not self.shared:
            (alone,) = self.workers
            alone.wait_for("ready")
            alone.end(signal.SIGTERM)
        drainer = self._start((*self.offices, *self.machines)[0], "drainer" if self.shared else "alone", drain=True)
        try:
            drainer.wait_for("drained", QUIET)
        finally:
            for process in (drainer, *(self.workers if self.shared else ())):
                process.end(signal.SIGTERM)
