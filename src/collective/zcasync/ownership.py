"""Whether a dispatcher may work on the database that it finds, or is held: a copy or a backup must run nothing."""

from collections.abc import Iterator
from collective.zcasync import deployment
from collective.zcasync.lookup import loads
from collective.zcasync.persistence import written_at
from collective.zcasync.readchecks import records_of
from collective.zcasync.seenfile import SeenFile
from datetime import datetime
from datetime import timezone
from persistent.timestamp import TimeStamp
from typing import Any

import logging
import time

logger = logging.getLogger("collective.zcasync.events")

#: Seconds without a sign of any dispatcher after which a database is taken for a copy.
STALE_AFTER = 86400.0

#: Why a dispatcher is held: another deployment owns the database; no dispatcher has worked on it for long; the
#: instance has seen something later than what the database holds.
COPY, STALE, RESTORED = "copy", "stale", "restored"

#: What to do about it.
WAYS_OUT = (
    "zcasync release --deployment lets the jobs run, zcasync discard --deployment removes what waits; both are on the"
    " page Dispatchers too"
)

Held = tuple[str, str]


class Ownership:
    """The part of Membership that knows whose database it is. ``look`` is for the claim thread."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self.name: str = dispatcher.deployment
        self.address = deployment.address_of(dispatcher.db.storage)
        self.file = SeenFile(dispatcher.seen_file)
        #: (kind, detail) of why this dispatcher is held; None: it is not.
        self.held: Held | None = None
        self._identity = ""
        #: Whether it has been decided that it works; that stays so, as long as it lives.
        self._settled = False
        #: The latest transaction that the instance remembers; None: not read yet.
        self._known: bytes | None = None
        #: The last sign of a dispatcher before this one has come; None: it has not looked yet.
        self._sign: bytes | None = None
        #: How often the others had pinged when they were seen first.
        self._pings: dict[str, int] = {}
        self._told: Held | None = None
        #: Whether what this clock says is still to be compared with the storage's.
        self._doubt = False
        self._before: tuple[Held | None, bool, bool] = (None, False, False)

    def look(self, queues: Any) -> bool:
        """Decide whether this dispatcher is held; whether that has changed something that is to be committed, after
        which it looks again. ``undo`` if that fails: what was not stored was not decided."""
        self._before = self.held, self._settled, self._doubt
        owner = deployment.of(queues)
        if owner is None:
            queues.deployment = owner = deployment.Deployment(self.name, self.address)
            self._tell_of_adoption(owner)
            return True
        self._identity = owner.identity
        if self._known is None:
            return self._read_file()
        if self._sign is None:
            self._sign = last_sign(queues)
        if self._settled:
            return False
        reason = self._reason(owner)
        if reason is None:
            return self._go_on(owner)
        kind = reason[0]
        if self._doubt and kind == STALE and not self._is_stale(written_at(owner).timestamp()):
            owner.hold, self._sign = None, owner._p_serial  # it is the clock of this machine that is wrong
            return True
        self._doubt = False
        others = [da for da in registered(queues) if da.held is None and da.UUID != self.dispatcher.UUID]
        living = [da for da in others if not da.dead]
        waits = waiting(queues)
        stranger = kind == COPY and bool(self.name and owner.name)
        if kind == COPY and not stranger and (self._have_pinged(others) or living and not waits):
            logger.info(
                "dispatcher %s: %s works on this database too, so it is no copy; it goes by the address %s as well",
                *(self.dispatcher.UUID, living[0].name if living else "another one", self.address),
            )
            self._go_on(owner)
            return True
        if not waits and not living:
            if kind == COPY or owner.hold is not None:
                owner.adopt(self.name, self.address)
                self._tell_of_adoption(owner)
            self._go_on(owner)
            return True
        self.held = reason
        if kind != COPY and owner.hold is None:
            owner.hold = reason  # for all, also those that start later: this one's pings hide what it has seen
            self._doubt = True
            return True
        self._tell(reason, waits, living, stranger)
        return False

    def _read_file(self) -> bool:
        """Read what the instance has seen, for a look that begins after that: its other processes write to the file
        too, as soon as something is stored, and of what they have just stored this look may not know yet."""
        self._known = self.file.read(self._identity)
        ping = getattr(self.dispatcher.db.storage, "ping", None)
        if ping is not None:  # ZEO's client hears of what others store by and by; after an answer it has heard it
            ping()
        return True

    def undo(self) -> None:
        """The last look has decided nothing."""
        self.held, self._settled, self._doubt = self._before

    def _reason(self, owner: deployment.Deployment) -> Held | None:
        if owner.hold is not None:
            return owner.hold
        if not owner.is_of(self.name, self.address):
            return COPY, str(owner)
        if self.held is not None or self._doubt:
            return None  # a person has released it, or the clock was wrong
        known = self._known or b""
        if known > (self._sign or b""):
            return RESTORED, f"{_time_of(known):%Y-%m-%d %H:%M} UTC"
        if self._is_stale(time.time()):
            return STALE, f"{_time_of(self._sign or bytes(8)):%Y-%m-%d %H:%M} UTC"
        return None

    def _is_stale(self, now: float) -> bool:
        """``now``: seconds since 1970."""
        return bool(self._sign) and now - _time_of(self._sign or b"").timestamp() > self.dispatcher.stale_after

    def _go_on(self, owner: deployment.Deployment) -> bool:
        if self.held is not None:
            logger.warning("dispatcher %s is held no longer: it takes jobs", self.dispatcher.UUID)
        self.held, self._settled = None, True
        return owner.get_to_know(self.name, self.address)

    def _have_pinged(self, others: list[Any]) -> bool:
        """Whether one of these pings while this one looks on: in a copy nobody does."""
        return any(da.last_ping.count > self._pings.setdefault(da.name, da.last_ping.count) for da in others)

    def seen(self, serial: bytes) -> None:
        """A registration or ping was stored in that transaction. Any thread."""
        if self.held is None and self._identity:
            self.file.write(self._identity, serial)

    # Words

    def _tell_of_adoption(self, owner: deployment.Deployment) -> None:
        logger.info("The queues of this database belong to the deployment %s from now on", owner)

    def _tell(self, reason: Held, waits: int, living: list[Any], stranger: bool) -> None:
        if self._told == reason:
            return
        self._told = reason
        hope = ""
        if reason[0] == COPY and living and not stranger:
            hope = f" It goes on by itself if dispatcher {living[0].name} pings."
        logger.log(
            logging.WARNING if hope else logging.CRITICAL,
            "dispatcher %s is HELD, and takes no jobs: %s. Jobs that wait: %s.%s %s.",
            *(self.dispatcher.UUID, text_of(reason), waits, hope, WAYS_OUT),
        )


def held(queues: Any) -> Held | None:
    """Why dispatchers are held here; None if none is."""
    reason = next((da.held for da in registered(queues) if da.held is not None and not da.dead), None)
    owner = deployment.of(queues)
    return owner.hold if reason is None and owner is not None else reason


def text_of(reason: Held) -> str:
    """Why a dispatcher is held, for logs and programs; pages have translations."""
    kind, detail = reason
    if kind == COPY:
        return f"the database belongs to the deployment {detail}, and this is another one, so it may be a copy"
    if kind == STALE:
        return f"no dispatcher has worked on the database since {detail}, so it may be an old copy"
    return f"this instance knows what dispatchers stored at {detail}, and the database does not: it was restored"


def waiting(queues: Any) -> int:
    """How many jobs would run by themselves, now or later; each schedule counts as one."""
    number = len(queues.schedules)
    for queue in queues.values():
        number += len(queue) + queue.counts()["awaiting"]
        number += sum(1 for job, _uuid, _agent in queue.running() if not loads(job) or job._status_id != 3)
    return number


def last_sign(queues: Any) -> bytes:
    """The latest transaction in which a dispatcher came, pinged or went, or the queues were given an owner.

    It never goes back, but in a restored backup: whatever goes is taken out of a record that is written by that.
    """
    return max((record._p_serial or b"" for record in _signs(queues)), default=b"")


def _signs(queues: Any) -> Iterator[Any]:
    yield from records_of(queues._queues)
    if deployment.of(queues) is not None:
        queues.deployment._p_activate()
        yield queues.deployment
    for queue in queues.values():
        yield from records_of(queue.dispatchers._data)
        for da in queue.dispatchers.values():
            da.last_ping._p_activate()
            yield da.last_ping


def registered(queues: Any) -> Iterator[Any]:
    """The registrations of all that are active, in all queues."""
    for queue in queues.values():
        yield from queue.dispatchers.active()


def _time_of(tid: bytes) -> datetime:
    return datetime.fromtimestamp(TimeStamp(tid).timeTime(), timezone.utc)
