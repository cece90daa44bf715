"""What can be done with jobs: ``POST`` and ``PATCH @background-jobs``, ``@background-jobs/ID/ACTION``, ``DELETE``."""

from collective.zcasync import actions
from collective.zcasync import joblists
from collective.zcasync import taskarguments
from collective.zcasync import tasks
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import TaskNotFound
from collective.zcasync.jsonvalues import SHOWN
from collective.zcasync.manyjobs import change_jobs
from collective.zcasync.manyjobs import VERBS
from collective.zcasync.ploneapp import desk
from collective.zcasync.ploneapp import ownmail
from collective.zcasync.ploneapp.users import id_in
from collective.zcasync.readable import text_of
from collective.zcasync.restapi.jobs import Jobs
from collective.zcasync.restapi.jobs import search_of
from collective.zcasync.restapi.jobs import TEXTS
from collective.zcasync.restapi.service import check_choice
from collective.zcasync.restapi.service import moment_of
from typing import Any
from zExceptions import BadRequest

#: Jobs that one request changes by their ids, at most: all in one transaction.
MOST_AT_ONCE = 500

#: What can be done with a job; the methods have these names, with _ for -.
ACTIONS = ("cancel", "retry", "release", "run-now", "reschedule", "priority", "delete", "dismiss", "stack")

#: Actions on all jobs that match -> the verb of change_jobs.
ALL = {
    "cancel": "cancel",
    "retry": "retry",
    "delete": "delete",
    "run-now": "run",
    "reschedule": "schedule",
    "priority": "priority",
}


class JobActions(Jobs):
    """The base of the services that change jobs."""

    @property
    def by(self) -> str:
        """Who asks, for log and timeline."""
        return id_in(self.rights.user or "")

    def verb(self, action: str) -> Any:
        """The method for an action."""
        check_choice("action", action, ACTIONS)
        return getattr(self, action.replace("-", "_"))

    def value(self, action: str) -> Any:
        """What the action needs beside the job: a time, or a number."""
        if action == "reschedule":
            return moment_of("begin_after", self.take("begin_after", str, required=True))
        return self.take("priority", int, required=True) if action == "priority" else None

    def cancel(self, job: Any) -> Any:
        """End the job, or ask it to stop; nothing happens to one that has ended."""
        self.demand(self.rights.changes(job) or self.rights.is_own(job), "cancel this job")
        actions.cancel(job, self.by)
        return job

    def retry(self, job: Any) -> Any:
        """Put the job once more, with other arguments if the body has some; the new one is answered.

        With others it is a job of the one who asks, who must be allowed to start its task.
        """
        self.demand(self.rights.changes(job), "retry this job")
        given = self.take("arguments", dict)
        if given is None:
            return actions.retry(job, self.by)
        task = tasks.registry.get(job.task)
        if task is None or not self.rights.may_start(task):
            raise TaskNotFound(f"Job {job.id} is of no task that you may start, so its arguments cannot be changed.")
        args, kwargs = taskarguments.checked(task, given)
        return actions.retry_changed(job, task, args, kwargs, self.by)

    def release(self, job: Any) -> Any:
        """Let a job that was set aside run again."""
        self.demand(self.rights.changes(job), "release this job")
        return actions.release(job, self.by)

    def run_now(self, job: Any) -> Any:
        """Let a waiting job begin before all others."""
        self.demand(self.rights.changes(job), "move this job")
        actions.run_now(job, self.by)
        return job

    def reschedule(self, job: Any) -> Any:
        """Let a waiting job begin not before the time that the body names."""
        self.demand(self.rights.changes(job), "move this job")
        actions.reschedule(job, self.value("reschedule"), self.by)
        return job

    def priority(self, job: Any) -> Any:
        """Give a waiting job the priority that the body names."""
        self.demand(self.rights.changes(job), "move this job")
        actions.change_priority(job, self.value("priority"), self.by)
        return job

    def delete(self, job: Any) -> Any:
        """Forget a job that has ended, or was set aside."""
        self.demand(self.rights.changes(job), "delete this job")
        actions.delete(job, self.by)
        return job

    def stack(self, job: Any) -> Any:
        """Ask a running job where it is; the job tells it within two seconds."""
        self.demand(self.rights.changes(job), "see where this job is")
        actions.ask_stack(job, self.by)
        return job

    def dismiss(self, job: Any) -> Any:
        """Show a job that has ended no more among the own ones."""
        self.demand(self.rights.is_own(job), "dismiss this job: it is not yours")
        if job.outcome is None:
            raise BadStatusError(f"Job {job.id} has not ended, so it cannot be dismissed.")
        desk.take(self.context, job.user).dismiss([job.id])
        return job


class JobsPatch(JobActions):
    """Say whether one wants a mail when a job of one's own has ended."""

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        self.demand(self.rights.owns, "have jobs of your own in this site")
        self.refuse_others("mail")
        wanted = self.take("mail", bool, required=True)
        if wanted and not ownmail.offered(self.context):
            raise BadStatusError("This site sends no mails about own jobs: a manager switches them on in the settings.")
        desk.take(self.context, self.rights.user or "").mail = wanted
        return {"@id": f"{self.url()}?own=1", "mail": wanted}


class JobsPost(JobActions):
    """Do something with one job, with several, or with all that match."""

    most = 2

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        if not self.path:
            self.demand(self.rights.manages or self.rights.owns, "change the jobs of this site")
            return self._all() if "all" in self.body else self._several()
        if len(self.path) == 1:
            raise BadRequest(f"Say what is to be done with the job: POST {self.url(self.path[0], 'ACTION')}.")
        id, action = self.path
        verb = self.verb(action)
        job = self.job(id)
        self.refuse_others(*_needs(action), *(("arguments",) if action == "retry" else ()))
        if action == "delete":
            verb(job)
            return self.reply_no_content()
        return self.told(verb(job))

    def _several(self) -> Any:
        """The same with the jobs of a list: with all of them, or none."""
        action = self.take("action", str, required=True)
        verb = self.verb(action)
        self.refuse_others("action", "ids", *_needs(action))
        ids = self.take("ids", list, required=True)
        if len(ids) > MOST_AT_ONCE:
            raise BadRequest(
                f"ids: {len(ids)} are given; at most {MOST_AT_ONCE} jobs are changed at once. For more say which are"
                " meant, with all."
            )
        for id in ids:
            if not isinstance(id, str):
                raise BadRequest(f"ids: {text_of(id, SHOWN)} is not allowed; an id is a text, as lists give it.")
        jobs = [self.job(id) for id in dict.fromkeys(ids)]
        if action == "delete":
            rows = [joblists.row(job) for job in jobs]
            for job in jobs:
                verb(job)
        else:
            rows = [joblists.row(verb(job)) for job in jobs]
        return {"items": [self.line(row) for row in rows], "items_total": len(rows)}

    def _all(self) -> Any:
        """The same with all jobs that match, in a job of its own: 202, and where to ask how far it is."""
        self.demand(self.rights.manages, "change all jobs that match")
        action = self.take("action", str, required=True)
        check_choice("action", action, ALL)
        self.refuse_others("action", "all", *_needs(action))
        meant = self.take("all", dict, required=True)
        known = ("state", "queue", "all_sites", "since", "until", *TEXTS)
        for name, value in meant.items():
            if name not in known or not isinstance(value, bool if name == "all_sites" else str):
                raise BadRequest(
                    f"all: {text_of({name: value}, SHOWN)} is not allowed; it may have {', '.join(known)}, all texts"
                    " but all_sites, which is true or false."
                )
        verb = ALL[action]
        state = meant.get("state")
        if state not in VERBS[verb]:
            raise BadRequest(
                f"all: state {text_of(state, SHOWN)} is not allowed; {action} is for jobs that are"
                f" {' or '.join(VERBS[verb])}."
            )
        search = search_of({name: meant.get(name) for name in (*TEXTS, "since", "until")})
        job = change_jobs.put(
            verb,
            (state,),
            search=search.given,
            value=self.value(action),
            queue=None if "queue" not in meant else self.queue(meant["queue"]).name,
            group=self.group(meant.get("all_sites", False)),
            by=self.by,
        )
        self.accepted(self.url(job.id))
        return self.line(joblists.row(job))


class JobsDelete(JobActions):
    """Forget a job that has ended, or was set aside, for good."""

    most = 1

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        if not self.path:
            raise BadRequest(f"Say which job is to be deleted: DELETE {self.url('ID')}.")
        self.delete(self.job(self.path[0]))
        return self.reply_no_content()


def _needs(action: str) -> tuple[str, ...]:
    """What else the body of an action may have."""
    return {"reschedule": ("begin_after",), "priority": ("priority",)}.get(action, ())
