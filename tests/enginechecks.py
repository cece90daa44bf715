"""The invariants of docs/concepts/invariants.md, recounted from the database; see enginemodel for the world."""

from collections import Counter
from collective.zcasync import entries
from collective.zcasync import waiting
from collective.zcasync.callbacks import jobs_of
from collective.zcasync.interfaces import IJob
from collective.zcasync.lanes import LEARNED_LANE
from collective.zcasync.lookup import main_of
from collective.zcasync.slot import COUNTS
from collective.zcasync.takeover import DEADLY
from enginemodel import Violated
from engineworld import Known
from typing import Any


class Checker:
    """Looks at a world after each step, and remembers what must not change any more."""

    def __init__(self, world: Known) -> None:
        self.world = world
        #: number -> what was stored when the job or callback ended first.
        self.ended: dict[int, tuple[Any, ...]] = {}
        #: number -> outcome under which the history holds the job.
        self.history: dict[int, str] = {}
        #: quota name -> members at the last look.
        self.members: dict[str, set[int]] = {}

    def check(self) -> None:
        """Violated, naming the invariant, if one does not hold now."""
        self._faults()
        queue = self.world.look()
        jobs = {number: self.world.observer.job(number) for number in self.world.oids}
        places = self._places(queue)
        self._in_one_place(jobs, places)
        self._ended_once(jobs)
        self._effects_once(jobs)
        self._history_final(places)
        self._counters(queue)
        self._quotas(queue, jobs, places)

    def _faults(self) -> None:
        for fault in self.world.faults:
            name, _, text = fault.partition(": ")
            raise Violated(name, text)

    def _number(self, job: Any) -> int:
        return self.world.numbers.get(job._p_oid, -1)

    def _places(self, queue: Any) -> dict[int, list[str]]:
        """number -> the places where the job is; entries that the engine holds for stale do not count."""
        found: dict[int, list[str]] = {}
        for place in queue.all_places():
            for row in entries.place_rows(place):
                lanes = ((row.job.group, row.job.lane), (row.job.group, LEARNED_LANE))
                if place.lane is not None and place.lane not in lanes:
                    raise Violated("lanes", f"{row.job!r} waits in the lane {place.lane}")
                if row.job.key == row.key:
                    found.setdefault(self._number(row.job), []).append(f"waiting in {place.kind} {place.name}")
        for slot in queue.slots.values():
            for job, _agent in slot.running.values():
                if job.token is not None and job.agent is not None and job.agent.slot is slot:
                    found.setdefault(self._number(job), []).append("running")
            for job, _agent in slot.deferreds.values():
                if job.token is not None and job.agent is not None and job.agent.slot is slot:
                    found.setdefault(self._number(job), []).append("deferred")
            for _key, job in slot.history.rows():
                if job.is_callback:
                    raise Violated("one place", f"the callback {job.args} is in the history")
                found.setdefault(self._number(job), []).append("history")
        for key, outers in queue.waiting_for.items():
            for outer in outers:
                if outer.waiting_for is not None and waiting.key_of(outer.waiting_for) == key and outer._status_id == 1:
                    found.setdefault(self._number(main_of(outer)), []).append("awaiting")
        for _reason, job in queue.quarantine.values():
            found.setdefault(self._number(job), []).append("quarantine")
        return found

    def _in_one_place(self, jobs: dict[int, Any], places: dict[int, list[str]]) -> None:
        for number in self.world.mains:
            where = places.get(number, [])
            if jobs[number].late and where.count("history") == 1:
                where = [place for place in where if place != "history"] or where  # its last callbacks wait or run
            if len(where) != (0 if number in self.world.removed else 1):
                raise Violated("one place", f"job {number} (status {jobs[number]._status_id}) is in {where}")

    def _ended_once(self, jobs: dict[int, Any]) -> None:
        for number, job in jobs.items():
            if job._status_id < 2:
                if number in self.ended:
                    raise Violated("ended once", f"job {number} had ended as {self.ended[number]}, and is open again")
                continue
            end = (job.outcome, job.error, job.active_end, job.attempts)
            if self.ended.setdefault(number, end) != end:
                raise Violated("ended once", f"job {number} ended as {self.ended[number]}, and as {end}")

    def _effects_once(self, jobs: dict[int, Any]) -> None:
        effects = self.world.observer.connection.root()["effects"]
        final = Counter(number for number, kind in effects.values() if kind == "final")
        for number, job in jobs.items():
            ended = job._status_id >= 2 and job.outcome == "succeeded"
            expected = 1 if ended or number in self.world.outers else 0
            if final[number] != expected:
                what = "callback" if job.is_callback else "job"
                raise Violated(f"{what} effects once", f"{what} {number} ({job.outcome}) left {final[number]} effects")

    def _history_final(self, places: dict[int, list[str]]) -> None:
        for number in self.history:
            if "history" not in places.get(number, []):
                raise Violated("history final", f"job {number} has left the history")
        for number, where in places.items():
            if "history" in where and number > 0:
                outcome = self.history.setdefault(number, "there")
                assert outcome

    def _counters(self, queue: Any) -> None:
        recount = dict.fromkeys(COUNTS, 0)
        waiting = running = 0
        for place in queue.all_places():
            rows = sum(1 for _row in entries.place_rows(place))
            if place.kind in ("later", "parked"):
                recount[place.kind] += rows
            else:
                waiting += rows
        recount.pop("backlog")
        for key, lane in queue.lanes.items():
            if lane.waiting() != len(lane.tree) - 1:
                raise Violated("counters", f"the lane {key} counts {lane.waiting()}, there are {len(lane.tree) - 1}")
        recount["awaiting"] = sum(len(outers) for outers in queue.waiting_for.values())
        recount["quarantined"] = len(queue.quarantine)
        for slot in queue.slots.values():
            running += len(slot.running) + len(slot.deferreds)
            for (_day, outcome, *_begin), groups in slot.history.periods.items():
                recount[outcome] += sum(len(tree) for tree in groups.values())
        counted = queue.counts()
        told = {name: counted.get(name) for name in ("waiting", "running", *recount)}
        found = {"waiting": waiting, "running": running, **recount}
        if told != found:
            raise Violated("counters", f"the queue counts {told}, there are {found}")

    def _quotas(self, queue: Any, jobs: dict[int, Any], places: dict[int, list[str]]) -> None:
        quotas = {name: quota._p_oid for name, quota in queue.quotas.items()}
        for name, quota in queue.quotas.items():
            members = {self._number(job) for job in quota}
            if len(members) > quota.size and members - self.members.get(name, set()):
                raise Violated("quotas", f"quota {name} of size {quota.size} has let in {members}")
            self.members[name] = members
            for number in members:
                where = places.get(number, ["nowhere"])
                if where[0] == "history" or where[0] == "quarantine" or number in self.world.removed:
                    raise Violated("quotas", f"quota {name} still holds job {number}, which is in {where}")
                if "parked group" in where[0]:
                    raise Violated("quotas", f"quota {name} holds job {number}, which waits for a release")
        for number, where in places.items():
            job = jobs.get(number)
            kind, then = self.world.kinds.get((job._p_oid, job.token), ("", {})) if job is not None else ("", {})
            if kind != "run" or where != ["running"]:
                continue
            for name in job.quota_names:
                same = name in quotas and then.get(name) == quotas[name]
                if same and job._status_id < 2 and job not in queue.quotas[name]:
                    raise Violated("quotas", f"job {number} runs outside its quota {name}")

    def at_the_end(self) -> None:
        """After everybody has had time to do everything: nothing is left over."""
        self.check()
        queue = self.world.look()
        places = self._places(queue)
        for number in self.world.oids:
            job = self.world.observer.job(number)
            main = job if not job.is_callback else None
            where = places.get(number, [])
            if main is not None and job.deaths >= DEADLY and "quarantine" in where:
                continue  # set aside, as it should be, perhaps for a late callback: a person has to release it
            if main is not None and number not in self.world.removed and number not in self.history:
                raise Violated("reachable", f"job {number} (status {job._status_id}) is never taken from {where}")
            if main is not None and number in self.history:
                self._callbacks_done(job)
            elif main is None and IJob.providedBy(job.parent):  # else it came too late, and stood in the queue itself
                self._is_still_a_callback(number, job)
        for slot in queue.slots.values():
            if slot.running or slot.mailbox:
                raise Violated("reachable", f"a slot is left with {slot.running} and {list(slot.mailbox.keys())}")
        held = dict(queue.lanes.items())
        if held:
            raise Violated("reachable", f"lanes are left over: {held}")
        for name, quota in queue.quotas.items():
            if len(quota):
                raise Violated("quotas", f"quota {name} still holds {[self._number(job) for job in quota]}")

    def _is_still_a_callback(self, number: int, job: Any) -> None:
        known = self._number(job.parent) in self.world.dropped
        if not known and not any(job in jobs_of(callback) for callback in job.parent._callbacks):
            raise Violated(
                "callbacks", f"callback {number} (status {job._status_id}) is lost: its job knows nothing of it"
            )

    def _callbacks_done(self, job: Any) -> None:
        if job._status_id != 3:
            raise Violated("callbacks", f"job {self._number(job)} is in the history with status {job._status_id}")
        for callback in job._callbacks:
            target = getattr(callback, "job", None) if hasattr(callback, "getJob") else callback
            if target is None or target._status_id != 3:
                raise Violated("callbacks", f"a callback of job {self._number(job)} never ran: {callback!r}")
            self._callbacks_done(target)
