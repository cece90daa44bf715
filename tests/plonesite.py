"""A Plone site under a real server: configured, started, asked, killed and started again."""

from pathlib import Path
from serverprocess import SCRIPTS
from serverprocess import ServerProcess
from urllib.parse import urlencode

import base64
import instance as instances
import os
import re
import shutil
import urllib.request

#: Finds the modules that the site's ZCML names: those beside the tests that use it.
Paths = tuple[Path, ...]


class PloneSite:
    """An instance of its own; its server ends with ``close``."""

    def __init__(self, instance: instances.Instance, paths: Paths = ()) -> None:
        self.instance = instance
        self.paths = paths
        self.server: ServerProcess | None = None

    @classmethod
    def copy(cls, made: instances.Instance, folder: Path, paths: Paths = ()) -> "PloneSite":
        """A site that is made already, in another folder: much quicker than making one."""
        shutil.copytree(made.folder / "var", folder / "var")
        (folder / "etc" / "package-includes").mkdir(parents=True)
        shutil.copy(made.folder / "etc" / "admin-password", folder / "etc")
        return cls(instances.make_instance(folder), paths)

    def configure(self, section: str) -> None:
        """Write this <product-config> into zope.conf in place of the one that is there."""
        conf = self.instance.zope_conf.read_text()
        conf, count = re.subn(r"<product-config .*?</product-config>", lambda _: section.strip(), conf, flags=re.DOTALL)
        assert count == 1, conf
        self.instance.zope_conf.write_text(conf)

    def include(self, name: str, zcml: str) -> None:
        """Load this ZCML with everything else."""
        path = self.instance.folder / "etc" / "package-includes" / f"{name}-configure.zcml"
        path.write_text(zcml)

    def start(self) -> ServerProcess:
        """Serve it; returns when requests are answered."""
        instances.claim_port(self.instance)
        self.server = ServerProcess(
            [SCRIPTS / "runwsgi", self.instance.zope_ini],
            cwd=self.instance.folder,
            environ={"PYTHONPATH": os.pathsep.join(str(path) for path in self.paths)},
        )
        self.server.wait_for("Serving on")
        return self.server

    def post(self, view: str, **form: str) -> str:
        """What a view of the site answers to its admin."""
        request = urllib.request.Request(f"{self.instance.url}/{view}", urlencode(form).encode())
        credentials = base64.b64encode(f"{instances.USER}:{self.instance.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
        with urllib.request.urlopen(request, timeout=90) as answer:
            return str(answer.read().decode())

    def close(self) -> None:
        if self.server is not None:
            self.server.kill()
