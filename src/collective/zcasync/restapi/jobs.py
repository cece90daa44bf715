"""Jobs: ``@background-jobs``, ``@background-jobs/ID`` and ``@background-jobs/ID/ACTION``."""

from collective.zcasync import actions
from collective.zcasync import jobdetail
from collective.zcasync import joblists
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.jsonvalues import SHOWN
from collective.zcasync.readable import text_of
from collective.zcasync.restapi import data
from collective.zcasync.restapi.service import JobsService
from collective.zcasync.restapi.service import LARGEST_PAGE
from collective.zcasync.restapi.service import LAST_START
from collective.zcasync.restapi.service import PAGE
from typing import Any
from zExceptions import BadRequest

#: Jobs that one request changes, at most: all in one transaction.
MOST_AT_ONCE = 500


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
        return data.job_line(row, self.translated, self.url(row.id), queue)

    def told(self, job: Any) -> dict[str, Any]:
        """All that the user may know of a job."""
        row = joblists.row(job)
        manages = self.rights.changes(job)
        detail = (jobdetail.job_detail if manages else jobdetail.brief_detail)(job, row)
        queue = joblists.queue_of(job)
        answer = self.line(row, "" if queue is None else queue.name)
        answer.update(data.job_facts(detail, self.translated))
        if manages:
            answer.update(data.job_inside(detail))
        answer["actions"] = {name: self.url(row.id, name) for name in self.offered(job, detail)}
        return answer

    def offered(self, job: Any, detail: jobdetail.JobDetail) -> list[str]:
        """What the user can do with the job now, by POST."""
        manages = self.rights.changes(job)
        offers = {
            "cancel": detail.can_cancel and not detail.stop_requested and (manages or self.rights.is_own(job)),
            "retry": detail.can_retry and not detail.can_discard and manages,
            "release": detail.can_retry and detail.can_discard and manages,
        }
        return [name for name, offered in offers.items() if offered]


class JobsGet(Jobs):
    """One job, or a list of those in one state."""

    most = 1

    def reply(self) -> Any:
        """See Service."""
        if self.path:
            return self.told(self.job(self.path[0]))
        self.demand(self.rights.views, "see the jobs of this site")
        return self._list()

    def _list(self) -> dict[str, Any]:
        state = self.query("state") or joblists.WAITING
        if state not in joblists.STATES:
            raise BadRequest(
                f"state: {text_of(state, SHOWN)} is not allowed; it must be one of {', '.join(joblists.STATES)}."
            )
        group = None if self.rights.rules_all and self.query("all_sites") else self.rights.group
        asked = self.query("queue")
        queue = None if asked is None else self.queue(asked).name
        start, size = self.number("b_start", 0, LAST_START), self.number("b_size", PAGE, LARGEST_PAGE)
        page = joblists.jobs(self.queues, state, group=group, queue=queue, start=start, limit=size)
        counts = data.site_counts(self.queues, group, queue)
        return {
            "@id": self.url(),
            "state": state,
            "counts": counts,
            "items": [self.line(row) for row in page.rows],
            "items_total": counts[state]["number"],
            "complete": page.complete,
            "batching": self.batching(start, size, page.more),
        }


class JobsPost(Jobs):
    """Do something with one job, or with several."""

    most = 2

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        if len(self.path) == 2:
            id, action = self.path
            return self._one(id, action)
        if self.path:
            raise BadRequest(f"Say what is to be done with the job: POST {self.url(self.path[0], 'ACTION')}.")
        return self._several()

    def _one(self, id: str, action: str) -> Any:
        verb = self._verb(action)
        job = self.job(id)
        self.refuse_others()
        return self.told(verb(job))

    def _several(self) -> Any:
        """The same with the jobs of a list, all of them or none."""
        self.demand(self.rights.manages, "change the jobs of this site")
        self.refuse_others("action", "ids")
        verb = self._verb(self.take("action", str, required=True))
        ids = self.take("ids", list, required=True)
        if len(ids) > MOST_AT_ONCE:
            raise BadRequest(f"ids: {len(ids)} are given; at most {MOST_AT_ONCE} jobs are changed at once.")
        for id in ids:
            if not isinstance(id, str):
                raise BadRequest(f"ids: {text_of(id, SHOWN)} is not allowed; an id is a text, as lists give it.")
        return {"items": [self.line(joblists.row(verb(self.job(id)))) for id in dict.fromkeys(ids)]}

    def _verb(self, action: str) -> Any:
        verbs = {"cancel": self.cancel, "retry": self.retry, "release": self.release}
        if action not in verbs:
            raise BadRequest(f"action: {text_of(action, SHOWN)} is not allowed; it must be one of {', '.join(verbs)}.")
        return verbs[action]

    def cancel(self, job: Any) -> Any:
        """End the job, or ask it to stop; nothing happens to one that has ended."""
        self.demand(self.rights.changes(job) or self.rights.is_own(job), "cancel this job")
        actions.cancel(job)
        return job

    def retry(self, job: Any) -> Any:
        """Put the job once more; the new one is answered."""
        self.demand(self.rights.changes(job), "retry this job")
        return actions.retry(job)

    def release(self, job: Any) -> Any:
        """Let a job that was set aside run again."""
        self.demand(self.rights.changes(job), "release this job")
        return actions.release(job)


class JobsDelete(Jobs):
    """Remove a job that was set aside, for good."""

    most = 1

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        if not self.path:
            raise BadRequest(f"Say which job is to be removed: DELETE {self.url('ID')}.")
        job = self.job(self.path[0])
        self.demand(self.rights.changes(job), "remove this job")
        actions.discard(job)
        return self.reply_no_content()
