"""A network between the machines of a storm and their server: a line for each machine, which passes, delays, or breaks.

Run as a command with the server's endpoint ("tcp:127.0.0.1:8100", "unix:/path") and names of machines, it tells the
port of each, a line each, and then reads orders from its standard input: a machine's name and one of MODES.
"""

from collections import deque
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver
from typing import Any

import subprocess
import sys

#: "hold": what is sent arrives later; "drop": it never does, and in the end the connection breaks; "reset": it breaks
#: at once, and there is no other.
PASS, DELAY, HOLD, DROP, RESET = MODES = ("pass", "delay", "hold", "drop", "reset")

#: Seconds that each piece takes on a slow line.
SLOWNESS = 0.1


class End(Protocol):
    """One end of a connection through a line; what it gets, the other end is to send."""

    def __init__(self, line: "Line") -> None:
        self.line = line
        self.other: End | None = None
        self.broken = False
        self._waiting: deque[bytes] = deque()

    def connectionMade(self) -> None:
        self.line.ends.add(self)
        if self.line.mode == RESET:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.line.mode == DROP:
            self.broken = True
        else:
            self._waiting.append(data)
            self.line.reactor.callLater(SLOWNESS if self.line.mode == DELAY else 0, self.flush)

    def flush(self) -> None:
        """Pass on what waits, if the line and the other end are ready."""
        while self._waiting and self.other is not None and self.line.mode in (PASS, DELAY):
            self.other.transport.write(self._waiting.popleft())

    def connectionLost(self, reason: Any = None) -> None:
        self.line.ends.discard(self)
        self.flush()
        if self.other is not None:
            self.other.transport.loseConnection()

    def join(self, other: "End") -> None:
        self.other, other.other = other, self
        self.flush()


class Line(Factory):
    """What connects one machine."""

    def __init__(self, target: str, clock: Any = reactor) -> None:
        self.target = target
        self.reactor = clock
        self.mode = PASS
        self.ends: set[End] = set()

    def buildProtocol(self, addr: Any) -> End:
        near = End(self)
        connecting = clientFromString(self.reactor, self.target).connect(Factory.forProtocol(lambda: End(self)))
        connecting.addCallbacks(near.join, lambda _reason: near.transport.abortConnection())
        return near

    def become(self, mode: str) -> None:
        """What it does from now on."""
        self.mode = mode
        for end in list(self.ends):
            if mode == RESET or end.broken:
                end.transport.abortConnection()
            else:
                end.flush()


class Orders(LineOnlyReceiver):
    """Reads the orders; with them it ends."""

    delimiter = b"\n"

    def __init__(self, lines: dict[str, Line]) -> None:
        self.lines = lines

    def lineReceived(self, line: bytes) -> None:
        name, mode = line.decode().split()
        self.lines[name].become(mode)

    def connectionLost(self, reason: Any = None) -> None:
        reactor.stop()


class Network:
    """The proxy as a process, as seen from the storm."""

    def __init__(self, target: str, names: list[str], environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.proxy", target, *names],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        #: machine -> port.
        self.ports = {name: int(self._process.stdout.readline()) for name in names}

    def become(self, name: str, mode: str) -> None:
        """What the line of a machine does from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {mode}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def main(target: str, *names: str) -> None:
    lines = {name: Line(target) for name in names}
    for line in lines.values():
        port = reactor.listenTCP(0, line, interface="127.0.0.1")
        sys.stdout.write(f"{port.getHost().port}\n")
    sys.stdout.flush()
    StandardIO(Orders(lines))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
