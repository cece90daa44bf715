"""What somebody looks for among jobs: by task, user, object, error, time. A job's payload is never loaded for it."""

from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.history import ALWAYS
from collective.zcasync.history import Span
from collective.zcasync.jobdetail import is_broken
from dataclasses import asdict
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

#: Characters that somebody may look for.
LONGEST = 300


@dataclass(frozen=True)
class Search:
    """Which jobs are meant; what is empty is not looked at. Upper and lower case are the same.

    ``task``: a part of the task's name or title, or a pattern with * and ? of one of them. ``user``: a part of the id.
    ``object``: the path of an object, or of a folder that it is in. ``error``: a part of the error's line.
    ``cause``: a fingerprint, see Failure.fingerprint. ``attempts``: so many have failed, at least. ``since``,
    ``until``: aware datetimes, both included: when a job ended; is due, if it waits for its time; began, if it runs;
    else when it was put.
    """

    task: str = ""
    user: str = ""
    object: str = ""
    error: str = ""
    cause: str = ""
    attempts: int = 0
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, str) and len(value) > LONGEST:
                raise InvalidValueError(f"{name} is too long to look for: {LONGEST} characters are enough")
        for name in ("since", "until"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, clock.aware(value, name))

    def __bool__(self) -> bool:
        return self != NOTHING

    @property
    def given(self) -> dict[str, Any]:
        """What is looked for, by field; a Search of these is the same."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def span(self) -> Span:
        """When the jobs ended, as the history is asked."""
        return (self.since, self.until) if self.since or self.until else ALWAYS

    def fits(self, job: Any) -> bool:
        """Whether the job is meant. One that cannot be loaded is not, if anything is looked for."""
        if is_broken(job):
            return not self
        # A list of many jobs asks this of each: what nobody looks for is not even read.
        return (
            (not self.task or _is_called(self.task, job.task or "", job.title or ""))
            and (not self.user or self.user.casefold() in (job.user or "").casefold())
            and (not self.error or self.error.casefold() in (job.error or "").casefold())
            and (not self.cause or self.cause == job.fingerprint)
            and (not self.attempts or self.attempts <= job.attempts)
            and (not self.object or _is_at(self.object, job.where or ""))
            and (not (self.since or self.until) or self._is_in_time(job))
        )

    def _is_in_time(self, job: Any) -> bool:
        when = job.finished_at or job.active_end or job.active_start or job.not_before() or job.put_at
        return when is not None and not (
            (self.since is not None and when < self.since) or (self.until is not None and when > self.until)
        )


NOTHING = Search()


def _is_called(wanted: str, *names: str) -> bool:
    wanted = wanted.casefold()
    if "*" in wanted or "?" in wanted:
        return any(fnmatchcase(name.casefold(), wanted) for name in names)
    return any(wanted in name.casefold() for name in names)


def _is_at(wanted: str, path: str) -> bool:
    wanted = wanted.rstrip("/")
    return not wanted or path == wanted or path.startswith(wanted + "/")
