"""The verbs that make, change and remove retry policies, and who uses one, for all faces. None of them commits."""

from collections import Counter
from collections.abc import Iterator
from collective.zcasync import joblists
from collective.zcasync import tasks
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.configuredpolicy import Rule
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import PolicyNotFound
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.lookup import fetched
from collective.zcasync.monitorrows import Count
from collective.zcasync.queueactions import check_name
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.events")

#: The policy of jobs and tasks that name none.
DEFAULT_POLICY = "default"

#: Jobs that are looked at for their policy, of each kind in each queue.
LOOK = 10_000


def create_policy(queues: Any, name: str, owner: str = "", rules: Any = (), **numbers: Any) -> ConfiguredPolicy:
    """Make a retry policy. ``owner``: the site (its group); '': the root. See ConfiguredPolicy for the numbers."""
    check_name(name, "name of the policy")
    if name in queues.policies:
        raise InvalidValueError(f"name of the policy: there is a policy {name!r} already; change that one")
    policy = queues.policies[name] = ConfiguredPolicy(name, owner=owner, rules=rules, **numbers)
    logger.info("Retry policy %r: added on request", name)
    return policy


def change_policy(policy: ConfiguredPolicy, rules: Any = None, **numbers: Any) -> bool:
    """Change a retry policy, for jobs that wait already too; whether anything differs now."""
    changed = policy.update(rules=rules, **numbers)
    if changed:
        logger.info("Retry policy %r: changed on request", policy.name)
    return changed


def remove_policy(queues: Any, name: str) -> None:
    """Remove a retry policy; InUse, telling by whom, while a task or a job that has not ended names it."""
    if name not in queues.policies:
        raise PolicyNotFound(f"there is no retry policy {name!r}; there are: {', '.join(queues.policies) or 'none'}")
    use = policy_use(queues, name)
    if use:
        raise InUse(f"The retry policy {name!r} cannot be removed: {use}. Let them name another one first.")
    del queues.policies[name]
    logger.warning("Retry policy %r: removed on request", name)


def waits(policy: ConfiguredPolicy, number: int = 10, rule: Rule | None = None) -> list[timedelta]:
    """What is waited before each of the next attempts, jitter left aside, if a job fails now and then each time again.

    At most ``number``; fewer, if the policy gives up before. ``rule``: one of the policy's, for the trouble that it is
    about; None: trouble of which no rule tells.
    """
    numbers = policy.numbers() if rule is None else policy.numbers_by(dict(rule)["trouble"], rule)
    found: list[timedelta] = []
    for failures in range(1, number + 1):
        after = sum(found, timedelta(0)).total_seconds()
        if numbers["attempts"] is not None and failures >= numbers["attempts"]:
            break
        if numbers["age_limit"] is not None and after > numbers["age_limit"]:
            break
        found.append(policy.wait(failures, numbers, lambda low, high: 0.0))
    return found


@dataclass(frozen=True)
class PolicyUse:
    """Who uses a retry policy. ``tasks``: names, in this process; ``jobs``: how many have not ended."""

    tasks: tuple[str, ...] = ()
    jobs: Count = Count()

    def __bool__(self) -> bool:
        return bool(self.tasks or self.jobs.number)

    def __str__(self) -> str:
        told = []
        if self.tasks:
            shown = ", ".join(self.tasks[:5]) + (f" and {len(self.tasks) - 5} more" if len(self.tasks) > 5 else "")
            told.append(f"tasks use it ({shown})")
        if self.jobs.number:
            told.append(f"jobs that have not ended use it ({self.jobs.number}{' or more' if self.jobs.more else ''})")
        return " and ".join(told) or "nobody uses it"


def policy_use(queues: Any, name: str, look: int | None = None) -> PolicyUse:
    """Who uses the policy of that name; see policy_uses."""
    return policy_uses(queues, look).get(name, PolicyUse())


def policy_uses(queues: Any, look: int | None = None) -> dict[str, PolicyUse]:
    """Who uses each policy, by name; also those that are not there. No structure tells it, so only ``look`` jobs (LOOK)
    of each kind are looked at in each queue."""
    look = LOOK if look is None else look
    named: dict[str, list[str]] = {name: [] for name in queues.policies}
    for task in tasks.registry.values():
        named.setdefault(task.policy or DEFAULT_POLICY, []).append(task.name)
    numbers: Counter[str] = Counter()
    more = False
    for queue in joblists.all_queues(queues):
        for jobs in _held(queue):
            looked = 0
            for job in fetched(islice(jobs, look)):
                looked += 1
                if not is_broken(job) and job.outcome is None:
                    numbers[job.retry_policy_factory or job.policy or DEFAULT_POLICY] += 1
            more = more or looked == look
    return {
        name: PolicyUse(tuple(sorted(named.get(name, ()))), Count(numbers[name], more))
        for name in (*named, *(name for name in numbers if name not in named))
    }


def _held(queue: Any) -> Iterator[Iterator[Any]]:
    """What has not ended, in the ways in which a queue can be read."""
    yield (job for _key, job in queue.waiting())
    yield (job for _why, job in queue.parked_jobs())
    yield (job for _due, job in queue.later_jobs())
    yield (job for job, _uuid, _agent in queue.running())
    yield (job for job, _inner in queue.awaiting())
    yield (job for _reason, job in queue.quarantined())
