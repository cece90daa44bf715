"""Quotas: how many jobs of one kind may run at once, in all processes."""

from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IQuota
from collective.zcasync.persistence import Base
from collective.zcasync.persistence import Checked
from collective.zcasync.persistence import item_at
from collective.zcasync.persistence import whole
from typing import Any
from ZODB.POSException import POSKeyError
from zope.interface import implementer

#: Jobs of one quota that may run at once, unless the site says otherwise.
DEFAULT_SIZE = 1


def check_size(size: Any, name: str) -> int:
    """``size`` if it is a whole number of at least 1; InvalidValueError, naming the quota, if not."""
    if type(size) is not int or size < 1:
        raise InvalidValueError(f"size of quota {name!r} must be a whole number of at least 1, not {size!r}")
    return size


@implementer(IQuota)
class Quota(Base):
    """See IQuota. Write conflicts are not resolved, so two dispatchers cannot overfill it: the second claim retries."""

    size: Any = Checked(whole(1), DEFAULT_SIZE)

    def __init__(self, name: str, size: int = DEFAULT_SIZE) -> None:
        self.name = name
        self.size = check_size(size, name)
        #: oid -> job; a changed dict is always a copy that is assigned.
        self.members: dict[bytes, Any] = {}

    @property
    def filled(self) -> bool:
        return len(self.members) >= self.size

    def add(self, job: Any) -> None:
        if not IJob.providedBy(job):
            raise InvalidValueError(f"quota {self.name!r} takes jobs, not {job!r}")
        if job in self:
            if self._p_jar is not None:
                self._p_jar.readCurrent(self)  # whoever cleans it just now takes the job for one that waits for later
            return
        if self.name not in job.quota_names:
            raise InvalidValueError(f"{job!r} does not name the quota {self.name!r}")
        if self.filled:
            raise InvalidValueError(f"quota {self.name!r} is filled: {self.size} jobs run")
        self.members = {**self.members, job._p_oid: job}

    def discard(self, job: Any) -> None:
        """Let the job go, if it is in."""
        if job in self:
            self.members = {oid: member for oid, member in self.members.items() if oid != job._p_oid}

    def clean(self) -> None:
        """Let those go that hold no place any more: their callbacks run, they have ended, or they wait for later."""
        ended = {oid for oid, job in self.members.items() if _holds_nothing(job)}
        if ended:
            self.members = {oid: job for oid, job in self.members.items() if oid not in ended}

    def __contains__(self, job: Any) -> bool:
        return getattr(job, "_p_oid", None) in self.members

    def __len__(self) -> int:
        return len(self.members)

    def __bool__(self) -> bool:
        return len(self.members) > 0

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.members.values()))

    def __getitem__(self, index: int) -> Any:
        return item_at(list(self.members.values()), index)


def _holds_nothing(job: Any) -> bool:
    """Whether the job needs no place. The transaction then conflicts with whoever claims it meanwhile, if it waits."""
    try:
        if getattr(job, "status", COMPLETED) in (CALLBACKS, COMPLETED):
            return True
        # What is claimed has its place, though it be too early yet by this machine's clock.
        if job.token is not None or not job.held_back:
            return False
        if job._p_jar is not None:
            job._p_jar.readCurrent(job)  # a claim that takes it now finds it in here, and so writes but the job
        return True
    except POSKeyError:
        return True  # its record is gone


class Quotas(Base):
    """``queue.quotas``: name -> Quota. Write conflicts are those of its BTree: two new names merge."""

    def __init__(self) -> None:
        self._quotas: Any = OOBTree()

    def create(self, name: str, size: int = DEFAULT_SIZE) -> None:
        """Make a quota; one of that name keeps its members and gets the new size."""
        if not isinstance(name, str) or not name:
            raise InvalidValueError(f"a quota's name must be a text, not {name!r}")
        if name in self._quotas:
            self.resize(name, size)
            return
        quota = Quota(name, size)
        quota.parent = self
        self._quotas[name] = quota

    def resize(self, name: str, size: int) -> None:
        """Let so many run at once from the next claim on; running jobs are not affected."""
        self[name].size = check_size(size, name)

    def remove(self, name: str) -> None:
        """Remove the quota; its waiting jobs then run without it."""
        self[name].parent = None
        del self._quotas[name]

    def __getitem__(self, name: str) -> Quota:
        try:
            return self._quotas[name]
        except KeyError:
            raise QuotaKeyError("unknown quota name", name) from None

    def get(self, name: str, default: Any = None) -> Any:
        return self._quotas.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._quotas

    def __iter__(self) -> Iterator[str]:
        return iter(self._quotas)

    def keys(self) -> list[str]:
        return list(self._quotas.keys())

    def values(self) -> list[Quota]:
        return list(self._quotas.values())

    def items(self) -> list[tuple[str, Quota]]:
        return list(self._quotas.items())

    def __len__(self) -> int:
        return len(self._quotas)

    def __bool__(self) -> bool:
        return True


class QuotaKeyError(QuotaNotFound, KeyError):
    """No quota has that name. Create it first with queue.quotas.create(name, size)."""
