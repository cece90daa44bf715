"""Puts the demo's jobs, all in one transaction, and tells how far they are."""

from collections.abc import Sequence
from collective.zcasync import api as jobs
from collective.zcasync.demo import distributions
from collective.zcasync.demo.tasks import import_distribution
from collective.zcasync.demo.tasks import report
from collective.zcasync.demo.tasks import REPORT_ID
from collective.zcasync.interfaces import COMPLETED
from plone import api
from typing import Any
from zope.annotation.interfaces import IAnnotations

#: Where a folder keeps the ids of its jobs: a pair of name and id for each distribution, and the report's id.
#: Content keeps the ids of jobs, never the jobs.
IMPORTS = "collective.zcasync.demo.imports"
REPORT = "collective.zcasync.demo.report"


def put_all(site: Any, names: Sequence[str] = ()) -> Any:
    """Put a job for each of these distributions, or for all, and the report's; return the folder that they will fill.

    Folder and jobs are stored by the same commit: there is never one without the others.
    """
    folder = api.content.create(container=site, type="Folder", id="distributions", title="Distributions", safe_id=True)
    wanted = sorted({distributions.canonical(name) for name in names}) or distributions.names()
    imports = tuple((name, import_distribution.put(folder, name).id) for name in wanted)
    annotations = IAnnotations(folder)
    annotations[IMPORTS] = imports
    annotations[REPORT] = report.put(folder, imports).id
    return folder


def status(folder: Any) -> dict[str, Any]:
    """How far the jobs of that folder are, as plain data: what `make demo` shows."""
    put = _imports(folder)
    ended = [job for _, job in put if job.status == COMPLETED]
    failed = [(name, job) for name, job in put if job.status == COMPLETED and job.failed]
    final = jobs.job(IAnnotations(folder)[REPORT])
    return {
        "put": len(put),
        "imported": len(ended) - len(failed),
        "failed": [{"name": name, "id": job.id, "error": job.error} for name, job in failed],
        # From the put to the end of the last one; what `make demo` counts jobs a second by.
        "seconds": (max(job.finished_at for job in ended) - put[0][1].put_at).total_seconds() if ended else 0,
        "report": {"ended": final.status == COMPLETED, "error": final.error},
    }


def pages(folder: Any) -> dict[str, list[str]]:
    """The pages that should be there and those that the catalog has: equal if each job took effect exactly once."""
    expected = [name for name, job in _imports(folder) if job.status == COMPLETED and not job.failed]
    found = api.content.find(context=folder, portal_type="Document")
    return {
        "expected": sorted(expected),
        "catalogued": sorted(brain.getId for brain in found if brain.getId != REPORT_ID),
    }


def _imports(folder: Any) -> list[tuple[str, Any]]:
    return [(name, jobs.job(id)) for name, id in IAnnotations(folder)[IMPORTS]]
