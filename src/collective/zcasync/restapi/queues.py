"""Queues with their quotas and agents: ``@background-queues`` and ``@background-queues/NAME``."""

from collective.zcasync import actions
from collective.zcasync import joblists
from collective.zcasync import queueactions
from collective.zcasync.alarms import oldest_waiting
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jsonvalues import SHOWN
from collective.zcasync.ploneapp.sites import path_of
from collective.zcasync.queues import DEFAULT_QUEUE
from collective.zcasync.queues import shown_queue
from collective.zcasync.readable import text_of
from collective.zcasync.restapi import data
from collective.zcasync.restapi.service import JobsService
from itertools import islice
from typing import Any
from zExceptions import BadRequest

#: Jobs that hold places of one quota and are told, at most.
HOLDERS = 50


class Queues(JobsService):
    """The base of the services about queues. The default queue is called ``default`` here."""

    name = "@background-queues"
    most = 1

    def told(self, queue: Any) -> dict[str, Any]:
        """One queue as JSON."""
        url, may_edit = self.url(shown_queue(queue.name)), self.rights.may_edit(queue.owner)
        return data.queue_line(joblists.queue_row(queue), url, self.rights.group, may_edit, queue)

    def all(self) -> dict[str, Any]:
        """All queues, and whether the site's jobs are paused in them."""
        return {
            **self.listed(map(self.told, joblists.all_queues(self.queues))),
            "site_paused": self.queues.is_site_paused(self.rights.group),
        }

    def named(self) -> Any:
        """The queue that the path names."""
        if not self.path:
            raise BadRequest(f"Say which queue is meant: {self.url('NAME')}.")
        return self.queue(self.path[0])

    def editable(self) -> Any:
        """The same, if the user may change it."""
        queue = self.named()
        self.demand(self.rights.may_edit(queue.owner), "change this queue: it belongs to all sites, or to another one")
        return queue


class QueuesGet(Queues):
    """One queue, or all."""

    def reply(self) -> Any:
        """See Service."""
        if not self.path:
            return self.all()
        queue = self.named()
        told = self.told(queue)
        for quota in told["quotas"]:
            quota.update(self._held(queue.quotas[quota["name"]]))
        return {**told, "oldest_waiting": data.moment(oldest_waiting(queue))}

    def _held(self, quota: Any) -> dict[str, Any]:
        """Who holds places of a quota: how many jobs, and the first of those that the user may know of."""
        jobs = [job for job in islice(quota, HOLDERS) if not is_broken(job) and self.rights.sees(job)]
        urls = [{"@id": self.url(job.id, service="@background-jobs"), "id": job.id} for job in jobs]
        return {"held": len(quota), "holders": urls}


class QueuesPost(Queues):
    """Make a queue, which then belongs to the site."""

    most = 0

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        self.refuse_others("name", *queueactions.QUEUE_NUMBERS)
        name = self.take("name", str, required=True)
        if name == DEFAULT_QUEUE:
            raise BadRequest(f"name: {name!r} is not allowed; it is what the queue without a name is called here.")
        numbers = self.given(*queueactions.QUEUE_NUMBERS)
        queue = queueactions.create_queue(self.connection, name, self.rights.group, **numbers)
        self.made(self.url(name))
        return self.told(queue)


class QueuesPatch(Queues):
    """Pause or resume a queue, change its numbers, its quotas and its agents; null removes one of these.

    Without a name: pause or resume the jobs of the site in all queues, or all queues.
    """

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        if not self.path:
            self._switch()
            return self.all()
        queue = self.editable()
        self.refuse_others("paused", "quotas", "agents", *queueactions.QUEUE_NUMBERS)
        paused = self.take("paused", bool)
        queueactions.change_queue(queue, **self.given(*queueactions.QUEUE_NUMBERS))
        for quota in self.take("quotas", list, default=[]):
            self._quota(queue, quota)
        for agent in self.take("agents", list, default=[]):
            self._agent(queue, agent)
        if paused is not None and paused != queue.paused:
            (actions.pause_queue if paused else actions.resume_queue)(queue)
        return self.told(queue)

    def _switch(self) -> None:
        """One switch for everything of the site, or of all sites."""
        self.refuse_others("site_paused", "all_paused")
        if "all_paused" in self.body:
            self.demand(self.rights.rules_all, "pause what belongs to all sites")
            queueactions.pause_all(self.queues, self.take("all_paused", bool))
        if "site_paused" in self.body:
            if self.take("site_paused", bool):
                queueactions.pause_site(self.queues, self.rights.group, path_of(self.context))
            else:
                queueactions.resume_site(self.queues, self.rights.group)

    def _quota(self, queue: Any, wanted: Any) -> None:
        _check_keys("quotas", wanted, ("name", "size"))
        if wanted["size"] is None:
            queueactions.remove_quota(queue, wanted["name"])
        else:
            queueactions.set_quota(queue, wanted["name"], wanted["size"], self.rights.group)

    def _agent(self, queue: Any, wanted: Any) -> None:
        _check_keys("agents", wanted, ("role", "name", "size"), ("weight", "prefetch"))
        if wanted["size"] is None:
            queueactions.remove_agent(queue, wanted["role"], wanted["name"])
        else:
            queueactions.set_agent(queue, owner=self.rights.group, **wanted)


class QueuesDelete(Queues):
    """Remove a queue in which no job waits."""

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        queueactions.remove_queue(self.editable())
        return self.reply_no_content()


def _check_keys(where: str, value: Any, needed: tuple[str, ...], others: tuple[str, ...] = ()) -> None:
    """BadRequest unless the value is an object that has these keys and no others; names are texts."""
    wrong = not isinstance(value, dict) or not set(needed) <= value.keys() <= {*needed, *others}
    if wrong or any(not isinstance(value[key], str) for key in needed if key != "size"):
        also = f", and may have {', '.join(others)}" if others else ""
        raise BadRequest(
            f"{where}: {text_of(value, SHOWN)} is not allowed; each must be an object with {', '.join(needed)}{also}."
        )
