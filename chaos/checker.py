"""Recounts after a storm, from nothing but the database and the files of effects, and tells what does not add up."""

from chaos import quotas
from chaos.jobs import OUTSIDE
from chaos.jobs import STEPS
from chaos.ledger import KEY
from chaos.ledger import Ledger
from chaos.ledger import read
from chaos.roles import still_open
from collections import Counter
from collections.abc import Iterator
from collective.zcasync import entries
from collective.zcasync.callbacks import is_proxy
from collective.zcasync.history import OUTCOMES
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import NEW
from collective.zcasync.queue import get_queue
from dataclasses import dataclass
from dataclasses import field
from typing import Any

#: What a violation can be: a job or an effect that is missing, one that came twice, what nobody will ever do.
LOST, TWICE, LIMBO = "lost", "twice", "in limbo"


@dataclass
class Report:
    """What a recount has found."""

    #: Jobs, callbacks included, by their outcome.
    outcomes: Counter[str] = field(default_factory=Counter)
    #: (LOST, TWICE or LIMBO, what is wrong).
    violations: list[tuple[str, str]] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        return sum(self.outcomes.values())

    def number(self, kind: str) -> int:
        """How many violations there are of one kind."""
        return sum(1 for other, _text in self.violations if other == kind)

    def wrong(self, kind: str, text: str) -> None:
        self.violations.append((kind, text))


def check(connection: Any, files: Ledger) -> Report:
    """Recount all, once the storm is over and what was put has been done."""
    return _Recount(connection, files).report


class _Recount:
    def __init__(self, connection: Any, files: Ledger) -> None:
        self.report = Report()
        self.records = connection.root()[KEY]
        self.queue = get_queue(connection)
        self.files = files
        #: name -> times that it has left its effect in the database.
        self.effects = {name: len(counters) for name, counters in self.records["effects"].items()}
        #: Names of effects that some job may have left.
        self.explained: set[str] = set()
        self.put_jobs_are_there()
        jobs = list(self.all_jobs())
        self.each_has_ended_once(jobs)
        self.effects_are_those_of_the_jobs(jobs)
        self.counters_equal_a_recount()
        self.nothing_is_left()
        for text in quotas.exceeded(files):
            self.report.wrong(TWICE, text)

    def put_jobs_are_there(self) -> None:
        """Those whose commit has returned, and none whose commit was refused."""
        for path in sorted(self.files.puts.iterdir()):
            there = set(self.records["puts"].get(path.name, ()))
            told: dict[str, set[int]] = {}
            for word, *numbers in read(path):
                told.setdefault(word, set()).update(map(int, numbers))
            for number in sorted(told.get("done", set()) - there):
                self.report.wrong(LOST, f"{path.name}-{number} was put, and is not there")
            for number in sorted(there & told.get("aborted", set())):
                self.report.wrong(TWICE, f"{path.name}-{number} was not put, and is there")
            for number in sorted(there - told.get("try", set())):
                self.report.wrong(TWICE, f"{path.name}-{number} was never put, and is there")

    # The jobs

    def all_jobs(self) -> Iterator[tuple[str, Any]]:
        """(what it is, job): those that clients and jobs have put, and the callbacks of all."""
        seen: set[bytes] = set()
        found = [("job", job) for numbers in self.records["puts"].values() for job in numbers.values()]
        found += [("job", job) for job in self.records["children"].values()]
        found += [("callback", job) for job in self.records["late"].values()]
        while found:
            kind, job = found.pop()
            if job._p_oid in seen:
                continue
            seen.add(job._p_oid)
            yield kind, job
            for callback in job.callbacks:
                chosen = callback.job if is_proxy(callback) else callback
                if chosen is not None:
                    found.append(("callback", chosen))
                elif job.status == COMPLETED:
                    self.report.wrong(LIMBO, f"a callback of {job!r} has never run")
            if _runs_others(job):
                parts = (*job.args, job.kwargs["postprocess"])
                found += [("job", part) for part in parts if job.outcome == "succeeded" or part.status != NEW]

    def each_has_ended_once(self, jobs: list[tuple[str, Any]]) -> None:
        rows = [job for slot in self.queue.slots.values() for _key, job in slot.history.rows()]
        filed = Counter(job._p_oid for job in rows)
        known = {job._p_oid for kind, job in jobs if kind == "job"}
        for job in rows:
            if job._p_oid not in known:
                self.report.wrong(TWICE, f"{job!r} is in the history, and nobody has put it")
        for kind, job in jobs:
            self.report.outcomes[job.outcome or "open"] += 1
            if job.status != COMPLETED:
                self.report.wrong(LIMBO, f"the {kind} {job!r} is {job.status}")
            elif kind == "job" and filed[job._p_oid] == 0:
                self.report.wrong(LOST, f"{job!r} has ended, and is not in the history")
            elif filed[job._p_oid] > 1:
                self.report.wrong(TWICE, f"{job!r} is in the history {filed[job._p_oid]} times")

    # What they have done

    def effects_are_those_of_the_jobs(self, jobs: list[tuple[str, Any]]) -> None:
        """Once for each that has succeeded, never for others."""
        outside = Counter(name for (name,) in read(self.files.effects))
        for name, times in outside.items():
            if times > 1:
                self.report.wrong(TWICE, f"{name} has happened {times} times outside the database")
        for _kind, job in jobs:
            if _runs_others(job):
                continue
            name, succeeded = job.args[0], job.outcome == "succeeded"
            if job.task.endswith("return_another"):  # its code may have ended well, and the job that it waits for not
                succeeded = f"{name}/inner" in self.records["children"]
            self._expect(name, job, least=succeeded, most=succeeded)
            if job.task.endswith("work_in_steps"):
                for step in range(STEPS):
                    self._expect(f"{name}/step{step}", job, least=succeeded, most=True)
            if job.task.endswith("tell_outside") and succeeded and not outside[name]:
                self.report.wrong(LOST, f"{job!r} has succeeded, and has not happened outside the database")
        for name in sorted(set(self.effects) - self.explained):
            self.report.wrong(TWICE, f"there is an effect of {name}, which nobody has put")

    def _expect(self, name: str, job: Any, least: bool, most: bool) -> None:
        self.explained.add(name)
        times = self.effects.get(name, 0)
        if times < least:
            self.report.wrong(LOST, f"{job!r} is {job.outcome}, and has left no effect as {name}")
        elif times > most:
            self.report.wrong(TWICE, f"{job!r} is {job.outcome}, and has left {times} effects as {name}")

    def counters_equal_a_recount(self) -> None:
        recount = Counter(name for names in self.records["effects"].values() for name in names if name != OUTSIDE)
        counted = {name: counter["value"] for name, counter in self.records["counters"].items()}
        counted["all"], recount["all"] = self.records["total"](), sum(recount.values())
        for name, value in counted.items():
            if value != recount[name]:
                kind = LOST if value < recount[name] else TWICE
                self.report.wrong(kind, f"the counter {name} tells {value}, there are {recount[name]} effects")

    def nothing_is_left(self) -> None:
        """No place holds anything, and what the queue counts is what is there."""
        for where, number in still_open(self.queue).items():
            if number:
                self.report.wrong(LIMBO, f"{number} {where}")
        for place in self.queue.all_places():
            for row in entries.place_rows(place):
                self.report.wrong(LIMBO, f"{row.job!r} is in the {place.kind} {place.name}")
        for name, quota in self.queue.quotas.items():
            for job in quota:
                self.report.wrong(LIMBO, f"{job!r} still has its place in the quota {name}")
        for key, _lane in self.queue.lanes.items():
            self.report.wrong(LIMBO, f"the lane {key} is left over")
        for da in self.queue.dispatchers.active():
            self.report.wrong(LIMBO, f"the dispatcher {da.UUID} is still there")
        for outcome in OUTCOMES:
            rows = sum(1 for slot in self.queue.slots.values() for _row in slot.history.rows(outcome))
            counted = self.queue.counts()[outcome]
            if rows != counted:
                kind = LOST if rows < counted else TWICE
                self.report.wrong(kind, f"the queue counts {counted} {outcome}, there are {rows}")


def _runs_others(job: Any) -> bool:
    return job.task.startswith("collective.zcasync.sequences.run_")
