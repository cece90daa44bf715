"""The panel's pages as a server of a site answers them, theme and all, with many jobs waiting and as many finished."""

from benchmarks import pages
from benchmarks import sitejobs
from benchmarks.clients import Here
from benchmarks.measuring import rounded
from benchmarks.siteclients import Reader
from benchmarks.siteclients import Server
from benchmarks.storages import Place
from collections.abc import Sequence
from collective.zcasync import joblists
from collective.zcasync.job import Job
from collective.zcasync.ploneapp.sites import group_of
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Site
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from plonesite import PloneSite
from typing import Any

import instance as instances
import statistics

#: What each page is called, and where it is below the site; the first shows what Plone takes for any page. That of one
#: job comes beside them.
PAGES = {
    "an empty page": "@@bench-empty",
    "overview": "@@zcasync-overview",
    **{f"jobs {state}": f"@@zcasync-jobs?state={state}" for state in joblists.LISTS},
    "search waiting": "@@zcasync-jobs?state=waiting&user=nobody",
    "search finished": "@@zcasync-jobs?state=finished&user=nobody",
    "jobs all sites": "@@zcasync-jobs?state=waiting&all_sites=1",
    "last page": "@@zcasync-jobs?state=finished&b_start=4950",
    "queues": "@@zcasync-queues",
    "queue": "@@zcasync-queue?name=",
    "dispatchers": "@@zcasync-dispatchers",
    "tasks": "@@zcasync-tasks",
    "policies": "@@zcasync-policies",
    "policy": "@@zcasync-policy?name=default",
    "settings": "@@zcasync-settings",
    "my jobs": "@@zcasync-my-jobs",
}

#: The same of the Zope root.
ROOT_PAGES = {"zmi overview": "@@zcasync-overview", "zmi jobs": "@@zcasync-jobs"}

#: Times that each page is asked for before it counts: its template is read, and what it shows of the site is loaded.
WARM = 2


class Crowd:
    """Makes the jobs: of the site and of another one, by turns, of its admin and of others."""

    def __init__(self, group: str) -> None:
        self.groups = (group, "another")
        self.users = ["/acl_users:admin", *(f"/Plone/acl_users:user{number}" for number in range(1, pages.USERS))]

    def __call__(self, number: int) -> Job:
        job = Job(sitejobs.shown, "some", number)
        job.group, job.user = self.groups[number % 2], self.users[number // 2 % len(self.users)]
        return job


def measure(site: PloneSite, sizes: Sequence[int], samples: int) -> dict[str, Any]:
    """With so many jobs: milliseconds of each page, the median, with no job in the server's memory before. Beside them
    what the server works meanwhile: that is the same on a machine that has others to serve."""
    found: dict[str, Any] = {"panel_ms": {}, "panel_cpu_ms": {}}
    there = 0
    for size in sizes:
        some = _fill(site.instance.folder / "var" / "Data.fs", size - there)
        there = size
        try:
            site.start()
            server = Server(site.instance.url, site.instance.password)
            root = replace(server, url=server.url.removesuffix(f"/{instances.SITE}"))
            readers = {name: Reader(server, path, forget=True) for name, path in PAGES.items()}
            readers["job"] = Reader(server, f"@@zcasync-job?id={some}", forget=True)
            readers |= {name: Reader(root, path, forget=True) for name, path in ROOT_PAGES.items()}
            for name, reader in readers.items():
                for what, value in zip(found, _medians(reader, samples), strict=True):
                    found[what].setdefault(str(size), {})[name] = value
        finally:
            site.close()
    return found


def _fill(path: Path, number: int) -> str:
    """Put the jobs; the id of one that has failed."""
    with closing(Here(Place("filestorage", str(path)))) as here, here.connection() as connection:
        manager = connection.transaction_manager
        manager.begin()
        crowd = Crowd(group_of(connection.root()["Application"]._getOb(instances.SITE)))
        get_queues(connection).sites[crowd.groups[1]] = Site("/another")
        manager.commit()
        pages.fill(here, number, crowd)
        manager.begin()
        (row,) = joblists.jobs(connection, joblists.FAILED, group=crowd.groups[0], limit=1).rows
        return str(row.id)


def _medians(reader: Reader, samples: int) -> list[float]:
    """Milliseconds of a page, and of its server's work."""
    taken = [reader.read() for _sample in range(WARM + samples)]
    return [rounded(statistics.median(some)) for some in zip(*taken[WARM:], strict=True)]
