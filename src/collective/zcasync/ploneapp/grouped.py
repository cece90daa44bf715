"""The jobs of one site, across the queues: counted, held, cancelled and purged."""

from collections import Counter
from collections.abc import Iterator
from typing import Any


def waiting(queue: Any, group: str) -> Iterator[Any]:
    """The site's jobs that have not started, wherever they wait."""
    for _key, job in queue.waiting():
        if _is_of(job, group):
            yield job
    for _time, job in queue.later_jobs():
        if _is_of(job, group):
            yield job
    for _why, job in queue.parked_jobs():
        if _is_of(job, group):
            yield job


def running(queue: Any, group: str) -> Iterator[Any]:
    """The site's jobs that a dispatcher has claimed."""
    for job, _uuid, _agent in queue.running():
        if _is_of(job, group):
            yield job


def hold(queues: Any, group: str) -> Counter[str]:
    """Keep the site's waiting jobs from running; say how many there are, and how many run to their end."""
    found: Counter[str] = Counter()
    for queue in queues.values():
        queue.hold_group(group)
        found["held"] += sum(1 for _job in waiting(queue, group))
        found["running"] += sum(1 for job in running(queue, group) if job.finished_at is None)
    return found


def release(queues: Any, group: str) -> int:
    """Let the site's jobs go on; say how many waited for that."""
    number = 0
    for queue in queues.values():
        if group in queue.held_groups:
            number += sum(1 for _job in waiting(queue, group))
            queue.release_group(group)
    return number


def cancel(queues: Any, group: str) -> Counter[str]:
    """End what waits, without callbacks, and ask what runs to stop; say how many of each."""
    found: Counter[str] = Counter()
    for queue in queues.values():
        for job in list(waiting(queue, group)):
            found[queue.cancel(job, callbacks=False)] += 1  # what they would work on is gone
        for job in list(running(queue, group)):
            if job.finished_at is None:
                found[queue.cancel(job)] += 1
    return found


def purge(queues: Any, group: str) -> Counter[str]:
    """Delete the site's jobs, but for those that run right now; say how many of each kind."""
    found: Counter[str] = Counter()
    for queue in queues.values():
        for job in list(waiting(queue, group)):
            if queue.take_out(job):
                found["waiting"] += 1
        for key, (_reason, job) in list(queue.quarantine.items()):
            if _is_of(job, group):
                del queue.quarantine[key]
                queue.adjust("quarantined", -1)
                found["set aside"] += 1
        for slot in queue.slots.values():
            for outcome, number in slot.history.purge(group).items():
                queue.adjust(outcome, -number)
                found[outcome] += number
        found["running"] += sum(1 for job in running(queue, group) if job.finished_at is None)
        queue.release_group(group)
    return +found


def _is_of(job: Any, group: str) -> bool:
    # A record whose class is gone has no group; it belongs to nobody but the queue.
    return getattr(job, "group", None) == group
