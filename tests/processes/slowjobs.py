"""What the site under test runs: a job that can be killed in its middle, and views that put it and look at it."""

from collective.zcasync import api as jobs
from collective.zcasync.testing import wait_for_result
from pathlib import Path
from plone import api
from plone.protect.interfaces import IDisableCSRFProtection
from Products.Five.browser import BrowserView
from typing import Any
from zope.interface import alsoProvides

import json
import logging
import threading

logger = logging.getLogger("slowjobs")

COUNT = "slowjobs_count"


@jobs.task(title="Make a page, and wait for ever the first time")
def make_page(site: Any, marker: str) -> int:
    """An effect in the database, and one outside it: a line in a file for each time that this is run."""
    with Path(marker).open("a") as lines:
        lines.write("run\n")
    count = getattr(site, COUNT, 0) + 1
    setattr(site, COUNT, count)
    api.content.create(site, "Document", title="Made by a job", id="made")
    if Path(marker).read_text().count("run") == 1:
        logger.info("in the middle")
        threading.Event().wait()
    return count


class Put(BrowserView):
    """Puts the job in the request's transaction, as whoever is logged in."""

    def __call__(self) -> str:
        alsoProvides(self.request, IDisableCSRFProtection)
        return str(make_page.put(self.context, self.request.form["marker"]).id)


class Look(BrowserView):
    """Waits until the job has ended, and tells what is in the database."""

    def __call__(self) -> str:
        job = jobs.job(self.request.form["id"])
        result = wait_for_result(job, seconds=60)
        pages = api.content.find(self.context, portal_type="Document", Title="Made by a job")
        return json.dumps(
            {
                "result": result,
                "outcome": job.outcome,
                "count": getattr(self.context, COUNT, 0),
                "pages": [brain.getPath() for brain in pages],
                "creators": [brain.Creator for brain in pages],
            }
        )
