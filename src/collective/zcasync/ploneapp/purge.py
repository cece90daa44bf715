"""``zcasync purge --site PATH``: everything of one site out of the queues, also after the site itself is gone."""

from collections import Counter
from collections.abc import Iterator
from collective.zcasync import bulk
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.ploneapp import grouped
from collective.zcasync.ploneapp import sites
from collective.zcasync.queue import get_queues
from collective.zcasync.zopeapp.interfaces import IPurge
from plone.base.interfaces import IPloneSiteRoot
from typing import Any
from zope.interface import provider

import transaction


class Purged(Counter[str]):
    """How many of each kind were deleted; as text it is for people."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def __str__(self) -> str:
        told = ", ".join(f"{number} {kind}" for kind, number in self.items() if kind != "running")
        running = f"; {self['running']} jobs run right now and were left alone" if self["running"] else ""
        return f"{self.path}: {told or 'nothing'} deleted{running}"


@provider(IPurge)
def purge(app: Any, path: str) -> Purged:
    """See IPurge."""
    purged = Purged(path)
    for queues in _all_queues(app._p_jar):
        for group in _groups(app, queues, path):
            purged.update(+Counter(waiting=bulk.remove_all(queues, group=group).total()))
    transaction.begin()  # which sees what these have done
    known = []
    for queues in _all_queues(app._p_jar):
        known.extend(site.path for site in queues.sites.values())
        for group in _groups(app, queues, path):
            purged.update(grouped.purge(queues, group))
            purged.update(_purge_owned(queues, group))
            if group in queues.sites:
                del queues.sites[group]
            known.append(path)
    if path not in known:
        raise ConfigurationError(
            f"--site: no site stands at {path!r}, and none that stood there is known. Name one of these:"
            f" {', '.join(sorted(set(known))) or 'there is none'}"
        )
    return purged


def forget_owner(queues: Any, group: str) -> None:
    """What a site that is gone owned belongs to the root from now on."""
    for policy in queues.policies.values():
        if policy.owner == group:
            policy.owner = ""
    for queue in queues.values():
        if queue.owner == group:
            queue.owner = ""
        for key, owner in list(queue.owners.items()):
            if owner == group:
                queue.owners[key] = ""


def remove_schedules(queues: Any, group: str) -> int:
    """Delete the site's schedules; return how many."""
    names = [name for name, schedule in queues.schedules.items() if getattr(schedule, "group", None) == group]
    for name in names:
        del queues.schedules[name]
    return len(names)


def _purge_owned(queues: Any, group: str) -> Counter[str]:
    found: Counter[str] = Counter({"schedules": remove_schedules(queues, group)})
    for name, policy in list(queues.policies.items()):
        if policy.owner == group:
            del queues.policies[name]
            found["retry policies"] += 1
    for name, queue in list(queues.items()):
        for key, owner in list(queue.owners.items()):
            kind, _, rest = key.partition(":")
            if owner == group and kind == "quota" and not len(queue.quotas[rest]):
                queue.quotas.remove(rest)
                del queue.owners[key]
                found["quotas"] += 1
        if queue.owner != group:
            continue
        # Its agents keep working for others: only a queue that nobody uses goes.
        if name and not any(queue.counts().values()) and not any(da.activated for da in queue.dispatchers.values()):
            del queues[name]
            found["queues"] += 1
    forget_owner(queues, group)
    return +found


def _all_queues(connection: Any) -> Iterator[Any]:
    for name in connection.db().databases:
        queues = get_queues(connection.get_connection(name))
        if queues is not None:
            yield queues


def _groups(app: Any, queues: Any, path: str) -> set[str]:
    groups = {group for group, site in queues.sites.items() if site.path == path}
    site = app.unrestrictedTraverse(path, None)
    if IPloneSiteRoot.providedBy(site) and sites.path_of(site) == path:
        groups.add(sites.group_of(site))
    return groups
