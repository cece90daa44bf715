"""Running the callbacks of a job, one after the other, and resuming what is left of them after a takeover."""

from collective.zcasync import clock
from collective.zcasync.attempts import as_delay
from collective.zcasync.attempts import database_of
from collective.zcasync.attempts import FINISHED
from collective.zcasync.attempts import log_failure
from collective.zcasync.attempts import MustWait
from collective.zcasync.attempts import RETURNED
from collective.zcasync.attempts import Run
from collective.zcasync.attempts import surely
from collective.zcasync.callbacks import chosen
from collective.zcasync.exceptions import AbortedError
from collective.zcasync.exceptions import TimeoutError
from collective.zcasync.failure import Failure
from collective.zcasync.fence import check_owner
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.surroundings import Surroundings
from datetime import datetime
from typing import Any

import logging
import random

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")


def run_callbacks(job: Any, manager: Any, around: Surroundings, resumed: bool = False) -> str:
    """Run the callbacks that have not ended, one after the other; then the job is COMPLETED.

    ``resumed``: after a takeover. Each callback's record is then written before it is run or ended, so that the old
    owner, if it still lives, conflicts on it.
    """
    token = job.token
    while True:
        manager.begin()
        check_owner(job, token)
        callback = next((c for c in job._callbacks if c.status != COMPLETED), None)
        if callback is None:
            break
        try:
            _run_callback(job, callback, manager, around, resumed)
        except MustWait as wait:
            if job.is_callback or job.agent is None:
                raise

            def change(until: datetime = wait.until) -> None:
                check_owner(job, token)
                job.resume_at = until
                job.queue.give_back(job)

            surely(change, f"the callbacks of {job.task}", manager, around.database, around.stopping)
            return RETURNED

    def complete() -> None:
        check_owner(job, token)
        job._complete(clock.utcnow())

    surely(complete, f"the end of {job.task}", manager, around.database or database_of(job), around.stopping)
    return FINISHED


def _run_callback(main: Any, callback: Any, manager: Any, around: Surroundings, resumed: bool) -> None:
    result = main.result

    def find() -> Any:
        return chosen(callback, result)

    target = find()
    if target._status_id == 2:
        run_callbacks(target, manager, around, resumed)
        return
    tracelog.debug("starting callback %r of %r", target, main)
    if resumed:
        interrupted = target._status_id == 1
        if interrupted:
            tracelog.debug("retrying interrupted callback %r", target)
        ends = interrupted and as_delay(target.getRetryPolicy().interrupted()) is False

        def take() -> None:
            found = find()
            found.token = f"resumed-{random.getrandbits(64):x}"
            if ends:
                found._finish(Failure.from_exception(AbortedError(AbortedError.__doc__)), clock.utcnow())

        surely(take, f"the resumption of {target.task}", manager, around.database, around.stopping)
        if ends:
            log_failure(find())
            if find()._status_id == 2:
                run_callbacks(find(), manager, around, resumed)
            return
        target = find()
    late = main.active_end + target.begin_by if target.begin_by is not None and main.active_end else None
    if late is not None and clock.utcnow() > late:
        logger.error("The callback %r of %r is late: it ends with a TimeoutError", target, main)

        def expire() -> None:
            find()._finish(Failure.from_exception(TimeoutError()), clock.utcnow())

        surely(expire, f"the end of {target.task}", manager, around.database, around.stopping)
        if find()._status_id == 2:
            run_callbacks(find(), manager, around, resumed)
        return
    Run(find, manager, around, (result,)).go()
    if find()._status_id == 2:
        run_callbacks(find(), manager, around)
