"""The demo's tasks: ``import_distribution`` makes a page, ``report`` sums up all, ``rehearse`` is to be watched."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence
from collective.zcasync.api import job as job_by_id
from collective.zcasync.api import progress
from collective.zcasync.demo.distributions import canonical
from collective.zcasync.demo.distributions import describe
from collective.zcasync.demo.distributions import Description
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.retry import RetryCommonFourTimes
from collective.zcasync.tasks import task
from datetime import timedelta
from html import escape
from plone import api
from plone.app.textfield.value import RichTextValue
from typing import Any
from typing import NamedTuple

import time

#: Id of the page that ``report`` writes.
REPORT_ID = "report"


class Unfinished(ZCAsyncError):
    """Jobs that the report is about still run. Its retry policy tries again two seconds later."""


class RehearsalFailed(ZCAsyncError):
    """The rehearsal broke down, as it was asked to."""


class Imported(NamedTuple):
    """What a job that imported a distribution returns: plain values, for the report."""

    name: str
    version: str
    licence: str
    size: int
    url: str


@task(title="Import a distribution's description")
def import_distribution(folder: Any, name: str) -> tuple[Any, ...]:
    """Make a page of one distribution. What it raises is the job's failure: the site keeps the traceback, no page."""
    description = describe(name)
    page = api.content.create(
        container=folder,
        type="Document",
        id=canonical(name),
        title=f"{description.name} {description.version}",
        description=description.summary,
        text=_rich_text(_page(description)),
    )
    size = len(description.html)
    return tuple(Imported(description.name, description.version, description.licence, size, page.absolute_url()))


class WaitForJobs(RetryCommonFourTimes):
    """Waits for other jobs. What is longer than a second frees the job thread until then."""

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Any:
        if failure.check(Unfinished):
            return timedelta(seconds=2)
        return super().jobError(failure, data_cache)


@task(title="Report on the imported distributions", policy="collective.zcasync.demo.tasks:WaitForJobs", visible=True)
def report(folder: Any, imports: Sequence[tuple[str, str]]) -> str:
    """Write a page about these jobs, given as name and id, as soon as all of them have ended."""
    jobs = [(name, job_by_id(id)) for name, id in imports]
    if unfinished := sum(job.status != COMPLETED for _, job in jobs):
        raise Unfinished(f"{unfinished} of {len(jobs)} jobs have not ended yet")
    imported = [Imported(*job.result) for _, job in jobs if not job.failed]
    failed = [(name, job.error, job.id) for name, job in jobs if job.failed]
    page = api.content.create(
        container=folder,
        type="Document",
        id=REPORT_ID,
        title="Report",
        description=f"{len(imported)} distributions imported, {len(failed)} failed",
        text=_rich_text(_report(imported, failed)),
    )
    return str(page.absolute_url())


@task(title="Rehearse", visible=True)
def rehearse(steps: int = 20, seconds: float = 0.5, fail_at: int | None = None) -> str:
    """Count steps, slowly, so that one can watch a job.

    Each step takes so many seconds. At the step that is to fail, the rehearsal breaks down.
    """
    for step in range(steps):
        progress(step, steps, f"step {step + 1}")
        if step + 1 == fail_at:
            raise RehearsalFailed(f"broke down at step {step + 1}")
        time.sleep(seconds)
    return f"{steps} steps were rehearsed"


def _page(description: Description) -> str:
    facts = _table(("Version", "Licence"), [(description.version, description.licence)])
    classifiers = "".join(f"<li>{escape(classifier)}</li>" for classifier in description.classifiers)
    return f"{facts}{description.html}<h2>Classifiers</h2><ul>{classifiers}</ul>"


def _report(imported: Sequence[Imported], failed: Sequence[tuple[str, str, str]]) -> str:
    site = api.portal.get().absolute_url()
    licences = Counter(one.licence for one in imported).most_common()
    by_size = sorted(imported, key=lambda one: one.size, reverse=True)
    by_name = sorted(imported, key=lambda one: one.name.lower())
    return "".join(
        (
            "<h2>Licences</h2>",
            _table(("Licence", "Distributions"), licences),
            "<h2>Largest</h2>",
            _table(("Distribution", "Characters"), [(_link(one.url, one.name), one.size) for one in by_size[:10]]),
            "<h2>Failed</h2>",
            _table(
                ("Distribution", "Reason"),
                [(_link(f"{site}/@@zcasync-job?id={id}", name), error) for name, error, id in failed],
            ),
            "<h2>All</h2>",
            _table(
                ("Distribution", "Version", "Licence"),
                [(_link(one.url, one.name), one.version, one.licence) for one in by_name],
            ),
        )
    )


class _Html(str):
    """Text that is HTML already."""


def _link(url: str, text: str) -> _Html:
    return _Html(f'<a href="{escape(url)}">{escape(text)}</a>')


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def line(tag: str, cells: Iterable[object]) -> str:
        texts = (cell if isinstance(cell, _Html) else escape(str(cell)) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<table class="table"><thead>{line("th", head)}</thead><tbody>{body}</tbody></table>'


def _rich_text(html: str) -> RichTextValue:
    return RichTextValue(html, "text/html", "text/x-html-safe")
