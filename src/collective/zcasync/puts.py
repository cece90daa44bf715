"""How jobs get into a queue: through the inboxes, whoever brings them."""

from collective.zcasync import clock
from collective.zcasync import events
from collective.zcasync import filing
from collective.zcasync import freshoids
from collective.zcasync import notify
from collective.zcasync import schema
from collective.zcasync import tracing
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IJobContext
from collective.zcasync.interfaces import IUUID
from collective.zcasync.interfaces import NEW
from collective.zcasync.job import Job
from collective.zcasync.persistence import free_key
from collective.zcasync.persistence import make_key
from collective.zcasync.persistence import size
from collective.zcasync.places import my_shard
from collective.zcasync.places import Places
from datetime import datetime
from datetime import timedelta
from typing import Any
from zope.component import queryUtility

#: A put that finds more than this in its inbox goes to the overflow: no dispatcher is at work.
INBOX_FULL = 256


class Puts(Places):
    """The base of Queue that enters jobs. No caller's transaction ever writes a tree that claims also write."""

    name = ""
    dispatchers: Any

    def put(
        self,
        item: Any,
        begin_after: datetime | None = None,
        begin_by: timedelta | None = None,
        failure_log_level: int | None = None,
        retry_policy_factory: Any = None,
        run_as: str | None = None,
    ) -> Any:
        """See IQueue. Raises InvalidJobError, InvalidArgumentError, InvalidValueError, QuotaNotFound or PutRefused,
        all before anything is stored."""
        if self.parent is not None:
            schema.check(self.parent)
        job = Job.adapt(item)
        if job.status != NEW or job.parent is not None:
            raise InvalidValueError(f"only a NEW job that nobody holds can be put; {job!r} is {job.status}")
        connection = self._p_jar
        if job._p_jar is not None and connection is not None and job._p_jar is not connection:
            raise PutRefused(
                f"{job!r} is stored by a connection to {job._p_jar.db().database_name!r}; use a queue of that one"
            )
        job.check_quotas(job.quota_names, self)
        if begin_after is not None:
            job.begin_after = begin_after
        if begin_by is not None:
            job.begin_by = begin_by
        if failure_log_level is not None:
            job.failure_log_level = failure_log_level
        if retry_policy_factory is not None:
            job.retry_policy_factory = retry_policy_factory
        job.seal(None if connection is None else connection.db().database_name, run_as)
        job.put_at = clock.utcnow()
        if job.assignerUUID is None:
            job.assignerUUID = queryUtility(IUUID)
        if job._begin_after is None and job._begin_by is not None:
            job._begin_after = job.put_at
        job._wait_in(self)
        if connection is not None and job._p_jar is None:
            freshoids.see_to(connection.db())
            connection.add(job)
        tracing.put(job, self.name)
        place = self._enter(job, make_key(job._begin_after, job.priority))
        if connection is not None:
            context = queryUtility(IJobContext)
            if context is not None and hasattr(context, "stored"):
                self._ask(context, job, place)
            events.tell_put_at_commit(self, job)
        return job

    def _ask(self, context: Any, job: Any, place: Any) -> None:
        """Let the context look at what was written; if it refuses, nothing stays in the queue."""
        written = [job, place, *([job._payload] if job._payload is not None else [])]
        if place is self.overflows[job.shard] and self.overflow_lengths is not None:
            written.append(self.overflow_lengths[job.shard])
        try:
            context.stored(job, written)
        except BaseException:
            del place[job.key]
            if place is self.overflows[job.shard]:
                self.count_overflow(job.shard, -1)
            job.parent = job.key = job.put_at = None
            raise

    def _enter(self, job: Any, key: int, old: tuple[int | None, ...] = ()) -> Any:
        """Enter the job into this thread's inbox, or its overflow when nobody empties it; return the place. ``old``:
        keys that it must not get."""
        shard = my_shard(len(self.inboxes))
        place = inbox = self.inboxes[shard]
        self._v_entered = True  # for the claim whose transaction this may be
        if size(place) > INBOX_FULL:
            place = self.overflows[shard]
            self.count_overflow(shard, 1)
        job.key = free_key(key, lambda key: key in place or key in old)
        place[job.key] = job
        job.shard = shard
        notify.tell_at_commit(self._p_jar, inbox if place is inbox else None)
        return place

    def give_back(self, job: Any, front: bool = False) -> None:
        """A claimed job waits again (or has callbacks left, or is to be filed away): through an inbox, like a put.

        ``front``: before all others. Job threads and takeovers use it; a caller's tree is never written. One that has
        ended, and was set aside, leaves the quarantine.
        """
        aside = self.quarantine_key(job) if job._status_id >= 2 else None
        if aside is not None:
            self.leave_quarantine(aside)
        if job._status_id >= 2 and job.parent is self:
            self._leave_entry(job)
        job._wait_in(self)
        # What lies under the old keys is stale. A time that is to come has few keys, so an ended job gets one of now.
        when = None if job._status_id == 3 else job.not_before()
        self._enter(job, make_key(when, job.priority, put_back=front), (job.key, job.former_key))

    def move(self, job: Any, key: int, begin_after: datetime | None = None) -> None:
        """A person gives a waiting job another place in line; BadStatusError if it does not wait any more.

        ``begin_after``: it waits until then, and its deadline counts from then; None: that stays as it is.

        This takes it out of where it waits, also of a tree, and so conflicts with a claim that takes it just now.
        """
        if job._status_id != 0 or job.parent is not self or not self.take_out(job):
            raise BadStatusError(f"Job {job.id} does not wait any more, so it cannot be moved.")
        if begin_after is not None:
            job._begin_after, job._first_begin = begin_after, None
            if job.held_back:
                filing.leave_quotas(self, job)
        self._enter(job, key)

    def putBack(self, item: Any) -> None:
        """See IQueue."""
        if not IJob.providedBy(item):
            raise InvalidJobError(f"only jobs can be put back, not {item!r}")
        if item._status_id != 0 or item.parent is self:
            raise BadStatusError(f"only a job that does not run can be put back, this one is {item.status}")
        self.give_back(item, front=True)

    def _leave_entry(self, job: Any) -> None:
        """Take the job's entry out of its inbox; in a tree, which callers never write, it stays until a claim."""
        old = self._find(job)
        if old is not None and old.place.kind in ("inbox", "overflow"):
            del old.place.tree[old.at]
            if old.place.kind == "overflow":
                self.count_overflow(int(old.place.name), -1)
        elif old is not None:
            job.former_key = old.key
