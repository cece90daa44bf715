"""A database that is held, on pages: why, how much waits in it, and what a manager of the Zope root can do about it."""

from collections.abc import Callable
from collective.zcasync import copies
from collective.zcasync import ownership
from collective.zcasync.alarms import held_text
from collective.zcasync.deployment import address_of
from collective.zcasync.zopeapp.config import get_settings
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Notice:
    """What a page says. ``waits``: how many jobs would run after a release."""

    text: str
    waits: int


def notice(queues: Any, translate: Callable[[Any], str]) -> Notice | None:
    """None if nothing is held. ``queues``: the Queues, or None. ``translate``: gives a message in the reader's
    language."""
    reason = None if queues is None else ownership.held(queues)
    return None if reason is None else Notice(translate(held_text(reason)), ownership.waiting(queues))


def release(queues: Any, by: str) -> int:
    """Let the jobs of these queues run in the deployment of this process; see copies."""
    return copies.release(queues, *_deployment(queues), by)


def discard(queues: Any, by: str) -> int:
    """Remove what waits in these queues; see copies."""
    return copies.discard(queues, *_deployment(queues), by)


#: What can be done about it.
WAYS_OUT = {"release": release, "discard": discard}


def _deployment(queues: Any) -> tuple[str, str]:
    return get_settings().deployment, address_of(queues._p_jar.db().storage)
