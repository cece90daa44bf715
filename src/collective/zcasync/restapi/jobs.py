"""Lists of jobs and single ones: ``GET @background-jobs``, ``@background-jobs/ID`` and ``@background-failures``."""

from collective.zcasync import jobdetail
from collective.zcasync import joblists
from collective.zcasync import jobtree
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.jobsearch import Search
from collective.zcasync.jsonvalues import is_json
from collective.zcasync.jsonvalues import SHOWN
from collective.zcasync.ploneapp import desk
from collective.zcasync.readable import text_of
from collective.zcasync.restapi import data
from collective.zcasync.restapi.service import check_choice
from collective.zcasync.restapi.service import JobsService
from collective.zcasync.restapi.service import LARGEST_PAGE
from collective.zcasync.restapi.service import LAST_START
from collective.zcasync.restapi.service import moment_of
from collective.zcasync.restapi.service import PAGE
from collective.zcasync.zopeapp.reasons import full_reason_text
from typing import Any
from urllib.parse import urlencode
from zExceptions import BadRequest

#: What a search may say, as texts; see Search.
TEXTS = ("task", "user", "object", "error", "cause")


class Jobs(JobsService):
    """The base of the services about jobs."""

    name = "@background-jobs"

    def job(self, id: str) -> Any:
        """The job of that id, if the user may know of it; JobNotFound if there is none, or it is not the user's."""
        found = joblists.find(self.queues, id)
        if not self.rights.sees(found):
            raise JobNotFound(f"no job has the id {id!r}; finished jobs are kept for the queue's retention time only")
        return found

    def line(self, row: joblists.JobRow, queue: str | None = None) -> dict[str, Any]:
        """A job as JSON."""
        return data.job_line(row, self.translated, self.url(row.id, service="@background-jobs"), queue)

    def told(self, job: Any) -> dict[str, Any]:
        """All that the user may know of a job."""
        row = joblists.row(job)
        manages = self.rights.changes(job)
        detail = (jobdetail.job_detail if manages else jobdetail.brief_detail)(job, row)
        queue = joblists.queue_of(job)
        answer = self.line(row, "" if queue is None else queue.name)
        answer.update(data.job_facts(detail, self.translated))
        answer["reason"] = full_reason_text(self.queues, job, row, self.translated)
        if manages:
            answer.update(data.job_inside(detail))
            answer["stack"] = None if detail.row.broken else data.job_stack(job.stack)
        if manages or self.rights.is_own(job):
            answer["result"] = plain_result(job)
        answer["family"] = [data.branch(one, self.url(one.id)) for one in jobtree.tree(job)]
        answer["actions"] = {name: self.url(row.id, name) for name in self.offered(job, detail)}
        return answer

    def offered(self, job: Any, detail: jobdetail.JobDetail) -> list[str]:
        """What the user can do with the job now, by POST."""
        manages = self.rights.changes(job)
        cancels = detail.can_cancel and not detail.stop_requested and (manages or self.rights.is_own(job))
        waits = manages and detail.row.state in (joblists.WAITING, joblists.SCHEDULED)
        offers = {
            "cancel": cancels,
            "retry": detail.can_retry and not detail.can_discard and manages,
            "release": detail.can_retry and detail.can_discard and manages,
            "run-now": waits,
            "reschedule": waits,
            "priority": waits,
            "stack": manages and detail.row.state == joblists.RUNNING and not detail.row.claimed,
            "dismiss": self.rights.is_own(job) and job.outcome is not None,
        }
        return [name for name, offered in offers.items() if offered]

    def group(self, all_sites: bool) -> str | None:
        """The site whose jobs are meant; None: those of all, if they are asked for by one who may."""
        return None if self.rights.rules_all and all_sites else self.rights.group


class JobsGet(Jobs):
    """One job, or a list."""

    most = 1

    def reply(self) -> Any:
        """See Service."""
        if self.path:
            return self.told(self.job(self.path[0]))
        if self.query("own") or not self.rights.views:
            return self._own()
        return self._list()

    def _own(self) -> dict[str, Any]:
        """The user's jobs, of tasks that people are to see, as *My jobs* shows them."""
        self.demand(self.rights.owns, "see the jobs of this site")
        owner = desk.owner(self.rights.group, self.rights.user or "")
        found = desk.jobs_on(self.context, self.queues, owner, self.skip())
        items = [{**self.line(one.row), "ahead": one.ahead} for one in (*found.active, *found.ended)]
        url = f"{self.url()}?own=1"
        older = {} if found.next is None else {"batching": {"@id": url, "next": f"{url}&skip={found.next}"}}
        mail = bool(desk.look_at(self.context, self.rights.user or "").mail)
        return {
            "@id": url,
            "items": items,
            "items_total": len(items),
            "complete": found.complete,
            "mail": mail,
            **older,
        }

    def _list(self) -> dict[str, Any]:
        wanted = self.query("state") or joblists.WAITING
        check_choice("state", wanted, joblists.LISTS)
        group = self.group(bool(self.query("all_sites")))
        queue = self.asked_queue()
        search = search_of({name: self.query(name) for name in (*TEXTS, "since", "until")})
        start, size = self.number("b_start", 0, LAST_START), self.number("b_size", PAGE, LARGEST_PAGE)
        skip = self.skip()
        page = joblists.jobs(
            self.queues,
            wanted,
            group=group,
            queue=queue,
            search=search,
            oldest=bool(self.query("oldest")),
            start=start,
            skip=skip,
            limit=size,
        )
        counts = joblists.counts(self.queues, group=group, queue=queue)
        total = counts[wanted] if wanted in counts else joblists.count(self.queues, wanted, group=group, queue=queue)
        return {
            "@id": self.url(),
            "state": wanted,
            "counts": {state: data.count(number) for state, number in counts.items()},
            "items": [self.line(row) for row in page.rows],
            "items_total": len(page.rows) if search and not page.more and not start and not skip else total.number,
            "complete": page.complete,
            **({} if page.complete else {"looked_at": page.looked}),
            "batching": self.batching(start, size, page.more, page.next),
        }


class FailuresGet(Jobs):
    """What failed jobs have in common: how many failed in which way, and where they are listed."""

    name = "@background-failures"

    def reply(self) -> Any:
        """See Service."""
        group = self.group(bool(self.query("all_sites")))
        rows = joblists.failures(self.queues, group, self.asked_queue())
        start, size = self.number("b_start", 0, LAST_START), self.number("b_size", PAGE, LARGEST_PAGE)
        return {
            "@id": self.url(),
            "items": [
                {
                    "@id": f"{self.url(service='@background-jobs')}?"
                    + urlencode({"state": joblists.FAILED, "task": row.task, "cause": row.cause}),
                    "task": row.task,
                    "cause": row.cause,
                    "number": row.number,
                    "first": data.moment(row.first),
                    "last": data.moment(row.last),
                }
                for row in rows[start : start + size]
            ],
            "items_total": len(rows),
            "batching": self.batching(start, size, len(rows) > start + size),
        }


def search_of(given: dict[str, Any]) -> Search:
    """A search from texts; times are ISO texts with an offset. BadRequest or InvalidValueError for what is none."""
    fields: dict[str, Any] = {name: value for name, value in given.items() if value not in (None, "")}
    for name in ("since", "until"):
        if name in fields:
            fields[name] = moment_of(name, fields[name])
    for name in TEXTS:
        if name in fields and not is_json(fields[name]):
            raise BadRequest(f"{name}: {text_of(fields[name], SHOWN)} is not allowed; it must be a text.")
    return Search(**fields)


def plain_result(job: Any) -> Any:
    """The result of a job: as JSON where it is one plain value, else as a text; null if there is none."""
    if jobdetail.is_broken(job) or job.outcome != "succeeded":
        return None
    try:
        value = job.result
    except Exception as error:  # its class may be gone
        return f"{type(error).__name__}: {error}"
    return value if is_json(value, 0) and (not isinstance(value, str) or len(value) < 2000) else text_of(value)
