"""The model can fail: each of these faults, put into the engine on purpose, violates an invariant that it checks."""

from collections.abc import Callable
from collective.zcasync import claims
from collective.zcasync import fence
from collective.zcasync import filing
from collective.zcasync import letters
from collective.zcasync import sweeping
from collective.zcasync.attempts import Run
from collective.zcasync.failure import Failure
from collective.zcasync.history import History
from collective.zcasync.job import Job
from collective.zcasync.lanes import LaneView
from collective.zcasync.places import Places
from collective.zcasync.quota import Quota
from collective.zcasync.slot import Slot
from enginemachine import drive
from enginemachine import Machine
from enginemachine import Meddled
from enginemodel import Violated
from typing import Any

import pytest

Patch = pytest.MonkeyPatch


# Each puts one fault into the engine.


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


def a_quota_is_never_filled(patch: Patch) -> None:
    patch.setattr(Quota, "filled", property(lambda quota: False))


def a_finished_job_keeps_its_place_in_quotas(patch: Patch) -> None:
    patch.setattr(filing, "leave_quotas", lambda queue, job: None)
    patch.setattr(Quota, "clean", lambda quota: None)


def jobs_for_later_are_not_counted(patch: Patch) -> None:
    count = Slot.count
    patch.setattr(Slot, "count", lambda slot, kind, change: None if kind == "later" else count(slot, kind, change))


def a_callback_is_chosen_anew_when_its_code_has_aborted(patch: Patch) -> None:
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

    def replace(history: Any, *args: Any) -> Any:
        history.periods.clear()
        return add(history, *args)

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


def who_takes_a_job_of_a_lane_does_not_hold_it(patch: Patch) -> None:
    patch.setattr(LaneView, "hold", lambda view, key: None)


def the_end_of_its_callbacks_moves_the_end_of_a_job(patch: Patch) -> None:
    complete = Job._complete

    def move(job: Any, now: Any) -> None:
        complete(job, now)
        job.active_end = now

    patch.setattr(Job, "_complete", move)


def _commit_before_the_outcome(patch: Patch, callbacks: bool) -> None:
    store = Run._store

    def early(run: Any, result: Any, *args: Any) -> None:
        if run.job.is_callback is callbacks and not isinstance(result, Failure):
            run.manager.commit()
            run.manager.begin()
        store(run, result, *args)

    patch.setattr(Run, "_store", early)


def the_changes_of_a_job_are_committed_before_its_outcome(patch: Patch) -> None:
    _commit_before_the_outcome(patch, callbacks=False)


def the_changes_of_a_callback_are_committed_before_its_outcome(patch: Patch) -> None:
    _commit_before_the_outcome(patch, callbacks=True)


def a_job_leaves_the_history_for_its_late_callback(patch: Patch) -> None:
    reopen = Job._reopen

    def leave(job: Any) -> None:
        for slot in job.queue.slots.values():
            for (_day, outcome), groups in slot.history.periods.items():
                for tree in groups.values():
                    for key in [key for key, other in tree.items() if other is job]:
                        del tree[key]
                        slot.count(outcome, -1)
        reopen(job)

    patch.setattr(Job, "_reopen", leave)


def letters_with_callbacks_are_thrown_away(patch: Patch) -> None:
    open_mail = Slot.open_mail
    patch.setattr(Slot, "open_mail", lambda slot, oid: [row for row in open_mail(slot, oid) if row[0] != "callback"])


#: Worlds in which a fault is looked for. Most show in a few dozens; which one, moves with what the process did before.
WORLDS = 2000

#: name -> the fault, and the invariants that it may violate.
MUTATIONS: dict[str, tuple[Callable[[Patch], None], set[str]]] = {
    call.__name__: (call, names)
    for call, names in (
        (an_attempt_commits_though_its_job_has_another_owner, {"fence"}),
        (a_claimed_job_stays_where_it_waited, {"one place"}),
        (a_takeover_forgets_what_had_not_begun, {"one place"}),
        (a_sweep_files_a_job_twice, {"one place"}),
        (the_history_holds_one_job_of_a_kind, {"one place", "history final"}),
        (a_job_leaves_the_history_for_its_late_callback, {"history final"}),
        (the_end_of_its_callbacks_moves_the_end_of_a_job, {"ended once"}),
        (the_changes_of_a_job_are_committed_before_its_outcome, {"job effects once"}),
        (the_changes_of_a_callback_are_committed_before_its_outcome, {"callback effects once"}),
        (letters_with_callbacks_are_thrown_away, {"callbacks"}),
        (a_takeover_does_not_hold_the_mail, {"callbacks", "stop"}),
        (nobody_opens_the_letters_of_a_job_that_goes_on_elsewhere, {"callbacks", "stop", "reachable"}),
        (a_request_to_stop_is_forgotten_as_the_job_changes_hands, {"stop"}),
        (a_quota_is_never_filled, {"quotas"}),
        (a_finished_job_keeps_its_place_in_quotas, {"quotas"}),
        (jobs_for_later_are_not_counted, {"counters"}),
        (what_waits_for_a_release_is_never_looked_at, {"reachable"}),
        (who_takes_a_job_of_a_lane_does_not_hold_it, {"lanes"}),
        (a_callback_is_chosen_anew_when_its_code_has_aborted, {"reachable"}),
    )
}

#: Faults that take a client who meddles with a job that runs: the worlds in which they are looked for begin so.
MEDDLED = {
    a_takeover_does_not_hold_the_mail.__name__,
    nobody_opens_the_letters_of_a_job_that_goes_on_elsewhere.__name__,
    a_callback_is_chosen_anew_when_its_code_has_aborted.__name__,
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_model_finds(name: str, monkeypatch: Patch) -> None:
    mutate, invariants = MUTATIONS[name]
    mutate(monkeypatch)
    with pytest.raises(Exception, match="."):
        drive(WORLDS, shrink=False, machine=Meddled if name in MEDDLED else Machine)
    assert Machine.found is not None
    fault = Machine.found[1]
    assert isinstance(fault, Violated) and fault.name in invariants
