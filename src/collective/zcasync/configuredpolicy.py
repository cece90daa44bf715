"""Retry policies made of numbers that people change at run time, for jobs that already wait too."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import MutableMapping
from collective.zcasync.clock import utcnow
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.failure import convert
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.transactions import is_conflict
from collective.zcasync.transactions import is_disconnect
from datetime import datetime
from datetime import timedelta
from persistent import Persistent
from typing import Any
from zope.interface import implementer

import logging
import math
import random

tracelog = logging.getLogger("collective.zcasync.trace")

#: Kinds of trouble that a rule can be about.
TROUBLES = ("conflict", "away", "interruption", "error", "commit")

#: Key of a policy's ``data_cache``: true once the policy cannot give up, and a person should look at the job.
ATTENTION = "needs_attention"

#: Under this key the cache holds the attributes of a policy that somebody wrote; see decisions.
OWN = "own_attributes"

#: What cut a run off: under which key of a policy's data it is counted, beside all "interruptions".
INTERRUPTIONS = {"stop": "stops", "death": "deaths", "thread": "thread_ends"}

#: A rule: its ``(key, value)`` pairs, which are ``trouble``, ``exception`` and the numbers that differ.
Rule = tuple[tuple[str, Any], ...]

Answer = bool | timedelta

_MONTH = 30 * 86400.0

#: The numbers of a policy in their order: field: (kind, least, most, whether None is allowed)
RANGES: dict[str, tuple[type, float, float, bool]] = {
    "attempts": (int, 1, 100_000, True),
    "first_wait": (float, 0.0, _MONTH, False),
    "growth": (float, 1.0, 100.0, False),
    "longest_wait": (float, 0.0, _MONTH, False),
    "jitter": (float, 0.0, 1.0, False),
    "age_limit": (float, 1.0, 366 * 86400.0, True),
    "log_every": (int, 1, 1000, False),
}

#: What a rule may change.
RULE_FIELDS = ("attempts", "first_wait", "growth", "longest_wait", "jitter")

#: What holds for these kinds in place of the policy's own numbers: a database that is away is no fault of the job's,
#: and an interruption is not an attempt.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "away": {"attempts": None, "first_wait": 5.0, "growth": 2.0, "longest_wait": 60.0},
    "interruption": {"attempts": 10, "first_wait": 0.0},
}


def check_numbers(**numbers: Any) -> dict[str, Any]:
    """The numbers in their proper types; InvalidValueError names the field, the value and what is allowed."""
    checked = {}
    for field, value in numbers.items():
        if field not in RANGES:
            raise InvalidValueError(f"{field}: a retry policy has no such number; it has {', '.join(RANGES)}")
        checked[field] = _check_number(field, value)
    first, longest = checked.get("first_wait"), checked.get("longest_wait")
    if first is not None and longest is not None and first > longest:
        raise InvalidValueError(
            f"first_wait: {first:g} is more than longest_wait, {longest:g}; allowed are numbers from 0 to longest_wait"
        )
    return checked


def make_rule(trouble: str, exception: str = "", **numbers: Any) -> Rule:
    """One rule, checked. ``exception``: dotted name of the class that it is about, with its subclasses."""
    if trouble not in TROUBLES:
        raise InvalidValueError(f"trouble: {trouble!r} is none of {', '.join(TROUBLES)}")
    dotted = isinstance(exception, str) and "." in exception.strip(".")
    if exception and (trouble in ("interruption", "away") or not dotted):
        raise InvalidValueError(
            f"exception: {exception!r} must be a dotted name such as smtplib.SMTPException, and goes with"
            " conflict, error and commit only"
        )
    for field in numbers:
        if field not in RULE_FIELDS:
            raise InvalidValueError(f"{field}: a rule cannot change this; it can change {', '.join(RULE_FIELDS)}")
    checked = check_numbers(**numbers)
    ordered = ((field, checked[field]) for field in RULE_FIELDS if field in checked)
    return (("trouble", trouble), ("exception", exception), *ordered)


class ConfiguredPolicy(Persistent):
    """A named retry policy. Two people who change one at the same time: the second is told of a conflict.

    ``attempts`` counts all attempts, the first one included; None: no limit. Waits are in seconds. Each kind of
    trouble is counted for itself. The policy's numbers hold for conflicts and for errors in job and commit, unless a
    rule says otherwise; a database that is away is waited for, and interruptions are retried nine times.
    """

    owner = ""

    def __init__(
        self,
        name: str,
        attempts: int | None = 5,
        first_wait: float = 0.0,
        growth: float = 2.0,
        longest_wait: float = 3600.0,
        jitter: float = 0.2,
        age_limit: float | None = None,
        log_every: int = 5,
        owner: str = "",
        rules: Iterable[Any] = (),
    ) -> None:
        self.name = name
        self.owner = owner
        self.rules = _checked_rules(rules)
        self.__dict__.update(
            check_numbers(
                attempts=attempts,
                first_wait=first_wait,
                growth=growth,
                longest_wait=longest_wait,
                jitter=jitter,
                age_limit=age_limit,
                log_every=log_every,
            )
        )

    def numbers(self) -> dict[str, Any]:
        """All numbers by field."""
        return {field: getattr(self, field) for field in RANGES}

    def update(self, rules: Iterable[Any] | None = None, **numbers: Any) -> bool:
        """Change numbers or rules, after checking them together; return whether anything differs now."""
        checked = check_numbers(**{**self.numbers(), **numbers})
        if rules is not None:
            checked["rules"] = _checked_rules(rules)
        changed = {field: value for field, value in checked.items() if getattr(self, field) != value}
        for field, value in changed.items():
            setattr(self, field, value)
        return bool(changed)

    def numbers_for(self, trouble: str, failure: Any = None) -> dict[str, Any]:
        """The numbers that hold for this trouble. A rule that names the exception goes before one that does not."""
        return self.numbers_by(trouble, self.rule_for(trouble, failure))

    def numbers_by(self, trouble: str, rule: Rule) -> dict[str, Any]:
        """The numbers that hold for this trouble where that rule does."""
        numbers = {**self.numbers(), **_DEFAULTS.get(trouble, {})}
        numbers.update((field, value) for field, value in rule if field in RULE_FIELDS)
        return numbers

    def rule_for(self, trouble: str, failure: Any = None) -> Rule:
        """The rule that holds for this trouble, or an empty one."""
        general: Rule = ()
        for rule in self.rules:
            told = dict(rule)
            if told["trouble"] != trouble:
                continue
            if not told["exception"]:
                general = general or rule
            elif failure is not None and failure.check(told["exception"]) is not None:
                return rule
        return general

    def wait(self, n: int, numbers: Mapping[str, Any] | None = None, uniform: Any = random.uniform) -> timedelta:
        """How long to wait after the n-th trouble of a kind."""
        numbers = self.numbers() if numbers is None else numbers
        first, longest = numbers["first_wait"], numbers["longest_wait"]
        if first <= 0:
            return timedelta(0)
        # Beyond the longest wait the power would overflow.
        steps = min(n - 1, math.log(max(longest / first, 1.0), numbers["growth"]) + 1 if numbers["growth"] > 1 else 0)
        seconds = min(longest, first * numbers["growth"] ** steps)
        seconds *= 1 + uniform(-numbers["jitter"], numbers["jitter"])
        return timedelta(seconds=min(longest, seconds))

    def bind(self, job: Any) -> "BoundPolicy":
        """The policy for one job."""
        return BoundPolicy(self, job)


def keep_counts(job: Any, data: MutableMapping[str, Any], data_cache: Mapping[str, Any]) -> None:
    """What every policy that counts stores with its job: when it began first, and what the cache has counted."""
    started = getattr(job, "active_start", None)
    if started is not None and data.get("first_active") is None:
        data["first_active"] = started
    for key, value in data_cache.items():
        if key not in (ATTENTION, OWN):
            data[key] = value


def count_interruption(job: Any, data: MutableMapping[str, Any]) -> int | None:
    """Count an interruption, with its kind; return how many there were that the job may be at fault for.

    None after a stop of the dispatcher: that is no fault of the job's, and must not end it.
    """
    keep_counts(job, data, {})
    by = getattr(job, "interrupted_by", "")
    data["interruptions"] = data.get("interruptions", 0) + 1
    kind = INTERRUPTIONS.get(by)
    if kind is not None:
        data[kind] = data.get(kind, 0) + 1
    return None if by == "stop" else data["interruptions"] - data.get("stops", 0)


@implementer(IRetryPolicy)
class BoundPolicy:
    """A configured policy and the job that it decides about."""

    def __init__(self, policy: ConfiguredPolicy, job: Any) -> None:
        self.policy = policy
        self.parent = self.__parent__ = job

    @property
    def data(self) -> MutableMapping[str, Any]:
        """What is stored with the job."""
        return self.parent.policy_data

    @property
    def retries_interruptions(self) -> bool:
        """Whether a first interruption would be followed by another attempt."""
        attempts = self.policy.numbers_for("interruption")["attempts"]
        return (attempts is None or attempts > 1) and not self._too_old()

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Answer:
        """See IRetryPolicy."""
        return self._decide("error", failure, data_cache)

    def commitError(self, failure: Any, data_cache: dict[str, Any]) -> Answer:
        """See IRetryPolicy."""
        return self._decide("commit", failure, data_cache)

    def interrupted(self) -> Answer:
        """See IRetryPolicy."""
        count, numbers = count_interruption(self.parent, self.data), self.policy.numbers_for("interruption")
        if count is None and (numbers["attempts"] is None or numbers["attempts"] > 1):
            return True
        return self._answer("interruption", count or 1, numbers, "interrupted")

    def updateData(self, data_cache: dict[str, Any]) -> None:
        """See IRetryPolicy."""
        keep_counts(self.parent, self.data, data_cache)

    def _decide(self, trouble: str, failure: Any, data_cache: dict[str, Any]) -> Answer:
        failure = convert(failure)
        if is_disconnect(failure):  # before the conflict, which it is as well
            trouble = "away"
        elif is_conflict(failure):
            trouble = "conflict"
        exception = dict(self.policy.rule_for(trouble, failure)).get("exception", "")
        # An exception with numbers of its own is counted for itself: the others do not use up its attempts.
        key = f"{trouble}:{exception}" if exception else trouble
        count = data_cache[key] = data_cache.get(key, 0) + 1
        data_cache[f"last_{trouble}"] = failure.summary
        numbers = self.policy.numbers_for(trouble, failure)
        if trouble != "away" and numbers["attempts"] is None and count >= numbers["log_every"]:
            data_cache[ATTENTION] = True
        return self._answer(trouble, count, numbers, failure.summary)

    def _answer(self, trouble: str, count: int, numbers: dict[str, Any], why: str) -> Answer:
        attempts = numbers["attempts"]
        if attempts is not None and count >= attempts:
            if attempts > 1:
                self._log("gives up", trouble, why, count)
            return False
        if trouble != "away" and self._too_old():
            self._log("gives up a job older than its age limit", trouble, why, count)
            return False
        if count == 1 or count % numbers["log_every"] == 0:
            self._log("retries", trouble, why, count)
        wait = self.policy.wait(count, numbers)
        return wait if wait > timedelta(0) else True

    def _log(self, what: str, trouble: str, why: str, count: int) -> None:
        job = self.parent
        tracelog.warning(
            "Job %s (%s), %s number %d: %s; policy %r %s",
            getattr(job, "id", None) or "?",
            getattr(job, "task", None) or "?",
            trouble,
            count,
            why,
            self.policy.name,
            what,
        )

    def _too_old(self) -> bool:
        limit = self.policy.age_limit
        # Retries that wait in the queue move begin_after, and must not make the job young again.
        first = "_first_begin" if getattr(self.parent, "_first_begin", None) is not None else "begin_after"
        times = [getattr(self.parent, name, None) for name in ("put_at", first)]
        since = max((time for time in times if isinstance(time, datetime)), default=None)
        return limit is not None and since is not None and utcnow() - since > timedelta(seconds=limit)


def _check_number(field: str, value: Any) -> Any:
    kind, least, most, optional = RANGES[field]
    if value is None and optional:
        return None
    wrong = isinstance(value, bool) or not isinstance(value, int if kind is int else int | float)
    if wrong or not least <= value <= most:  # also not a number
        whole = "whole numbers" if kind is int else "numbers"
        none = ", or None for no limit" if optional else ""
        raise InvalidValueError(
            f"{field}: {value!r} is not allowed; allowed are {whole} from {least:g} to {most:g}{none}"
        )
    return kind(value)


def _checked_rules(rules: Iterable[Any]) -> tuple[Rule, ...]:
    """Rules as checked tuples of pairs; mappings are taken too."""
    return tuple(make_rule(**dict(rule)) for rule in rules)
