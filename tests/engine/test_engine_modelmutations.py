"""The model can fail: each of these faults, put into the engine on purpose, violates an invariant that it checks."""

from collections.abc import Callable
from collective.zcasync import claims
from collective.zcasync import fence
from collective.zcasync import filing
from collective.zcasync import letters
from collective.zcasync import sweeping
from collective.zcasync import takeover
from collective.zcasync.attempts import Run
from collective.zcasync.history import History
from collective.zcasync.places import Places
from collective.zcasync.queue import Queue
from collective.zcasync.quota import Quota
from collective.zcasync.slot import Slot
from enginemachine import drive
from enginemachine import Machine
from typing import Any

import pytest

Patch = pytest.MonkeyPatch


def an_attempt_commits_though_its_job_has_another_owner(patch: Patch) -> None:
    patch.setattr(fence.Guard, "beforeCompletion", lambda guard, txn: None)
    patch.setattr("collective.zcasync.attempts.check_owner", lambda job, token: None)


def a_claimed_job_stays_where_it_waited(patch: Patch) -> None:
    leave = claims.Taker.leave

    def stay(taker: Any, row: Any) -> None:
        leave(taker, row)
        if row.place.kind == "inbox":
            row.place.tree[row.at] = row.job

    patch.setattr(claims.Taker, "leave", stay)


def a_takeover_interrupts_what_has_finished(patch: Patch) -> None:
    patch.setattr(takeover, "_is_of", lambda job, slot: True)


def a_cancelled_job_is_not_asked_whether_it_runs(patch: Patch) -> None:
    cancel = Queue.cancel

    def blind(queue: Any, job: Any, callbacks: bool = True) -> str:
        if job._status_id == 0:
            job.token = None
        return cancel(queue, job, callbacks)

    patch.setattr(Queue, "cancel", blind)


def a_quota_is_never_filled(patch: Patch) -> None:
    patch.setattr(Quota, "filled", property(lambda quota: False))


def a_finished_job_keeps_its_place_in_quotas(patch: Patch) -> None:
    patch.setattr(filing, "leave_quotas", lambda queue, job: None)
    patch.setattr(Quota, "clean", lambda quota: None)


def jobs_for_later_are_not_counted(patch: Patch) -> None:
    count = Slot.count
    patch.setattr(Slot, "count", lambda slot, kind, change: None if kind == "later" else count(slot, kind, change))


def a_callback_is_chosen_anew_when_its_code_has_aborted(patch: Patch) -> None:
    find = Run.find if hasattr(Run, "find") else None
    assert find is None  # it is an attribute of each run
    store = Run._store

    def forgetful(run: Any, *args: Any, **kwargs: Any) -> None:
        kept, run.find = run.find, lambda: None
        try:
            store(run, *args, **kwargs)
        finally:
            run.find = kept

    patch.setattr(Run, "_store", forgetful)


def nobody_opens_the_letters_of_a_job_that_goes_on_elsewhere(patch: Patch) -> None:
    patch.setattr(letters, "collect", lambda queue, job: None)


def a_takeover_does_not_hold_the_mail(patch: Patch) -> None:
    patch.setattr(Slot, "hold_mail", lambda slot: None)


def a_request_to_stop_is_forgotten_as_the_job_changes_hands(patch: Patch) -> None:
    patch.setattr(letters, "stop_if_asked", lambda queue, job, told: None)


def what_waits_for_a_release_is_never_looked_at(patch: Patch) -> None:
    patch.setattr(Places, "_open", lambda places, name: False)


def the_history_holds_one_job_of_a_kind(patch: Patch) -> None:
    add = History.add

    def replace(history: Any, job: Any, outcome: str, ended: Any) -> None:
        history.periods.clear()
        add(history, job, outcome, ended)

    patch.setattr(History, "add", replace)


def a_sweep_files_a_job_twice(patch: Patch) -> None:
    file_away = filing.file_away

    def twice(queue: Any, slot: Any, job: Any) -> None:
        file_away(queue, slot, job)
        if slot is not None and job.attempts:
            slot.history.add(job, job.outcome, job.finished_at)
            slot.count(job.outcome, 1)

    patch.setattr(filing, "file_away", twice)


def a_takeover_forgets_what_had_not_begun(patch: Patch) -> None:
    patch.setattr(sweeping, "put_back", lambda queue, slot, job: slot.release(job._p_oid))


#: name -> how to put the fault in, the invariants that may be violated by it, and the worlds within which that shows.
MUTATIONS: dict[str, tuple[Callable[[Patch], None], set[str], int]] = {
    call.__name__: (call, names, worlds)
    for call, names, worlds in (
        (an_attempt_commits_though_its_job_has_another_owner, {"fence"}, 300),
        (a_claimed_job_stays_where_it_waited, {"one place"}, 20),
        (a_takeover_interrupts_what_has_finished, {"ended once"}, 300),
        (a_cancelled_job_is_not_asked_whether_it_runs, {"ended once"}, 300),
        (a_quota_is_never_filled, {"quotas"}, 300),
        (a_finished_job_keeps_its_place_in_quotas, {"quotas"}, 300),
        (jobs_for_later_are_not_counted, {"counters"}, 300),
        (a_callback_is_chosen_anew_when_its_code_has_aborted, {"callbacks"}, 300),
        (nobody_opens_the_letters_of_a_job_that_goes_on_elsewhere, {"reachable"}, 300),
        (a_takeover_does_not_hold_the_mail, {"reachable"}, 300),
        (a_request_to_stop_is_forgotten_as_the_job_changes_hands, {"stop"}, 300),
        (what_waits_for_a_release_is_never_looked_at, {"reachable"}, 300),
        (the_history_holds_one_job_of_a_kind, {"history final"}, 300),
        (a_sweep_files_a_job_twice, {"one place"}, 300),
        (a_takeover_forgets_what_had_not_begun, {"one place"}, 300),
    )
}
