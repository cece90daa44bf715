"""What a person has decided about the own jobs: which ended ones to show no more, and whether mail is wanted."""

from BTrees.OOBTree import OOBTree
from collections.abc import Iterable
from collective.zcasync.ownjobs import LOOK
from collective.zcasync.ownjobs import own_jobs
from collective.zcasync.ownjobs import Owner
from collective.zcasync.ownjobs import OwnJobs
from collective.zcasync.tasks import registry
from dataclasses import replace
from persistent import Persistent
from typing import Any
from zope.annotation.interfaces import IAnnotations

#: Name of the site's annotation: user, as jobs name it -> Desk.
KEY = "collective.zcasync.desks"


class Desk(Persistent):
    """Written by this person's own requests only; conflicts are not resolved, the second request is tried again."""

    #: Ids, the newest last. As many as a first look at the history can find, so that none comes back there.
    dismissed: tuple[str, ...] = ()
    mail = False

    def dismiss(self, ids: Iterable[str]) -> None:
        """Show these jobs no more."""
        kept = dict.fromkeys((*self.dismissed, *ids))
        self.dismissed = tuple(kept)[-LOOK:]


#: Of one who has decided nothing. Never stored, never changed.
EMPTY = Desk()


def look_at(site: Any, user: str) -> Desk:
    """The desk of a person, to be read."""
    desks = IAnnotations(site).get(KEY)
    found: Desk = desks.get(user, EMPTY) if desks is not None else EMPTY
    return found


def take(site: Any, user: str) -> Desk:
    """The desk of a person, to be changed: made if there is none."""
    annotations = IAnnotations(site)
    if KEY not in annotations:
        annotations[KEY] = OOBTree()
    desks = annotations[KEY]
    if user not in desks:
        desks[user] = Desk()
    found: Desk = desks[user]
    return found


def owner(group: str, user: str) -> Owner:
    """A person, and the tasks whose jobs people are to see. ``group``: the site; ``user``: as jobs name it."""
    return Owner(group, user, frozenset(name for name, task in registry.items() if task.visible))


def jobs_on(site: Any, queues: Any, owner: Owner, skip: int = 0) -> OwnJobs:
    """The person's jobs; of the ended ones those that were not dismissed. ``skip``: see own_jobs."""
    found = own_jobs(queues, owner, skip)
    dismissed = set(look_at(site, owner.user).dismissed)
    return replace(found, ended=tuple(one for one in found.ended if one.row.id not in dismissed))


def clear_all(site: Any) -> None:
    """Forget all desks of a site."""
    IAnnotations(site).pop(KEY, None)
