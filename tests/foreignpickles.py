"""What tests put into jobs to see whether a list loads it: classes that tell when they are unpickled, and such as are
gone by then."""

from collections.abc import Callable
from collective.zcasync.claims import Taker
from collective.zcasync.job import Job
from collective.zcasync.queue import get_queue
from persistent import Persistent
from types import ModuleType
from typing import Any

import sys
import transaction

#: Names of what was unpickled since it was cleared.
exploded: list[str] = []


def explode(name: str) -> "Bomb":
    """What a hostile pickle would call."""
    exploded.append(name)
    return Bomb(name)


class Bomb:
    """Harm is done as soon as it is unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Callable[[str], "Bomb"], tuple[str]]:
        return explode, (self.name,)


class PersistentBomb(Persistent):
    """The same, in a record of its own."""

    name = "record"

    def __setstate__(self, state: Any) -> None:
        exploded.append("record")
        super().__setstate__(state)


def swallow(*things: Any) -> Any:
    """A job whose result is what it was given."""
    return things[0]


def choke(*things: Any) -> None:
    """A job that fails with what it was given."""
    raise ValueError(*things)


class Vanishing:
    """A module with a class and a function, which is gone after ``vanish``."""

    def __init__(self) -> None:
        self.module = ModuleType("foreignpickles_gone")
        exec("class Thing:\n    pass\n\ndef work(thing):\n    return thing\n", self.module.__dict__)
        sys.modules[self.module.__name__] = self.module

    def vanish(self) -> None:
        """Nothing finds the module any more."""
        sys.modules.pop(self.module.__name__, None)


def _job(function: Callable[..., Any], *args: Any) -> Any:
    """A job with a callback that has such an argument too."""
    job = Job(function, *args)
    job.addCallback(Job(swallow, Bomb("callback")))
    return job


def put(connection: Any, vanishing: Vanishing) -> list[Any]:
    """Put a job of each kind: one that will succeed, one that will fail, and one whose code will be gone."""
    gone = vanishing.module.__dict__
    jobs = [_job(function, Bomb("argument"), PersistentBomb()) for function in (swallow, choke)]
    jobs.append(_job(gone["work"], gone["Thing"]()))
    return [get_queue(connection).put(job) for job in jobs]


def put_in_site(portal: Any) -> None:
    """Jobs of a Plone site with such arguments: two have finished, one has failed, one was set aside, two wait."""
    from collective.zcasync.ploneapp.sites import group_of  # tests of the engine do without Plone
    from collective.zcasync.testing import run_jobs

    vanishing = Vanishing()
    jobs = put(portal._p_jar, vanishing)[:2]
    for job in jobs:
        job.group = group_of(portal)
    transaction.commit()
    run_jobs(portal, raises=False)
    aside, _failing, _gone = put(portal._p_jar, vanishing)
    transaction.commit()
    queue = aside.queue
    Taker(queue, queue.any_slot()).set_aside(queue._find(aside), "its process died")
    transaction.commit()
    vanishing.vanish()
    portal._p_jar.cacheMinimize()
    portal._p_jar.db().cacheMinimize()
    exploded.clear()
