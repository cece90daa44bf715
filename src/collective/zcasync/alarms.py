"""Whether all is well with the queues: what is not, in words, each with what to do."""

from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import activity
from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync import ownership
from collective.zcasync.doctor import LOOK_AT_MOST
from collective.zcasync.doctor import needy_jobs
from collective.zcasync.doctor import overdue_jobs
from collective.zcasync.doctor import SKEW
from collective.zcasync.entries import place_rows
from collective.zcasync.interfaces import _
from collective.zcasync.jobdetail import group_of
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.monitorrows import ACTIVE
from collective.zcasync.monitorrows import HELD
from collective.zcasync.monitorrows import PAUSED
from collective.zcasync.processes import state_of
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Queues
from collective.zcasync.readable import span_text
from collective.zcasync.utils import takecount
from dataclasses import dataclass
from datetime import datetime
from datetime import timedelta
from typing import Any

#: Jobs at the head of each place that are looked at for the oldest one.
HEADS = 5

#: Jobs that must have ended within the hour, for their failing share to say something.
LEAST_ENDED = 5

#: What a person can do about a database that is held.
HELD_ADVICE = _(
    "alarm_held_advice",
    default="Is this a copy, say on a test server? Then discard what waits. Is it right that these jobs run here? Then"
    " release them. Both on the page Dispatchers.",
)


@dataclass(frozen=True)
class Limits:
    """Where an alarm begins. ``waiting``: of the oldest waiting job. ``failing``: which part of the jobs that ended in
    the last hour may have failed, from 0 to 1."""

    waiting: timedelta = timedelta(minutes=15)
    failing: float = 0.2


@dataclass(frozen=True)
class Alarm:
    """One thing that is not well. ``text`` and ``advice``: messages, for the reader's language. ``urgent``: jobs do not
    run, or fail. ``queue``: None where it is about no single one. ``subject``: which one, of several of a kind."""

    kind: str
    text: Any
    advice: Any
    queue: str | None = None
    subject: str = ""
    urgent: bool = True

    @property
    def key(self) -> str:
        """The same as long as it is the same trouble."""
        return " ".join((self.kind, self.subject if self.queue is None else self.queue))


def examine(source: Any, limits: Limits | None = None, group: str | None = None) -> list[Alarm]:
    """All that is not well, urgent things first. ``source``: a ZODB connection, or the Queues. ``group``: count only
    the jobs of one site that need a person. Looks at a bounded number of jobs."""
    limits = limits or Limits()
    found: dict[str, Alarm] = {}
    for queue in joblists.all_queues(source):
        for alarm in _of_queue(queue, limits, group):
            found.setdefault(alarm.key, alarm)
    for alarm in _of_sites(source, group):
        found[alarm.key] = alarm
    return sorted((*found.values(), *_of_hour(source, limits)), key=lambda alarm: not alarm.urgent)


def _of_queue(queue: Any, limits: Limits, group: str | None) -> Iterator[Alarm]:
    service = of_service(queue)
    if service is not None:
        yield service
    for da in queue.dispatchers.active():
        yield from _of_dispatcher(da)
    oldest = oldest_waiting(queue)
    lasted = None if oldest is None else clock.utcnow() - oldest
    if is_served(queue) and lasted is not None and lasted > limits.waiting:
        yield Alarm(
            "waiting",
            _(
                "alarm_waiting",
                default="The oldest waiting job has waited for ${span}.",
                mapping={"span": span_text(lasted.total_seconds())},
            ),
            _("alarm_waiting_paused", default="The queue is paused: resume it on the page Queues.")
            if queue.paused
            else _(
                "alarm_waiting_advice",
                default="See on the page Queues whether its threads are busy, a quota is full or an agent refuses it."
                " More threads or another worker take it sooner.",
            ),
            queue.name,
        )
    elif queue.paused:
        yield Alarm(
            "paused",
            _(
                "alarm_paused",
                default="The queue is paused: none of its jobs begins. Jobs in it: ${number}.",
                mapping={"number": len(queue)},
            ),
            _("alarm_paused_advice", default="Resume it on the page Queues when its jobs may run again."),
            queue.name,
            urgent=False,
        )
    yield from _of_jobs(queue, group)


def of_service(queue: Any) -> Alarm | None:
    """That dispatchers of the queue are held, or that none takes its jobs, and what to do; None if all is well."""
    states = {state_of(da): da for da in queue.dispatchers.active()}
    if HELD in states:
        return _held(states[HELD].held)
    return None if ACTIVE in states else _unserved(queue, PAUSED in states)


def _of_sites(source: Any, group: str | None) -> Iterator[Alarm]:
    """Sites all of whose jobs a person has paused: only this one, if ``group`` is given."""
    queues = source if isinstance(source, Queues) else get_queues(source)
    for key, site in queues.sites.items() if queues is not None else ():
        if site.paused and group in (None, key):
            yield Alarm(
                "paused site",
                _(
                    "alarm_paused_site",
                    default="All jobs of the site ${path} are paused: none begins.",
                    mapping={"path": site.path},
                ),
                _("alarm_paused_site_advice", default="Resume them on the page Queues when they may run again."),
                subject=key,
                urgent=False,
            )


def _held(reason: ownership.Held) -> Alarm:
    return Alarm("held", held_text(reason), HELD_ADVICE)


def held_text(reason: ownership.Held) -> Any:
    """Why dispatchers are held, as a message; see ownership."""
    kind, detail = reason
    texts = {
        ownership.COPY: _(
            "held_copy",
            default="Jobs are held: the database belongs to another deployment (${detail}), so this may be a copy of"
            " it.",
            mapping={"detail": detail},
        ),
        ownership.STALE: _(
            "held_stale",
            default="Jobs are held: no dispatcher has worked on the database since ${detail}, so it may be an old"
            " copy.",
            mapping={"detail": detail},
        ),
        ownership.RESTORED: _(
            "held_restored",
            default="Jobs are held: what dispatchers stored until ${detail} is not in the database any more, so a"
            " backup was restored.",
            mapping={"detail": detail},
        ),
    }
    return texts[kind]


def _unserved(queue: Any, stopped: bool) -> Alarm:
    waits = len(queue)
    return Alarm(
        "unserved",
        _(
            "alarm_unserved",
            default="No dispatcher serves the queue. Jobs in it: ${number}.",
            mapping={"number": waits},
        ),
        _(
            "alarm_stopped_advice",
            default="Its dispatchers were told to take no more jobs: let them take jobs again on the page Dispatchers.",
        )
        if stopped
        else _(
            "alarm_unserved_advice",
            default="Set “dispatcher on” in zope.conf and restart, or start a worker: zcasync worker.",
        ),
        queue.name,
        urgent=waits > 0,
    )


def _of_dispatcher(da: Any) -> Iterator[Alarm]:
    process = da.process
    where = f"{process.get('host')}, pid {process.get('pid')}" if process else da.name
    seen = da.last_ping.value or da.activated
    if da.dead:
        yield Alarm(
            "silent",
            _(
                "alarm_silent",
                default="A dispatcher (${where}) has given no sign of life for ${span}.",
                mapping={"where": where, "span": span_text((clock.utcnow() - seen).total_seconds())},
            ),
            _(
                "alarm_silent_advice",
                default="Another dispatcher takes its jobs over. If none runs, start one; if that process still lives,"
                " see in its log why it does not reach the database.",
            ),
            subject=da.name,
        )
    skew = da.last_ping.skew
    if skew is not None and abs(skew) > SKEW:
        yield Alarm(
            "clock",
            _(
                "alarm_clock",
                default="The clock of a dispatcher (${where}) is wrong by ${span}.",
                mapping={"where": where, "span": span_text(abs(skew))},
            ),
            _(
                "alarm_clock_advice",
                default="Let its machine set the clock by NTP: until then jobs for a time begin early or late.",
            ),
            subject=da.name,
            urgent=False,
        )


def _of_jobs(queue: Any, group: str | None) -> Iterator[Alarm]:
    """What jobs themselves ask a person for."""

    def number(jobs: Iterable[Any]) -> dict[str, int]:
        return {"number": sum(1 for job in jobs if group is None or group_of(job) == group)}

    needy, overdue = number(needy_jobs(queue)), number(overdue_jobs(queue))
    aside = number(job for _reason, job in takecount(queue.quarantined(), LOOK_AT_MOST))
    if needy["number"]:
        yield Alarm(
            "attention",
            _("alarm_attention", default="Jobs that fail again and again, and go on trying: ${number}.", mapping=needy),
            _("alarm_attention_advice", default="Read what they fail with, mend the cause or cancel them."),
            queue.name,
        )
    if overdue["number"]:
        yield Alarm(
            "overdue",
            _("alarm_overdue", default="Jobs that run longer than their time limit: ${number}.", mapping=overdue),
            _(
                "alarm_overdue_advice",
                default="They were asked to stop. See what they do; if they hang, restart their worker.",
            ),
            queue.name,
        )
    if aside["number"]:
        yield Alarm(
            "quarantined",
            _(
                "alarm_quarantined",
                default="Jobs that were set aside, as no dispatcher could run them: ${number}.",
                mapping=aside,
            ),
            _(
                "alarm_quarantined_advice",
                default="Mend the cause that the list names, then release them, or delete them.",
            ),
            queue.name,
        )


def _of_hour(source: Any, limits: Limits) -> Iterator[Alarm]:
    hour = activity.last_hour(source)
    if hour.ended >= LEAST_ENDED and hour.failing > limits.failing:
        yield Alarm(
            "failing",
            _(
                "alarm_failing",
                default="Of the jobs that ended in the last hour, ${percent} % have failed: ${failed} of ${ended}.",
                mapping={"percent": round(100 * hour.failing), "failed": hour.failed, "ended": hour.ended},
            ),
            _(
                "alarm_failing_advice",
                default="See on the page Jobs what they failed with; when the cause is mended, retry them there.",
            ),
        )


def is_served(queue: Any) -> bool:
    """Whether a dispatcher takes jobs of the queue."""
    return any(map(takes_jobs, queue.dispatchers.active()))


def takes_jobs(da: Any) -> bool:
    """Whether a dispatcher that is active in a queue lives, is not held, and nobody has told it to stop."""
    return state_of(da) == ACTIVE


def oldest_waiting(queue: Any) -> datetime | None:
    """Since when the job has waited that lies longest of those that come first."""
    since: datetime | None = None
    now = clock.utcnow()
    for place in queue.all_places():
        if place.kind == "later":
            continue
        for row in takecount(place_rows(place), HEADS):
            job = row.job
            if is_broken(job) or job._status_id == 3 or job.group in queue.held_groups:
                continue
            ready = job.ready_since() or now
            since = ready if since is None else min(since, ready)
    return since
