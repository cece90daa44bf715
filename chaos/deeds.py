"""What each kind of fault does to a storm."""

from chaos import proxy
from chaos import wrongclock
from chaos.faults import Fault
from collections.abc import Callable
from functools import partial
from typing import Any

import signal


def kill_worker(storm: Any, fault: Fault) -> None:
    storm.replace(fault.which % len(storm.workers), signal.SIGKILL)


def stop_worker(storm: Any, fault: Fault) -> None:
    storm.replace(fault.which % len(storm.workers), signal.SIGTERM)


def reboot(storm: Any, fault: Fault) -> None:
    """The others cannot know that its processes are gone."""
    storm.chosen(fault).reboot()
    kill_worker(storm, fault)


def kill_client(storm: Any, fault: Fault) -> None:
    storm.replace_client(fault.which % len(storm.clients))


def kill_server(storm: Any, fault: Fault) -> None:
    storm.quiet(storm.storage)
    storm.storage.kill()
    storm.storage.start()


def freeze_machine(storm: Any, fault: Fault) -> None:
    machine = storm.chosen(fault)
    storm.quiet(machine)
    storm.cut_off(machine)
    machine.signal(signal.SIGSTOP)
    storm.last(fault, machine, partial(machine.signal, signal.SIGCONT))


def freeze_server(storm: Any, fault: Fault) -> None:
    storm.quiet(storm.storage)
    storm.storage.send(signal.SIGSTOP)
    storm.last(fault, storm.storage, partial(storm.storage.send, signal.SIGCONT))


def fail_network(mode: str, storm: Any, fault: Fault) -> None:
    machine = storm.chosen(fault)
    storm.quiet(machine)
    storm.cut_off(machine)
    storm.network.become(machine.name, mode)
    storm.last(fault, machine, partial(storm.network.become, machine.name, proxy.PASS))


def wrong_clock(storm: Any, fault: Fault) -> None:
    """It stays so until it jumps again."""
    wrongclock.put(storm.folder, storm.chosen(fault).name, fault.skew)


def full_disk(storm: Any, fault: Fault) -> None:
    storm.quiet(storm.storage)
    told = () if storm.shared else (storm.workers[0].pid,)
    if not storm.shared:
        storm.ready(storm.workers[0])
    storm.storage.fill_disk(*told, int(fault.strength * 50_000))
    storm.last(fault, storm.storage, partial(storm.storage.free_disk, *told))


DEEDS: dict[str, Callable[[Any, Fault], None]] = {
    "kill worker": kill_worker,
    "stop worker": stop_worker,
    "reboot": reboot,
    "kill client": kill_client,
    "kill server": kill_server,
    "freeze machine": freeze_machine,
    "freeze server": freeze_server,
    "slow network": partial(fail_network, proxy.DELAY),
    "hold network": partial(fail_network, proxy.HOLD),
    "drop network": partial(fail_network, proxy.DROP),
    "reset network": partial(fail_network, proxy.RESET),
    "wrong clock": wrong_clock,
    "full disk": full_disk,
}
