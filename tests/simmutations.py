"""Faults that are put into the engine on purpose, for the simulation to find. Others are those of the model."""

from collections.abc import Callable
from collective.zcasync import agent
from collective.zcasync import callbackruns
from collective.zcasync import letters
from collective.zcasync import outcomes
from collective.zcasync import takeover
from collective.zcasync.claiming import Claimer
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.queue import Queue
from collective.zcasync.quota import Quota
from collective.zcasync.upkeep import Upkeep
from collective.zcasync.wakeup import CommitWatcher
from enginemodel import Violated
from simulation import quick
from simulation import simulate
from types import SimpleNamespace
from typing import Any

import pytest
import test_engine_modelmutations as model

Patch = pytest.MonkeyPatch


def nobody_hears_of_commits(patch: Patch) -> None:
    patch.setattr(CommitWatcher, "_wrap", lambda watcher: None)


def there_is_one_poll_and_no_more(patch: Patch) -> None:
    patch.setattr(Dispatcher, "_tick", lambda one, since: one.poll_soon())


def all_claims_have_the_same_token(patch: Patch) -> None:
    patch.setattr(agent, "secrets", SimpleNamespace(token_hex=lambda size: "token"))


def an_answer_that_was_lost_counts_as_a_failed_commit(patch: Patch) -> None:
    patch.setattr(outcomes, "left", lambda job: None)


def a_takeover_begins_all_anew(patch: Patch) -> None:
    patch.setattr(takeover, "_may_begin_anew", lambda job, oid, slot: True)


def a_quota_is_left_while_its_job_runs(patch: Patch) -> None:
    def clean(quota: Any) -> None:
        for job in list(quota):
            quota.discard(job)

    patch.setattr(Quota, "clean", clean)


def what_is_to_be_tried_later_is_lost(patch: Patch) -> None:
    give_back = Queue.give_back

    def lose(queue: Any, job: Any, front: bool = False) -> Any:
        if not front and job._status_id < 2:
            job.token = None
            return None
        return give_back(queue, job, front)

    patch.setattr(Queue, "give_back", lose)


def reports_are_lost_where_a_claim_fails(patch: Patch) -> None:
    patch.setattr(Claimer, "_give_reports", lambda claimer, name, reports: None)


def nobody_looks_for_jobs_of_a_claim_that_had_no_answer(patch: Patch) -> None:
    patch.setattr(Upkeep, "_give_back_lost", lambda *args: False)


def letters_to_callbacks_are_left(patch: Patch) -> None:
    patch.setattr(letters, "stands_alone", lambda job: True)


def callbacks_run_on_though_their_job_has_another_owner(patch: Patch) -> None:
    patch.setattr(callbackruns, "check_owner", lambda job, token: None)


#: Worlds in which a fault is looked for.
WORLDS = 400

#: name -> the fault, and the invariants that it may violate.
MUTATIONS: dict[str, tuple[Callable[[Patch], None], set[str]]] = {
    call.__name__: (call, names)
    for call, names in (
        (nobody_hears_of_commits, {"prompt"}),
        (there_is_one_poll_and_no_more, {"prompt", "reachable"}),
        (
            all_claims_have_the_same_token,
            {"fence", "job effects once", "one place", "ended once", "quotas", "callbacks"},
        ),
        (an_answer_that_was_lost_counts_as_a_failed_commit, {"reachable", "ended once", "job effects once"}),
        (a_takeover_begins_all_anew, {"one place", "ended once", "job effects once", "callback effects once"}),
        (a_quota_is_left_while_its_job_runs, {"quotas"}),
        (what_is_to_be_tried_later_is_lost, {"one place"}),
        (reports_are_lost_where_a_claim_fails, {"reachable"}),
        (nobody_looks_for_jobs_of_a_claim_that_had_no_answer, {"reachable"}),
        (letters_to_callbacks_are_left, {"callbacks", "stop", "reachable"}),
        (callbacks_run_on_though_their_job_has_another_owner, {"one place", "callbacks", "reachable"}),
    )
}
for name in (
    "an_attempt_commits_though_its_job_has_another_owner",
    "a_claimed_job_stays_where_it_waited",
    "a_takeover_forgets_what_had_not_begun",
    "a_sweep_files_a_job_twice",
    "the_changes_of_a_job_are_committed_before_its_outcome",
    "the_changes_of_a_callback_are_committed_before_its_outcome",
    "letters_with_callbacks_are_thrown_away",
    "a_quota_is_never_filled",
    "a_finished_job_keeps_its_place_in_quotas",
    "jobs_for_later_are_not_counted",
    "what_waits_for_a_release_is_never_looked_at",
):
    MUTATIONS[name] = model.MUTATIONS[name]

#: Faults that take clients who have much to tell: only worlds with such are looked at.
CHATTY = {letters_to_callbacks_are_left.__name__, callbacks_run_on_though_their_job_has_another_owner.__name__}


def look_for(name: str, worlds: int = WORLDS) -> dict[str, Any]:
    """After how many worlds the fault shows, and as what."""
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[name][0](patch)
        with quick():
            for seed in range(1, worlds + 1):
                fault = simulate(seed, chatty=name in CHATTY).fault
                if fault is not None:
                    kind = fault.name if isinstance(fault, Violated) else type(fault).__name__
                    return {"worlds": seed, "violates": kind, "text": str(fault)[:200]}
    return {"worlds": worlds, "violates": None, "text": ""}
