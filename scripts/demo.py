"""The demo: a site, a job for each installed Python distribution, and a judgement. `make demo` runs it.

Exit code with --exit: 0 if every job that was put has ended, failures are the demo's own NoDescription, and the catalog
has exactly the pages of the jobs that succeeded. The example itself is in src/collective/zcasync/demo.
"""

from base64 import b64encode
from collections.abc import Sequence
from collective.zcasync.demo.distributions import names
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn
from typing import Any

import argparse
import contextlib
import html
import instance as instances
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

#: Loaded by Zope with everything else that lies in etc/package-includes.
SLUG = '<include package="collective.zcasync.demo" />\n'

#: Seconds between two looks at the jobs. Each look is a request, and embedded job threads give way to requests.
LOOK = 0.5

#: Seconds without any job ending after which the rest is called lost. A server that was killed starts in a few.
PATIENCE = 120


@dataclass
class Site:
    """The instance and its server, spoken to as a browser would."""

    instance: instances.Instance
    server: subprocess.Popen | None = None

    def start(self) -> None:
        instances.claim_port(self.instance)
        self.server = instances.start(self.instance)

    def kill(self) -> None:
        """SIGKILL: nothing is saved, nothing is given back, nobody is told."""
        self.server.kill()
        self.server.wait()

    def stop(self) -> None:
        if self.server is not None and self.server.poll() is None:
            instances.stop(self.server)

    def open(self, path: str, form: dict[str, str] | None = None) -> Any:
        """One request as the admin, below the site."""
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        request = urllib.request.Request(f"{self.instance.url}/{path}", data)
        credentials = b64encode(f"{instances.USER}:{self.instance.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
        return urllib.request.urlopen(request, timeout=60)

    def json(self, path: str) -> Any:
        with self.open(path) as answer:
            return json.load(answer)

    def put_all(self, names: Sequence[str]) -> str:
        """Send the demo's form; the path of the folder that its jobs fill."""
        with self.open("@@zcasync-demo") as answer:
            page = answer.read().decode()
        token = html.unescape(re.search(r'name="_authenticator"\s+value="([^"]+)"', page)[1])
        form = {"form.widgets.names": "\n".join(names), "form.buttons.import": "Import", "_authenticator": token}
        with self.open("@@zcasync-demo", form) as answer:
            folder = urllib.parse.urlsplit(answer.url).path.rpartition("/")[2]
        if folder == "@@zcasync-demo":
            raise SystemExit(
                f"The form was refused: open {self.instance.url}/@@zcasync-demo and see {self.instance.log}."
            )
        return folder


@dataclass
class Run:
    """One round of the demo: the jobs of one folder."""

    site: Site
    folder: str
    put: int
    console: Console
    #: How many have ended when the server is killed.
    kills: list[int] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        return self.status["imported"] + len(self.status["failed"])

    @property
    def complete(self) -> bool:
        return self.ended == self.put and self.status["report"]["ended"]

    def watch(self) -> None:
        """Show how far the jobs are, until all have ended or nothing moves any more."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task("Importing", total=self.put)
            ended, moved = -1, time.monotonic()
            while time.monotonic() - moved < PATIENCE:
                self.look()
                if self.ended != ended:
                    ended, moved = self.ended, time.monotonic()
                progress.update(bar, completed=self.ended)
                if self.kills and self.ended >= self.kills[0]:
                    self.kills.pop(0)
                    self.console.print(f"{self.ended} have ended: SIGKILL for the server, and a new start.")
                    self.site.kill()
                    self.site.start()
                if self.complete:
                    return
                time.sleep(LOOK)

    def look(self) -> None:
        self.status = self.site.json(f"{self.folder}/@@zcasync-demo-status")
        for job in self.status["failed"]:
            if job["id"] not in self.shown:
                self.shown.add(job["id"])
                self.console.print(f"failed: {job['name']}: {job['error']}", markup=False, highlight=False)

    def faults(self) -> list[str]:
        """What is wrong in the end; nothing, if all is as it should be."""
        faults = [
            f"{job['name']} failed for another reason than NoDescription: {job['error']}"
            for job in self.status["failed"]
            if not job["error"].startswith("NoDescription:")
        ]
        report = self.status["report"]
        if not report["ended"] or report["error"]:
            faults.append(f"there is no report: {report['error'] or 'its job has not ended'}")
        pages = self.site.json(f"{self.folder}/@@zcasync-demo-pages")
        if pages["expected"] != pages["catalogued"]:
            differ = set(pages["expected"]) ^ set(pages["catalogued"])
            faults.append(
                f"the catalog has {len(pages['catalogued'])} pages, but {len(pages['expected'])} jobs"
                f" succeeded: {', '.join(sorted(differ)) or 'some are there twice'}"
            )
        if lost := self.put - self.ended:
            faults.append(f"{lost} jobs have not ended")
        return faults

    @property
    def summary(self) -> str:
        """The last line. Scripts read it."""
        imported, failed = self.status["imported"], len(self.status["failed"])
        rate = self.ended / self.status["seconds"] if self.ended else 0
        return f"demo: {imported} imported, {failed} failed, {self.put - self.ended} lost, {rate:.1f} jobs/s"


def make_site(folder: Path, port: int, threads: int) -> Site:
    """What `make start` makes, with four job threads and the demo's ZCML."""
    instance = instances.make_instance(folder, port, threads)
    if (pid := instances.holder(instance)) is not None:
        raise SystemExit(f"Process {pid} already uses {folder}: stop it first (kill {pid}).")
    slug = instance.folder / "etc" / "package-includes" / "collective.zcasync.demo-configure.zcml"
    slug.parent.mkdir(exist_ok=True)
    slug.write_text(SLUG)
    if not instance.has_site:
        print("Making a Plone site: some seconds, once.", flush=True)
    instances.create_site(instance, ("collective.zcasync:default", "collective.zcasync.demo:default"))
    instances.claim_port(instance, port)
    return Site(instance)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Import a description of each installed Python distribution in jobs.")
    option = parser.add_argument
    option("--exit", action="store_true", help="stop after the last line; the exit code tells whether all is well")
    option("--kill", action="store_true", help="kill the server (SIGKILL) after a third and after two thirds")
    option("--threads", type=int, default=4, help="job threads of the server (default: %(default)s)")
    option("--limit", type=int, help="import so many distributions only")
    option("--folder", type=Path, default=Path("instance-demo"), help="where the site lies (default: %(default)s)")
    option("--port", type=int, default=8080, help="the port it should have (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = get_parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    site = make_site(options.folder, options.port, options.threads)
    try:
        site.start()
        return demonstrate(site, options, console)
    except KeyboardInterrupt:
        return 130
    finally:
        site.stop()


def demonstrate(site: Site, options: argparse.Namespace, console: Console) -> int:
    chosen = names()[: options.limit]
    folder = site.put_all(chosen if options.limit else ())
    kills = [len(chosen) // 3, 2 * len(chosen) // 3] if options.kill else []
    run = Run(site, folder, len(chosen), console, kills)
    console.print(instances.describe(site.instance), markup=False, highlight=False)
    console.print(f"Watch the jobs: {site.instance.url}/@@zcasync-overview", highlight=False)
    console.print(f"and the pages:  {site.instance.url}/{folder}", highlight=False)
    run.watch()
    faults = run.faults()
    for fault in faults:
        console.print(f"wrong: {fault}", markup=False, highlight=False)
    if not options.exit:
        console.print(f"The report: {site.instance.url}/{folder}/report. Serving until Ctrl-C.", highlight=False)
        console.print(f"Is all well? {site.instance.url}/@@zcasync-overview", highlight=False)
    print(run.summary, flush=True)
    if not options.exit:
        with contextlib.suppress(KeyboardInterrupt):
            site.server.wait()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
