"""Tasks that tests of REST and of rights start, and jobs, queues and policies as they need them."""

from collections.abc import Callable
from collective.zcasync import claims
from collective.zcasync import policyactions
from collective.zcasync import queueactions
from collective.zcasync import tasks
from collective.zcasync.agent import Agent
from collective.zcasync.ploneapp.settings import settings_of
from collective.zcasync.ploneapp.sites import group_of
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import Task
from collective.zcasync.testing import run_jobs
from plone.app.testing import login
from typing import Any
from uuid import uuid4

import logging
import pytest
import threading
import transaction

#: That the task my.site.wait waits, and what for.
waits, goes_on = threading.Event(), threading.Event()


#: By name. They are registered while a test needs them only: other tests look at all tasks that there are.
TASKS: dict[str, Task] = {}


def task(**options: Any) -> Callable[[Callable[..., Any]], Task]:
    """As api.task, but for the register."""

    def make(handler: Callable[..., Any]) -> Task:
        made = Task(handler, **options)
        TASKS[made.name] = made
        return made

    return make


@task(name="my.site.greet", title="Greet somebody", permission="View", visible=True)
def greet(name: str, times: int = 1) -> str:
    """Say hello to somebody, so many times."""
    return " ".join([f"Hello {name}!"] * times)


@task(name="my.site.clean", title="Clean up")
def clean(password: str = "") -> str:
    """What only managers start."""
    return "clean"


@task(name="my.site.fail", title="Fail", permission="collective.zcasync.ManageJobs")
def fail(path: str) -> None:
    """Raise an error."""
    raise ValueError(f"{path} does not work")


@task(name="my.site.wait", title="Wait")
def wait() -> str:
    """Run until the test says that it is enough."""
    logging.getLogger("my.site").warning("It waits")
    waits.set()
    goes_on.wait(60)
    return "done"


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have them known while a test runs."""
    for name, known in TASKS.items():
        monkeypatch.setitem(tasks.registry, name, known)


def after(result: str) -> str:
    """A callback."""
    return result


class Thing:
    """What JSON cannot say."""


@task(name="my.site.thing", title="Needs a thing", permission="View")
def need(thing: Thing) -> None:
    """Cannot be started from outside."""


def put_as(portal: Any, user: str, task: Any, *args: Any, **options: Any) -> Any:
    """A stored job of somebody."""
    login(portal, user)
    job = task.options(**options).put(*args)
    transaction.commit()
    return job


def failed(portal: Any, user: str = "admin", path: str = "/a") -> Any:
    """A job that has failed, and is in the history."""
    job = put_as(portal, user, fail, path)
    run_jobs(portal, raises=False)
    transaction.commit()
    return job


def ended(portal: Any, user: str) -> Any:
    """A job that has succeeded, and is in the history."""
    job = put_as(portal, user, greet, "Ada")
    run_jobs(portal)
    transaction.commit()
    return job


def registered(portal: Any, queue: str = "") -> Any:
    """A dispatcher with one agent, as far as the database knows."""
    dispatchers = get_queues(portal._p_jar)[queue].dispatchers
    dispatchers.register(uuid := uuid4())
    found = dispatchers[uuid]
    found.activate()
    found["main"] = Agent()
    transaction.commit()
    return found


def claimed(portal: Any) -> Any:
    """A job that runs, as far as the database knows."""
    job = put_as(portal, "admin", greet, "Ada")
    assert registered(portal)["main"].claimJob() is job
    transaction.commit()
    return job


def set_aside(portal: Any, user: str = "admin") -> Any:
    """A job that was set aside."""
    job = put_as(portal, user, greet, "Ada")
    queue = job.queue
    claims.Taker(queue, queue.any_slot()).set_aside(queue._find(job), "its process died")
    transaction.commit()
    return job


def prepare(site: Any) -> None:
    """A queue and a policy of the site, ``mine``, and one of each of the root, ``shared``; none that is ``new``.

    The settings are as they are shipped.
    """
    queues = get_queues(site._p_jar)
    for name, owner in (("mine", group_of(site)), ("shared", "")):
        if name not in queues:
            queueactions.create_queue(site._p_jar, name, owner)
        if name not in queues.policies:
            policyactions.create_policy(queues, name, owner)
    if "new" in queues:
        queueactions.remove_queue(queues["new"])
    if "new" in queues.policies:
        policyactions.remove_policy(queues, "new")
    settings_of(site).alarm_waiting = 15
    transaction.commit()


def makers(portal: Any) -> dict[str, Callable[[str], str]]:
    """What stands for an id in the tables of rights -> makes it, of somebody, and gives its id.

    ``{job}`` waits, and is the admin's, as ``{failed}``, ``{aside}`` and ``{running}`` are; ``{own}`` waits and is of
    that somebody, and ``{ended}`` has run. ``{mine}`` and ``{shared}`` are dispatchers of the queues of these names.
    """
    return {
        "{job}": lambda who: put_as(portal, "admin", greet, "Ada").id,
        "{own}": lambda who: put_as(portal, who, greet, "Ada").id,
        "{ended}": lambda who: ended(portal, who).id,
        "{failed}": lambda who: failed(portal).id,
        "{aside}": lambda who: set_aside(portal).id,
        "{running}": lambda who: claimed(portal).id,
        "{mine}": lambda who: registered(portal, "mine").name,
        "{shared}": lambda who: registered(portal, "shared").name,
    }
