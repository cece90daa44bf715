"""The verbs that make, change and remove queues, their quotas and agents, for all faces.

None of them commits. They check what they are given before they change anything, and tell the log what they did.
"""

from collections.abc import Mapping
from collective.zcasync import clock
from collective.zcasync.agent import DEFAULT_PREFETCH
from collective.zcasync.agent import DEFAULT_SIZE
from collective.zcasync.agent import DEFAULT_WEIGHT
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.persistence import PRIORITIES
from collective.zcasync.queue import install
from collective.zcasync.queue import Site
from typing import Any

import logging
import re

logger = logging.getLogger("collective.zcasync.events")

#: What queues, quotas, roles, agents and policies may be called: names stand in code, in zcasync.xml and in URLs.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

#: What a queue's record says, with the least and the most. Days may be parts of one.
QUEUE_NUMBERS: dict[str, tuple[Any, Any]] = {
    "retention_days": (0.01, 36_500.0),
    "failed_days": (0.01, 36_500.0),
    "retention_jobs": (0, 100_000_000),
    "default_priority": (PRIORITIES[0], PRIORITIES[-1]),
    "time_limit": (1.0, 30 * 86_400.0),
}

#: Which of these may be None: there is no limit.
UNLIMITED = ("time_limit",)

QUOTA_SIZES = (1, 10_000)
AGENT_NUMBERS = {"size": (1, 64), "weight": (1, 1000), "prefetch": (0, DEFAULT_PREFETCH)}

#: Where jobs are that would be lost with their queue.
HELD = ("waiting", "later", "parked", "awaiting", "running", "quarantined")


def check_name(name: Any, what: str) -> str:
    """``name`` if something may be called so; InvalidValueError if not."""
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise InvalidValueError(
            f"{what}: {name!r} is not allowed; use at most 64 letters, digits, dots, dashes and underscores, and begin"
            " with a letter"
        )
    return name


def create_queue(connection: Any, name: str, owner: str = "", **numbers: Any) -> Any:
    """Make a queue. ``owner``: the site (its group); '': the root. ``numbers``: see QUEUE_NUMBERS. Returns it."""
    check_name(name, "name of the queue")
    checked = _checked(QUEUE_NUMBERS, numbers)
    queues = install(connection, names=())
    if name in queues:
        raise InvalidValueError(f"name of the queue: there is a queue {name!r} already; change that one")
    queue = new_queue(connection, name, owner)
    set_values(queue, checked)
    return queue


def new_queue(connection: Any, name: str, owner: str) -> Any:
    """The queue of that name, made just now, without a check of the name. Sites that are uninstalled are held in it as
    they are in the others."""
    queues = install(connection, names=(name,))
    queue = queues[name]
    queue.owner = owner
    for group in {held for other in queues.values() for held in other.held_groups}:
        queue.hold_group(group)
    return queue


def change_queue(queue: Any, **numbers: Any) -> bool:
    """Change numbers of a queue, see QUEUE_NUMBERS; whether anything differs now."""
    changed = set_values(queue, _checked(QUEUE_NUMBERS, numbers))
    if changed:
        queue.changed = clock.utcnow()
        logger.info("Queue %r: changed on request: %s", queue.name, _told(numbers))
    return changed


def remove_queue(queue: Any) -> None:
    """Remove a queue with its history. InUse while it holds a job that has not ended; the default queue stays."""
    if not queue.name:
        raise InUse("The default queue cannot be removed: what names no queue is put there. Pause it instead.")
    held = {kind: number for kind, number in queue.counts().items() if kind in HELD and number}
    if queue.arriving or queue.departed:
        held["on their way between databases"] = len(queue.arriving or queue.departed)
    if held:
        raise InUse(
            f"The queue {queue.name!r} cannot be removed: it holds jobs that have not ended ({_told(held)}). Let them"
            " run or cancel them, and remove it then."
        )
    for inbox in queue.inboxes:
        inbox.clear()  # one that is emptied merges with no put: who puts at this moment is told that the queue is gone
    name, queues = queue.name, queue.parent
    del queues[name]
    logger.warning("Queue %r: removed on request", name)


def set_quota(queue: Any, name: str, size: int, owner: str = "") -> None:
    """Make a quota, or give the one of that name another size. ``owner``: the site of a new one."""
    if name not in queue.quotas:
        check_name(name, "name of the quota")
        size = _in(QUOTA_SIZES, size, f"size of the quota {name!r}")
        queue.quotas.create(name, size)
        queue.owners[f"quota:{name}"] = owner
    else:
        queue.quotas.resize(name, _in(QUOTA_SIZES, size, f"size of the quota {name!r}"))
    queue.changed = clock.utcnow()
    logger.info("Queue %r: quota %r is for %d jobs at once, on request", queue.name, name, size)


def remove_quota(queue: Any, name: str) -> None:
    """Remove a quota: its waiting jobs then run without it. QuotaNotFound if there is none."""
    if name not in queue.quotas:
        raise QuotaNotFound(f"the queue {queue.name!r} has no quota {name!r}; it has: {_names(queue.quotas)}")
    queue.quotas.remove(name)
    queue.owners.pop(f"quota:{name}", None)
    queue.changed = clock.utcnow()
    logger.info("Queue %r: quota %r removed on request", queue.name, name)


def set_agent(queue: Any, role: str, name: str, owner: str = "", **numbers: Any) -> None:
    """Make or change what agents of that name and role begin with, see AGENT_NUMBERS; those that run follow it."""
    check_name(role, "role of the agent")
    check_name(name, "name of the agent")
    checked = _checked(AGENT_NUMBERS, numbers)
    template = queue.templates.get(role, {}).get(name)
    if template is None:
        queue.owners[f"agent:{role}/{name}"] = owner
        now = {"size": DEFAULT_SIZE, "weight": DEFAULT_WEIGHT, "prefetch": DEFAULT_PREFETCH}
    else:
        now = {number: getattr(template, number) for number in AGENT_NUMBERS}
    queue.set_template(role, name, **{**now, **checked})
    queue.changed = clock.utcnow()
    logger.info("Queue %r: agent %s/%s changed on request: %s", queue.name, role, name, _told({**now, **checked}))


def remove_agent(queue: Any, role: str, name: str) -> None:
    """Forget a template: agents that run stay until their dispatcher stops. InvalidValueError if there is none."""
    if name not in queue.templates.get(role, {}):
        raise InvalidValueError(f"the queue {queue.name!r} has no agent {name!r} for dispatchers in the role {role!r}")
    queue.remove_template(role, name)
    queue.owners.pop(f"agent:{role}/{name}", None)
    queue.changed = clock.utcnow()
    logger.info("Queue %r: agent %s/%s removed on request", queue.name, role, name)


def pause_site(queues: Any, group: str, path: str) -> None:
    """No job of the site begins any more, in any queue, until a person resumes them; what runs goes on."""
    site = queues.sites.get(group)
    if site is None:
        site = queues.sites[group] = Site(path)
    site.paused = True
    for queue in queues.values():
        queue.hold_group(group)
    logger.info("Jobs of the site %s: paused on request", path)


def resume_site(queues: Any, group: str) -> None:
    """Jobs of the site begin again."""
    site = queues.sites.get(group)
    if site is not None:
        site.paused = False
    for queue in queues.values():
        queue.release_group(group)
    logger.info("Jobs of the site %s: resumed on request", site.path if site is not None else group)


def pause_all(queues: Any, paused: bool = True) -> None:
    """Pause all queues, or let all work again."""
    for queue in queues.values():
        queue.paused = paused
    logger.info("All queues: %s on request", "paused" if paused else "resumed")


def set_values(target: Any, values: Mapping[str, Any]) -> bool:
    """Set the attributes that differ, unchecked; whether any did."""
    changed = {name: value for name, value in values.items() if getattr(target, name) != value}
    for name, value in changed.items():
        setattr(target, name, value)
    return bool(changed)


def _checked(known: Mapping[str, tuple[float, float]], numbers: Mapping[str, Any]) -> dict[str, Any]:
    for name in numbers:
        if name not in known:
            raise InvalidValueError(f"{name}: there is no such number here; there are {', '.join(known)}")
    return {
        name: None if value is None and name in UNLIMITED else _in(known[name], value, name)
        for name, value in numbers.items()
    }


def _in(limits: tuple[float, float], value: Any, what: str) -> Any:
    least, most = limits
    kinds = (int, float) if type(least) is float else (int,)
    if type(value) not in kinds or not least <= value <= most:
        kind = "numbers" if type(least) is float else "whole numbers"
        raise InvalidValueError(f"{what}: {value!r} is not allowed; allowed are {kind} from {least} to {most}")
    return value


def _told(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def _names(some: Any) -> str:
    return ", ".join(sorted(some.keys())) or "none"
