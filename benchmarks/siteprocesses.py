"""The processes of the measured site: a ZEO server over its files, nodes that do as they are told, and web servers."""

from benchmarks import sitejobs
from benchmarks.siteclients import Server
from benchmarks.sitenode import ANSWER
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import ExitStack
from pathlib import Path
from plonesite import PloneSite
from serverprocess import ServerProcess
from typing import Any

import instance as instances
import json
import os
import re
import subprocess
import sys

#: The folder of this package, for the processes of the site.
REPOSITORY = Path(__file__).parent.parent

ZEO_CONF = """\
<zeo>
  address 127.0.0.1:{port}
</zeo>
<filestorage 1>
  path {folder}/var/Data.fs
  blob-dir {folder}/var/blobstorage
</filestorage>
"""

ZEO_CLIENT = """\
  <zeoclient>
    server 127.0.0.1:{port}
    storage 1
    blob-dir {folder}/var/blobstorage
    shared-blob-dir true
  </zeoclient>"""

NO_DISPATCHER = "<product-config collective.zcasync>\n</product-config>"


class Node:
    """A process that does what it is told; see sitenode."""

    def __init__(self, zope_conf: Path, log: Path) -> None:
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.sitenode", str(zope_conf)],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log = log

    def answer(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise RuntimeError(f"a node has ended: {self._log.read_text()[-2000:]}")

    def do(self, what: str, **told: Any) -> Any:
        """Have it call a function, and return what that returns."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, **told}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Site:
    """A site, made anew. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._number = 0
        self.made = instances.make_instance(folder / "made")
        instances.create_site(self.made)
        self._files = PloneSite.copy(self.made, folder / "zeo").instance.folder
        self.port = instances.free_port(28300)
        conf = folder / "zeo.conf"
        conf.write_text(ZEO_CONF.format(port=self.port, folder=self._files))
        self._stack.enter_context(ServerProcess([sys.executable, "-m", "ZEO.runzeo", "-C", conf], folder))

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _copy(self, zeo: bool) -> PloneSite:
        """Another instance with what is measured: over ZEO, or with files of its own."""
        self._number += 1
        site = PloneSite.copy(self.made, self.folder / f"instance{self._number}", (REPOSITORY,))
        site.include("benchmarks", sitejobs.ZCML)
        if zeo:
            conf = site.instance.zope_conf.read_text()
            client = ZEO_CLIENT.format(port=self.port, folder=self._files)
            conf = re.sub(r" *<blobstorage>.*?</blobstorage>", lambda _: client, conf, flags=re.DOTALL)
            site.instance.zope_conf.write_text(conf)
            site.configure(NO_DISPATCHER)
        return site

    def node(self) -> Node:
        """Another process over ZEO, without HTTP."""
        site = self._copy(zeo=True)
        node = Node(site.instance.zope_conf, site.instance.folder / "node.log")
        self._stack.callback(node.close)
        node.answer()
        return node

    def files(self) -> PloneSite:
        """Another instance with files of its own, whose server runs no jobs."""
        site = self._copy(zeo=False)
        site.configure(NO_DISPATCHER)
        return site

    @contextmanager
    def server(self, embedded: bool = False) -> Iterator[Server]:
        """A web server over ZEO, which runs no jobs; or one with files of its own and an embedded dispatcher."""
        site = self._copy(zeo=not embedded)
        try:
            site.start()
            server = Server(site.instance.url, site.instance.password)
            if embedded:
                server.bench(prepare="1")
            yield server
        finally:
            site.close()
