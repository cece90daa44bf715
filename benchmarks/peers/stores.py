"""The stores of the job systems: files and servers of this run's own, each empty at first, gone at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shutil
import socket
import subprocess
import tempfile
import time

#: Seconds that a server gets to answer.
PATIENCE = 30


@contextmanager
def store(kind: str, postgres: Any) -> Iterator[str]:
    """An empty store; its address, as the drivers take it."""
    if kind == "postgresql":
        yield postgres.dsn(postgres.new_database())
        return
    with tempfile.TemporaryDirectory(prefix="zcasync-peers-") as folder:
        if kind.startswith("redis"):
            with _redis(folder, kind == "redis-fsync") as address:
                yield address
        else:
            yield str(Path(folder, f"data.{kind}"))


@contextmanager
def _redis(folder: str, fsync: bool) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("There is no redis-server here. Install the package redis-server.")
    port = _free_port()
    durable = ["--appendonly", "yes", "--appendfsync", "always"] if fsync else []
    run = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *durable]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[Any]") -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit(f"redis-server does not answer on port {port}; exit code {process.poll()}")
