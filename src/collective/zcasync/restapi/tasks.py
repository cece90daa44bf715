"""Tasks that the user may start: ``@background-tasks`` and ``@background-tasks/NAME``."""

from collective.zcasync import joblists
from collective.zcasync import taskarguments
from collective.zcasync import tasks
from collective.zcasync.exceptions import TaskNotFound
from collective.zcasync.restapi import data
from collective.zcasync.restapi.service import JobsService
from typing import Any
from zExceptions import BadRequest

import inspect


class Tasks(JobsService):
    """The base of the services about tasks. Names are looked up among the registered tasks, and never imported."""

    name = "@background-tasks"
    most = 1

    def named(self) -> tasks.Task:
        """The task that the path names; TaskNotFound if the user may start none of that name."""
        (name,) = self.path
        task = tasks.registry.get(name)
        if task is None or not self.rights.is_offered(task):
            raise TaskNotFound(f"There is no task {name!r} that you may start; {self.url()} lists those that you may.")
        return task

    def told(self, task: tasks.Task) -> dict[str, Any]:
        """One task as JSON."""
        return {
            "@id": self.url(task.name),
            "name": task.name,
            "title": self.translated(task.title),
            "description": inspect.getdoc(task.handler) or "",
            "arguments": taskarguments.schema(task),
        }


class TasksGet(Tasks):
    """One task, or all that the user may start."""

    def reply(self) -> Any:
        """See Service."""
        if self.path:
            return self.told(self.named())
        found = filter(self.rights.is_offered, tasks.registry.values())
        return self.listed(map(self.told, sorted(found, key=lambda task: task.name)))


class TasksPost(Tasks):
    """Put a job for a task: 202, and where to ask what becomes of it."""

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        if not self.path:
            raise BadRequest(f"Say which task is to be started: POST {self.url('NAME')}.")
        task = self.named()
        self.refuse_others("arguments")
        args, kwargs = taskarguments.checked(task, self.take("arguments", dict, default={}))
        job = task.put(*args, **kwargs)
        url = self.url(job.id, service="@background-jobs")
        self.accepted(url)
        return data.job_line(joblists.row(job), self.translated, url)
