"""A small Zope instance without Plone, made in a moment, and the processes that run on it."""

from collections.abc import Sequence
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import SCRIPTS
from serverprocess import ServerProcess
from urllib.parse import urlencode
from urllib.request import urlopen

import os
import subprocess
import sys

#: Only what the tests need: Plone's ZCML would take three seconds more at each start.
SITE_ZCML = """\
<configure xmlns="http://namespaces.zope.org/zope" xmlns:browser="http://namespaces.zope.org/browser"
           xmlns:zcasync="http://namespaces.plone.org/zcasync">
  <include package="Zope2.App" />
  <include package="collective.zcasync.zopeapp" />
  <zcasync:task name="greet" handler="instancejobs.greet" />
  <zcasync:task name="fail" handler="instancejobs.fail" />
  <zcasync:task name="wait_for_file" handler="instancejobs.wait_for_file" />
  <browser:page name="put" for="*" class="instancejobs.Put" permission="zope.Public" />
</configure>
"""

ZOPE_CONF = """\
%define INSTANCE {folder}
instancehome $INSTANCE
<zodb_db main>
  mount-point /
  {storage}
</zodb_db>
"""

FILE_STORAGE = """\
<filestorage>
    path $INSTANCE/var/Data.fs
  </filestorage>"""

ZEO_CLIENT = """\
<zeoclient>
    server {host}:{port}
    storage 1
    var $INSTANCE/var
  </zeoclient>"""

ZOPE_INI = """\
[app:zope]
use = egg:Zope#main
zope_conf = %(here)s/zope.conf

[server:main]
{server}
host = 127.0.0.1
port = 0

[filter:dispatcher]
use = egg:collective.zcasync#dispatcher

[pipeline:main]
pipeline = egg:Zope#httpexceptions {filters} zope

[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = generic
[formatter_generic]
format = %(levelname)s [%(name)s] %(message)s
"""

ON = ("<product-config collective.zcasync>", "  dispatcher on", "  poll-interval 0.5", "</product-config>")


class Instance:
    """Its files are written anew by each ``write_*``; processes end with ``close``."""

    def __init__(self, folder: Path, storage: str = FILE_STORAGE) -> None:
        self.folder = folder
        self.zope_conf = folder / "etc" / "zope.conf"
        self.zope_ini = folder / "etc" / "zope.ini"
        self.pid_file = folder / "var" / "Z4.pid"
        self._storage = storage
        self._processes: list[ServerProcess] = []
        subprocess.run([SCRIPTS / "mkwsgiinstance", "-d", folder, "-u", "admin:admin"], check=True)
        self._full_site_zcml = (folder / "etc" / "site.zcml").read_text()
        (folder / "etc" / "site.zcml").write_text(SITE_ZCML)
        self.write_zope_conf(*ON)
        self.write_zope_ini()

    def write_zope_conf(self, *lines: str) -> None:
        """A zope.conf for the storage, with these lines at its end."""
        text = ZOPE_CONF.format(folder=self.folder, storage=self._storage)
        self.zope_conf.write_text(text + "\n".join(lines) + "\n")

    def write_zope_ini(self, server: str = "use = egg:waitress#main", filters: str = "") -> None:
        """A zope.ini for the server, which takes a free port and logs to the terminal."""
        self.zope_ini.write_text(ZOPE_INI.format(server=server, filters=filters))

    def load_everything(self) -> None:
        """What a user's instance loads: all products, Plone among them, and the package by its slugs."""
        slugs = self.folder / "etc" / "package-includes"
        slugs.mkdir(exist_ok=True)
        (self.folder / "etc" / "site.zcml").write_text(self._full_site_zcml)
        (slugs / "collective.zcasync-meta.zcml").write_text('<include package="collective.zcasync" file="meta.zcml" />')
        (slugs / "collective.zcasync-configure.zcml").write_text('<include package="collective.zcasync" />')

    def script(self, text: str) -> Path:
        """Write a Python script into the instance."""
        path = self.folder / "script.py"
        path.write_text(text)
        return path

    def start(
        self, *command: str | Path, environ: dict[str, str] | None = None, stdin: str | None = None
    ) -> ServerProcess:
        """Start a console script of this environment (or ``python``)."""
        first, *others = command
        program: Sequence[str | Path] = [sys.executable if first == "python" else SCRIPTS / first, *others]
        # The module with the jobs and the view of these instances stands beside the tests.
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        process = ServerProcess(program, cwd=self.folder, environ={"PYTHONPATH": paths, **(environ or {})}, stdin=stdin)
        self._processes.append(process)
        return process

    def runwsgi(self, **options: dict[str, str]) -> ServerProcess:
        """Serve it with runwsgi."""
        return self.start("runwsgi", self.zope_ini, **options)

    def address(self, server: ServerProcess) -> str:
        """Where a server of this instance answers requests."""
        said = r"(?:Serving on http://|Listening at: http://|bound to TCP address )(127\.0\.0\.1:\d+)"
        return f"http://{server.wait_for(said)[1]}"

    def put(self, server: ServerProcess, task: str, argument: str | Path) -> str:
        """Put a task through a request to a server of this instance; returns the job's id."""
        query = urlencode({"task": task, "argument": argument})
        with urlopen(f"{self.address(server)}/put?{query}", timeout=PATIENCE) as answer:
            return answer.read().decode().removeprefix("put ")

    def close(self) -> None:
        """End every process that still runs."""
        for process in self._processes:
            process.kill()
