"""Running a job with its callbacks, one after the other, and resuming what is left of these after a takeover."""

from collections.abc import Callable
from collections.abc import Mapping
from collective.zcasync import clock
from collective.zcasync import decisions
from collective.zcasync import deferreds
from collective.zcasync import interruptions
from collective.zcasync.attempts import database_of
from collective.zcasync.attempts import log_failure
from collective.zcasync.attempts import MustWait
from collective.zcasync.attempts import RETURNED
from collective.zcasync.attempts import Run
from collective.zcasync.callbacks import chosen
from collective.zcasync.callbacks import is_proxy
from collective.zcasync.callbacks import jobs_of
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import ReassignedError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.failure import Failure
from collective.zcasync.fence import check_owner
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import IQueue
from collective.zcasync.lookup import main_of
from collective.zcasync.lookup import stands_alone
from collective.zcasync.outcomes import DEFERRED
from collective.zcasync.outcomes import FINISHED
from collective.zcasync.outcomes import WAITING
from collective.zcasync.persistence import walk
from collective.zcasync.surroundings import entered
from collective.zcasync.surroundings import Surroundings
from collective.zcasync.surroundings import unshelve
from collective.zcasync.transactions import EXPLOSIVE
from collective.zcasync.transactions import is_conflict
from collective.zcasync.transactions import is_disconnect
from collective.zcasync.transactions import surely
from collective.zcasync.waiting import has_left
from collective.zcasync.waiting import waiter
from datetime import datetime
from datetime import timedelta
from typing import Any

import logging
import random

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")


def run(
    job: Any,
    manager: Any,
    around: Surroundings,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    conflicts: int = 0,
    ahead: bool = False,
    begun: bool = False,
) -> str:
    """Run a job and its callbacks; return what to report of it.

    ``conflicts``: that it has met before, in this claim. ``ahead``: whether it is known that it would be run again
    after an interruption. ``begun``: whether a transaction has just begun.
    """
    token = job.token
    ended = Run(lambda: job, manager, around, args, kwargs, conflicts, ahead).go(begun)
    # A job that ended without callbacks can have got one since, from somebody who then owns it and sees to it.
    if ended == FINISHED and job._status_id == 2 and job.token == token:
        return run_callbacks(job, manager, around)
    return ended


def run_callbacks(
    job: Any, manager: Any, around: Surroundings, resumed: bool = False, outer: Callable[[], None] | None = None
) -> str:
    """Run the callbacks that have not ended, one after the other; then the job is COMPLETED.

    ``resumed``: after a takeover. Each callback's record is then written before it is run or ended, so that the old
    owner, if it still lives, conflicts on it. ``outer``: of a callback's callbacks, raises ReassignedError if the job
    to which all belong has another owner.
    """
    token = job.token

    def check() -> None:
        if outer is not None:
            outer()
        check_owner(job, token)

    def complete() -> None:
        check()
        if job._status_id == 2 and next_callback(job) is None:  # else another one was added as the last one ended
            job._complete(clock.utcnow())
            # It ran outside of job threads, and waited meanwhile: no claim must file it away before this.
            if token is None and IQueue.providedBy(job.parent):
                job.queue.give_back(job)

    while True:
        manager.begin()
        check()
        callback = next_callback(job)
        if callback is None:
            surely(complete, f"the end of {job.task}", manager, around.database or database_of(job), around.stopping)
            if job._status_id == 3:
                return FINISHED
            continue
        try:
            ended = _run_callback(job, callback, manager, around, resumed, check)
            if ended != FINISHED:
                return ended
        except (MustWait, ReassignedError) as error:
            if main_of(job) is not job or isinstance(error, ReassignedError) and token is None:
                raise  # to the main job, which is what can wait in the queue

            def change(error: MustWait | ReassignedError = error) -> None:
                check()  # else it was but the callback that somebody else has taken up, by hand: it is resumed anew
                if isinstance(error, MustWait):
                    job.resume_at, job.needs_attention = error.until, error.attention
                job.queue.give_back(job)

            surely(change, f"the callbacks of {job.task}", manager, around.database, around.stopping)
            return RETURNED


def next_callback(job: Any) -> Any:
    """The first callback that has not ended, or None."""
    open_ones = (callback for callback in job._callbacks if callback.status != COMPLETED)
    return next((one for one in open_ones if not any(map(stands_alone, jobs_of(one)))), None)


def _choose(main: Any, proxy: Any) -> Any:
    """The callback that a proxy is. Conditions see the result as the job's code does; what they raise is its end."""
    try:
        with entered(main):
            return proxy.getJob(walk(main.result, unshelve))
    except Exception as error:
        if isinstance(error, EXPLOSIVE) or is_conflict(error) or is_disconnect(error):
            raise
        return proxy.fail_with(Failure.from_exception(error))


def _run_callback(
    main: Any, callback: Any, manager: Any, around: Surroundings, resumed: bool, check: Callable[[], None]
) -> str:
    """Run one callback to its end, with its own callbacks: FINISHED; or for what it waits, WAITING or
    DEFERRED. ``check``: see ``outer`` of run_callbacks; asked in each transaction that is not an attempt's."""
    result = main.result

    if is_proxy(callback) and callback.asks and callback.job is None:
        # Committed by itself: conditions are asked once, however often the callback is tried.
        def choose() -> None:
            check()
            _choose(main, callback)

        surely(choose, f"a choice of {main.task}", manager, around.database, around.stopping)
        manager.begin()

    def find() -> Any:
        return chosen(callback, result)

    target = find()
    if waiter(target) is not None:
        return WAITING
    if target._status_id == 1 and target.deferred and not resumed:
        return DEFERRED
    if target._status_id == 2:
        return run_callbacks(target, manager, around, resumed, check)
    tracelog.debug("starting callback %r of %r", target, main)
    if resumed and _resume(main, find, manager, around, check):
        log_failure(find())
        return run_callbacks(find(), manager, around, resumed, check) if find()._status_id == 2 else FINISHED
    target = find()
    if target._status_id >= 2 or has_left(target):
        return FINISHED  # as far as this run of it goes: the next look at the callbacks sees what is left
    late = main.active_end + target.begin_by if target.begin_by is not None and main.active_end else None
    if late is not None and clock.utcnow() > late:
        logger.error("The callback %r of %r is late: it ends with a TimeoutError", target, main)

        def expire() -> None:
            check()
            if find()._status_id < 2:  # else only the answer to a commit was lost
                find()._finish(Failure.from_exception(TimeoutError()), clock.utcnow())

        surely(expire, f"the end of {target.task}", manager, around.database, around.stopping)
        return run_callbacks(find(), manager, around, resumed, check) if find()._status_id == 2 else FINISHED
    ended = Run(find, manager, around, (result,)).go()
    return run_callbacks(find(), manager, around, outer=check) if find()._status_id == 2 else ended


def _resume(main: Any, find: Callable[[], Any], manager: Any, around: Surroundings, check: Callable[[], None]) -> bool:
    """Take over a callback. Of one that was interrupted its policy is asked: whether it has ended, instead of running.

    Raises MustWait if the policy wants it to run later, or cannot be asked now.
    """
    outcome: list[Any] = []
    token = f"resumed-{random.getrandbits(64):x}"

    def take() -> None:
        check()  # a former owner that wakes up now must not fence off the one that has resumed the callback
        callback, now = find(), clock.utcnow()
        if callback.token == token:
            return  # only the answer to a commit was lost, and what was decided in it holds
        outcome[:] = [True]
        if callback._status_id == 1 and callback.deferred:
            # Its old owner was still at it when the job was taken over, and what fires there is not stored any more.
            callback.token = token
            deferreds.abort(callback)
            outcome[:] = [callback._status_id < 2]
        if callback._status_id >= 2 or has_left(callback):
            return  # the old owner's last commit came a moment ago: what it has stored must not be done again
        callback.token = token
        if callback._status_id != 1 or callback.goes_on:
            return  # a ``serial`` or ``parallel`` one can be called anew at any time, and mostly was not cut off
        if not callback.interrupted_by:
            callback.interrupted_by = _cause(main)
        answer = decisions.after_interruption(callback)
        if not isinstance(answer, bool) and main.queue is None:
            logger.error("The interrupted callback %r is in no queue and cannot be rescheduled: it runs now", callback)
            answer = True
        if answer is None:  # it stays as it is, and is asked about at the next resumption
            outcome[:] = [now + decisions.POLICY_TROUBLE]
            return
        callback.interrupted_by = ""
        outcome[:] = [answer]
        if answer is False:
            tracelog.debug("aborting interrupted callback %r", callback)
            callback._finish(Failure.from_exception(AbortedError(AbortedError.__doc__)), now)
            return
        tracelog.debug("retrying interrupted callback %r", callback)
        if isinstance(answer, timedelta) and answer > timedelta(0):
            callback._rest()
            outcome[:] = [now + answer]

    surely(take, f"the resumption of a callback of {main.task}", manager, around.database, around.stopping)
    if isinstance(outcome[0], datetime):
        raise MustWait(outcome[0], attention=find()._status_id == 1)
    return outcome[0] is False


def _cause(main: Any) -> str:
    """By what the callbacks of a job were cut off: it is noted on the job that a dispatcher held."""
    jobs = (main, *main._climb())
    return next((by for job in jobs if (by := getattr(job, "interrupted_by", ""))), interruptions.UNKNOWN)
