"""One storm: processes that work, faults as planned, then quiet until nothing is left to do, and a recount."""

from chaos import checker
from chaos import ledger
from chaos import storages
from chaos import wrongclock
from chaos.deeds import DEEDS
from chaos.faults import Fault
from chaos.faults import plan
from chaos.faults import SKEW
from chaos.ledger import Ledger
from chaos.ledger import moment
from chaos.ledger import QUOTAS
from chaos.machine import Machine
from chaos.machine import PATIENCE
from chaos.machine import Process
from chaos.machine import same_modules
from chaos.machine import Unexpected
from chaos.proxy import Network
from collections.abc import Callable
from collective.zcasync.queue import install
from contextlib import closing
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from typing import NamedTuple

import signal
import threading
import time

WORKERS, CLIENTS, CLIENT_THREADS = 3, 2, 2

#: Seconds that all gets to be done after the storm.
QUIET = 600.0


class Trouble(NamedTuple):
    """A fault that lasts ``until`` a moment, and how it ends."""

    until: float
    number: int
    where: Any
    end: Callable[[], None]


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
        self.machines: list[Machine] = []
        self.workers: list[Process] = []
        self.clients: list[Process] = []
        self.troubles: list[Trouble] = []
        self._names = self._troubles_made = 0

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
        offices = ["office"] if self.shared else []
        if self.shared:
            self.network = Network(self.storage.endpoint, [*names, *offices], same_modules())
            stack.callback(self.network.close)
        for name in names:
            wrongclock.put(self.folder, name, 0)
            self.machines.append(Machine(name, self.folder))
            stack.callback(self.machines[-1].close)
        self.offices = [Machine(name, self.folder) for name in offices]
        for office in self.offices:
            stack.callback(office.close)
        self.workers = [self._worker(machine) for machine in self.machines]
        self.clients = [self._client(machine) for machine in self.offices for _number in range(CLIENTS)]
        self._wait_for_puts()

    def _wait_for_puts(self) -> None:
        """Until there is something to do."""
        end = moment() + PATIENCE
        while not any("done" in path.read_text() for path in self.files.puts.iterdir()):
            if moment() > end:
                raise Unexpected("no client puts a job")
            threading.Event().wait(0.05)

    def _start(self, machine: Machine, role: str, **told: Any) -> Process:
        address = self.storage.through(self.network.ports[machine.name]) if self.shared else self.storage.address
        told |= {"kind": self.kind, "address": address, "folder": str(self.folder), "machine": machine.name}
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
        """One fault."""
        self._wait(fault)
        ledger.write(self.files.faults, f"{moment():.2f}", *fault)
        DEEDS[fault.what](self, fault)

    def _wait(self, fault: Fault) -> None:
        """The pause before it; what is over by then ends meanwhile."""
        until = moment() + fault.pause
        while self.troubles and (first := min(self.troubles)).until <= until:
            threading.Event().wait(max(0.0, first.until - moment()))
            self.relieve(first)
        threading.Event().wait(max(0.0, until - moment()))

    def last(self, fault: Fault, where: Any, end: Callable[[], None]) -> None:
        """It lasts a while. ``where``: the machine, or the storage."""
        self._troubles_made += 1
        self.troubles.append(Trouble(moment() + fault.seconds, self._troubles_made, where, end))

    def relieve(self, trouble: Trouble) -> None:
        self.troubles.remove(trouble)
        trouble.end()

    def quiet(self, *places: Any) -> None:
        """End what still lasts there, or everywhere."""
        for trouble in [one for one in self.troubles if not places or one.where in places]:
            self.relieve(trouble)

    def chosen(self, fault: Fault) -> Machine:
        """The machine that it hits."""
        return self.machines[fault.which % len(self.machines)]

    def cut_off(self, machine: Machine) -> None:
        """From now on others may take over from the workers there."""
        for worker in self.workers:
            if worker.machine is machine:
                ledger.write(self.files.ends, "cut", worker.pid, moment())

    def ready(self, process: Process) -> None:
        """It works; whoever was hit last must do so before it is hit once more."""
        if not process.has_said("ready"):
            self.quiet(process.machine, self.storage)
            process.wait_for("ready")

    def replace(self, number: int, how: signal.Signals) -> None:
        """End a worker, and start another one on its machine."""
        worker = self.workers[number]
        self.ready(worker)
        ledger.write(self.files.ends, "killed", worker.pid, moment())
        if how != signal.SIGKILL:
            self.quiet(worker.machine, self.storage)
        worker.end(how)
        self.quiet(worker.machine)
        self.workers[number] = self._worker(worker.machine)

    def replace_client(self, number: int) -> None:
        """Kill a client, and start another one."""
        client = self.clients[number]
        self.ready(client)
        client.end(signal.SIGKILL)
        self.clients[number] = self._client(client.machine)

    # The end

    def _end(self) -> None:
        """No more jobs; those that there are end; then all stop cleanly."""
        self.quiet()
        for machine in self.machines:
            wrongclock.put(self.folder, machine.name, SKEW)  # what wrong clocks have put off for minutes is due
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
